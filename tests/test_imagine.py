"""PolyGRAD's learner on a recording: what each phase moves, what conservatism adds, the run, its faults and resume."""

import copy
import json
from pathlib import Path
from types import SimpleNamespace

import h5py
import pytest
import torch
from helpers.commands import pgd
from helpers.undrawn import leave_undrawn

from pgd_lightning.commands import imagine
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.imagination.actor_critic import PPO, alive
from pgd_lightning.imagination.learner import Conservatism, OfflineImagination, Phases
from pgd_lightning.networks.actors import FlooredActor
from pgd_lightning.randomness import learner_seeds
from pgd_lightning.runs.run import Run
from pgd_lightning.trajectory import Trajectory

SMALL = [
    "scale=smoke", "env=maze2d-umaze", "world.steps=20", "world.width=32", "world.sampling.num_steps=8",
    "imagine.clone=12", "imagine.warm_up=4", "imagine.improve=8", "imagine.log_every=1", "imagine.actor_rate=3e-3",
    "checkpoint_every=5", "imagine.evaluate_every=12", "logger.wandb=disabled",
]  # fmt: skip

PPO_SETTINGS = {
    "obs_dim": 1, "action_dim": 1, "hidden": [16, 16], "first_std": 0.5, "min_std": 0.1, "discount": 0.99, "decay": 0.9,
    "entropy": 1e-5, "actor_rate": 3e-3, "critic_rate": 3e-3, "weight_decay": 0.01, "max_grad_norm": 0.1,
    "polyak": 0.005,
}  # fmt: skip


def settings(recording: Path, runs: Path, *more: str) -> list[str]:
    return ["imagine", *SMALL, f"data.source={recording}", "data.cache=null", f"runs_dir={runs}", *more]


def imagined(rows: int = 5) -> Trajectory:
    generator = torch.Generator().manual_seed(3)
    ends = torch.zeros(8, rows, dtype=torch.bool)
    ends[:3, 2] = True
    return Trajectory(
        obs=torch.randn(8, rows, 4, generator=generator), action=torch.randn(8, rows, 2, generator=generator),
        reward=torch.randn(8, rows, generator=generator), terminated=ends, batch_size=[8, rows],
    )  # fmt: skip


def steps() -> Trajectory:
    return imagined()[:, 0]


def actors() -> tuple[FlooredActor, FlooredActor]:
    torch.manual_seed(0)
    actor, clone = FlooredActor(4, 2, [16], 0.7, 0.1), FlooredActor(4, 2, [16], 0.4, 0.1)
    return actor, clone


def test_what_conservatism_adds():
    """KL(pi || clone) of torch's Gaussians over steps that are still alive, and -log pi of recorded actions."""
    (actor, clone), windows, real = actors(), imagined(), steps()
    obs = windows.obs[:, :-1]
    normal = [torch.distributions.Normal(policy.act(obs), policy.std.expand(8, 4, 2)) for policy in (actor, clone)]
    apart = torch.distributions.kl_divergence(*normal).sum(-1)
    expected = 0.3 * (alive(windows.terminated) * apart).mean()
    kl = Conservatism("kl", 0.3).anchor(actor, clone, real)
    torch.testing.assert_close(kl(windows), expected)
    assert float(Conservatism("kl", 0.3).anchor(clone, clone, real)(windows).detach()) == pytest.approx(0, abs=1e-6)
    data = Conservatism("data", 0.3).anchor(actor, clone, real)
    torch.testing.assert_close(data(windows), -0.3 * actor.log_prob(real.obs, real.action).mean())
    assert Conservatism("none", 0.3).anchor(actor, clone, real) is None
    kl(windows).backward()
    assert clone.log_excess.grad is None
    with pytest.raises(UserError, match="kind=some is none of none, kl, data"):
        Conservatism("some", 1.0)


@pytest.mark.usefixtures("drawn_by_nobody")
def test_phases_move_what_they_say(recording, tmp_path, monkeypatch):
    """Clone: actor and critic. Warm-up: the critic. Then both. The world model never; the clone is the actor then."""
    seen: list[tuple[int, dict[str, torch.Tensor]]] = []
    original = OfflineImagination.training_step

    def watched(self, turn, index):
        before = copy.deepcopy(self.state_dict())
        original(self, turn, index)
        after = self.state_dict()
        moved = {
            name.removeprefix("agent.").split(".")[0] for name in after if not torch.equal(before[name], after[name])
        }
        seen.append((turn["number"], moved))

    monkeypatch.setattr(OfflineImagination, "training_step", watched)
    assert pgd(monkeypatch, settings(recording, tmp_path, "seeds=1")) == 0
    assert [number for number, _ in seen] == list(range(24))
    for number, moved in seen:
        if number < 12:
            assert moved - {"target"} == {"actor", "critic"} | ({"clone"} if number == 11 else set())
        elif number < 16:
            assert moved <= {"critic", "target", "strength"} and "critic" in moved
        else:
            assert {"actor", "critic"} <= moved <= {"actor", "critic", "target", "strength", "log_rate"}


def test_a_run_its_files_and_the_same_bits_after_an_interruption(recording, tmp_path, monkeypatch, capsys):
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert pgd(monkeypatch, ["train", "-cn", *settings(recording, whole)]) == 0
    said = capsys.readouterr().out
    assert "improved in imagination" in said
    assert "conservatism kl 10" in said
    leave_undrawn(monkeypatch.setattr)
    original = OfflineImagination.training_step

    def interrupted(self, turn, index):
        if turn["number"] == 18 and self.seed == learner_seeds(0, [1])[0]:
            raise RuntimeError("killed here")
        original(self, turn, index)

    monkeypatch.setattr(OfflineImagination, "training_step", interrupted)
    assert pgd(monkeypatch, settings(recording, parts)) == 1
    monkeypatch.setattr(OfflineImagination, "training_step", original)
    capsys.readouterr()
    assert pgd(monkeypatch, settings(recording, parts)) == 0
    said = capsys.readouterr().out
    assert "learner 0 is trained already" in said
    assert "continues from step=000000015.ckpt" in said
    for seed in ("0", "0.1"):
        runs = [Run(next((root / "imagination").rglob(f"{seed}/run.json")).parent) for root in (whole, parts)]
        assert runs[0].finished
        ours, theirs = (
            torch.load(sorted(run.checkpoints.glob("*.ckpt"))[-1], weights_only=True)["state_dict"] for run in runs
        )
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)
        assert runs[0].rows("ledger.jsonl") == runs[1].rows("ledger.jsonl")
        assert {row["purpose"] for row in runs[0].rows("ledger.jsonl")} == {"monitor", "clone", "final"}
    report = next((whole / "imagination").rglob("report"))
    assert (report / "learning_curves.png").stat().st_size > 10_000
    assert (
        "2 seeds are too few to compare the policy improved in imagination with" in (report / "index.html").read_text()
    )
    summary = json.loads((report / "summary.json").read_text())
    assert summary["scores"]["clone"]["num_seeds"] == 2
    assert summary["windows"]["finite"] == 1


@pytest.mark.usefixtures("drawn_by_nobody")
def test_the_clone_learns_the_recorded_actions(recording, tmp_path, monkeypatch):
    more = ("seeds=1", "imagine.clone=200", "imagine.warm_up=1", "imagine.improve=1", "imagine.evaluate_every=1000")
    assert pgd(monkeypatch, settings(recording, tmp_path, *more)) == 0
    run = Run(next((tmp_path / "imagination").rglob("run.json")).parent)
    state = torch.load(sorted(run.checkpoints.glob("*.ckpt"))[-1], weights_only=True)["state_dict"]
    clone, fresh = (FlooredActor(4, 2, [256, 256], 1.0, 0.1) for _ in range(2))
    clone.load_state_dict({name.removeprefix("clone."): t for name, t in state.items() if name.startswith("clone.")})
    with h5py.File(recording) as file:
        obs, action = (torch.as_tensor(file[name][:]).float() for name in ("observations", "actions"))
    assert float(clone.log_prob(obs, action).mean()) > float(fresh.log_prob(obs, action).mean()) + 0.5


@pytest.mark.parametrize(("weight", "low", "high"), [(0.0, 0.3, 1.0), (30.0, -0.1, 0.1)])
def test_kl_holds_the_policy_to_its_clone(weight, low, high):
    """A bandit whose reward draws the mean by 0.5: without KL it goes there, with much of it it stays."""
    torch.manual_seed(1)
    agent = PPO(epochs=4, minibatch=256, clip=0.2, **PPO_SETTINGS)
    clone, optimizers, obs = copy.deepcopy(agent.actor).requires_grad_(False), agent.optimizers(), torch.ones(256, 3, 1)
    anchor = Conservatism("kl", weight).anchor(agent.actor, clone, steps())
    before = clone.act(obs[:1, 0])
    for _ in range(20):
        with torch.no_grad():
            action = agent.actor.draw(obs, torch.randn(256, 3, 1))
        reward = -((action - before - 0.5) ** 2).squeeze(-1)
        ended = torch.zeros(256, 3, dtype=torch.bool)
        windows = Trajectory(obs=obs, action=action, reward=reward, terminated=ended, batch_size=[256, 3])
        agent.update(optimizers, windows, anchor)
    assert low < float((agent.actor.act(obs[:1, 0]) - before).detach()) < high


def test_how_often_it_logs_makes_no_other_run(tmp_path):
    known = SimpleNamespace(file="x")
    runs = [
        imagine.run_of(compose_config("imagine", [*SMALL, f"runs_dir={tmp_path}", more]), known, 0).folder
        for more in ("imagine.log_every=2", "imagine.log_every=3", "imagine.conservatism.weight=1")
    ]
    assert runs[0] == runs[1] != runs[2]
    assert imagine.phases(compose_config("imagine", SMALL)) == Phases(12, 4, 8)


def test_bad_settings_get_a_sentence(recording, tmp_path, monkeypatch, capsys):
    assert pgd(monkeypatch, settings(recording, tmp_path, "imagine.conservatism.kind=most", "seeds=1")) == 1
    assert "imagine.conservatism.kind=most does not fit: it is none, kl or data" in capsys.readouterr().err
    assert pgd(monkeypatch, settings(recording, tmp_path, "imagine.windows=0")) == 1
    assert "imagine.windows=0 does not fit: it is a whole number, at least 2" in capsys.readouterr().err
    for more, said in {
        "imagine.clone=30.5": "imagine.clone=30.5 does not fit: it is a whole number",
        "imagine.learner=ppo": "is written learner=ppo",
        "imagine.conservatism.weight=null": "imagine.conservatism.weight=null does not fit: it is a number",
        "guidance.coef=7": "pgd imagine does not use 'guidance.coef'",
        "agent=td3_bc": "pgd imagine does not use 'agent'",
    }.items():
        assert pgd(monkeypatch, settings(recording, tmp_path, more)) == 1
        assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("run.json"))  # before anything is trained
    assert pgd(monkeypatch, settings(recording, tmp_path, "data.horizon=301")) == 1
    assert "window" in capsys.readouterr().err
