"""Paths of windows in a maze, in one panel a kind of window."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle

from pgd_lightning.simulators.maze import MAZES, OFF_CENTRE

TOWARDS, ELSEWHERE, WALL, GOAL = "#d55e00", "#0072b2", "#3c4450", "#009e73"


RIM = 0.3  # of the outer walls, in cells, is drawn


@dataclass(frozen=True)
class Panel:
    """One kind of window: its paths ``[n, T, 2]`` (row, column), which of them approach the goal, and what is said."""

    name: str
    paths: NDArray[np.float64]
    towards: NDArray[np.bool_]
    text: str


def maze_figure(panels: Sequence[Panel], maze: str, goal: tuple[int, int], title: str, paths: Sequence[Path]) -> None:
    """Draw ``panels`` side by side and save them to each of ``paths``, in the format of its ending."""
    rows, columns = len(MAZES[maze]), len(MAZES[maze][0])
    width = 2.9 * (columns - 2 + 2 * RIM) / (rows - 2 + 2 * RIM)
    size = width * len(panels), 4.3
    figure, axes = plt.subplots(1, len(panels), figsize=size, squeeze=False, layout="constrained")
    for axis, panel in zip(axes[0], panels, strict=True):
        draw_maze(axis, maze, goal)
        draw_paths(axis, panel.paths, panel.towards)
        axis.set_title(panel.name, fontsize=13, fontweight="bold", loc="left", pad=6)
        axis.set_xlabel(panel.text, fontsize=11, loc="left", labelpad=6)
    keys = [
        Line2D([], [], color=TOWARDS, linewidth=2.2, label="gets nearer to the star"),
        Line2D([], [], color=ELSEWHERE, linewidth=2.2, label="does not"),
        Line2D([], [], color="black", marker="o", markerfacecolor="white", linestyle="", label="start"),
        Line2D([], [], color=GOAL, marker="*", markersize=13, linestyle="", label="where the policy always goes"),
    ]
    figure.legend(handles=keys, loc="outside lower left", ncols=len(keys), frameon=False, fontsize=11)
    figure.suptitle(title, fontsize=13, x=0.005, ha="left")
    for path in paths:
        part = path.with_name(f".{path.name}")
        figure.savefig(part, dpi=110, format=path.suffix[1:], facecolor="white")
        part.replace(path)
    plt.close(figure)


def draw_maze(axis: Axes, maze: str, goal: tuple[int, int]) -> None:
    """Walls and goal; the first row of the maze is on top."""
    rows = MAZES[maze]
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            if cell == "#":
                corner = (j - OFF_CENTRE - 0.5, i - OFF_CENTRE - 0.5)
                axis.add_patch(Rectangle(corner, 1, 1, facecolor=WALL, edgecolor=WALL, linewidth=0.3, zorder=1))
    axis.plot(
        goal[1] - OFF_CENTRE / 2,
        goal[0] - OFF_CENTRE / 2,
        "*",
        color=GOAL,
        markersize=22,
        markeredgecolor="white",
        zorder=5,
    )
    first, last = 0.5 - OFF_CENTRE - RIM, -1.5 - OFF_CENTRE + RIM
    axis.set_xlim(first, len(rows[0]) + last)
    axis.set_ylim(len(rows) + last, first)
    axis.set(aspect="equal", xticks=[], yticks=[])
    for side in axis.spines.values():
        side.set_visible(False)


def draw_paths(axis: Axes, paths: NDArray[np.float64], towards: NDArray[np.bool_]) -> None:
    """Each path as a line that grows stronger with time and ends in an arrow head; a white dot where it starts."""
    for path, good in zip(paths, towards, strict=True):
        colour = TOWARDS if good else ELSEWHERE
        points = path[:, ::-1]
        segments = np.stack([points[:-1], points[1:]], axis=1)
        strength = np.linspace(0.25, 1, len(segments))
        axis.add_collection(
            LineCollection(list(segments), colors=colour, alpha=strength, linewidths=1.2 + 1.2 * strength, zorder=3)
        )
        axis.plot(*points[0], "o", color="white", markeredgecolor="black", markeredgewidth=0.7, markersize=5, zorder=4)
        back = points[max(len(points) - 6, 0)]
        if np.linalg.norm(points[-1] - back) > 0.02:
            head = {
                "arrowstyle": "-|>",
                "color": colour,
                "linewidth": 1,
                "mutation_scale": 14,
                "shrinkA": 0,
                "shrinkB": 0,
            }
            axis.annotate("", xy=tuple(points[-1]), xytext=tuple(back), arrowprops=head, zorder=4)
