"""The points of sweeps, written down beside the runs that they train."""

from __future__ import annotations

import glob
import json
from dataclasses import dataclass
from pathlib import Path

from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import RunFolder, readable


@dataclass(frozen=True)
class AgentOfPoint:
    """An agent that a point trains: where its run will be, and the settings by which it is known."""

    env: str
    seed: int
    settings: str

    def run(self, runs_dir: Path) -> RunFolder | None:
        """The run, None where there is none yet."""
        candidates = readable(runs_dir.glob(f"agent/{glob.escape(self.env)}/*/{self.seed}/run.json"))
        return next((run for run in candidates if self.settings in run.record.get("settings", [])), None)


@dataclass(frozen=True)
class Point:
    """One combination: a command ``pgd train …`` and the agents that it trains."""

    number: int
    overrides: list[str]
    label: str  # what tells it from the others
    runs_dir: Path
    agents: list[AgentOfPoint]

    def runs(self) -> list[RunFolder | None]:
        """Of each of its agents the run, None where there is none yet."""
        return [agent.run(self.runs_dir) for agent in self.agents]

    @property
    def finished(self) -> bool:
        """Whether every agent of this point is trained and evaluated."""
        return all(run is not None and run.finished and run.evaluated for run in self.runs())

    @property
    def said(self) -> str:
        """The sentence with which one of its runs failed, if one did."""
        reasons = (run.record.get("reason") for run in self.runs() if run is not None and not run.finished)
        return next((reason for reason in reasons if reason), "")


def recorded(sweep: Path) -> list[Point]:
    """The points of a ``sweep.json``, whose agents lie in the same runs folder; none of one of an earlier version."""
    try:
        found = json.loads(sweep.read_text())
        if "agents" not in found:
            return []
        rows = zip(found["points"], found["labels"], found["agents"], strict=True)
        runs_dir = sweep.parents[2]
        return [
            Point(n, p, label, runs_dir, [AgentOfPoint(**agent) for agent in made])
            for n, (p, label, made) in enumerate(rows)
        ]
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = f"{type(error).__name__}: {error}"
        say(f"warning: {sweep} is damaged ({why}): start the sweep again to write a new one.", once=True)
        return []
