"""Figures of runs, from ledgers and windows. Every title carries the provenance of the data."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from pgd_lightning.evaluation.ledgers import EpisodeRow, scores_of
from pgd_lightning.evaluation.statistics import Interval, seed_interval
from pgd_lightning.report.drawing import COLOURS, INK, LIGHT, colours, legend_below, markers, panel, plt, save, styled
from pgd_lightning.runs.names import MEASURES

Windows = Mapping[str, tuple[NDArray[Any], NDArray[Any]]]  # kind -> obs [n, T, O], action [n, T, A]
LINES: Any = ("-", "--", "-.", (0, (1, 1)))  # of the windows of one kind, and the marks of what is simulated from them
MARKS = "os^x"
SIMULATED = "the simulator, given the window's first state and its actions"


class Curve(NamedTuple):
    """Scores at monitored steps."""

    steps: Sequence[int]
    intervals: Sequence[Interval]
    seeds: NDArray[np.float64] | None = None  # [steps, S] their means, to be drawn as thin lines


def curve_of(rows: Sequence[EpisodeRow]) -> Curve:
    """The monitored scores of one ledger."""
    steps = sorted({row["step"] for row in rows if row["purpose"] == "monitor"})
    scores = [scores_of(rows, "monitor", step) for step in steps]
    return Curve(steps, [seed_interval(found) for found in scores], np.array([found.mean(1) for found in scores]))


def draw_curves(axis: Any, curves: Mapping[str, Curve]) -> None:
    """``label -> curve``: means of the monitored checkpoints with their 95 % intervals, thin lines of the seeds."""
    colour, marker = colours(curves), markers(curves)
    for label, (steps, intervals, seeds) in curves.items():
        means = [i.mean for i in intervals]
        axis.plot(steps, means, marker=marker[label], markersize=4, color=colour[label], label=label, linewidth=1.5)
        if all(i.low is not None for i in intervals):
            low, high = [i.low for i in intervals], [i.high for i in intervals]
            axis.fill_between(steps, low, high, color=colour[label], alpha=0.15, linewidth=0)
        if seeds is not None and len(seeds):
            axis.plot(steps, seeds, color=colour[label], linewidth=0.6, alpha=0.6)


@styled
def learning_curves(
    ledgers: Mapping[str, Sequence[EpisodeRow]], title: str, path: Path, xlabel: str = "agent updates",
    measure: str = "score",
) -> Path:  # fmt: skip
    """The measure against the steps of each ledger, by what it is called."""
    figure, axis = plt.subplots(figsize=(6.4, 3.8), layout="constrained")
    draw_curves(axis, {name: curve_of(rows) for name, rows in ledgers.items()})
    axis.set(xlabel=xlabel, ylabel=MEASURES[measure].full)
    legend_below(figure, [axis])
    return save(figure, title, path)


def curves_panel(curves: Mapping[str, Curve], measure: str) -> str:
    """The same of any ``label -> curve``, for a page."""
    return panel(lambda axis: draw_curves(axis, curves), xlabel="agent updates", ylabel=MEASURES[measure].full)


def draw_losses(axis: Any, losses: Mapping[str, tuple[Sequence[int], Sequence[float]]]) -> None:
    """``training`` and ``held-out`` losses ``(steps, values)`` of a model."""
    for label, (steps, values) in losses.items():
        colour, line = (LIGHT, "-") if label == "training" else (INK, "s-")
        axis.plot(steps, values, line, color=colour, label=label, linewidth=1.2, markersize=4)


def draw_channel(
    axis: Any, kind: str, windows: NDArray[Any], replayed: NDArray[Any] | None, limits: tuple[float, float]
) -> None:
    """One channel of windows ``[n, T]``, a line style each, and of what the simulator makes of them, as marks."""
    for number, window in enumerate(windows):
        axis.plot(window, color=COLOURS.get(kind), linewidth=1.2, linestyle=LINES[number % len(LINES)])
        if replayed is not None:
            every = max(1, len(window) // 10)
            axis.plot(
                replayed[number], linestyle="", marker=MARKS[number % len(MARKS)], markersize=3, markerfacecolor="none",
                markeredgecolor=INK, markeredgewidth=0.7, markevery=(number % every, every),
            )  # fmt: skip
    axis.set_ylim(*limits)


def channel_limits(windows: Windows, kind: str, dim: int) -> tuple[float, float]:
    """Of an axis that all kinds of windows share: nearly all values, with a margin."""
    low, high = np.quantile(np.concatenate([_channel(w, kind, dim).ravel() for w in windows.values()]), [0.001, 0.999])
    margin = 0.08 * max(high - low, 1e-3 * max(abs(low), abs(high)), 1e-6)
    return float(low - margin), float(high + margin)


def windows_key(windows: Windows) -> list[Line2D]:
    """Handles of a legend that explains :func:`draw_channel`."""
    number = len(next(iter(windows.values()))[0])
    lines = [
        Line2D(
            [], [], color=INK, linestyle=LINES[n % len(LINES)], marker=MARKS[n % len(MARKS)], markersize=5,
            markerfacecolor="none", label=f"window {n + 1}",
        )
        for n in range(number)
    ]  # fmt: skip
    return [*lines, Line2D([], [], linestyle="", label="marks: " + SIMULATED)]


@styled
def trajectories(
    windows: Windows,
    replayed: Mapping[str, NDArray[Any]],
    channels: Sequence[tuple[str, int, str]],
    title: str,
    path: Path,
) -> Path:
    """Some windows of each kind, a row each: ``channels`` are ``("obs" or "action", dim, its name)``.

    ``replayed``, ``kind -> obs [n, T, O]``, is where the simulator gets by the same actions from the same first step.
    """
    figure, axes = plt.subplots(
        len(windows), len(channels), figsize=(2.5 * len(channels), 1.8 * len(windows)), sharex=True, squeeze=False,
        layout="constrained",
    )  # fmt: skip
    for row, (name, pair) in enumerate(windows.items()):
        for column, (kind, dim, label) in enumerate(channels):
            axis = axes[row, column]
            real = replayed[name][..., dim] if kind == "obs" else None
            draw_channel(axis, name, _channel(pair, kind, dim), real, channel_limits(windows, kind, dim))
            axis.tick_params(labelsize=7)
            if row == 0:
                axis.set_title(label, fontsize=8)
            if row == len(windows) - 1:
                axis.set_xlabel("step of the window", fontsize=8)
        axes[row, 0].set_ylabel(name, fontsize=10, color=COLOURS.get(name), fontweight="bold")
    figure.legend(handles=windows_key(windows), loc="outside lower center", ncols=4, fontsize=8)
    return save(figure, title, path)


@styled
def channel_figure(windows: Windows, replayed: Mapping[str, NDArray[Any]], channel: tuple[str, int, str]) -> Any:
    """One channel of :func:`trajectories` alone, its kinds below one another, for a page."""
    kind, dim, label = channel
    figure, axes = plt.subplots(
        len(windows), 1, figsize=(2.9, 1.15 * len(windows) + 0.6), sharex=True, squeeze=False, layout="constrained"
    )
    for axis, (name, pair) in zip(axes[:, 0], windows.items(), strict=True):
        real = replayed[name][..., dim] if kind == "obs" else None
        draw_channel(axis, name, _channel(pair, kind, dim), real, channel_limits(windows, kind, dim))
        axis.set_ylabel(name, color=COLOURS.get(name))
    axes[0, 0].set_title(label, fontsize=10)
    axes[-1, 0].set_xlabel("step of the window")
    return figure


def _channel(pair: tuple[NDArray[Any], NDArray[Any]], kind: str, dim: int) -> NDArray[Any]:
    return pair[0 if kind == "obs" else 1][..., dim]


@styled
def strip(frames: Iterable[NDArray[np.uint8]], title: str, path: Path) -> Path:
    """Rendered frames ``[H, W, 3]`` side by side."""
    images = list(frames)
    size = (max(1.6 * len(images), 3.2), 2.2)
    figure, (axes,) = plt.subplots(1, len(images), figsize=size, squeeze=False, layout="constrained")
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image)
        axis.axis("off")
    return save(figure, title, path)
