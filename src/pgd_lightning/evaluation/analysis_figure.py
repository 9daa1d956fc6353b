"""The picture of an analysis: the likelihood/error plane with a point a source, and error by position in the window."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from pgd_lightning.evaluation.figures import COLOURS

FLOOR = "real"  # its error is the simulator's rounding: a line at the foot of the plane, not a point


def analysis_figure(rows: list[dict[str, Any]], title: str, path: Path) -> Path:
    """A row of panels for each target policy in ``rows`` (see ``analyse.measured``)."""
    targets = list(dict.fromkeys(row["target"] for row in rows))
    figure, axes = plt.subplots(len(targets), 2, figsize=(10, 3.6 * len(targets)), squeeze=False, layout="constrained")
    for (plane, by_row), target in zip(axes, targets, strict=True):
        own = [row for row in rows if row["target"] == target and row.get("dynamics_error_median") is not None]
        draw_plane(plane, own)
        draw_error_by_row(by_row, own)
        plane.set(xlabel="log-likelihood of the action under the policy", title=f"policy: {target}")
        by_row.set(xlabel="row of the window", title=f"policy: {target}")
        for axis in (plane, by_row):
            axis.set_yscale("log")
            axis.set_ylabel("one-step error, data std² (median)")
            axis.grid(alpha=0.25, which="both")
        if by_row.get_legend_handles_labels()[1]:
            by_row.legend(frameon=False, fontsize=7)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, dpi=150, bbox_inches="tight")
    plt.close(figure)
    return path


def draw_error_by_row(axis: Any, rows: list[dict[str, Any]]) -> None:
    """A line for each source: median error of each row of its windows."""
    for row in rows:
        if row["generator"] != FLOOR and len(row["by_position"]) > 1:
            axis.plot(row["by_position"], label=row["label"], **_style(row, rows))


def draw_plane(plane: Any, rows: list[dict[str, Any]]) -> None:
    """A point for each source of windows, those of the guidance sweep joined by a line."""
    plane.margins(x=0.2)
    sweep = sorted((r for r in rows if r["guidance_coef"] is not None), key=lambda r: r["guidance_coef"])
    plane.plot(
        [r["log_likelihood"] for r in sweep], [r["dynamics_error_median"] for r in sweep], color=COLOURS["pgd"],
        linewidth=0.8, alpha=0.6,
    )  # fmt: skip
    for row in rows:
        if row["generator"] == FLOOR:
            plane.axvline(row["log_likelihood"], color=COLOURS["real"], linewidth=0.8, linestyle=":")
            plane.text(
                row["log_likelihood"], 0.02, f" real: {row['dynamics_error_median']:.0e}", fontsize=7,
                transform=plane.get_xaxis_transform(),
            )  # fmt: skip
            continue
        spread = [[abs(a - b)] for a, b in zip(row["dynamics_error_interval"], _middle(row), strict=True)]
        plane.errorbar(
            row["log_likelihood"], row["dynamics_error_median"], yerr=spread, fmt="o", capsize=2, markersize=4,
            color=_style(row, rows)["color"],
        )  # fmt: skip
        plane.annotate(
            row["label"], (row["log_likelihood"], row["dynamics_error_median"]), xytext=(4, 4),
            textcoords="offset points", fontsize=7,
        )  # fmt: skip


def _middle(row: dict[str, Any]) -> tuple[float, float]:
    return row["dynamics_error_median"], row["dynamics_error_median"]


def _style(row: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Guided sources in one colour, the stronger the darker; others each in their own."""
    if row["generator"] == "pgd":
        strongest = max(r["guidance_coef"] or 0 for r in rows)
        share = row["guidance_coef"] / strongest if strongest else 0
        return {"color": COLOURS["pgd"], "alpha": 0.35 + 0.65 * share, "linewidth": 1}
    others = [r["generator"] for r in rows if r["generator"] not in COLOURS]
    colour = COLOURS.get(row["generator"]) or f"C{2 + others.index(row['generator'])}"
    return {"color": colour, "linewidth": 1}
