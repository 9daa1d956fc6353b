"""A policy for maze2d that always goes to one place: a Gaussian around D4RL's controller, whose score is exact."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgd_lightning.simulators.maze import MAZES, OFF_CENTRE
from pgd_lightning.simulators.substitutes.navigation import DAMPING, GAIN, SCATTER, Cell, plan
from pgd_lightning.trajectory import GaussianPolicy

AIM = SCATTER / 2  # below a cell's index: way-points of the recordings lie up to SCATTER below it


def steps_to(name: str, goal: Cell) -> NDArray[np.float32]:
    """Cells to go from every cell of maze ``name`` to ``goal``, ``[rows, columns]``; NaN for walls."""
    route = plan(name, goal)
    steps = np.full(route.shape[:2], np.nan, dtype=np.float32)
    for start in map(tuple, np.argwhere(np.array([list(row) for row in MAZES[name]]) == ".")):
        cell, number = start, 0
        while cell != goal and number < steps.size:
            cell, number = tuple(map(int, route[cell])), number + 1
        steps[start] = number
    return steps


class GoalPolicy(GaussianPolicy):
    """Goes to the cell ``goal`` of maze ``name`` by the shortest way, from wherever it is.

    Its mean is the controller that drives the recordings, at the next cell on the way; ``std`` is that of the action in
    each direction. Unlike that of the recordings it has no memory.
    """

    device = torch.device("cpu")

    def __init__(self, name: str, goal: Cell, std: float) -> None:
        self.size = torch.tensor([len(MAZES[name]), len(MAZES[name][0])])
        self.next_cell = torch.as_tensor(plan(name, goal), dtype=torch.float32)  # [rows, columns, 2]
        self.steps = torch.as_tensor(steps_to(name, goal))  # [rows, columns]
        self.std = std

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[..., 2]`` and log standard deviation at ``obs [..., 4]``."""
        position, velocity = obs[..., :2], obs[..., 2:]
        row, column = self._cell(position)
        aim = self.next_cell[row, column] - AIM
        mean = (GAIN * (aim - position) + DAMPING * velocity).clamp(-1, 1)
        return mean, mean.new_tensor(self.std).log()

    def way_left(self, position: Tensor) -> Tensor:
        """Length of the way to the goal in cells, ``[..., 2] -> [...]``; NaN in a wall."""
        row, column = self._cell(position)
        aim = self.next_cell[row, column] - AIM
        return (self.steps[row, column] - 1).clamp(min=0) + torch.linalg.vector_norm(aim - position, dim=-1)

    def _cell(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column of the cell that ``position [..., 2]`` lies in."""
        cell = torch.minimum((position.nan_to_num() + OFF_CENTRE).round().clamp(min=0), self.size - 1).long()
        return cell[..., 0], cell[..., 1]
