"""What is written in a run folder, read only: neither torch nor Lightning is loaded for it."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pgd_lightning.environment import NO_SIMULATOR
from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say
from pgd_lightning.runs.names import MEASURES

LEDGER = "ledger.jsonl"
EPISODE = ("purpose", "step", "seed", "index", "return", "simulator")  # what each of its rows has
WRITTEN = ("state", "stage", "env", "method", "seed", "identity")  # in a run.json from its beginning
OF_AGENTS = (("agent", str), ("generator", str), ("starts", list), ("provenance", dict))  # in that of a finished agent
T = TypeVar("T")
Found = TypeVar("Found")


@dataclass(frozen=True)
class RunFolder:
    """One run folder (:mod:`pgd_lightning.runs.run` says what is in it)."""

    folder: Path

    @property
    def record(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        if not path.exists():
            return {}
        try:
            record = json.loads(path.read_text())
        except (OSError, ValueError) as error:  # a failing disk, no JSON, or no text
            raise damaged(path, str(error)) from error
        if not isinstance(record, dict):
            raise damaged(path, "it is no record of a run")
        if missing := [name for name in WRITTEN if name not in record]:
            raise damaged(path, f"it lacks {', '.join(missing)}")
        return record

    @property
    def provenance(self) -> dict[str, Any]:
        """Where the data came from that a run which has begun learns from."""
        found = self.record.get("provenance")
        if not isinstance(found, dict):
            raise damaged(self.folder / "run.json", "it lacks provenance")
        return found

    def whole(self) -> Self:
        """This finished agent run. Raises UserError where something is lost that a report reads of it."""
        record = self.record
        if missing := [name for name, kind in OF_AGENTS if not isinstance(record.get(name), kind)]:
            raise damaged(self.folder / "run.json", f"it lacks {', '.join(missing)}")
        if not self.rows(LEDGER) and self.outcome:
            raise damaged(self.folder / LEDGER, f"it lacks the episodes of the {self.outcome}")
        return self

    @property
    def finished(self) -> bool:
        return self.record.get("state") == "finished"

    @property
    def evaluated(self) -> bool:
        """Whether an agent's final episodes were run, or there is no environment for them.

        They were not of a behaviour clone that was trained to measure likelihoods.
        """
        task = self.record["identity"].get("env", {}).get("task")
        return task == NO_SIMULATOR or any(row["purpose"] == "final" for row in self.rows(LEDGER))

    @property
    def outcome(self) -> str:
        """The success rate, score or return of the last checkpoint, by its name; empty where there is none yet."""
        record = self.record
        return next((measure.said(f"{record[key]:.1f}") for key, measure in MEASURES.items() if key in record), "")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def attempt(self) -> int:
        return len(self.record.get("starts", []))

    @property
    def heartbeat(self) -> dict[str, Any]:
        """The last sign of life, {} if there is none that can be read."""
        try:
            beat: dict[str, Any] = json.loads((self.folder / "heartbeat.json").read_text())
        except (OSError, ValueError):
            return {}
        return beat

    @property
    def last_heard(self) -> float:
        """Seconds since the epoch of the last sign of life or change of state."""
        return max(self.heartbeat.get("time", 0.0), (self.folder / "run.json").stat().st_mtime)

    def state(self, stale_after: float) -> str:
        """What run.json says, unless that is ``running`` and its process is gone (killed) or silent (stale)."""
        state: str = self.record["state"]
        if state != "running":
            return state
        beat = self.heartbeat
        if beat.get("host") == platform.node() and not _alive(beat["pid"]):
            return "killed"
        return "running" if time.time() - self.last_heard < stale_after else "stale"

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The rows of a JSONL file, without what a resumed run wrote a second time (it writes the same again)."""
        path = self.folder / name
        if not path.exists():
            return []
        try:
            lines = dict.fromkeys(line for line in path.read_text().split("\n")[:-1] if line)
            rows = [json.loads(line) for line in lines]
        except (OSError, ValueError) as error:
            raise damaged(path, str(error)) from error
        needed = EPISODE if name == LEDGER else ()
        for number, row in enumerate(rows, 1):
            if not isinstance(row, dict) or any(key not in row for key in needed):
                raise damaged(path, f"row {number} is none")
        return rows


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's
        return True
    return True


def damaged(path: Path, why: str) -> UserError:
    return UserError(f"{path} is damaged ({why}): restore it from a copy, or move its folder away to train again.")


def undamaged(read: Callable[[T], Found], things: Iterable[T]) -> Iterator[Found]:
    """What ``read`` finds of each of ``things``; one that it cannot read is named, once a command, and left out."""
    for thing in things:
        try:
            found = read(thing)
        except UserError as error:
            say(f"warning: {error} It is left out.", once=True)
        else:
            yield found


def readable(records: Iterable[Path]) -> Iterator[RunFolder]:
    """The :func:`undamaged` runs whose ``run.json`` these are."""
    return filter(None, undamaged(_run_of, records))


def _run_of(record: Path) -> RunFolder | None:
    run = RunFolder(record.parent)
    return run if run.record else None


def require_run(folder: str | Path) -> None:
    """Raises UserError if there is no run in ``folder``."""
    if not RunFolder(Path(folder)).record:
        raise UserError(
            f"There is no run in '{folder}' (no run.json): give a folder below runs/, e.g. RUN=runs/agent/…"
        )
