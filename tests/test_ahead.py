"""Sets that are made before they are due: whose policy they follow, the same bits from another process, faults, resume."""

import io
import os
import signal
import time
from pathlib import Path

import pytest
import torch
from helpers.ahead import Slow, small_agent
from helpers.commands import command, equal, pgd, run_of
from helpers.processes import forked
from helpers.streams import Counter, run

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts import agents
from pgd_lightning.artifacts.models import build_model
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config, options
from pgd_lightning.data.ahead import Beside, InTurn
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import seeded
from pgd_lightning.trajectory import Trajectory

pytestmark = pytest.mark.usefixtures("drawn_by_nobody")


AHEAD = "synthetic.lead=8"  # of a lifetime of 20 and checkpoints every 15: one lies between asking and using


class Version:
    """A policy that is the number of updates made."""

    def __init__(self, value):
        self.value = value

    def __float__(self):
        return float(self.value)

    def state_dict(self):
        return {"value": torch.tensor([self.value])}

    def load_state_dict(self, state):
        self.value = int(state["value"])


class Held(Counter):
    def held_policy(self):
        return Version(self.policy)


@pytest.mark.parametrize("lead", [1, 4, 10])
def test_a_set_follows_the_policy_of_the_updates_before(tmp_path, lead):
    _, generator = run(tmp_path, 35, lead=lead, learner=Held)
    assert generator.seen == [-1, 10 - lead, 20 - lead, 30 - lead]
    assert generator.seeds == run(tmp_path, 35, learner=Held)[1].seeds  # the same noise as in turn


@pytest.mark.parametrize("at", [5, 6, 8, 10, 13, 16, 19, 20])
def test_a_resumed_run_asks_again_for_the_same_set(tmp_path, at):
    whole, _ = run(tmp_path, 30, every=1, lead=4, learner=Held)
    resumed, generator = run(tmp_path, 30, resume=tmp_path / f"step={at}.ckpt", lead=4, learner=Held)
    assert len(resumed.batches) == 30 - at
    for ours, theirs in zip(whole.batches[at:], resumed.batches, strict=True):
        assert torch.equal(ours, theirs)
    assert generator.seen == [k - 4 for k in (10, 20) if k >= at]


def test_a_lead_longer_than_a_life_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"synthetic.lead=11 is too large: it must be at most synthetic.lifetime=10"):
        run(tmp_path, 5, lead=11)


def test_a_held_policy_does_not_change_and_takes_the_weights_of_another_moment():
    agent, obs = small_agent(), torch.randn(2, 7, 4)
    held, before = agent.held_policy(), agent.policy.act(obs)
    with torch.no_grad():
        for parameter in agent.learner.parameters():
            parameter.add_(0.1)
    after = agent.policy.act(obs)
    assert torch.equal(held.act(obs), before)
    assert not torch.equal(after, before)
    held.load_state_dict(agent.policy.state_dict())
    assert torch.equal(held.act(obs), after)


def through_a_pipe(message):
    buffer = io.BytesIO()
    torch.save(message, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=False)


@pytest.mark.parametrize("name", ["bc", "iql", "td3_bc", "diffusion_dice"])
def test_policies_travel(name):
    agent = build(compose_config("train", ["env=maze2d-umaze", "scale=smoke", f"agent={name}"]).agent)
    held, obs = agent.held_policy(), torch.randn(2, 3, 4)
    with seeded(0, "here"):
        expected = held.act(obs)
    with seeded(0, "here"):
        assert torch.equal(through_a_pipe(held).act(obs), expected)


@pytest.mark.parametrize("name", [name for name in options("generator") if name != "none"])
def test_generators_travel(name):
    config = compose_config("train", ["env=maze2d-umaze", "scale=smoke", f"generator={name}"])
    generator = build(config.generator.build)(build_model(config, config.generator.model, 1))
    assert type(through_a_pipe(generator)) is type(generator)


class Fails:
    """A generator that cannot."""

    def generate(self, policy, starts, seed):
        raise UserError("no windows today")


class Actions:
    """Windows of two rows with the policy's own actions and noise of the seed."""

    def generate(self, policy, starts, seed):
        noise = torch.rand(starts.shape, generator=torch.Generator().manual_seed(seed))
        obs = torch.stack([starts, starts + noise], dim=-2)
        flat = torch.zeros(obs.shape[:-1])
        return Trajectory(obs=obs, action=policy.act(obs), reward=flat, terminated=flat > 0, batch_size=obs.shape[:-1])


def test_another_process_gives_the_same_bits_and_hands_on_errors():
    policy, starts = small_agent().held_policy(), torch.randn(2, 5, 4)
    beside, in_turn = Beside(Actions(), None), InTurn(Actions())
    for seed in (1, 2):
        for maker in (beside, in_turn):
            maker.begin(policy, starts, seed)
        ours, theirs = beside.result(), in_turn.result()
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ("obs", "action", "reward"))
    os.kill(beside.process.pid, signal.SIGTERM)  # the whole group is told to stop: the one that saves obeys
    beside.begin(policy, starts, 3)
    assert beside.result().batch_size == (2, 5, 2)
    os.kill(beside.process.pid, signal.SIGKILL)
    with pytest.raises(UserError, match="was lost, .* synthetic.lead=0 does without it"):
        beside.begin(policy, starts, 3)
        beside.result()
    failing = Beside(Fails(), None)
    failing.begin(policy, starts, 0)
    with pytest.raises(UserError, match="no windows today"):
        failing.result()
    failing.end()
    failing.process.join(20)
    assert failing.process.exitcode == -signal.SIGKILL


def asks(told: Path, ending: str) -> None:
    beside = Beside(Slow(), None)
    beside.begin(small_agent().held_policy(), torch.randn(2, 5, 4), 0)
    told.write_text(str(beside.process.pid))
    if ending == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    raise KeyboardInterrupt


@pytest.mark.parametrize("ending", ["killed", "interrupted"])
def test_no_process_stays_behind(ending, tmp_path):
    """However the one that asked ends, in the middle of a set."""
    forked(asks, tmp_path / "child", ending).join(120)
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 60
    while lives(child) and time.monotonic() < end:
        time.sleep(0.1)
    assert not lives(child)


def lives(process: int) -> bool:
    """Whether it is there and no zombie, which it stays where nobody asks for the exit codes of orphans."""
    stat = Path(f"/proc/{process}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


def test_an_unknown_device_is_named():
    with pytest.raises(UserError, match="ranks.generating=foo is no device here"):
        Beside(Actions(), "foo")


def test_a_lead_that_does_not_fit_is_refused_before_anything_is_trained(recording, tmp_path, monkeypatch, capsys):
    for value, said in {
        "21": "synthetic.lead=21 is too large: it must be at most synthetic.lifetime=20",
        "-1": "synthetic.lead=-1 does not fit",
        "null": "synthetic.lead=null does not fit: it is a whole number, at least 0",
    }.items():
        assert pgd(monkeypatch, command(recording, tmp_path, f"synthetic.lead={value}")) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))


@pytest.mark.usefixtures("helpers_are_forked")
@pytest.mark.parametrize("generator", ["pgd", "polygrad", pytest.param("pets", marks=pytest.mark.slow)])
def test_train_ahead_is_train_in_turn_with_an_older_policy(generator, recording, tmp_path, monkeypatch):
    """Whoever makes the sets; and a run that is interrupted while one is being made ends with the same bits."""
    small = [AHEAD, f"generator={generator}", "compare=[]", "world.steps=20", "ensemble.steps=20"]
    assert pgd(monkeypatch, command(recording, tmp_path / "beside", *small)) == 0

    class Plain(InTurn):
        def __init__(self, generator, device):
            super().__init__(generator)

        def end(self):
            pass

    with monkeypatch.context() as patch:
        patch.setattr(agents, "Beside", Plain)
        assert pgd(patch, command(recording, tmp_path / "turn", *small)) == 0
    runs = [run_of(tmp_path / name, generator) for name in ("beside", "turn")]
    assert equal(*runs)
    assert runs[0].rows("health.jsonl") == runs[1].rows("health.jsonl")
    if generator != "pgd":
        return
    original = Agent.training_step

    def interrupted(self, batch, index):
        if self.global_step == 17 and self.num_seeds == 2:
            raise RuntimeError("killed here")
        original(self, batch, index)

    with monkeypatch.context() as patch:
        patch.setattr(Agent, "training_step", interrupted)
        assert pgd(patch, command(recording, tmp_path / "parts", *small)) == 1
    assert pgd(monkeypatch, command(recording, tmp_path / "parts", *small)) == 0
    assert equal(runs[0], run_of(tmp_path / "parts", generator))
