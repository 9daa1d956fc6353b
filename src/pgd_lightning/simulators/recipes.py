"""Recipes that record stand-ins for D4RL files in the real simulator, deterministic given the seed.

They yield chunks of arrays under D4RL's keys; ``pgd_lightning.data`` writes them.

Differences from D4RL's maze2d generator: at a reached goal the observation is the new one (theirs repeats the old one
there, while ``infos/qpos`` is new). Rewards are those of the current observation, as D4RL relabels them: one step
later than the environment pays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.randomness import derive_seed
from pgd_lightning.simulators import make
from pgd_lightning.simulators.behaviour_policy import BehaviourPolicy, load_policy
from pgd_lightning.simulators.maze import RESET_SPREAD, Maze, free_cells, reward_of
from pgd_lightning.simulators.navigation import Navigator
from pgd_lightning.simulators.simulator import Array

Chunk = dict[str, NDArray[Any]]
ROWS_A_CHUNK = 10_000


@dataclass(frozen=True)
class Recipe:
    """How a stand-in is recorded. A change that changes its numbers raises ``version``."""

    version: int
    num_steps: int
    description: str
    task: str
    record: Callable[[int, int], Iterator[Chunk]]  # (num_steps, seed)

    def physics(self) -> str:
        return make(self.task).physics


def record_policy(task: str, limit: int, choose: Callable[[], Any], num_steps: int, seed: int) -> Iterator[Chunk]:
    """Whole episodes of up to ``limit`` steps, cut at ``num_steps``, as D4RL records its locomotion sets.

    ``choose()`` makes ``(obs, rng) -> (action in the box, log_prob)``. At the last allowed step D4RL sets the timeout
    and leaves the terminal unset.
    """
    simulator, act = make(task), choose()
    rng = np.random.default_rng(derive_seed(seed, "recipe", task))
    rows: list[dict[str, Any]] = []
    written, episode, age = 0, 0, 0
    obs = simulator.reset(derive_seed(seed, "recipe start", episode))
    while written + len(rows) < num_steps:
        qpos, qvel = simulator.state()
        action, log_prob = act(obs, rng)
        next_obs, reward, terminated = simulator.step(action)
        age += 1
        timeout = age >= limit
        rows.append(
            {
                "observations": obs, "actions": action, "rewards": reward, "next_observations": next_obs,
                "terminals": terminated and not timeout, "timeouts": timeout,
                "infos/qpos": qpos, "infos/qvel": qvel, "infos/action_log_probs": log_prob,
            }
        )  # fmt: skip
        obs = next_obs
        if terminated or timeout:
            episode, age = episode + 1, 0
            obs = simulator.reset(derive_seed(seed, "recipe start", episode))
        if len(rows) == ROWS_A_CHUNK:
            yield stacked(rows)
            written, rows = written + len(rows), []
    if rows:
        yield stacked(rows)


def stacked(rows: list[dict[str, Any]]) -> Chunk:
    """Rows to columns, numbers as float32."""
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return {key: v if v.dtype == bool else v.astype(np.float32) for key, v in columns.items()}


def uniform_policy(task: str) -> Any:
    """Actions uniform in the box, as D4RL's ``random`` sets."""
    dims = make(task).action_dim
    return lambda obs, rng: (rng.uniform(-1, 1, dims), -dims * np.log(2.0))


def shipped_policy(name: str) -> Any:
    """Sampled actions of a shipped behaviour policy; what leaves the box is clipped, as in D4RL's environments.

    The log probability is that of the sample before clipping.
    """
    policy = load_policy(name)
    return partial(_sample, policy)


@torch.no_grad()
def _sample(policy: BehaviourPolicy, obs: Array, rng: np.random.Generator) -> tuple[Array, float]:
    mean, std = (t.double().numpy() for t in policy(torch.as_tensor(obs, dtype=torch.float32)))
    noise = rng.standard_normal(len(mean))
    log_prob = float((-0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum())
    return np.clip(mean + std * noise, -1, 1), log_prob


def record_maze2d(name: str, dense: bool, limit: int, num_steps: int, seed: int) -> Iterator[Chunk]:
    """One continuous run between random goals; ``timeouts`` marks a reached goal, or step ``limit`` on the way to it.

    As in D4RL, whose counter starts at 0, a segment that reaches nothing has ``limit + 1`` rows.
    """
    maze = Maze(name, dense)
    rng = np.random.default_rng(derive_seed(seed, "recipe", name))
    navigator, cells = Navigator(name, rng), free_cells(name)
    maze.reset(derive_seed(seed, "recipe start", 0))

    def new_goal() -> Array:
        goal: Array = cells[rng.integers(len(cells))] + rng.uniform(-RESET_SPREAD, RESET_SPREAD, 2)
        return goal

    goal, age = new_goal(), 0
    for first in range(0, num_steps, ROWS_A_CHUNK):
        size = min(ROWS_A_CHUNK, num_steps - first)
        obs, action = np.empty((size, 4)), np.empty((size, 2))
        goals, ends = np.empty((size, 2)), np.zeros(size, dtype=bool)
        for row in range(size):
            position, velocity = maze.data.qpos, maze.data.qvel
            obs[row, :2], obs[row, 2:], goals[row] = position, velocity, goal
            action[row], reached = navigator.act(position, velocity, goal)
            ends[row] = reached or age >= limit
            maze.step(action[row])
            goal, age = (new_goal(), 0) if ends[row] else (goal, age + 1)
        yield {
            "observations": obs.astype(np.float32), "actions": action.astype(np.float32),
            "rewards": reward_of(obs[:, :2], maze.goal, dense).astype(np.float32),
            "terminals": np.zeros(size, dtype=bool), "timeouts": ends,
            "infos/goal": goals.astype(np.float32), "infos/qpos": obs[:, :2].astype(np.float32),
            "infos/qvel": obs[:, 2:].astype(np.float32),
        }  # fmt: skip


MAZE_LIMITS = {"umaze": 300, "medium": 600, "large": 800}
RECIPES = {
    "hopper-medium": Recipe(
        1, 100_000, "sampled actions of a PPO policy at D4RL's medium level", "hopper",
        partial(record_policy, "hopper", 1000, partial(shipped_policy, "hopper-medium")),
    ),
    **{
        f"{task}-random": Recipe(
            1, 100_000, "uniform random actions, as D4RL", task,
            partial(record_policy, task, 1000, partial(uniform_policy, task)),
        )
        for task in ("hopper", "halfcheetah", "walker2d", "ant")
    },
    **{
        f"maze2d-{name}{suffix}": Recipe(
            2, 1_000_000, "D4RL's planner and controller between random goals", f"maze2d-{name}{suffix}",
            partial(record_maze2d, name, bool(suffix), limit),
        )
        for name, limit in MAZE_LIMITS.items() for suffix in ("", "-dense")
    },
}  # fmt: skip
