"""The commands, on a small recording of a maze: what is typed, who runs it, and what it leaves behind."""

import sys
from pathlib import Path

import torch

from pgd_lightning.__main__ import main
from pgd_lightning.runs.checkpoints import newest_checkpoint
from pgd_lightning.runs.run import Run

SMALL = [
    "env=maze2d-umaze", "scale=smoke", "logger.wandb=disabled", "network.features=16", "prior.steps=60",
    "prior.batch_size=16", "prior.validate_every=30", "prior.checkpoint_every=20", "updates=60", "checkpoint_every=15",
    "synthetic.lifetime=20", "synthetic.num_windows=8", "evaluation.every=30", "evaluation.episodes=1",
    "evaluation.final_episodes=2", "sampler.num_steps=4", "behaviour.updates=20", "health.rows=50", "report.windows=8",
    "trainer.accelerator=cpu", "plan.seconds=0",
]  # fmt: skip
ONLINE = [
    "polygrad",
    "env=hopper",
    "scale=smoke",
    "world.width=32",
    "world.sampling.num_steps=8",
    "logger.wandb=disabled",
]


def command(recording: Path, runs: Path, *more: str, small: list[str] = SMALL) -> list[str]:
    return ["train", f"data.source={recording}", f"runs_dir={runs}", *small, *more]


def pgd(monkeypatch, arguments: list[str]) -> int:
    """Exit code of a command in this process."""
    monkeypatch.setattr(sys, "argv", ["pgd", *arguments])
    return main()


def run_of(runs: Path, generator: str, agent: str = "iql") -> Run:
    (path,) = (runs / "agent" / "maze2d-umaze").glob(f"{agent}-{generator}-*/0")
    return Run(path)


def weights(run: Run) -> dict[str, torch.Tensor]:
    path = newest_checkpoint(run.checkpoints)
    assert path is not None
    return torch.load(path, weights_only=True)["state_dict"]


def equal(ours: Run, theirs: Run) -> bool:
    a, b = weights(ours), weights(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
