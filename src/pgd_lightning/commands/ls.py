"""``pgd ls``: every run below ``runs_dir`` with its state, progress, outcome, and when it was last heard of."""

import time
from collections import Counter
from pathlib import Path

from omegaconf import DictConfig

from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import RunFolder, readable
from pgd_lightning.runs.points import Point, recorded

MISSING = "missing"


def main(config: DictConfig, overrides: list[str]) -> None:
    root = Path(config.runs_dir)
    runs = all_runs(root)
    waiting = [point_line(file, point) for file in sorted(root.glob("sweep/*/sweep.json")) for point in missing(file)]
    if not runs and not waiting:
        raise UserError(f"There are no runs in '{root}': give their folder, runs_dir=<folder>.")
    states = [run.state(config.stale_after) for run in runs]
    if config.state is not None:
        chosen = [(run, state) for run, state in zip(runs, states, strict=True) if state == config.state]
    else:
        chosen = list(zip(runs, states, strict=True))
    for folder in sorted({run.folder.parents[1] for run, _ in chosen}):
        say(f"\n{folder}\n  {'state':<9}{'steps':>17}{'outcome':>21}{'heard':>7}  run")
        for run, state in chosen:
            if run.folder.parents[1] == folder:
                say(line(run, state))
    if waiting and config.state in (None, MISSING):
        say("\npoints of sweeps with agents that have not begun")
        for text in waiting:
            say(text)
    counts = Counter(states) + Counter({MISSING: len(waiting)})
    say("\n" + ", ".join(f"{number} {state}" for state, number in sorted(counts.items())))


def all_runs(root: Path) -> list[RunFolder]:
    """The runs below ``root``, in the order of their folders."""
    return list(readable(sorted(root.glob("*/*/*/*/run.json"))))


def missing(sweep: Path) -> list[Point]:
    """The points of a sweep some of whose agents have no run, not even a failed one."""
    return [point for point in recorded(sweep) if any(run is None for run in point.runs())]


def point_line(sweep: Path, point: Point) -> str:
    """Number and label of a point, and the last line of its job's log, if it had one."""
    log = sweep.parent / "logs" / f"{point.number}.log"
    runs = point.runs()
    text = f"  {MISSING:<9}task {point.number}, {runs.count(None)} of {len(runs)} agents  {point.label}"
    if not log.exists():
        return f"{text}  (in {sweep.parent}; without that folder it is forgotten)"
    last = [line for line in log.read_text(errors="replace").splitlines() if line.strip()][-1:]
    return f"{text}\n{'':11}{log}: {''.join(last)}"


def line(run: RunFolder, state: str) -> str:
    """State, steps, outcome, age and folder of one run; of a failed one also its sentence."""
    record, beat = run.record, run.heartbeat
    steps = f"{beat['step']}/{beat['total']}" if "total" in beat else ""
    named = f"{run.folder.parent.name}/{run.folder.name}"
    row = f"  {state:<9}{steps:>17}{run.outcome:>21}{age(run.last_heard):>7}  {named}"
    return row + (f"\n           {record['reason']}" if state == "failed" else "")


def age(moment: float) -> str:
    """How long ago ``moment`` (seconds since the epoch) was, in its largest unit."""
    seconds = max(time.time() - moment, 0)
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"
