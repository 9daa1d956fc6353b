"""ReBRAC: its losses by hand and against plain networks, the order of its steps, and where next actions come from."""

from copy import deepcopy
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.agents import ACTION, HIDDEN, OBS, fit, make_agent, make_batch
from helpers.streams import Recorder
from torch import nn

from pgd_lightning.agents.rebrac import ReBRAC
from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings, finite_only
from pgd_lightning.data.recording import Recording
from pgd_lightning.networks.critics import TwinQ
from pgd_lightning.networks.mlp import EnsembleMLP
from pgd_lightning.trajectory import Trajectory, Transition

NAN = float("nan")
rebrac = partial(
    ReBRAC, OBS, ACTION, HIDDEN, discount=0.9, policy_noise=0.0, noise_clip=0.5, critic_updates=2, actor_penalty=0.1,
    critic_penalty=0.5,
)  # fmt: skip


def three_steps() -> Transition:
    """The second has no next action; the third is terminal."""
    return Transition(
        obs=torch.zeros(3, OBS),
        action=torch.tensor([[0.0, 0.0], [0.5, -0.5], [1.0, 0.5]]),
        reward=torch.tensor([1.0, 0.0, 2.0]),
        next_obs=torch.zeros(3, OBS),
        terminated=torch.tensor([False, False, True]),
        next_action=torch.tensor([[0.1, -0.2], [NAN, NAN], [0.0, 0.0]]),
        batch_size=[3],
    )


class Values(nn.Module):
    """The same values [2, 3] whatever is asked."""

    def __init__(self, *rows: list[float]) -> None:
        super().__init__()
        self.values = torch.tensor(rows)

    def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.values

    def least_frozen(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return self.values.min(0).values


def test_the_critics_target_by_hand():
    """y = r + 0.9 (1 - d) (min Q' - 0.5 |a' - recorded a'|^2): 1 + 0.9 (3 - 0.125), 0.9 4, 2."""
    learner = rebrac()
    learner.target_actor.act = lambda obs: torch.tensor([0.5, -0.5]).expand(3, 2)
    learner.target_critic = Values([5.0, 4.0, 9.0], [3.0, 6.0, 9.0])
    learner.critic = Values([3.0, 3.0, 3.0], [4.0, 4.0, 4.0])
    assert learner.next_value(three_steps())[:2].tolist() == pytest.approx([2.875, 4.0])
    first, second = 0.5875**2 + 0.6**2 + 1, 0.4125**2 + 0.4**2 + 4
    assert learner.critic_loss(three_steps()).item() == pytest.approx((first + second) / 3)


def test_the_actors_loss_by_hand():
    """0.1 mean |pi - a|^2 - mean Q / mean |Q|: distances 0.5, 0, 1.25, the smaller Q 2, -1, 3."""
    learner = rebrac()
    learner.actor.act = lambda obs: torch.tensor([0.5, -0.5]).expand(3, 2)
    learner.critic = Values([2.0, 1.0, 3.0], [4.0, -1.0, 5.0])
    assert learner.actor_loss(three_steps()).item() == pytest.approx(0.1 * 1.75 / 3 - (4 / 3) / 2, abs=1e-6)


def plain(ensemble: EnsembleMLP, member: int) -> nn.Sequential:
    """One member as the authors write it: affine, ReLU, LayerNorm."""
    layers: list[nn.Module] = []
    for layer in ensemble.layers:
        affine = nn.Linear(*layer.weight.shape[1:])
        affine.weight.data, affine.bias.data = layer.weight.data[member].T.clone(), layer.bias.data[member, 0].clone()
        layers.append(affine)
        if len(layers) // 3 < len(ensemble.norms):
            norm = nn.LayerNorm(layer.weight.shape[2], eps=1e-6)
            ours = ensemble.norms[len(layers) // 3]
            norm.weight.data, norm.bias.data = ours.weight.data[member, 0].clone(), ours.bias.data[member, 0].clone()
            layers += [nn.ReLU(), norm]
    return nn.Sequential(*layers)


def test_losses_and_gradients_are_those_of_plain_networks():
    torch.manual_seed(0)
    learner, batch = rebrac(), make_batch(32)
    for parameter in [*learner.critic.parameters(), *learner.target_critic.parameters()]:
        parameter.data += 0.3 * torch.randn_like(parameter)
    joint = torch.cat([batch.obs, learner.actor.act(batch.obs)], -1)
    q = torch.stack([plain(learner.critic.pair, member)(joint).squeeze(-1) for member in range(2)]).min(0).values
    scale = 1 / q.abs().mean().item()
    actor = (0.1 * ((learner.actor.act(batch.obs) - batch.action) ** 2).sum(-1) - scale * q).mean()
    after = learner.target_actor.act(batch.next_obs)
    joint = torch.cat([batch.next_obs, after], -1)
    q = torch.stack([plain(learner.target_critic.pair, member)(joint).squeeze(-1) for member in range(2)])
    value = q.min(0).values - 0.5 * ((after - batch.next_action) ** 2).sum(-1)
    target = (batch.reward + 0.9 * torch.where(batch.terminated, 0, value)).detach()
    joint = torch.cat([batch.obs, batch.action], -1)
    errors = [((plain(learner.critic.pair, m)(joint).squeeze(-1) - target) ** 2).mean() for m in range(2)]
    losses = learner.losses(batch, ("actor", "critic"))
    torch.testing.assert_close(losses["actor"], actor)
    torch.testing.assert_close(losses["critic"], sum(errors))
    weights = list(learner.actor.parameters())
    ours, theirs = (torch.autograd.grad(loss, weights) for loss in (losses["actor"], actor))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-4, atol=1e-6)
    assert all(p.grad is None for p in learner.critic.parameters())


def test_first_weights():
    learner = ReBRAC(
        17, 6, [256] * 3, discount=0.99, policy_noise=0.2, noise_clip=0.5, critic_updates=2, actor_penalty=0.1,
        critic_penalty=0.1,
    )  # fmt: skip
    hidden, last = learner.critic.pair.layers[1], learner.critic.pair.layers[-1]
    assert hidden.weight.abs().max() <= 1 / 16
    assert hidden.weight.std().item() == pytest.approx(1 / 16 / 3**0.5, rel=0.02)
    assert (hidden.bias == 0.1).all()
    assert 2.9e-3 < last.weight.abs().max() <= 3e-3
    assert 0.9e-3 < learner.actor.body[-1].weight.abs().max() <= 1e-3
    assert learner.actor.body[0].weight.abs().max() <= 17**-0.5
    assert not any("norm" in name for name, _ in TwinQ(17, 6, [256]).named_parameters())


def test_an_update_is_one_step_of_the_actor_two_of_the_critics_and_one_of_the_targets():
    agent = make_agent(rebrac, num_seeds=2, polyak=0.25)
    fit(agent, [make_batch(2, 8)], 1)  # from here on targets and networks differ
    before = deepcopy(agent.state_dict())
    trainer = fit(agent, [make_batch(2, 8)], 1)
    state = trainer.optimizers[0].state
    for name, parameter in agent.learner.named_parameters():
        if name.startswith("target_"):
            online = before["learner." + name.removeprefix("target_")]
            expected = before[f"learner.{name}"].lerp(online, 0.25)
            torch.testing.assert_close(parameter, expected)
        else:
            assert state[parameter]["step"] == (1 if name.startswith("actor") else 2)


# --- next actions ---


def recording() -> Recording:
    """Three episodes of 3, 2 and 2 rows: a terminal, a time limit with a known successor, the end of the file."""
    action = torch.arange(7.0).unsqueeze(-1) / 10
    terminated, truncated = torch.zeros(7, dtype=torch.bool), torch.zeros(7, dtype=torch.bool)
    terminated[2] = truncated[4] = truncated[6] = True
    known = torch.ones(7, dtype=torch.bool)
    known[6] = False
    obs = torch.arange(7.0).unsqueeze(-1)
    return Recording(obs, action, torch.zeros(7), terminated, truncated, known, torch.tensor([4]), obs[:1] - 1, 0)


def test_recorded_next_actions_stay_within_their_episode():
    data = SyntheticDataModule(recording().steps(), None, settings(), [0], 1, next_action=True)
    steps = data.real[torch.arange(6)]
    expected = torch.tensor([0.1, 0.2, NAN, 0.4, NAN, 0.6])
    torch.testing.assert_close(steps.next_action.squeeze(-1), expected, equal_nan=True)
    moved = data.real.to(torch.device("meta"))[torch.zeros(1, dtype=torch.long, device="meta")]
    assert moved.next_action.shape == (1, 1)


def test_windows_hold_the_next_action_of_every_step():
    windows = Trajectory(
        obs=torch.randn(4, 5, 3), action=torch.randn(4, 5, 2), reward=torch.randn(4, 5),
        terminated=torch.zeros(4, 5, dtype=torch.bool), batch_size=[4, 5],
    )  # fmt: skip
    assert windows.transitions().next_action is None
    steps = windows.transitions(next_action=True).reshape(4, 4)
    assert torch.equal(steps.next_action, windows.action[:, 1:])
    windows.terminated[2, -1] = True
    kept = windows.transitions(keep_terminal=True, next_action=True).reshape(4, 4)
    assert kept.next_action[2, -1].isnan().all()  # which nothing reads, for it is terminal
    assert torch.equal(kept.next_action[2, :-1], windows.action[2, 2:])
    assert torch.equal(kept.next_action[:2], windows.action[:2, 1:])


def test_single_steps_have_no_next_action():
    single = make_batch(6).as_windows().transitions(next_action=True)
    assert single.next_action.isnan().all()


def test_a_step_before_an_infinite_action_is_replaced(capsys):
    steps = make_batch(2, 10)
    steps.next_action[0, 0] = NAN
    assert finite_only(steps, 0) is steps
    steps.next_action[1, 3] = float("inf")
    mended = finite_only(steps, 0)
    assert not mended.next_action.isinf().any()
    assert "1 of 20" in capsys.readouterr().out


def settings() -> SyntheticSettings:
    return SyntheticSettings("blend", 16, 12, 10, 20, first_unguided=True, keep_terminal=False)


@pytest.mark.parametrize("asked", [False, True])
def test_batches_hold_next_actions_where_a_learner_reads_them_and_so_does_the_checkpoint(asked):
    real = recording()
    real = Recording(*(t if t.dim() < 2 else t.expand(-1, 2).contiguous() for t in vars(real).values()
                       if isinstance(t, torch.Tensor)), 0)  # fmt: skip
    real = Recording(**{**vars(real), "action": real.action[:, :1]})
    data = SyntheticDataModule(real.steps(), Recorder(), settings(), [0, 1], 1, next_action=asked)
    module = SimpleNamespace(device=torch.device("cpu"), policy=1)
    batch = data.batch(0, module)
    assert batch.batch_size == (2, 16)
    assert (batch.next_action is not None) == asked
    state = data.state_dict()
    assert ("next_action" in state["synthetic"]) == asked
    again = SyntheticDataModule(real.steps(), Recorder(), settings(), [0, 1], 1, next_action=asked)
    again.load_state_dict(state)
    other = again.batch(0, module)
    assert torch.equal(other.reward, batch.reward)
    assert not asked or torch.equal(other.next_action.nan_to_num(9), batch.next_action.nan_to_num(9))
    assert not again.generator.seen
