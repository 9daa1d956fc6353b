"""Recipes that record substitute datasets for D4RL files in the real simulator, deterministic given the seed.

They yield chunks of arrays under D4RL's keys; ``pgd_lightning.data`` writes them.

Differences from D4RL's maze2d generator: at a reached goal the observation is the new one (theirs repeats the old one
there, while ``infos/qpos`` is new). Rewards are those of the current observation, as D4RL relabels them: one step
later than the environment pays.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import mujoco
import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.randomness import derive_seed
from pgd_lightning.simulators import BODIES, make
from pgd_lightning.simulators.maze import RESET_SPREAD, Maze, free_cells, reward_of
from pgd_lightning.simulators.simulator import Array, Simulator
from pgd_lightning.simulators.substitutes.navigation import Navigator
from pgd_lightning.simulators.substitutes.policies import BehaviourPolicy, Ladder

Chunk = dict[str, NDArray[Any]]
Place = dict[str, Any]
"""Where a recording stands, as JSON can hold it: the rest follows from it and the seed."""
ROWS_A_CHUNK = 10_000
RANDOM_STEPS = 100_000  # of a recording of random actions


@dataclass(frozen=True)
class Recipe:
    """How a substitute dataset is recorded. A change that changes its numbers raises ``version``.

    ``record(num_steps, seed, place)`` yields chunks, each with the place from which the recording goes on; an empty
    place is the beginning.
    """

    version: int
    num_steps: int
    description: str
    task: str
    record: Callable[[int, int, Place], Iterator[tuple[Chunk, Place]]]
    d4rl_return: float | None = None  # mean return of D4RL's set, where it is known

    def physics(self) -> str:
        return make(self.task, "today").physics


Act = Callable[[Array, np.random.Generator], tuple[Array, float]]
"""``(obs, rng) -> (action in the box, log_prob)``"""


def record_policies(
    task: str, limit: int, choose: Callable[[], list[Act]], num_steps: int, seed: int, place: Place
) -> Iterator[tuple[Chunk, Place]]:
    """Whole episodes of up to ``limit`` steps, as D4RL records its locomotion sets.

    The policies that ``choose`` makes have equal shares of the rows, one after the other; the end of a share cuts its
    last episode, which ``timeouts`` says as in D4RL's replay sets, except at the end of the file. At the last allowed
    step D4RL sets the timeout and leaves the terminal unset. An episode depends on the seed and its number alone.
    """
    simulator, acts = make(task, "today"), choose()
    written, episode = place.get("rows", 0), place.get("episode", 0)
    borders = [num_steps * (i + 1) // len(acts) for i in range(len(acts))]
    rows: list[dict[str, Any]] = []
    while written + len(rows) < num_steps:
        part = next(i for i, border in enumerate(borders) if written + len(rows) < border)
        room = borders[part] - written - len(rows)
        rows += _episode(simulator, acts[part], min(limit, room), limit, part < len(acts) - 1, seed, episode)
        episode += 1
        if len(rows) >= ROWS_A_CHUNK or written + len(rows) == num_steps:
            written += len(rows)
            yield stacked(rows), {"rows": written, "episode": episode}
            rows = []


def _episode(
    simulator: Simulator, act: Act, steps: int, limit: int, flag_cut: bool, seed: int, episode: int
) -> list[dict[str, Any]]:
    rng = np.random.default_rng(derive_seed(seed, "recipe", episode))
    obs = simulator.reset(derive_seed(seed, "recipe start", episode))
    rows: list[dict[str, Any]] = []
    for step in range(steps):
        state = {f"infos/{name}": value for name, value in simulator.state().items()}
        action, log_prob = act(obs, rng)
        next_obs, reward, terminated = simulator.step(action)
        timeout = step + 1 == limit or (step + 1 == steps and flag_cut and not terminated)
        rows.append(
            {
                "observations": obs, "actions": action, "rewards": reward, "next_observations": next_obs,
                "terminals": terminated and not timeout, "timeouts": timeout,
                **state, "infos/action_log_probs": log_prob,
            }
        )  # fmt: skip
        obs = next_obs
        if terminated:
            break
    return rows


def stacked(rows: list[dict[str, Any]]) -> Chunk:
    """Rows to columns, numbers as float32."""
    columns = {key: np.stack([row[key] for row in rows]) for key in rows[0]}
    return {key: v if v.dtype == bool else v.astype(np.float32) for key, v in columns.items()}


def uniform_policy(task: str) -> list[Act]:
    """Actions uniform in the box, as D4RL's ``random`` sets."""
    dims = make(task, "today").action_dim
    return [lambda obs, rng: (rng.uniform(-1, 1, dims), -dims * np.log(2.0))]


def random_actions(task: str, limit: int) -> Recipe:
    """For an environment that is none of D4RL's."""
    record = partial(record_policies, task, limit, partial(uniform_policy, task))
    return Recipe(1, RANDOM_STEPS, "actions uniform in the box", task, record)


def shipped_policies(task: str, data_set: str) -> list[Act]:
    """Sampled actions of the shipped policies of ``task`` that make up ``data_set``.

    ``medium`` and ``expert`` are one policy, ``medium-expert`` those two, ``medium-replay`` the stages of training up
    to the medium one and ``full-replay`` all of them.
    """
    ladder = Ladder.load(task)
    places = {
        "medium": [ladder.medium],
        "expert": [ladder.expert],
        "medium-expert": [ladder.medium, ladder.expert],
        "medium-replay": range(ladder.medium + 1),
        "full-replay": range(len(ladder.policies)),
    }[data_set]
    return [partial(_sample, ladder.policies[place]) for place in places]


@torch.no_grad()
def _sample(policy: BehaviourPolicy, obs: Array, rng: np.random.Generator) -> tuple[Array, float]:
    mean, std = (t.double().numpy() for t in policy(torch.as_tensor(obs, dtype=torch.float32)))
    noise = rng.standard_normal(len(mean))
    before = mean + std * noise
    log_gauss = (-0.5 * noise**2 - np.log(std) - 0.5 * np.log(2 * np.pi)).sum()
    log_slope = (2 * (np.log(2) - before - np.logaddexp(0, -2 * before))).sum()  # log(1 - tanh(before)^2)
    return np.tanh(before), float(log_gauss - log_slope)


def record_maze2d(
    name: str, dense: bool, limit: int, num_steps: int, seed: int, place: Place
) -> Iterator[tuple[Chunk, Place]]:
    """One continuous run between random goals; ``timeouts`` marks a reached goal, or step ``limit`` on the way to it.

    As in D4RL, whose counter starts at 0, a segment that reaches nothing has ``limit + 1`` rows.
    """
    maze = Maze(name, dense)
    rng = np.random.default_rng(derive_seed(seed, "recipe", name))
    navigator, cells = Navigator(name, rng), free_cells(name)
    maze.reset(derive_seed(seed, "recipe start", 0))

    def new_goal() -> Array:
        return cells[rng.integers(len(cells))] + rng.uniform(-RESET_SPREAD, RESET_SPREAD, 2)

    goal, age = new_goal(), 0
    if place:
        mujoco.mj_setState(maze.model, maze.data, np.array(place["physics"]), mujoco.mjtState.mjSTATE_INTEGRATION)
        goal, age = np.array(place["goal"]), place["age"]
        navigator.recall(place["navigator"])
        rng.bit_generator.state = place["rng"]
    for first in range(place.get("rows", 0), num_steps, ROWS_A_CHUNK):
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
        physics = np.empty(mujoco.mj_stateSize(maze.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(maze.model, maze.data, physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        chunk = {
            "observations": obs.astype(np.float32), "actions": action.astype(np.float32),
            "rewards": reward_of(obs[:, :2], maze.goal, dense).astype(np.float32),
            "terminals": np.zeros(size, dtype=bool), "timeouts": ends,
            "infos/goal": goals.astype(np.float32), "infos/qpos": obs[:, :2].astype(np.float32),
            "infos/qvel": obs[:, 2:].astype(np.float32),
        }  # fmt: skip
        yield chunk, {
            "rows": first + size, "physics": physics.tolist(), "goal": goal.tolist(), "age": age,
            "navigator": navigator.memory(), "rng": rng.bit_generator.state,
        }  # fmt: skip


MAZE_LIMITS = {"umaze": 300, "medium": 600, "large": 800}
D4RL_RETURNS = {  # of the v2 sets: as they are remembered, not read from the files
    "hopper-medium": 1422, "hopper-medium-replay": 467, "hopper-expert": 3511,
    "halfcheetah-medium": 4770, "halfcheetah-medium-replay": 3093, "halfcheetah-expert": 10656,
    "walker2d-medium": 2852, "walker2d-medium-replay": 683, "walker2d-expert": 4921,
}  # fmt: skip
LADDER_SETS = {
    "medium": "sampled actions of a PPO policy near D4RL's medium level",
    "expert": "sampled actions of the best PPO policy of its training run",
    "medium-expert": "the medium policy, then the best one",
    "medium-replay": "policies from the start of PPO's training to the medium one, in that order",
    "full-replay": "policies from the start of PPO's training to the best one, in that order",
}
RECIPES = {
    **{
        f"{task}-{data_set}": Recipe(
            2, 100_000, description, task,
            partial(record_policies, task, 1000, partial(shipped_policies, task, data_set)),
            D4RL_RETURNS.get(f"{task}-{data_set}"),
        )
        for task in BODIES for data_set, description in LADDER_SETS.items()
    },
    **{
        f"{task}-random": Recipe(
            2, 100_000, "uniform random actions, as D4RL", task,
            partial(record_policies, task, 1000, partial(uniform_policy, task)),
        )
        for task in BODIES
    },
    **{
        f"maze2d-{name}{suffix}": Recipe(
            2, 1_000_000, "D4RL's planner and controller between random goals", f"maze2d-{name}{suffix}",
            partial(record_maze2d, name, bool(suffix), limit),
        )
        for name, limit in MAZE_LIMITS.items() for suffix in ("", "-dense")
    },
}  # fmt: skip
