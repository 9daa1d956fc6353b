"""Panels of the page over many runs: learning curves, performance profiles, budgeted selection, fidelity."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.evaluation.ledgers import collected, monitored_steps
from pgd_lightning.evaluation.statistics import profile, profile_band, seed_interval
from pgd_lightning.report.analysis_figure import fidelity_panels
from pgd_lightning.report.comparison import Entry, Row, Tables, grouped
from pgd_lightning.report.drawing import colours, panel
from pgd_lightning.report.figures import Curve, curves_panel
from pgd_lightning.report.page_contents import SEED, Contents
from pgd_lightning.report.templates import photograph
from pgd_lightning.runs.names import MEASURES

Array = NDArray[np.float64]
PICTURES = {
    "fidelity.png": "Likelihood under the final policy against error in the real simulator",
    "trajectories.png": "Some windows, and what the simulator makes of the same actions",
    "rollout.png": "An episode of the first seed",
}


def profiles(scores: Mapping[str, Array], resamples: int, seed: int) -> str:
    """``label -> [S, D]``: share of runs above each score, with its pointwise band."""
    everything = np.concatenate([matrix.ravel() for matrix in scores.values()])
    thresholds = np.linspace(min(everything.min(), 0), max(everything.max(), 100), 101)

    def draw(axis: Any) -> None:
        for label, colour in colours(scores).items():
            axis.plot(thresholds, profile(scores[label], thresholds), color=colour, label=label)
            low, high = profile_band(scores[label], thresholds, resamples, seed)
            axis.fill_between(thresholds, low, high, color=colour, alpha=0.15, linewidth=0)

    return panel(draw, xlabel=MEASURES["score"].full, ylabel="share of runs above it")


def selections(curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> str:
    """``label -> (mean, low, high)``: true score of the policy chosen after 0, 1, … online episodes."""

    def draw(axis: Any) -> None:
        for label, colour in colours(curves).items():
            mean, low, high = curves[label]
            axis.plot(range(len(mean)), mean, color=colour, label=label)
            axis.fill_between(range(len(mean)), low, high, color=colour, alpha=0.15, linewidth=0)

    return panel(draw, xlabel="online episodes spent on choosing", ylabel="true score of the chosen [%]")


def drawings(found: Tables, content: Contents, resamples: int) -> dict[str, str]:
    """``file name -> SVG``."""
    made = {}
    for (dataset, agent), rows in found.items():
        curves = {row.method.label: curve(row) for row in rows if monitored_steps(row.ledgers)}
        if curves:
            made[f"learning-{dataset}-{agent}"] = curves_panel(curves, rows[0].measure)
    for part in content["aggregates"]:
        if part["rows"]:
            scores = {row["method"]: np.array(row["scores"]) for row in part["rows"]}
            made[f"profile-{part['agent']}"] = profiles(scores, resamples, SEED)
    if content["selections"]:
        made["selection"] = selections(
            {part["dataset"]: (part["mean"], part["low"], part["high"]) for part in content["selections"]}
        )
    for number, analysis in enumerate(content["analyses"]):
        measured = [row for row in analysis["rows"] if row.get("dynamics_error_median") is not None]
        for target, windows in grouped(measured, lambda row: row["target"]).items():
            plane, by_row = fidelity_panels(windows)
            made |= {figure_name("plane", number, target): plane, figure_name("by-row", number, target): by_row}
    return made


def figure_name(kind: str, number: int, target: str) -> str:
    """The file of a figure of an analysis; a target may be a run folder, whose last part is only its seed."""
    return f"{kind}-{number}-{'-'.join(Path(target).parts[-2:]).replace(':', '-')}"


def curve(row: Row) -> Curve:
    """Monitored updates and the intervals of their scores."""
    steps = monitored_steps(row.ledgers)
    return Curve(steps, [seed_interval(collected(row.ledgers, "monitor", step).score) for step in steps])


def photographs(entries: Sequence[Entry]) -> list[dict[str, str]]:
    """The pictures of single runs that their training left, as data URLs."""
    found = []
    for entry in entries:
        for name, caption in PICTURES.items():
            path = entry.run.folder / "report" / name
            if path.exists():
                found.append({"run": f"{entry.dataset}, {entry.record['method']}, seed {entry.record['seed']}",
                              "caption": caption, "data": photograph(path)})  # fmt: skip
    return found
