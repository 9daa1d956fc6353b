"""The end of a run's page: the commands, code and packages behind it, and what else there is of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pgd_lightning.runs.run import Run


def how_to_repeat(runs: Sequence[Run], folder: Path, *more: tuple[str, str]) -> dict[str, Any]:
    """What ``repeat`` of ``page_parts.html`` shows of a page of ``runs`` in ``folder``; ``more`` facts stand last."""
    return {
        "commands": repeated(runs),
        "facts": [*versions(runs[0]), *more],
        "wandb": wandb_note(runs[0]),
        "files": files_beside(folder),
    }


def repeated(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The commands behind ``runs``, each with the runs that it trained."""
    found: dict[str, list[str]] = {}
    for run in runs:
        starts = run.record["starts"]
        again = f", start {len(starts)}" if len(starts) > 1 else ""
        trained = f"{run.record['method']} in {run.folder}, {starts[-1]['time']}{again}"
        found.setdefault(starts[-1]["command"], []).append(trained)
    return found


def versions(run: Run) -> list[tuple[str, str]]:
    """Code, packages and machine of the last start."""
    start = run.record["starts"][-1]
    packages = ", ".join(f"{name} {number}" for name, number in start.get("packages", {}).items())
    facts = {**start, "packages": packages}
    return [(name, str(facts[name])) for name in ("code", "python", "packages", "machine") if facts.get(name)]


def files_beside(folder: Path) -> list[str]:
    """What else there is in the folder of a page."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != "." and path.suffix != ".html")


def wandb_note(run: Run) -> str:
    """What W&B has of the run."""
    # Their names are offline-run-TIME-ID and run-TIME-ID.
    kept = sorted(
        (path for path in (run.folder / "wandb").glob("*run-*") if path.is_dir()),
        key=lambda path: path.name.partition("run-")[2],
    )
    if not kept:
        return "There is no W&B run: it was disabled (logger.wandb=disabled) or failed."
    if kept[-1].name.startswith("offline"):
        return f"The W&B run is offline; upload it with: wandb sync {run.folder / 'wandb' / 'offline-run-*'}"
    return "The W&B run is online."
