"""``pgd report runs=…``: one page, without any request to the network, over all finished runs below some folders.

Scores of last checkpoints with intervals, paired differences, aggregates over datasets, budgeted
selection, learning curves, fidelity, and what was run on which data.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from pgd_lightning.data.outputs import expanded, make_folder, require_own
from pgd_lightning.report.comparison import find_entries, mixable, tables
from pgd_lightning.report.drawing import standalone
from pgd_lightning.report.page_contents import Contents, SelectionSettings, contents
from pgd_lightning.report.page_figures import drawings, figure_name, photographs
from pgd_lightning.report.templates import interval_text, render
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.names import MEASURES, agent_name

PAGE = ("index.html", "report.json", "report.txt")


def write(
    runs: Sequence[str], where: Mapping[str, Any], out: str | None, *, overwrite: bool, resamples: int,
    selection: SelectionSettings, stale_after: float,
) -> None:  # fmt: skip
    """Write ``index.html``, ``report.json``, ``report.txt`` and the figures as SVG into ``out``.

    ``runs`` are folders or globs, whose finished agent runs with the settings ``where`` are compared, ``resamples``
    are those of the bootstrap over datasets; after ``stale_after`` seconds without a sign of life a run does not
    count as running. Raises UserError as comparison.
    """
    entries, refused = mixable(find_entries(runs, where))
    found = tables(entries)
    folder = expanded(out) if out else default_folder(runs)
    require_own(folder, PAGE, "report.json", lambda content: "tables" in content, overwrite)
    make_folder(folder)
    content = contents(runs, entries, found, resamples, selection, stale_after)
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
    """``report`` below the folders of the first of ``runs`` up to a wildcard.

    ``comparison`` where that is a single run, whose own page is in ``report``.
    """
    first = Path(*takewhile(lambda part: not set(part) & set("*?["), Path(runs[0]).parts))
    return first / ("comparison" if (first / "run.json").exists() else "report")


def html(content: Contents, pictures: Mapping[str, str], photos: list[dict[str, str]]) -> str:
    """The page; ``settings`` are the machines and versions of code that the runs name, each once."""
    settings = sorted({f"{run['machine']}; code {run['code']}" for run in content["runs"]})
    return render("page.html", pictures, **content, photos=photos, figure_name=figure_name, settings=settings)


def text(content: Contents) -> str:
    """The tables as plain text. ``*``: a paired difference excludes zero."""
    lines: list[str] = []
    for table in content["tables"]:
        lines += [
            "",
            f"{agent_name(table['agent'])} on {table['conditions']['data']}",
            f"{table['conditions']['updates']} updates, last checkpoint, {table['conditions']['simulator']}",
            f"{'experience':<40}{MEASURES[table['measure']].name + ' [95 %]':<26}{'n':>3}{'episodes':>9}  minus real",
        ]
        for row in table["rows"]:
            score, mark = row["score"], " *" if row["bold"] else ""
            lines.append(
                f"{row['method'] + mark:<40.40}{interval_text(score):<26}{score['num_seeds']:>3}"
                f"{score['num_episodes']:>9}  {interval_text(row['against'].get('none'))}"
            )
    for part in content["aggregates"]:
        lines += ["", f"{agent_name(part['agent'])} over {', '.join(part['datasets'])}"]
        lines += [part["refused"]] if part["refused"] else []
        for row in part["rows"]:
            lines.append(
                f"{row['method']:<40.40}IQM {interval_text(row['iqm']):<24}gap {interval_text(row['optimality_gap'])}"
            )
    if content["unfinished"]:
        lines += ["", *(f"{part['state'].upper()}: {part['what']} {part['reason']}" for part in content["unfinished"])]
    return "\n".join(lines) + "\n"
