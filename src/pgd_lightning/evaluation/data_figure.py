"""A picture of a recording: how episodes differ in return and length, and what each dimension spans."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import MaxNLocator

COLOUR = "#0072b2"
LEGEND = {"frameon": False, "fontsize": 8, "loc": "lower left", "bbox_to_anchor": (0, 1), "ncols": 2}


def data_figure(
    returns: NDArray[Any],
    lengths: NDArray[Any],
    ranges: Mapping[str, Mapping[str, list[float]]],
    title: str,
    path: Path,
) -> Path:
    """``returns, lengths [episodes]``; ``ranges`` name -> min, max, mean, std per dimension."""
    figure, axes = plt.subplots(2, 2, figsize=(9.6, 6), layout="constrained")
    for axis, values, label in zip(axes[0], (returns, lengths), ("return", "length"), strict=True):
        axis.hist(values, bins=min(60, max(len(np.unique(values)), 5)), color=COLOUR)
        axis.axvline(values.mean(), color="#d55e00", linewidth=1, label=f"mean {values.mean():.1f}")
        axis.set(xlabel=f"{label} of an episode", ylabel="episodes")
        axis.ticklabel_format(useOffset=False)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
        axis.legend(**LEGEND)
    for axis, (name, columns) in zip(axes[1], ranges.items(), strict=True):
        draw_ranges(axis, name, columns)
    figure.suptitle(title, fontsize=10)
    part = path.with_name(f".{path.name}")
    figure.savefig(part, dpi=150, bbox_inches="tight", format="png")
    plt.close(figure)
    part.replace(path)
    return path


def draw_ranges(axis: Any, name: str, columns: Mapping[str, list[float]]) -> None:
    """Thin: from minimum to maximum of each dimension; thick: mean and one standard deviation to either side."""
    low, high, mean, std = (np.array(columns[key]) for key in ("min", "max", "mean", "std"))
    dims, thick = np.arange(len(low)), max(2.0, min(5.0, 120 / len(low)))
    axis.vlines(dims, mean - std, mean + std, color="#56b4e9", linewidth=thick, label="mean ± standard deviation")
    axis.vlines(dims, low, high, color=COLOUR, linewidth=0.8, label="minimum to maximum")
    axis.plot(dims, mean, "_", color="black", markersize=thick)
    if max(np.abs(low).max(), np.abs(high).max()) > 20 * max(float(np.median(high - low)), 1e-9):
        axis.set_yscale("symlog")
    axis.set(xlabel=f"dimension of the {name}", ylabel=name)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.grid(alpha=0.25)
    axis.legend(**LEGEND)
