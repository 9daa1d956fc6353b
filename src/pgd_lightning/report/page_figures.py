"""Panels of the page over many runs: performance profiles and budgeted selection, as SVG."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.evaluation.statistics import profile, profile_band
from pgd_lightning.report.drawing import colours, panel
from pgd_lightning.report.figures import SCORE

Array = NDArray[np.float64]


def profiles(scores: Mapping[str, Array], resamples: int, seed: int) -> str:
    """``label -> [S, D]``: share of runs above each score, with its pointwise band."""
    everything = np.concatenate([matrix.ravel() for matrix in scores.values()])
    thresholds = np.linspace(min(everything.min(), 0), max(everything.max(), 100), 101)

    def draw(axis: Any) -> None:
        for label, colour in colours(scores).items():
            axis.plot(thresholds, profile(scores[label], thresholds), color=colour, label=label)
            low, high = profile_band(scores[label], thresholds, resamples, seed)
            axis.fill_between(thresholds, low, high, color=colour, alpha=0.15, linewidth=0)

    return panel(draw, xlabel=SCORE, ylabel="share of runs above it")


def selections(curves: Mapping[str, tuple[Sequence[float], Sequence[float], Sequence[float]]]) -> str:
    """``label -> (mean, low, high)``: true score of the policy chosen after 0, 1, … online episodes."""

    def draw(axis: Any) -> None:
        for label, colour in colours(curves).items():
            mean, low, high = curves[label]
            axis.plot(range(len(mean)), mean, color=colour, label=label)
            axis.fill_between(range(len(mean)), low, high, color=colour, alpha=0.15, linewidth=0)

    return panel(draw, xlabel="online episodes spent on choosing", ylabel="true score of the chosen [%]")
