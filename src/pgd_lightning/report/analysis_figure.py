"""Likelihood against one-step error, a point for each source of windows, and the error by position in the window.

The sources are rows as :meth:`pgd_lightning.evaluation.analysis.Analyst.row` measures them, with ``generator`` and
``label``. Recorded windows err by no more than rounding. Their error stands in the legend and not on the axis, which it
would stretch over so many decades that the others lie on one another.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator

from pgd_lightning.evaluation.analysis import WindowRow
from pgd_lightning.report.drawing import GUIDED, INK, colours, legend_below, markers, panel, plt, save, styled

REAL = "real"
FAR_BELOW = 30  # times smaller than all that is on the axis: from there on a real error is none of the axis
BANDS = 3  # sources at most whose quartiles are drawn
LIKELIHOOD = "log-likelihood of the action under the policy"
ERROR = "one-step error [data variance], median"
POSITION = "step of the window"


@styled
def analysis_figure(rows: list[WindowRow], title: str, path: Path) -> Path:
    """A row of two panels for each target policy in ``rows`` (see ``analyse.measured``)."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    figure = plt.figure(figsize=(10, 4.1 * len(targets)), layout="constrained")
    parts = figure.subfigures(len(targets), 1, squeeze=False)[:, 0]
    for part, target in zip(parts, targets, strict=True):
        plane, by_row = part.subplots(1, 2)
        own = [row for row in rows if row["target"] == target and row.get("dynamics_error_median") is not None]
        draw_plane(plane, own)
        draw_error_by_row(by_row, own)
        plane.set(xlabel=LIKELIHOOD, ylabel=ERROR)
        by_row.set(xlabel=POSITION, ylabel=ERROR)
        if target:
            part.suptitle(f"policy: {target}", fontsize=10)
        legend_below(part, [plane, by_row], columns=4)
    return save(figure, title, path)


def fidelity_panels(rows: Sequence[WindowRow]) -> tuple[str, str]:
    """The likelihood/error plane of one target's rows and their error by position in the window, as SVG."""
    return (
        panel(lambda axis: draw_plane(axis, rows), xlabel=LIKELIHOOD, ylabel=ERROR),
        panel(lambda axis: draw_error_by_row(axis, rows), xlabel=POSITION, ylabel=ERROR),
    )


def draw_plane(axis: Any, rows: Sequence[WindowRow]) -> None:
    """Means of the likelihood and medians of the error with their 95 % intervals; a guidance sweep joined by a line."""
    sweep = sorted((r for r in rows if r.get("guidance_coef") is not None), key=_coef)
    axis.plot(
        [r["log_likelihood"] for r in sweep], [_error(r) for r in sweep], color=GUIDED, linewidth=0.8, alpha=0.6,
        zorder=1,
    )  # fmt: skip
    drawn = on_the_axis(rows)
    for row in drawn:
        x, y = row["log_likelihood"], _error(row)
        axis.errorbar(
            x, y, xerr=_bars(x, row["log_likelihood_interval"]), yerr=_bars(y, _interval(row)),
            capsize=3, markersize=6, linestyle="", label=row["label"], **_style(row, rows),
        )  # fmt: skip
    for row in rows:
        if row not in drawn:
            axis.axvline(row["log_likelihood"], color=INK, linewidth=0.8, linestyle=":")
            axis.plot(
                row["log_likelihood"], 0, marker="v", markersize=7, linestyle=":", linewidth=0.8, color=INK,
                transform=axis.get_xaxis_transform(), clip_on=False, label=_below(row),
            )  # fmt: skip
    axis.margins(x=0.12)
    axis.xaxis.set_major_locator(MaxNLocator(5))
    _yardstick(axis, rows)
    _limit(axis, [value for row in drawn for value in _interval(row)], rows)


def draw_error_by_row(axis: Any, rows: Sequence[WindowRow]) -> None:
    """A line for each source: the median error of each step of its windows, with quartiles where few are drawn."""
    drawn, seen = [row for row in on_the_axis(rows) if len(row["by_position"]) > 1], []
    for row in drawn:
        style = _style(row, rows)
        medians = np.array([np.nan if value is None else value for value in row["by_position"]])
        places = np.arange(len(medians))
        axis.plot(places, medians, label=row["label"], linewidth=1.4, markersize=4, markevery=max(len(medians) // 8, 1),
                  **style)  # fmt: skip
        seen.append(medians)
        quartiles = row.get("by_position_quartiles")
        if quartiles and len(drawn) <= BANDS:
            low, high = np.array([[np.nan] * 2 if pair is None else pair for pair in quartiles]).T
            axis.fill_between(places, low, high, color=style["color"], alpha=0.15, linewidth=0)
            seen += [low, high]
    for row in rows:
        if row not in on_the_axis(rows):
            axis.plot([], [], marker="v", markersize=7, linestyle=":", linewidth=0.8, color=INK, label=_below(row))
    _yardstick(axis, rows)
    _limit(axis, np.concatenate(seen).tolist() if seen else [], rows)


def on_the_axis(rows: Sequence[WindowRow]) -> list[WindowRow]:
    """All but real windows whose error is so small that the others could not be told apart beside it."""
    errors = [_error(row) for row in rows if row["generator"] != REAL]
    foot = min([*errors, _persistence(rows) or np.inf]) / FAR_BELOW if errors else 0
    return [row for row in rows if row["generator"] != REAL or _error(row) >= foot]


def _yardstick(axis: Any, rows: Sequence[WindowRow]) -> None:
    if persistence := _persistence(rows):
        axis.axhline(
            persistence, color=INK, linewidth=1, linestyle="--",
            label=f"predicting no change: {persistence:.2g}",
        )  # fmt: skip


def _persistence(rows: Sequence[WindowRow]) -> float | None:
    """The error of saying that nothing changes, on real windows; None in an analysis that did not measure it."""
    return next((row.get("persistence_error") for row in rows if row["generator"] == REAL), None)


def _limit(axis: Any, values: Sequence[float], rows: Sequence[WindowRow]) -> None:
    """A logarithmic axis that holds ``values`` and the persistence error."""
    axis.set_yscale("log")
    held = [value for value in (*values, _persistence(rows) or np.nan) if np.isfinite(value) and value > 0]
    if held:
        axis.set_ylim(min(held) / 2, max(held) * 2)


def _below(row: WindowRow) -> str:
    return f"{row['label']}: {_error(row):.0e}, below the axis"


def _error(row: WindowRow) -> float:
    """Only rows that have one are drawn."""
    median = row["dynamics_error_median"]
    assert median is not None
    return median


def _interval(row: WindowRow) -> list[float]:
    interval = row["dynamics_error_interval"]
    assert interval is not None
    return interval


def _coef(row: WindowRow) -> float:
    return row.get("guidance_coef") or 0.0


def _bars(middle: float, interval: Sequence[float]) -> list[list[float]]:
    return [[max(middle - interval[0], 0)], [max(interval[1] - middle, 0)]]


def _style(row: WindowRow, rows: Sequence[WindowRow]) -> dict[str, Any]:
    """Guided sources in one colour, the stronger the darker; others each in their own."""
    names = [r["generator"] for r in rows]
    style: dict[str, Any] = {"color": colours(names)[row["generator"]], "marker": markers(names)[row["generator"]]}
    if row["generator"] == "pgd" and _coef(row):
        strengths = sorted({_coef(r) for r in rows if _coef(r)})
        style["alpha"] = 0.35 + 0.65 * (strengths.index(_coef(row)) + 1) / len(strengths)
    return style
