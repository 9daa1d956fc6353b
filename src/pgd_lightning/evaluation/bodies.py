"""Which body, maze or kitchen do recorded rows belong to? For recordings that share their widths and do not say so.

Locomotion: one simulated step under each body of the same widths. Mazes: no position lies in a wall, and the step
agrees; a dense reward is no sparse one. Kitchen: the observation holds the goal. Elsewhere widths differ, or
observations hide the state.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators import BODIES, MAZES, Simulator, make, one_step, replay
from pgd_lightning.simulators.antmaze import cells_of as ant_cells
from pgd_lightning.simulators.kitchen import TASKS as KITCHENS
from pgd_lightning.simulators.kitchen import goal_of
from pgd_lightning.simulators.maze import GOALS, cells_of, in_wall, reward_of

Array = NDArray[np.float64]
ALL = slice(None)
STEPPED, FEWEST = 64, 8  # rows of a one-step error
RIGHT, WRONG = 0.2, 0.5  # median one-step error, as a share of what the step changes; under the other physics to 0.07
SEEN = 0.01  # share of rows in walls from which on the maze is another one


@dataclass(frozen=True)
class Doubt:
    """Rows that are not of the task they are read as."""

    tasks: tuple[str, ...]  # those that explain them; none: no task here does
    why: str


@dataclass(frozen=True)
class Rows:
    """Recorded steps: ``obs [N, O]``, ``action [N, A]``, ``next_obs [N, O]``, ``reward [N]``, its ``goal [N, 2]``."""

    obs: Array
    action: Array
    next_obs: Array
    reward: Array
    goal: Array | None = None


def doubt(task: str, rows: Rows) -> Doubt | None:
    """Why ``rows`` are not of ``task``; None where they may well be, or nothing here can tell.

    Other tasks are named only where they clearly explain the rows and ``task`` clearly fails. Raises UserError where
    MuJoCo is not usable.
    """
    if task in BODIES:
        return _body(task, rows)
    if task in KITCHENS:
        return _kitchen(task, rows)
    if task.startswith(("maze2d-", "antmaze-")):
        return _maze(task, rows) or _reward(task, rows)
    return None


def _body(task: str, rows: Rows) -> Doubt | None:
    ours = _error(task, rows)
    if ours is None or ours < WRONG:
        return None
    found = tuple(name for name in BODIES if name != task and _explains(name, rows))
    but = f", and hardly in {' or '.join(found)}" if found else ""
    return Doubt(
        found, f"one simulated step from its rows misses by {ours:.0%} of what the step changes in {task}{but}"
    )


def _explains(task: str, rows: Rows) -> bool:
    error = _error(task, rows)
    return error is not None and error < RIGHT


def _error(task: str, rows: Rows) -> float | None:
    """Median one-step error as a share of what the step changes.

    None for a body of other widths, or where too few observations tell the state.
    """
    body: Simulator = make(task, "today")
    if (body.obs_dim, body.action_dim) != (rows.obs.shape[1], rows.action.shape[1]):
        return None
    seen = slice(body.obs_dim - (BODIES[task].contact_zeros if task in BODIES else 0))  # contact forces are no state
    return step_error(body, rows, None, seen)


def step_error(simulator: Simulator, rows: Rows, states: Mapping[str, Array] | None, seen: slice = ALL) -> float | None:
    """Median one-step error of ``rows``, in the entries ``seen``, as a share of what the step changes.

    From recorded ``states`` (each ``[N, …]``) or else from observations; None where too few of these tell the state.
    """
    chosen = np.random.default_rng(0).permutation(len(rows.obs))[: 20 * STEPPED]
    if states is not None:
        used = chosen[:STEPPED]
        found = replay(simulator, {name: values[used] for name, values in states.items()}, rows.action[used])[0]
    elif simulator.unresettable:
        return None
    else:
        used = np.array([i for i in chosen if simulator.state_from_obs(rows.obs[i])[1]][:STEPPED], dtype=np.int64)
        found = one_step(simulator, rows.obs[used], rows.action[used])[0]
    if len(used) < FEWEST:
        return None
    wrong = np.abs(found - rows.next_obs[used])[:, seen].max(-1)
    moved = np.abs(rows.next_obs[used] - rows.obs[used])[:, seen].max(-1)
    share = np.where(np.isfinite(wrong), wrong / np.maximum(moved, 1e-9), np.inf)
    return float(np.median(share))


def _maze(task: str, rows: Rows) -> Doubt | None:
    family, _, name = task.removesuffix("-dense").partition("-")
    cells = ant_cells if family == "antmaze" else cells_of
    places = [cells(rows.obs[:, :2]), *([] if rows.goal is None else [cells(rows.goal)])]
    inside = {maze: max(float(in_wall(maze, place).mean()) for place in places) for maze in MAZES}
    if inside[name] < SEEN:
        return None
    found = [task.replace(name, maze) for maze, share in inside.items() if share < SEEN / 10]
    explained = tuple(other for other in found if _explains(other, rows))
    fit = f", none in those of {' or '.join(found)}" if found else ""
    return Doubt(explained, f"{inside[name]:.0%} of its positions or goals lie in walls of {task}{fit}")


def _reward(task: str, rows: Rows) -> Doubt | None:
    """maze2d alone: ``-dense`` pays exp(-distance), the other 0 or 1; for the row's own position or the next one."""
    if not task.startswith("maze2d-"):
        return None
    goal = np.array(GOALS[task.removesuffix("-dense").removeprefix("maze2d-")])

    def explained(dense: bool) -> bool:
        errors = [np.abs(reward_of(o[:, :2], goal, dense) - rows.reward) for o in (rows.obs, rows.next_obs)]
        return bool((np.minimum(*errors) < 1e-3).mean() > 0.99)

    dense = task.endswith("-dense")
    if explained(dense) or not explained(not dense):
        return None
    other = task.removesuffix("-dense") if dense else f"{task}-dense"
    return Doubt((other,), f"its rewards are those of {other}")


def _kitchen(task: str, rows: Rows) -> Doubt | None:
    goals = rows.obs[:, rows.obs.shape[1] // 2 :]
    equal = {name: float((np.abs(goals - goal_of(name)) < 1e-3).all(-1).mean()) for name in KITCHENS}
    if equal[task] > 0.5 or not goals.any():
        return None
    found = tuple(name for name, share in equal.items() if share > 0.99)
    return Doubt(found, f"{1 - equal[task]:.0%} of its observations hold another goal than that of {task}")
