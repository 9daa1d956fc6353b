"""A picture of a recording: how episodes differ in return and length, and what each dimension spans."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from pgd_lightning.report.drawing import GUIDED, INK, LIGHT, UNGUIDED, legend_below, plt, save, styled

LINE = 0.17  # inches that a dimension and its name take
Columns = Mapping[str, list[float]]  # min, max, mean, std of each dimension


@styled
def data_figure(
    returns: NDArray[Any],
    lengths: NDArray[Any],
    ranges: Mapping[str, tuple[Sequence[str], Columns]],
    title: str,
    path: Path,
) -> Path:
    """``returns, lengths [episodes]``; ``ranges``: ``"observation"`` and ``"action"`` -> names of its dims, columns."""
    drawn = {name: varying(*pair) for name, pair in ranges.items()}
    rows = max(len(names) for names, _ in drawn.values())
    below = max(LINE * rows + 0.9, 2.4)
    figure, axes = plt.subplots(
        2, 2, figsize=(11, 2.7 + below), layout="constrained", gridspec_kw={"height_ratios": [2.7, below]}
    )
    for axis, values, label in zip(axes[0], (returns, lengths), ("return", "length [steps]"), strict=True):
        axis.hist(values, bins=min(60, max(len(np.unique(values)), 5)), color=UNGUIDED)
        axis.axvline(values.mean(), color=GUIDED, linewidth=1.5)
        axis.set(xlabel=f"{label} of an episode, mean {values.mean():.1f} (line)", ylabel="episodes")
        axis.ticklabel_format(useOffset=False)
        axis.yaxis.set_major_locator(MaxNLocator(integer=True))
    for axis, (name, (names, columns)) in zip(axes[1], drawn.items(), strict=True):
        draw_ranges(axis, names, columns)
        left_out = len(ranges[name][0]) - len(names)
        axis.set_title(f"{name}s" + (f", without {left_out} that are constant" if left_out else ""), fontsize=10)
    legend_below(figure, axes[1], columns=3)
    return save(figure, title, path)


def varying(names: Sequence[str], columns: Columns) -> tuple[list[str], Columns]:
    """Without the dimensions that never change."""
    kept = [dim for dim, (low, high) in enumerate(zip(columns["min"], columns["max"], strict=True)) if low < high]
    return [names[dim] for dim in kept], {key: [values[dim] for dim in kept] for key, values in columns.items()}


def draw_ranges(axis: Any, names: Sequence[str], columns: Columns) -> None:
    """Thin: from minimum to maximum of each dimension; thick: mean and one standard deviation to either side."""
    low, high, mean, std = (np.array(columns[key]) for key in ("min", "max", "mean", "std"))
    dims = np.arange(len(low))
    axis.hlines(dims, mean - std, mean + std, color=LIGHT, linewidth=5, label="mean ± standard deviation")
    axis.hlines(dims, low, high, color=UNGUIDED, linewidth=1, label="minimum to maximum")
    axis.plot(mean, dims, "|", color=INK, markersize=6, label="mean")
    middle = max(float(np.median(high - low)), 1e-9) if len(low) else 1.0
    if len(low) and max(np.abs(low).max(), np.abs(high).max()) > 8 * middle:
        axis.set_xscale("symlog", linthresh=middle)
    else:
        axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.set_yticks(dims, names, fontsize=8)
    axis.set_ylim(len(low) - 0.4, -0.6)
    axis.set_xlabel("value, each in its own unit")
