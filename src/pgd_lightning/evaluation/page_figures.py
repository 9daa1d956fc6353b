"""Figures of the page over many runs, as SVG that takes its text colour from the page, light or dark."""

from collections.abc import Iterable, Mapping, Sequence
from hashlib import blake2b
from io import StringIO
from itertools import cycle
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.evaluation.analysis_figure import draw_error_by_row, draw_plane
from pgd_lightning.evaluation.figures import COLOURS, NAMES
from pgd_lightning.evaluation.statistics import Interval, profile, profile_band

Array = NDArray[np.float64]
INK = "#010203"  # stands for the page's text colour until the SVG is written
STYLE: Any = {
    **dict.fromkeys(
        ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"), INK
    ),
    "svg.fonttype": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.alpha": 0.2,
    "font.size": 10,
}
SIZE = (5.6, 3.6)  # inches: one panel, so that it can be read on a phone
OTHERS = ("#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8a6d3b", "#999999", "#7d6bd6")
KNOWN = {NAMES["none"]: INK, NAMES["unguided"]: COLOURS["unguided"], NAMES["pgd"]: COLOURS["pgd"]}


def svg(draw: Any, **labels: str) -> str:
    """What ``draw(axis)`` draws, as an ``<svg>`` element without a size of its own."""
    with plt.rc_context(STYLE):
        figure, axis = plt.subplots(figsize=SIZE, layout="constrained")
        draw(axis)
        axis.set(**labels)
        axis.grid()
        named = len(axis.get_legend_handles_labels()[1])
        if named:
            figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9)
            figure.set_figheight(SIZE[1] + 0.2 * (named + 1) // 2)
        text = StringIO()
        salt = blake2b(repr((labels, axis.lines)).encode(), digest_size=6).hexdigest()
        with plt.rc_context({"svg.hashsalt": salt}):
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    drawn = text.getvalue()
    head, body = drawn[drawn.index("<svg") :].split(">", 1)
    box = head[head.index('viewBox="') :].split('"')[1]
    return f'<svg viewBox="{box}" role="img" xmlns:xlink="http://www.w3.org/1999/xlink">' + body.replace(
        INK, "currentColor"
    )


def learning_curves(curves: Mapping[str, tuple[Sequence[int], Sequence[Interval]]]) -> str:
    """``label -> (updates, their intervals)``: score of the monitored checkpoints with a band of 95 %."""

    def draw(axis: Any) -> None:
        for colour, (label, (steps, intervals)) in zip(colours(curves), curves.items(), strict=True):
            axis.plot(steps, [i.mean for i in intervals], "o-", color=colour, label=label, markersize=3)
            if all(i.low is not None for i in intervals):
                low, high = [i.low for i in intervals], [i.high for i in intervals]
                axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)

    return svg(draw, xlabel="agent updates", ylabel="normalised score (%)")


def profiles(scores: Mapping[str, Array], resamples: int, seed: int) -> str:
    """``label -> [S, D]``: share of runs above each score, with its pointwise band."""
    everything = np.concatenate([matrix.ravel() for matrix in scores.values()])
    thresholds = np.linspace(min(everything.min(), 0), max(everything.max(), 100), 101)

    def draw(axis: Any) -> None:
        for colour, (label, matrix) in zip(colours(scores), scores.items(), strict=True):
            axis.plot(thresholds, profile(matrix, thresholds), color=colour, label=label)
            axis.fill_between(
                thresholds, *profile_band(matrix, thresholds, resamples, seed), color=colour, alpha=0.15, linewidth=0
            )

    return svg(draw, xlabel="normalised score (%)", ylabel="share of runs above it")


def selections(curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> str:
    """``label -> (mean, low, high)``: true score of the policy chosen after 0, 1, … online episodes."""

    def draw(axis: Any) -> None:
        for colour, (label, (mean, low, high)) in zip(colours(curves), curves.items(), strict=True):
            axis.plot(range(len(mean)), mean, color=colour, label=label)
            axis.fill_between(range(len(mean)), low, high, color=colour, alpha=0.15, linewidth=0)

    return svg(draw, xlabel="online episodes spent on choosing", ylabel="true score of the chosen (%)")


def fidelity(rows: list[dict[str, Any]]) -> tuple[str, str]:
    """The likelihood/error plane of one target's rows, and its error by position in the window."""
    plane = svg(
        lambda axis: draw_plane(axis, rows),
        xlabel="log-likelihood of the action under the policy", ylabel="one-step error (median)",
        yscale="log",
    )  # fmt: skip
    by_row = svg(
        lambda axis: draw_error_by_row(axis, rows),
        xlabel="row of the window", ylabel="one-step error (median)", yscale="log",
    )  # fmt: skip
    return plane, by_row


def colours(labels: Iterable[str]) -> list[str]:
    """What has a colour in every figure keeps it; the others follow in their order."""
    others = cycle(OTHERS)
    return [KNOWN.get(label) or next(others) for label in labels]
