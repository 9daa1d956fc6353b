"""PETS: what the ensemble learns of a linear system in closed form, elites, rollouts, MOPO's penalty, the command."""

import pytest
import torch

from pgd_lightning.generators.ensemble import PETS, Ensemble, held_out
from pgd_lightning.trajectory import Transition

A = torch.tensor([[0.9, 0.2], [-0.1, 0.8]])
NOISE = torch.tensor([0.1, 0.4])


def system(number: int, seed: int = 0) -> Transition:
    """s' = A s + a (1, -1) + N(0, NOISE^2); r = s_0 + 3 a; it ends where s_0 > 1."""
    generator = torch.Generator().manual_seed(seed)
    obs, action = torch.randn(number, 2, generator=generator), torch.rand(number, 1, generator=generator) * 2 - 1
    noise = torch.randn(number, 2, generator=generator) * NOISE
    return Transition(
        obs=obs, action=action, reward=obs[:, 0] + 3 * action[:, 0],
        next_obs=obs @ A.T + action * torch.tensor([1.0, -1.0]) + noise, terminated=obs[:, 0] > 1, batch_size=[number],
    )  # fmt: skip


def ensemble(**changes) -> Ensemble:
    torch.manual_seed(0)
    settings = {
        "obs_dim": 2, "action_dim": 1, "members": 7, "num_elites": 5, "hidden": [32, 32], "log_var_bounds": [-10.0, 0.5],
        "bound_weight": 0.01, "learning_rate": 3e-3, "adam_eps": 1e-5, "weight_decay": 2.5e-5, "log_every": 50, "seed": 0,
    }  # fmt: skip
    return Ensemble(**settings | changes)


@pytest.fixture(scope="module")
def fitted() -> Ensemble:
    steps, model = system(8000), ensemble()
    model.fit_scales(steps)
    optimizer = model.configure_optimizers()
    for index in torch.randint(8000, (1200, 256), generator=torch.Generator().manual_seed(1)):
        optimizer.zero_grad()
        torch.stack(list(model.losses(steps[index]).values())).sum().backward()
        optimizer.step()
    return model


def test_mean_and_noise_of_a_linear_system_are_found(fitted):
    steps = system(2000, seed=5)
    mean, log_var, logit = (t.detach() for t in fitted.predict(steps.obs, steps.action))
    change = (mean * fitted.out_std + fitted.out_mean).mean(0)
    expected = steps.obs @ A.T + steps.action * torch.tensor([1.0, -1.0]) - steps.obs
    assert (change[:, :2] - expected).abs().mean() < 0.06
    assert (change[:, 2] - steps.reward).abs().mean() < 0.06
    std = ((0.5 * log_var).exp() * fitted.out_std).mean((0, 1))
    torch.testing.assert_close(std[:2], NOISE, rtol=0.15, atol=0.02)
    assert std[2] < 0.1  # the reward has no noise
    assert ((logit.mean(0) > 0) == steps.terminated).float().mean() > 0.97


def test_loss_is_the_gaussian_one():
    """Members at zero weights: mean 0, log variance softly bounded near 0 - the closed form of the loss."""
    model = ensemble()
    for layer in model.layers:
        layer.weight.data.zero_()
    steps = system(500)
    model.fit_scales(steps)
    log_var = 0.5 - torch.nn.functional.softplus(torch.tensor(0.5))
    log_var = -10 + torch.nn.functional.softplus(log_var + 10)
    expected = 7 * (torch.exp(-log_var) * 1.0 + log_var)  # standardised targets have mean square 1
    losses = model.losses(steps)
    assert losses["model"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses["bounds"].item() == pytest.approx(0.01 * 3 * 10.5, rel=1e-5)
    assert losses["terminal"].item() == pytest.approx(7 * 0.6931472, rel=1e-5)


def test_elites_are_the_members_with_the_smallest_error():
    model = ensemble()
    error = model.choose_elites(system(300))
    worst = set(error.argsort()[-2:].tolist())
    assert set(model.elites.tolist()) == set(range(7)) - worst


def test_held_out_steps_are_not_trained_on():
    train, chosen_by = held_out(100, 0.2, seed=3)
    assert sorted([*train.tolist(), *chosen_by.tolist()]) == list(range(100))
    assert len(chosen_by) == 20


class Constant:
    """A policy that always acts 0.5, for any leading axes."""

    def act(self, obs):
        return torch.full((*obs.shape[:-1], 1), 0.5)


def test_rollouts_start_where_told_follow_the_policy_and_begin_anew_after_an_end(fitted):
    starts = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(2)) * 0.5
    windows = PETS(fitted, rows=12, penalty=0.0).generate(Constant(), starts, seed=7)
    assert windows.batch_size == (2, 50, 12)
    torch.testing.assert_close(windows.obs[:, :, 0], starts)
    assert (windows.action == 0.5).all()
    ended = windows.terminated[:, :, :-1]
    assert ended.any()
    follows = starts.unsqueeze(2).expand(-1, -1, 11, -1)[ended]
    torch.testing.assert_close(windows.obs[:, :, 1:][ended], follows)
    again = PETS(fitted, rows=12, penalty=0.0).generate(Constant(), starts, seed=7)
    assert all((a == b).all() for a, b in zip(windows.to_dict().values(), again.to_dict().values(), strict=True))
    free = PETS(fitted, rows=12, penalty=0.0).generate(None, starts, seed=7)
    assert free.action.std() > 0.3  # the behaviour is uniform


def test_penalty_is_the_largest_deviation_among_the_elites(fitted):
    steps = system(64)
    plain = PETS(fitted, 2, 0.0).step(steps.obs, steps.action, torch.Generator().manual_seed(0))
    charged = PETS(fitted, 2, 2.0).step(steps.obs, steps.action, torch.Generator().manual_seed(0))
    std = (0.5 * fitted.predict(steps.obs, steps.action)[1]).exp() * fitted.out_std
    doubt = torch.stack([std[member].norm(dim=-1) for member in fitted.elites]).amax(0)
    torch.testing.assert_close(plain[1] - charged[1], 2 * doubt)
    torch.testing.assert_close(plain[0], charged[0])
