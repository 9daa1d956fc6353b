"""Figures from ledgers and windows. Every title carries the provenance of the data."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pgd_lightning.evaluation.statistics import seed_interval

COLOURS = {"real": "#333333", "none": "#333333", "unguided": "#0072b2", "pgd": "#d55e00", "guided": "#d55e00"}
NAMES = {"none": "real data only", "unguided": "real + unguided", "pgd": "real + policy-guided", "pets": "real + PETS"}


def label(generator: str) -> str:
    """The experience of an agent, in words."""
    return NAMES.get(generator, f"real + {generator}")


def finish(figure: Any, title: str, path: Path) -> Path:
    """Put the title on, save and close."""
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def learning_curves(
    ledgers: Mapping[str, list[dict[str, Any]]], title: str, path: Path, xlabel: str = "agent updates"
) -> Path:
    """Score against the ledger's steps for each generator: mean and 95 % interval over seeds, thin lines per seed."""
    figure, axis = plt.subplots(figsize=(6.4, 4), layout="constrained")
    for name, rows in ledgers.items():
        steps = sorted({row["step"] for row in rows if row["purpose"] == "monitor"})
        scores = [scores_of(rows, "monitor", step) for step in steps]
        intervals = [seed_interval(s) for s in scores]
        colour = COLOURS.get(name)
        axis.plot(steps, [i.mean for i in intervals], "o-", color=colour, label=NAMES.get(name, name), markersize=3)
        if all(i.low is not None for i in intervals):
            low, high = [i.low for i in intervals], [i.high for i in intervals]
            axis.fill_between(steps, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[arg-type]
        for seed in range(len(scores[0]) if scores else 0):
            axis.plot(steps, [s[seed].mean() for s in scores], color=colour, linewidth=0.5, alpha=0.6)
    axis.set(xlabel=xlabel, ylabel="normalised score (%)")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False, fontsize=8)
    return finish(figure, title, path)


def scores_of(rows: list[dict[str, Any]], purpose: str, step: int | None = None) -> NDArray[np.float64]:
    """Scores ``[S, E]`` of the ledger's episodes of one purpose, at one step or at the last there is."""
    chosen = [row for row in rows if row["purpose"] == purpose]
    last = max((row["step"] for row in chosen), default=0) if step is None else step
    chosen = sorted((r for r in chosen if r["step"] == last), key=lambda r: (r["seed"], r["index"]))
    seeds = len({row["seed"] for row in chosen})
    return np.array([row["score"] for row in chosen]).reshape(max(seeds, 1), -1)


def fidelity_plane(points: Mapping[str, Mapping[str, Any]], title: str, path: Path) -> Path:
    """Each kind of window as a point: likelihood under the policy against dynamics error, with its spread."""
    figure, (plane, by_row) = plt.subplots(1, 2, figsize=(9.6, 4), layout="constrained")
    for name, point in points.items():
        likelihood, error = point["log_likelihood"], point["dynamics"]
        colour = COLOURS.get(name)
        middle = float(np.mean(likelihood)), float(np.median(error))
        spread = np.abs(np.quantile(error, [0.25, 0.75])[:, None] - middle[1])
        plane.errorbar(
            *middle, yerr=spread, xerr=1.96 * np.std(likelihood) / len(likelihood) ** 0.5, fmt="o", color=colour,
            label=f"{name} ({middle[0]:.2f}, {middle[1]:.2g})", capsize=3,
        )  # fmt: skip
        rows = sorted(set(point["position"].tolist()))
        medians = [np.median(error[point["position"] == row]) for row in rows]
        by_row.plot(rows, medians, color=colour, label=name, linewidth=1)
    plane.set(
        xlabel="log-likelihood under the final policy, mean per row",
        ylabel="one-step error, data std² (median, quartiles)",
    )
    by_row.set(xlabel="row of the window", ylabel="one-step error, data std² (median)")
    for axis in (plane, by_row):
        axis.set_yscale("log")
        axis.grid(alpha=0.25)
        axis.legend(frameon=False, fontsize=8)
    return finish(figure, title, path)


def trajectories(
    windows: Mapping[str, tuple[NDArray[Any], NDArray[Any]]], real: Mapping[str, NDArray[Any]], title: str, path: Path
) -> Path:
    """Some windows of each kind: ``name -> (obs [n, T, O], action [n, T, A])``; first dims of both, over rows.

    Dotted: ``real``, ``name -> obs [n, T, O]``, where the simulator gets by the same actions from the same first row.
    """
    dims = [("obs", d) for d in range(min(4, next(iter(windows.values()))[0].shape[-1]))] + [("action", 0)]
    figure, axes = plt.subplots(
        len(windows), len(dims), figsize=(2.4 * len(dims), 1.9 * len(windows)), sharex=True, layout="constrained"
    )
    limits = {
        d: np.quantile(np.concatenate([_channel(w, d).ravel() for w in windows.values()]), [0.001, 0.999]) for d in dims
    }
    for row, (name, pair) in enumerate(windows.items()):
        for column, dim in enumerate(dims):
            axis = np.atleast_2d(axes)[row, column]
            axis.plot(_channel(pair, dim).T, color=COLOURS.get(name), linewidth=0.8, alpha=0.8)
            if dim[0] == "obs":
                axis.plot(real[name][..., dim[1]].T, color="#333333", linewidth=0.8, linestyle=":")
            axis.set_ylim(*limits[dim])
            axis.tick_params(labelsize=6)
            if row == 0:
                axis.set_title(f"{dim[0]}[{dim[1]}]", fontsize=8)
            if column == 0:
                axis.set_ylabel(name, fontsize=8)
    figure.supxlabel("row of the window; dotted: the simulator, from the first row by the same actions", fontsize=8)
    return finish(figure, title, path)


def _channel(pair: tuple[NDArray[Any], NDArray[Any]], dim: tuple[str, int]) -> NDArray[Any]:
    return pair[0 if dim[0] == "obs" else 1][..., dim[1]]


def strip(frames: Iterable[NDArray[np.uint8]], title: str, path: Path) -> Path:
    """Rendered frames ``[H, W, 3]`` side by side."""
    images = list(frames)
    size = (1.6 * len(images), 2.2)
    figure, (axes,) = plt.subplots(1, len(images), figsize=size, squeeze=False, layout="constrained")
    for axis, image in zip(axes, images, strict=True):
        axis.imshow(image)
        axis.axis("off")
    return finish(figure, title, path)
