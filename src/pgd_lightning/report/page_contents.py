"""What the page over many runs says, as plain data: ``report.json``.

Everything is computed from ledgers and ``analysis.json``; a run that failed or is missing is named.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.analysis import WindowRow
from pgd_lightning.evaluation.ledgers import ACROSS, require_alike
from pgd_lightning.evaluation.selection import budgeted_selection
from pgd_lightning.evaluation.statistics import aggregate, average, iqm, optimality_gap, probability_of_improvement
from pgd_lightning.report.comparison import Entry, Row, Tables, grouped, runs_below
from pgd_lightning.report.summary import meaning
from pgd_lightning.report.templates import ScoreRow, each_once, notice, score_row
from pgd_lightning.runs.folder import damaged, undamaged
from pgd_lightning.runs.names import NAMES
from pgd_lightning.runs.points import recorded
from pgd_lightning.runs.provenance import command_line
from pgd_lightning.runs.run import Run

Array = NDArray[np.float64]
SEED = 0  # of the bootstrap: the same runs give the same page


@dataclass(frozen=True)
class SelectionSettings:
    """Of :func:`pgd_lightning.evaluation.selection.budgeted_selection` (``conf/report.yaml``)."""

    candidates: int
    pulls: int
    repeats: int
    alpha: float


class ScoreTable(TypedDict):
    """The methods of one agent on one dataset."""

    dataset: str
    agent: str
    measure: str  # see :attr:`EnvSpec.measure`
    meaning: str  # of its numbers
    conditions: dict[str, str]
    rows: list[ScoreRow]


class Unfinished(TypedDict):
    """What is in no number of the page."""

    what: str
    state: str
    reason: str


class Analysis(TypedDict):
    """A finished fidelity analysis."""

    dataset: str
    data: str  # its label
    folder: str
    rows: list[WindowRow]


class Contents(TypedDict):
    """The page, part by part."""

    made: str
    command: str
    version: str
    notices: dict[str, list[str]]  # sentence -> labels of the data
    tables: list[ScoreTable]
    aggregates: list[dict[str, Any]]  # over the datasets of one agent
    selections: list[dict[str, Any]]  # of one dataset
    analyses: list[Analysis]
    runs: list[dict[str, Any]]  # how each came about
    unfinished: list[Unfinished]


def contents(
    runs: Sequence[str], entries: Sequence[Entry], found: Tables, resamples: int, selection: SelectionSettings,
    stale_after: float,
) -> Contents:  # fmt: skip
    """Every number of the page."""
    agents = dict.fromkeys(agent for _, agent in found)
    return {
        "made": time.strftime("%Y-%m-%d %H:%M"),
        "command": command_line(),
        "version": version("pgd-lightning"),
        "notices": notices(entries),
        "tables": [score_table(dataset, agent, rows) for (dataset, agent), rows in found.items()],
        "aggregates": [part for agent in agents for part in aggregates(agent, found, resamples)],
        "selections": selections(found, resamples, selection),
        "analyses": analyses(runs),
        "runs": [ran(entry) for entry in entries],
        "unfinished": unfinished(runs, stale_after),
    }


def provenance(entry: Entry) -> tuple[str, str]:
    """Label and kind of a run's data."""
    return entry.record["provenance"]["label"], entry.record["provenance"]["kind"]


def notices(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What must be said of data that are not D4RL's own: sentence -> labels of the data."""
    published = [entry for entry in entries if entry.env.file is not None]
    found = [(notice(kind), label) for label, kind in map(provenance, published)]
    texts = each_once(text for text, _ in found)
    return {text: sorted({label for other, label in found if other == text}) for text in texts}


def score_table(dataset: str, agent: str, rows: Sequence[Row]) -> ScoreTable:
    """The table of one dataset and agent."""
    conditions = rows[0].ledgers[0].conditions
    return {
        "dataset": dataset,
        "agent": agent,
        "measure": rows[0].measure,
        "meaning": meaning(rows[0].measure, conditions["score constants"]),
        "conditions": {name: conditions[name] for name in ("data", "simulator", "updates", "score constants")},
        "rows": [
            score_row(row.method.label, row.score, float(row.scores.returns.mean()), row.against, row.oracle)
            for row in rows
        ],
    }


def aggregates(agent: str, found: Tables, resamples: int) -> list[dict[str, Any]]:
    """Over the datasets on which each method of ``agent`` ran; empty where that is fewer than two."""
    mine = {dataset: rows for (dataset, a), rows in found.items() if a == agent and rows[0].measure == "score"}
    methods = list(dict.fromkeys(r.method for rows in mine.values() for r in rows))
    shared = [d for d, rows in mine.items() if {m.label for m in methods} == {r.method.label for r in rows}]
    if len(shared) < 2:
        return []
    ledgers = [ledger for d in shared for row in mine[d] for ledger in row.ledgers]
    try:
        require_alike(ledgers, ACROSS)
    except UserError as error:
        return [{"agent": agent, "datasets": shared, "refused": str(error), "rows": []}]
    scores = {m.label: matrix([next(r for r in mine[d] if r.method == m) for d in shared]) for m in methods}
    if any(not len(values) for values in scores.values()):
        why = f"No seed of a method ran on all of {', '.join(shared)}: train with the same seed= and seeds= on each."
        return [{"agent": agent, "datasets": shared, "refused": why, "rows": []}]
    bootstrap = partial(aggregate, resamples=resamples, seed=SEED)
    base = NAMES["none"]
    rows = [
        {
            "method": label,
            "iqm": asdict(bootstrap(iqm, values)),
            "mean": asdict(bootstrap(average, values)),
            "optimality_gap": asdict(bootstrap(optimality_gap, values)),
            "improvement": asdict(bootstrap(probability_of_improvement, values, scores[base]))
            if base in scores and label != base
            else None,
            "scores": values.tolist(),
        }
        for label, values in scores.items()
    ]
    return [{"agent": agent, "datasets": shared, "refused": "", "rows": rows}]


def matrix(rows: Sequence[Row]) -> Array:
    """Means of the seeds that all of ``rows``, one a dataset, have: ``[S, D]``."""
    keys = [key for key in rows[0].scores.keys if all(key in row.scores.keys for row in rows)]
    return np.array([[row.scores.score[row.scores.keys.index(key)].mean() for row in rows] for key in keys])


def selections(found: Tables, resamples: int, settings: SelectionSettings) -> list[dict[str, Any]]:
    """Budgeted selection among all policies of a dataset, where there are at least two."""
    made = []
    for dataset, pairs in grouped(found.items(), lambda item: item[0][0]).items():
        found_scores = [row.scores.score for _, rows in pairs for row in rows]
        episodes = min(scores.shape[1] for scores in found_scores)  # which every policy has
        policies = np.concatenate([scores[:, :episodes] for scores in found_scores])
        if len(policies) < 2 or pairs[0][1][0].measure != "score":
            continue
        curve = budgeted_selection(
            policies, settings.candidates, settings.pulls, settings.repeats, settings.alpha, resamples, SEED
        )
        made.append({"dataset": dataset, "policies": curve.num_policies, "candidates": curve.num_candidates,
                     "mean": curve.mean.tolist(), "low": curve.low.tolist(), "high": curve.high.tolist()})  # fmt: skip
    return made


def analyses(runs: Sequence[str]) -> list[Analysis]:
    """The finished fidelity analyses below the folders."""
    finished = (run for run in runs_below(runs) if run.record["stage"] == "analysis" and run.finished)
    return list(undamaged(analysis, finished))


def analysis(run: Run) -> Analysis:
    """What a finished analysis found. Raises UserError where that is lost."""
    path = run.folder / "analysis.json"
    try:
        rows = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise damaged(path, str(error)) from error
    return {
        "dataset": run.record["env"], "data": run.provenance["label"], "folder": str(run.folder), "rows": rows
    }  # fmt: skip


def ran(entry: Entry) -> dict[str, Any]:
    """How one run came about."""
    start = entry.record["starts"][-1]
    return {
        "folder": str(entry.run.folder), "dataset": entry.dataset, "method": entry.record["method"],
        "seed": entry.record["seed"], "learners": entry.seeds, "data": provenance(entry)[0],
        "command": start["command"], "machine": start["machine"], "code": start["code"], "time": start["time"],
        "starts": len(entry.record["starts"]),
    }  # fmt: skip


def unfinished(runs: Sequence[str], stale_after: float) -> list[Unfinished]:
    """Agent runs that did not end, and points of sweeps of which there is no run: nothing is left out silently."""
    named: list[Unfinished] = []
    found = runs_below(runs)
    for run in found:
        if run.record["stage"] == "agent" and (state := run.state(stale_after)) != "finished":
            named.append({"what": str(run.folder), "state": state, "reason": run.record.get("reason") or ""})
    folders = {run.folder.parents[3] for run in found if len(run.folder.parents) > 3}
    for sweep in sorted({file for folder in folders for file in folder.glob("sweep/*/sweep.json")}):
        for point in recorded(sweep):
            if any(run is None for run in point.runs()):
                reason = f"{sweep} (without its folder the sweep is forgotten)"
                named.append({"what": f"pgd train {shlex.join(point.overrides)}", "state": "missing", "reason": reason})
    return named
