"""PolyGRAD online: golden values of the spec for returns, step control and windows; the loop, its faults and resume."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import ONLINE, pgd
from torch import nn

from pgd_lightning.commands import polygrad
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.imagination.a2c import A2C, StepControl
from pgd_lightning.imagination.actor_critic import advantages, alive, standardised
from pgd_lightning.imagination.buffer import EpisodeBuffer
from pgd_lightning.imagination.collector import EpisodeCollector
from pgd_lightning.imagination.ppo import PPO
from pgd_lightning.networks.actors import FlooredActor
from pgd_lightning.networks.mlp import elu_mlp
from pgd_lightning.runs import identity
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Trajectory

CONTROL = StepControl(target=0.01, tolerance=0.2, ratio=0.8, tries=50, adaptation=3e-4, max_rate=3e-5)
SETTINGS = {
    "obs_dim": 1, "action_dim": 1, "hidden": [16, 16], "first_std": 1.0, "min_std": 0.1, "discount": 0.99, "decay": 0.9,
    "entropy": 1e-5, "actor_rate": 1e-5, "critic_rate": 3e-4, "weight_decay": 0.01, "max_grad_norm": 0.1,
    "polyak": 0.005,
}  # fmt: skip


def golden_windows() -> Trajectory:
    """G10: two windows of five rows, the second with a terminal at row 2."""
    return Trajectory(
        obs=torch.tensor([[0.5, 0.8, 1.1, 0.9, 0.4], [1.0, 0.2, -0.3, 0.7, 0.6]]).unsqueeze(-1),
        action=torch.tensor([[0.3, -0.2, 0.9, 0.1, 0.0], [1.0, 0.4, -0.6, 0.2, 0.0]]).unsqueeze(-1),
        reward=torch.tensor([[1.0, 0.5, -0.2, 0.3, 9.0], [0.7, 1.2, 0.1, 0.4, 9.0]]),
        terminated=torch.tensor([[0, 0, 0, 0, 0], [0, 0, 1, 1, 1]], dtype=torch.bool),
        batch_size=[2, 5],
    )


def test_returns_are_the_published_ones():
    """G10; the advantage's last row is its own temporal difference, the terminal row does not look beyond itself."""
    windows = golden_windows()
    advantage, returns = advantages(windows, 1.5 * windows.obs.squeeze(-1) + 0.2, 0.99, 0.9)
    expected = torch.tensor([[1.5327555, 0.108592, -0.923578, -0.458], [0.1760358, 0.76435, 0.35, -0.85]])
    torch.testing.assert_close(advantage, expected, rtol=1e-5, atol=1e-6)
    expected = torch.tensor([[2.4827555, 1.508592, 0.926422, 1.092], [1.8760358, 1.26435, 0.1, 0.4]])
    torch.testing.assert_close(returns, expected, rtol=1e-5, atol=1e-6)
    assert alive(windows.terminated).tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    normalised = torch.tensor(
        [[1.7411518, 0.0253873, -1.2181222, -0.6572159], [0.1066404, 0.8154134, 0.3162241, -1.1294789]]
    )
    torch.testing.assert_close(standardised(advantage), normalised, rtol=1e-4, atol=1e-5)


class _Known(nn.Module):
    """The actor of G10: N(tanh(s / 2), 1)."""

    std = torch.ones(1)

    def log_prob(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
        return (-0.5 * (action - (0.5 * obs).tanh()) ** 2 - 0.5 * math.log(2 * math.pi)).sum(-1)


def test_actor_loss_is_the_published_one():
    windows = golden_windows()
    agent = A2C(CONTROL, **SETTINGS)
    agent.actor = _Known()  # type: ignore[assignment]
    advantage, returns = advantages(windows, 1.5 * windows.obs.squeeze(-1) + 0.2, 0.99, 0.9)
    assert float(agent.actor_loss(windows, standardised(advantage))) == pytest.approx(0.08438894, rel=1e-4)
    agent.critic = nn.Linear(1, 1)
    nn.init.constant_(agent.critic.weight, 2.0)
    nn.init.constant_(agent.critic.bias, -0.5)
    loss = agent.critic_step(torch.optim.SGD(agent.critic.parameters(), lr=0.0), windows, returns)
    assert float(loss) == pytest.approx(0.42142547, rel=1e-5)


@pytest.mark.parametrize(
    ("change", "tries", "final"),
    [(0.03, 6, 0.0098304), (0.02, 4, 0.01024), (0.013, 2, 0.0104), (0.012, 1, 0.012), (0.0079, 2, 0.009875),
     (0.005, 4, 0.009765625)],
)  # fmt: skip
def test_line_search(change, tries, final):
    """G11: the change of the policy is in proportion to the learning rate, 1e-5 at first."""
    first, last, taken = CONTROL.search(lambda rate: change * rate / 1e-5, 1e-5)
    assert (first, taken) == (pytest.approx(change), tries)
    assert last == pytest.approx(final)


def test_line_search_stops_at_the_highest_rate_and_at_nonsense():
    assert CONTROL.search(lambda rate: 1e-4, 1e-5)[2] == 5  # 1e-5 / 0.8^5 > 3e-5
    assert CONTROL.search(lambda rate: math.nan, 1e-5)[2] == 1


def test_learning_rate_follows_the_first_try():
    """G11."""
    agent = A2C(CONTROL, **SETTINGS)
    *_, optimizer = agent.optimizers()
    agent._adapt(optimizer, 0.02)
    assert float(agent.log_rate.detach().exp()) == pytest.approx(9.9973457e-6, rel=2e-6)
    agent._adapt(optimizer, 0.005)
    assert float(agent.log_rate.detach().exp()) == pytest.approx(9.9968923e-6, rel=2e-6)
    high = A2C(CONTROL, **{**SETTINGS, "actor_rate": 3e-5})
    high._adapt(high.optimizers()[-1], 0.005)
    assert float(high.log_rate.detach().exp()) == pytest.approx(3e-5, rel=1e-6)


def test_tries_start_from_the_same_weights_moments_and_deviation():
    torch.manual_seed(0)
    agent = A2C(CONTROL, **{**SETTINGS, "obs_dim": 3, "action_dim": 2})
    optimizer = agent.optimizers()[0]
    windows = random_windows(3, 2)
    loss = agent.actor_loss(windows, torch.randn(8, 4))
    loss.backward()
    attempt = agent._attempts(optimizer, windows)
    far, near, again = attempt(1e-3), attempt(1e-5), attempt(1e-3)
    assert far == again
    assert near < far
    states = [state["step"] for state in optimizer.state_dict()["state"].values()]
    assert {int(step) for step in states} == {1}


def random_windows(obs: int, action: int, rows: int = 5) -> Trajectory:
    return Trajectory(
        obs=torch.randn(8, rows, obs), action=torch.randn(8, rows, action), reward=torch.randn(8, rows),
        terminated=torch.zeros(8, rows, dtype=torch.bool), batch_size=[8, rows],
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["a2c", "ppo"])
def test_agents_learn_what_is_rewarded(kind):
    """A bandit without dynamics: reward -(a - 0.5)^2. Nothing but the advantage tells the mean where to go."""
    torch.manual_seed(1)
    control = StepControl(0.05, 0.2, 0.8, 50, 3e-4, 1e-2)
    settings = {**SETTINGS, "actor_rate": 3e-3, "critic_rate": 3e-3, "first_std": 0.5}
    agent = A2C(control, **settings) if kind == "a2c" else PPO(epochs=4, minibatch=256, clip=0.2, **settings)
    optimizers = agent.optimizers()
    obs = torch.ones(256, 3, 1)
    before = float(agent.actor.act(obs[:1, 0]).detach())
    for _ in range(30):
        with torch.no_grad():
            action = agent.actor.draw(obs, torch.randn(256, 3, 1))
        reward = -((action - 0.5) ** 2).squeeze(-1)
        ended = torch.zeros(256, 3, dtype=torch.bool)
        agent.update(
            optimizers, Trajectory(obs=obs, action=action, reward=reward, terminated=ended, batch_size=[256, 3])
        )
    after = float(agent.actor.act(obs[:1, 0]).detach())
    assert abs(after - 0.5) < 0.15 < abs(before - 0.5)
    if kind == "a2c":
        assert optimizers[0].param_groups[0]["lr"] <= 1e-2


def test_ppo_learns_nothing_of_windows_that_ended_where_they_began():
    """As an untrained world model may imagine them; the mean of no loss is not a number."""
    agent = PPO(epochs=2, minibatch=16, clip=0.2, **SETTINGS)
    windows = random_windows(1, 1)
    windows.terminated[:, 0] = True
    before = [p.clone() for p in agent.parameters()]
    told = agent.update(agent.optimizers(), windows)
    assert all(torch.equal(a, b) for a, b in zip(before, agent.parameters(), strict=True))
    assert float(told["actor_loss"]) == float(told["critic_loss"]) == float(told["policy_change"]) == 0


def test_networks_have_the_published_sizes():
    """G9 for Hopper: 70,662 of the actor with its deviation, 70,145 of the critic; the deviation starts at 1."""
    actor, critic = FlooredActor(11, 3, [256, 256], 1.0, 0.1), elu_mlp(11, [256, 256], 1)
    assert sum(p.numel() for p in actor.parameters()) == 70_662
    assert sum(p.numel() for p in critic.parameters()) == 70_145
    torch.testing.assert_close(actor.std, torch.ones(3))
    actor.log_excess.data.fill_(-50)
    assert float(actor.std.min()) == pytest.approx(0.1)
    obs, action = torch.randn(7, 11), torch.randn(7, 3, requires_grad=True)
    (gradient,) = torch.autograd.grad(actor.log_prob(obs, action).sum(), action)
    torch.testing.assert_close(actor.score(obs, action.detach()), gradient, rtol=1e-4, atol=1e-4)


# --- collected episodes ---


def filled(lengths: list[tuple[int, bool]], limit: int) -> EpisodeBuffer:
    buffer = EpisodeBuffer(2, 1, limit)
    for episode, (length, ends) in enumerate(lengths):
        for row in range(length):
            terminal = ends and row == length - 1
            buffer.add(torch.tensor([float(episode), float(row)]), torch.tensor([0.5]), 1.0, terminal)
        buffer.end()
    return buffer


def test_windows_and_statistics_are_the_published_ones():
    """G12."""
    buffer = filled([(12, True), (20, False), (1, True), (5, True)], 20)
    assert buffer.starts(4).tolist() == [11, 16, 0, 4]
    mean, std = buffer.statistics()
    assert float(mean[3]) == pytest.approx(0.07894737, rel=1e-6)
    assert float(std[3]) == pytest.approx(0.2696566, rel=1e-6)
    windows = buffer.windows(4000, 4, torch.Generator().manual_seed(0))
    padded = windows[(windows.obs[:, 0, 0] == 3) & (windows.obs[:, 0, 1] == 3)]
    assert padded.terminated[0].tolist() == [False, True, True, True]
    assert padded.obs[0, :, 1].tolist() == [3, 4, 4, 4]
    assert padded.reward[0].tolist() == [1, 1, 0, 0]
    starts = {(int(o[0]), int(o[1])) for o in windows.obs[:, 0]}
    assert starts == {(e, t) for e, n in ((0, 11), (1, 16), (3, 4)) for t in range(n)}
    assert not (windows.terminated & (windows.obs[..., 0] == 1)).any()


def test_a_horizon_that_fits_no_episode_is_named():
    with pytest.raises(
        UserError, match="No window of 30 rows fits the collected episodes, of which the longest has 20"
    ):
        filled([(20, False)], 20).windows(1, 30, torch.Generator())


def test_a_collector_goes_on_where_it_was():
    """The state of the simulator comes back by the recorded actions, bit for bit."""
    rng = np.random.default_rng(0)
    actions = torch.as_tensor(rng.uniform(-1.5, 1.5, (80, 3))).float()
    straight = EpisodeCollector(make("hopper", "today"), 60, 3)
    for action in actions:
        straight.step(action)
    begun = EpisodeCollector(make("hopper", "today"), 60, 3)
    for action in actions[:47]:
        begun.step(action)
    resumed = EpisodeCollector(make("hopper", "today"), 60, 3)
    resumed.load_state_dict(begun.state_dict())
    assert torch.equal(resumed.obs, begun.obs)
    for action in actions[47:]:
        resumed.step(action)
    size = straight.buffer.size
    assert resumed.buffer.size == size
    for name in straight.buffer.rows:
        assert torch.equal(straight.buffer.rows[name][:size], resumed.buffer.rows[name][:size])
    assert straight.buffer.rows["action"][:size].abs().max() > 1  # kept as drawn


# --- the loop ---

SMALL = ONLINE[1:]


def last_weights(root: Path) -> dict[str, torch.Tensor]:
    path = sorted(root.rglob("*.ckpt"))[-1]
    return torch.load(path, weights_only=True)["state_dict"]


def test_online_run_and_its_files(tmp_path, monkeypatch, capsys):
    settings = [*SMALL, "learner=ppo", f"runs_dir={tmp_path}"]
    assert pgd(monkeypatch, ["train", "-cn", "polygrad", *settings]) == 0
    said = capsys.readouterr().out
    assert "online: 400 steps of hopper in 50 turns" in said
    assert "return of the last policy" in said
    (path,) = tmp_path.rglob("run.json")
    run = Run(path.parent)
    assert run.finished
    assert run.record["method"] == "polygrad-ppo"
    rows = run.rows("ledger.jsonl")
    assert sorted({row["step"] for row in rows if row["purpose"] == "monitor"}) == [0, 200, 400]
    assert (run.folder / "report" / "actions.png").stat().st_size > 10_000
    assert (run.folder / "report" / "learning_curve.png").exists()
    page = run.folder / "report" / "index.html"
    assert said.splitlines()[-1] == f"page: {page}"
    assert page.read_text().count("<svg ") == 2
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert summary["std"] > 0
    assert pgd(monkeypatch, ["polygrad", *settings]) == 0
    assert "trained already" in capsys.readouterr().out


@pytest.mark.usefixtures("drawn_by_nobody")
def test_an_interrupted_online_run_ends_with_the_same_bits(online, tmp_path, monkeypatch, capsys):
    whole, parts = online, tmp_path / "parts"
    assert Run(next(whole.rglob("run.json")).parent).record["method"] == "polygrad-a2c"
    original = polygrad.ImaginationLearner.training_step

    def interrupted(self, turn, index):
        if turn.number == 27:
            raise RuntimeError("killed here")
        original(self, turn, index)

    monkeypatch.setattr(polygrad.ImaginationLearner, "training_step", interrupted)
    assert pgd(monkeypatch, ["polygrad", *SMALL, f"runs_dir={parts}"]) == 1
    monkeypatch.setattr(polygrad.ImaginationLearner, "training_step", original)
    capsys.readouterr()
    assert pgd(monkeypatch, ["polygrad", *SMALL, f"runs_dir={parts}"]) == 0
    assert "continues from step=000000020.ckpt" in capsys.readouterr().out
    ours, theirs = last_weights(whole), last_weights(parts)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    ledgers = [Run(next(root.rglob("run.json")).parent).rows("ledger.jsonl") for root in (whole, parts)]
    assert ledgers[0] == ledgers[1]


def test_bad_settings_get_a_sentence(tmp_path, monkeypatch, capsys):
    where = f"runs_dir={tmp_path}"
    assert pgd(monkeypatch, ["polygrad", *SMALL, where, "data.horizon=1000"]) == 1
    assert "data.horizon=1000 is longer than an episode of hopper (1000 steps)" in capsys.readouterr().err
    assert pgd(monkeypatch, ["polygrad", *SMALL, where, "online.turn=7"]) == 1
    assert "are to be multiples of online.turn=7" in capsys.readouterr().err
    assert pgd(monkeypatch, ["polygrad", *SMALL, where, "online.turn=0"]) == 1
    assert "online.turn=0 does not fit: it is a whole number, at least 1" in capsys.readouterr().err
    assert pgd(monkeypatch, ["polygrad", *SMALL, where, "env=hoper"]) == 1
    assert "did you mean hopper" in capsys.readouterr().err


def test_how_often_a_run_saves_does_not_make_it_another():
    first, second = (compose_config("polygrad", [*SMALL, f"online.checkpoint_every={n}"]) for n in (10, 20))
    assert identity.online(first) == identity.online(second)
    other = compose_config("polygrad", [*SMALL, "world.sampling.num_steps=4"])
    assert identity.online(first) != identity.online(other)


def test_nan_in_the_world_model_stops_the_run_with_its_step(monkeypatch):
    config = compose_config("polygrad", SMALL)
    learner = polygrad.build_learner(config)
    learner.world.ema.network.head.weight.data.fill_(math.nan)
    with pytest.raises(UserError, match="Imagination is not finite at denoising step 1 of 8: the world model"):
        learner.imagined(torch.randn(4, 11), 0)


def test_strength_follows_the_spread_and_stays_in_its_bounds():
    config = compose_config("polygrad", SMALL)
    learner = polygrad.build_learner(config)
    before = float(learner.strength)
    _, shape = learner.imagined(torch.randn(64, 11), 0)
    assert float(learner.strength) == pytest.approx(before * math.exp(3e-3 * (shape["std"] - 1)), rel=1e-5)
    learner.strength.fill_(50.0)
    assert len(learner.said) <= 1
    learner.imagined(torch.randn(64, 11), 0)
    assert float(learner.strength) <= 1.0 + 1e-6  # the policy's variance


def test_a_kind_of_trouble_is_said_once(capsys):
    learner = polygrad.build_learner(compose_config("polygrad", SMALL))
    for strength in (0.3, 0.4):
        learner._say(f"actions have 2 times the policy's deviation at strength {strength}")
        learner._say(None)
    learner._say("a few actions lie far out")
    assert capsys.readouterr().out.count("warning: imagination") == 2
