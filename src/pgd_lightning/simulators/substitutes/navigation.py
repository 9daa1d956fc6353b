"""D4RL's maze2d controller: grid planning by value iteration, then proportional-derivative control to way-points.

Source: D4RL, ``pointmaze/waypoint_controller.py`` and ``q_iteration.py``, whose order of events is kept: an action
aims at the current way-point before that one is passed, at most one is passed a step, and a plan is made only when
the target CELL changes. Held against D4RL's published returns of this controller in ``tests/test_recipes.py``.

Difference: where no path exists (a start in a corner that rounds to an enclosed wall), the target is approached
straight; D4RL's plan stays put for ever.
"""

from functools import cache
from math import hypot
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators.maze import MAZES
from pgd_lightning.simulators.simulator import Array

Cell = tuple[int, int]
MOVES = np.array([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]])  # stay, -column, +column, -row, +row; first best wins
SWEEPS, DISCOUNT = 50, 0.99
GAIN, DAMPING, REACHED = 10.0, -1.0, 0.1
SCATTER = 0.2  # a way-point lies up to this far below its cell's index, in both coordinates


@cache
def plan(name: str, target: Cell) -> NDArray[np.int64]:
    """The best next cell of every cell on the way to ``target``, ``[rows, columns, 2]``, by value iteration."""
    free = np.array([list(row) for row in MAZES[name]]) == "."
    cells = np.stack(np.meshgrid(*map(np.arange, free.shape), indexing="ij"), -1)
    goes = cells[..., None, :] + MOVES
    inside = goes.clip(0, np.array(free.shape) - 1)
    allowed = free[inside[..., 0], inside[..., 1]]
    goes = np.where(allowed[..., None], inside, cells[..., None, :])
    reward = np.zeros(free.shape)
    reward[target] = 1.0
    value = np.zeros(free.shape)
    for _ in range(SWEEPS):
        quality = reward[goes[..., 0], goes[..., 1]] + DISCOUNT * value[goes[..., 0], goes[..., 1]]
        value = quality.max(-1)
    best = quality.argmax(-1)
    return np.take_along_axis(goes, best[..., None, None], axis=2)[..., 0, :]


def nearest_cell(point: Array) -> Cell:
    """The whole numbers nearest to ``point [2]``, which D4RL takes for its cell."""
    return round(float(point[0])), round(float(point[1]))


def waypoints(name: str, start: Cell, target: Cell, rng: np.random.Generator) -> list[tuple[float, float]]:
    """Points to pass from ``start`` to ``target``: the cells of the plan, scattered, and the target itself."""
    route, points, cell = plan(name, target), [], start
    while (following := (int(route[cell][0]), int(route[cell][1]))) not in (cell, target):
        cell = following
        row, column = cell - rng.uniform(0, SCATTER, 2)
        points.append((float(row), float(column)))
    return [*points, (float(target[0]), float(target[1]))]


class Navigator:
    """Steers the ball of maze ``name`` from goal to goal; ``rng`` scatters the way-points."""

    def __init__(self, name: str, rng: np.random.Generator) -> None:
        self.name, self.rng = name, rng
        self.target: Cell | None = None
        self.points: list[tuple[float, float]] = []
        self.passed = 0
        self.before = (0.0, 0.0)

    def act(self, position: Array, velocity: Array, goal: Array) -> tuple[tuple[float, float], bool]:
        """``(action in the box, whether the goal's cell is reached)`` at ``position [2]`` with ``velocity [2]``."""
        if nearest_cell(goal) != self.target:
            self._start(nearest_cell(position), nearest_cell(goal))
        x, y = float(position[0]), float(position[1])
        still = hypot(self.before[0] - x, self.before[1] - y) < REACHED  # false at most right after a new plan
        done = still and hypot(self.points[-1][0] - x, self.points[-1][1] - y) < REACHED
        to_x, to_y = self.points[-1] if done else self.points[self.passed]
        if still and not done and hypot(to_x - x, to_y - y) < REACHED:
            self.passed += 1
        self.before = (x, y)
        push = GAIN * (to_x - x) + DAMPING * float(velocity[0]), GAIN * (to_y - y) + DAMPING * float(velocity[1])
        return (min(max(push[0], -1.0), 1.0), min(max(push[1], -1.0), 1.0)), done

    def _start(self, start: Cell, target: Cell) -> None:
        self.points, self.passed = waypoints(self.name, start, target, self.rng), 0
        self.target, self.before = target, (float(start[0]), float(start[1]))

    def memory(self) -> dict[str, Any]:
        """What it remembers of the way, as JSON can hold it; ``rng`` is its owner's."""
        return {"target": self.target, "points": self.points, "passed": self.passed, "before": self.before}

    def recall(self, memory: dict[str, Any]) -> None:
        """Go on from a ``memory``."""
        self.target, self.before = tuple(memory["target"]), tuple(memory["before"])
        self.points, self.passed = [tuple(point) for point in memory["points"]], memory["passed"]
