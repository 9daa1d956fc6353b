"""PETS: what the ensemble learns of a linear system in closed form, elites, rollouts, MOPO's penalty."""

import pytest
import torch

from pgd_lightning.data.windows import split_steps
from pgd_lightning.generators.baselines.pets import PETS, Ensemble
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
        "bound_weight": 0.01, "standardise": True, "elite_rows": 10_000, "learning_rate": 3e-3, "adam_eps": 1e-5,
        "weight_decay": 2.5e-5, "total_steps": 1200, "log_every": 50, "seed": 0,
    }  # fmt: skip
    return Ensemble(**settings | changes)


@pytest.fixture(scope="module")
def fitted() -> Ensemble:
    steps, model = system(8000), ensemble()
    model.fit_units([steps.as_windows()])
    optimizer = model.optimizer()
    for index in torch.randint(8000, (1200, 256), generator=torch.Generator().manual_seed(1)):
        optimizer.zero_grad()
        model.loss(steps[index].as_windows()).backward()
        optimizer.step()
    return model


def test_mean_and_noise_of_a_linear_system_are_found(fitted):
    steps = system(2000, seed=5)
    mean, std, logit = fitted.predict(steps.obs, steps.action)
    change, std = mean.mean(0), std.mean((0, 1))
    expected = steps.obs @ A.T + steps.action * torch.tensor([1.0, -1.0]) - steps.obs
    assert (change[:, :2] - expected).abs().mean() < 0.06
    assert (change[:, 2] - steps.reward).abs().mean() < 0.06
    torch.testing.assert_close(std[:2], NOISE, rtol=0.15, atol=0.02)
    assert std[2] < 0.1  # the reward has no noise
    assert ((logit.mean(0) > 0) == steps.terminated).float().mean() > 0.97


def test_loss_is_the_gaussian_one():
    """Members at zero weights: mean 0, log variance softly bounded near 0 - the closed form of the loss."""
    model = ensemble()
    for layer in model.network.layers:
        layer.weight.data.zero_()
    steps = system(500)
    model.fit_units([steps.as_windows()])
    log_var = 0.5 - torch.nn.functional.softplus(torch.tensor(0.5))
    log_var = -10 + torch.nn.functional.softplus(log_var + 10)
    expected = 7 * (torch.exp(-log_var) * 1.0 + log_var)  # standardised targets have mean square 1
    losses = model.losses(steps)
    assert losses["model"].item() == pytest.approx(expected.item(), rel=1e-4)
    assert losses["bounds"].item() == pytest.approx(0.01 * 3 * 10.5, rel=1e-5)
    assert losses["terminal"].item() == pytest.approx(7 * 0.6931472, rel=1e-5)


def test_elites_are_the_members_with_the_smallest_error():
    model = ensemble()
    with torch.no_grad():
        model.network.layers[-1].bias[[1, 4], :, :3] += 10.0  # these two are off by 10 in every target
    _, held_out = split_steps(system(300), 0.5, seed=0)
    model.settle(held_out)
    assert sorted(model.elites.tolist()) == [0, 2, 3, 5, 6]
    errors = model.errors(held_out.steps[held_out.rows])
    assert errors[model.elites].max() < errors[[1, 4]].min()
    assert errors[model.elites].tolist() == sorted(errors[model.elites].tolist())


def test_held_out_steps_are_not_trained_on():
    train, held_out = split_steps(system(100), 0.2, seed=3)
    assert sorted([*train.rows.tolist(), *held_out.rows.tolist()]) == list(range(100))
    assert (len(train), len(held_out)) == (80, 20)
    assert split_steps(system(100), 0.0, seed=3)[1] is None


def test_units_of_the_data_are_left_alone_unless_asked_for():
    model = ensemble(standardise=False)
    model.fit_units([system(50).as_windows()])
    assert (model.codec.out_std == 1).all()
    assert (model.codec.in_mean == 0).all()


def test_parameters_of_the_published_sizes():
    """Hopper: seven times four hidden layers of 200, mean, log variance and one logit; shared bounds; the behaviour."""
    model = ensemble(obs_dim=11, action_dim=3, hidden=[200] * 4)
    member = 14 * 200 + 200 + 3 * (200 * 200 + 200) + 200 * 25 + 25
    assert sum(p.numel() for p in model.network.parameters()) == 7 * member + 2 * 12
    assert model.network.low.tolist() == [-10.0] * 12
    assert model.network.high.tolist() == [0.5] * 12


class Constant:
    """A policy that always acts 0.5, for any leading axes."""

    def draw(self, obs, noise):
        assert noise.shape == (*obs.shape[:-1], 1)
        return torch.full_like(noise, 0.5)


def pets(model: Ensemble, rows: int = 12, propagation: str = "ts1", penalty: float = 0.0) -> PETS:
    return PETS(model, rows, propagation, penalty)


def test_rollouts_start_where_told_follow_the_policy_and_begin_anew_after_an_end(fitted):
    starts = torch.randn(2, 50, 2, generator=torch.Generator().manual_seed(2)) * 0.5
    windows = pets(fitted).generate(Constant(), starts, seed=7)
    assert windows.batch_size == (2, 50, 12)
    torch.testing.assert_close(windows.obs[:, :, 0], starts)
    assert (windows.action == 0.5).all()
    ended = windows.terminated[:, :, :-1]
    assert ended.any()
    follows = starts.unsqueeze(2).expand(-1, -1, 11, -1)[ended]
    torch.testing.assert_close(windows.obs[:, :, 1:][ended], follows)
    again = pets(fitted).generate(Constant(), starts, seed=7)
    assert all((a == b).all() for a, b in zip(windows.to_dict().values(), again.to_dict().values(), strict=True))
    free = pets(fitted).generate(None, starts, seed=7)
    assert free.action.std() > 0.3  # the behaviour is uniform


def marked_by_member(model: Ensemble) -> Ensemble:
    """Member m moves the state by exactly m in every row, and nothing ever ends."""
    with torch.no_grad():
        for layer in model.network.layers:
            layer.weight.zero_()
        bias = model.network.layers[-1].bias
        bias.zero_()
        bias[..., :2] = torch.arange(7.0)[:, None, None]
        bias[..., 3:6] = -100.0  # log variance, at its lower bound
        bias[..., 6] = -100.0
    return model


@pytest.mark.parametrize("propagation", ["ts1", "ts_inf"])
def test_an_elite_is_kept_for_a_step_or_for_a_whole_window(propagation):
    model = marked_by_member(ensemble(standardise=False))
    model.elites.copy_(torch.tensor([6, 0, 2, 3, 5]))
    windows = pets(model, 12, propagation).generate(Constant(), torch.zeros(1, 400, 2), seed=1)
    moved = (windows.obs[0, :, 1:, 0] - windows.obs[0, :, :-1, 0]).round().long()
    assert set(moved.unique().tolist()) == {0, 2, 3, 5, 6}
    kept = (moved == moved[:, :1]).all(1)
    assert kept.all() if propagation == "ts_inf" else not kept.any()
    counts = torch.bincount(moved[:, 0], minlength=7)[model.elites]
    assert counts.min() > 50  # of 400, uniform over five


def test_penalty_is_the_largest_deviation_among_the_elites(fitted):
    steps, member = system(64), fitted.elites[torch.arange(64) % 5]
    plain, charged = (
        pets(fitted, 2, "ts1", penalty).step((member,), steps.obs, steps.action, torch.Generator().manual_seed(0))
        for penalty in (0.0, 2.0)
    )
    _, std, _ = fitted.predict(steps.obs, steps.action)
    doubt = torch.stack([std[member].norm(dim=-1) for member in fitted.elites]).amax(0)
    torch.testing.assert_close(plain[2] - charged[2], 2 * doubt)
    torch.testing.assert_close(plain[1], charged[1])
