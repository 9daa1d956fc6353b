"""``pgd sweep env=a,b agent=iql,td3_bc seed=0,1``: train what is not trained yet of every combination.

What is trained is read off the run folders, so that the same command, after failures or on top of runs that were made
one by one, trains only what is missing. ``pgd slurm`` does the same as a job array.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

from omegaconf import DictConfig

from pgd_lightning.commands.train import conditions
from pgd_lightning.config.compose import combinations, compose_config
from pgd_lightning.data.outputs import make_folder
from pgd_lightning.errors import Stopped, UserError
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.identity import asked, digest
from pgd_lightning.runs.points import AgentOfPoint, Point

SAY_EVERY = 10.0  # seconds without a word


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train the missing points one after the other. Raises UserError that names those that failed."""
    points = all_points(overrides)
    folder = sweep_folder(config, points)
    missing = [point for point in points if not point.finished]
    say(f"sweep: {len(points)} points, {len(points) - len(missing)} trained already, in {folder}")
    for point in missing:
        say(f"\nsweep: {point.label} ({point.number + 1} of {len(points)})")
        if (code := train(point.overrides)) in (Stopped.exit_code, Stopped.interrupted):
            number = signal.SIGINT if code == Stopped.interrupted else None
            raise Stopped(f"Stopped in '{point.label}'; the same command continues there.", number)
    summarise(points)


def all_points(overrides: list[str]) -> list[Point]:
    """The combinations of ``overrides``, without what is the launcher's."""
    commands = combinations([o for o in overrides if not o.startswith("launcher")])
    varied = {o for command in commands for o in command if any(o not in other for other in commands)}
    points, said = [], time.monotonic()
    for number, command in enumerate(commands):
        config = compose_config("train", command)
        agents = [AgentOfPoint(each.env.name, each.seed, asked(each)) for each in conditions(config, command)]
        label = " ".join(o for o in command if o in varied) or "the only point"
        points.append(Point(number, command, label, Path(config.runs_dir), agents))
        if time.monotonic() - said > SAY_EVERY:
            said = time.monotonic()
            say(f"reading settings: {number + 1} of {len(commands)} points")
    return points


def sweep_folder(config: DictConfig, points: list[Point]) -> Path:
    """Where the sweep is written down (``sweep.json``); its name comes from what it trains, however that is spelled."""
    agents = [[asdict(agent) for agent in point.agents] for point in points]
    folder = make_folder(Path(config.runs_dir) / "sweep" / digest(agents))
    written = {"points": [point.overrides for point in points], "labels": [point.label for point in points]}
    write_atomic(folder / "sweep.json", json.dumps(written | {"agents": agents}, indent=2))
    return folder


def train(overrides: list[str]) -> int:
    """``pgd train`` in a process of its own, which also ends with this one; its exit code."""
    with _child([sys.executable, "-m", "pgd_lightning", "train", *overrides]) as process:
        return process.wait()


class _child(subprocess.Popen[bytes]):
    """A process that is asked to stop, and waited for, when this one is."""

    def __exit__(self, *error: object) -> None:
        if self.poll() is None:
            self.terminate()
        self.wait()


def summarise(points: list[Point]) -> None:
    """One line a point. Raises UserError that names those that are not trained."""
    say("")
    for point in points:
        outcomes = ", ".join(run.outcome for run in point.runs() if run is not None and run.finished and run.outcome)
        say(f"  {'finished' if point.finished else 'MISSING':<10}{outcomes:<20}  {point.label}")
    missing = [_named(point) for point in points if not point.finished]
    if missing:
        raise UserError(f"{len(missing)} of {len(points)} points are not trained: {'; '.join(missing)}.")


def _named(point: Point) -> str:
    return point.label + (f" ({point.said.rstrip('.')})" if point.said else "")
