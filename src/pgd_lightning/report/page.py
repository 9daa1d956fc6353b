"""``pgd report runs=…``: one page, without any request to the network, over all finished runs below some folders.

Scores of last checkpoints with intervals, paired differences, aggregates over data sets, budgeted
selection, learning curves, fidelity, and what was run on which data. Everything is computed from ledgers and
``analysis.json``; a run that failed or is missing is named.
"""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.outputs import require_own
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import ACROSS, require_alike
from pgd_lightning.evaluation.selection import budgeted_selection
from pgd_lightning.evaluation.statistics import (
    aggregate,
    average,
    iqm,
    optimality_gap,
    probability_of_improvement,
)
from pgd_lightning.report.comparison import Entry, Row, find_entries, grouped, mixable, run_files, tables
from pgd_lightning.report.drawing import standalone
from pgd_lightning.report.page_figures import SEED, Tables, drawings, figure_name, photographs
from pgd_lightning.report.templates import each_once, interval_text, notice, render, score_row
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.names import NAMES
from pgd_lightning.runs.points import recorded
from pgd_lightning.runs.provenance import command_line
from pgd_lightning.runs.run import Run

Array = NDArray[np.float64]
PAGE = ("index.html", "report.json", "report.txt")


@dataclass(frozen=True)
class SelectionSettings:
    """Of :func:`pgd_lightning.evaluation.selection.budgeted_selection` (``conf/report.yaml``)."""

    candidates: int
    pulls: int
    repeats: int
    alpha: float


def write(
    runs: Sequence[str],
    where: Mapping[str, Any],
    out: str | None,
    *,
    overwrite: bool,
    resamples: int,
    selection: SelectionSettings,
) -> None:
    """Write ``index.html``, ``report.json``, ``report.txt`` and the figures as SVG into ``out``.

    ``runs`` are folders or globs, whose finished agent runs with the settings ``where`` are compared, ``resamples``
    are those of the bootstrap over data sets. Raises UserError as comparison.
    """
    entries, refused = mixable(find_entries(runs, where))
    found = tables(entries)
    folder = Path(out).expanduser() if out else default_folder(runs)
    require_own(folder, PAGE, "report.json", lambda content: "tables" in content, overwrite)
    folder.mkdir(parents=True, exist_ok=True)
    content = contents(runs, entries, found, resamples, selection)
    content["unfinished"] += [{"state": "refused", "what": what, "reason": why} for what, why in refused.items()]
    pictures = drawings(found, content, resamples)
    for name, drawing in pictures.items():
        write_atomic(folder / f"{name}.svg", standalone(drawing))
    write_atomic(folder / "report.json", json.dumps(content, indent=1))
    write_atomic(folder / "report.txt", text(content))
    write_atomic(folder / "index.html", html(content, pictures, photographs(entries)))
    say(text(content))
    say(f"page: {folder / 'index.html'}")


def default_folder(runs: Sequence[str]) -> Path:
    """``report`` below the first folder; ``comparison`` where that is a single run, whose own page is in ``report``."""
    first = first_folder(runs)
    return first / ("comparison" if (first / "run.json").exists() else "report")


def first_folder(runs: Sequence[str]) -> Path:
    """The deepest folder without a wildcard that the first of ``runs`` begins with."""
    parts = Path(runs[0]).parts
    plain = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return Path(*parts[:plain]) if plain else Path()


# --- what the page says ---


def contents(
    runs: Sequence[str], entries: Sequence[Entry], found: Tables, resamples: int, selection: SelectionSettings
) -> dict[str, Any]:
    """Every number of the page, as plain data."""
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
        "unfinished": unfinished(runs),
    }  # fmt: skip


def provenance(entry: Entry) -> tuple[str, str]:
    """Label and kind of a run's data."""
    return entry.record["provenance"]["label"], entry.record["provenance"]["kind"]


def notices(entries: Sequence[Entry]) -> dict[str, list[str]]:
    """What must be said of data that are not D4RL's own: sentence -> labels of the data."""
    published = [entry for entry in entries if entry.env.file is not None]
    found = [(notice(kind), label) for label, kind in map(provenance, published)]
    texts = each_once(text for text, _ in found)
    return {text: sorted({label for other, label in found if other == text}) for text in texts}


def score_table(dataset: str, agent: str, rows: Sequence[Row]) -> dict[str, Any]:
    """The table of one data set and agent."""
    conditions = rows[0].ledgers[0].conditions
    return {
        "dataset": dataset,
        "agent": agent,
        "measure": rows[0].measure,
        "conditions": {name: conditions[name] for name in ("data", "simulator", "updates", "score constants")},
        "rows": [
            score_row(
                row.method.label,
                row.score,
                row.against,
                {
                    "return": float(row.scores.returns.mean()),
                    "oracle": asdict(row.oracle[0]) if row.oracle else None,
                    "oracle_episodes": row.oracle[1] if row.oracle else 0,
                },
            )
            for row in rows
        ],
    }


def aggregates(agent: str, found: Tables, resamples: int) -> list[dict[str, Any]]:
    """Over the data sets on which each method of ``agent`` ran; empty where that is fewer than two."""
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
    """Means of the seeds that all of ``rows``, one a data set, have: ``[S, D]``."""
    keys = [key for key in rows[0].scores.keys if all(key in row.scores.keys for row in rows)]
    return np.array([[row.scores.score[row.scores.keys.index(key)].mean() for row in rows] for key in keys])


def selections(found: Tables, resamples: int, settings: SelectionSettings) -> list[dict[str, Any]]:
    """Budgeted selection among all policies of a data set, where there are at least two."""
    made = []
    for dataset, pairs in grouped(found.items(), lambda item: item[0][0]).items():
        policies = np.concatenate([row.scores.score for _, rows in pairs for row in rows])
        if len(policies) < 2 or pairs[0][1][0].measure != "score":
            continue
        curve = budgeted_selection(
            policies, settings.candidates, settings.pulls, settings.repeats, settings.alpha, resamples, SEED
        )
        made.append({"dataset": dataset, "policies": curve.num_policies, "candidates": curve.num_candidates,
                     "mean": curve.mean.tolist(), "low": curve.low.tolist(), "high": curve.high.tolist()})  # fmt: skip
    return made


def analyses(runs: Sequence[str]) -> list[dict[str, Any]]:
    """The finished fidelity analyses below the folders."""
    found = [Run(path.parent) for path in below(runs)]
    finished = [run for run in found if run.record.get("stage") == "analysis" and run.finished]
    return [
        {
            "dataset": run.record["env"],
            "data": run.record["provenance"]["label"],
            "folder": str(run.folder),
            "rows": json.loads((run.folder / "analysis.json").read_text()),
        }
        for run in finished
    ]


def below(runs: Sequence[str]) -> list[Path]:
    """Every run.json below folders or globs, each once."""
    return sorted({path for pattern in runs for path in run_files(pattern)})


def ran(entry: Entry) -> dict[str, Any]:
    """How one run came about."""
    start = entry.record["starts"][-1]
    return {
        "folder": str(entry.run.folder), "dataset": entry.dataset, "method": entry.record["method"],
        "seed": entry.record["seed"], "learners": entry.seeds, "data": provenance(entry)[0],
        "command": start["command"], "machine": start["machine"], "code": start["code"], "time": start["time"],
        "starts": len(entry.record["starts"]),
    }  # fmt: skip


def unfinished(runs: Sequence[str]) -> list[dict[str, str]]:
    """Agent runs that did not end, and points of sweeps of which there is no run: nothing is left out silently."""
    named = []
    for path in below(runs):
        record = Run(path.parent).record
        if record.get("stage") == "agent" and record["state"] != "finished":
            named.append({"what": str(path.parent), "state": record["state"], "reason": record.get("reason") or ""})
    folders = {path.parents[4] for path in below(runs) if len(path.parents) > 4}
    for sweep in sorted({file for folder in folders for file in folder.glob("sweep/*/sweep.json")}):
        for point in recorded(sweep):
            if any(run is None for run in point.runs()):
                reason = f"{sweep} (without its folder the sweep is forgotten)"
                named.append({"what": f"pgd train {shlex.join(point.overrides)}", "state": "missing", "reason": reason})
    return named


# --- how it looks ---


def html(content: dict[str, Any], pictures: Mapping[str, str], photos: list[dict[str, str]]) -> str:
    """The page."""
    return render(
        "page.html", pictures, **content, photos=photos, figure_name=figure_name, settings=settings_of(content)
    )


def settings_of(content: dict[str, Any]) -> list[str]:
    """The machines and versions of code that the runs name, each once."""
    return sorted({f"{run['machine']}; code {run['code']}" for run in content["runs"]})


def text(content: dict[str, Any]) -> str:
    """The tables as plain text. ``*``: a paired difference excludes zero."""
    lines: list[str] = []
    for table in content["tables"]:
        lines += [
            "",
            f"{table['agent']} on {table['conditions']['data']}",
            f"{table['conditions']['updates']} updates, last checkpoint, {table['conditions']['simulator']}",
            f"{'experience':<40}{table['measure'] + ' [95 %]':<26}{'n':>3}{'episodes':>9}  minus real",
        ]
        for row in table["rows"]:
            score, mark = row["score"], " *" if row["bold"] else ""
            lines.append(
                f"{row['method'] + mark:<40.40}{interval_text(score):<26}{score['num_seeds']:>3}"
                f"{score['num_episodes']:>9}  {interval_text(row['against'].get('none'))}"
            )
    for part in content["aggregates"]:
        lines += ["", f"{part['agent']} over {', '.join(part['datasets'])}"]
        lines += [part["refused"]] if part["refused"] else []
        for row in part["rows"]:
            lines.append(
                f"{row['method']:<40.40}IQM {interval_text(row['iqm']):<24}gap {interval_text(row['optimality_gap'])}"
            )
    if content["unfinished"]:
        lines += ["", *(f"{part['state'].upper()}: {part['what']} {part['reason']}" for part in content["unfinished"])]
    return "\n".join(lines) + "\n"
