"""What is peculiar to each family of D4RL's files, see :mod:`pgd_lightning.data.d4rl.quirks`."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError

Columns = dict[str, NDArray[Any]]  # under D4RL's keys; timeouts always there, next_observations and infos not
Finding = Callable[[Columns, EnvSpec], list[str]]

GYM = ("hopper", "halfcheetah", "walker2d", "ant")
ADROIT = ("pen", "door", "hammer", "relocate")
CONTACT_FORCES = 84  # the last entries of Ant's 111
JUMP = 2.0  # units that no ant walks in one step of 0.1 s: half a cell of the maze


def family(task: str) -> str:
    """``gym``, ``maze2d``, ``antmaze``, ``adroit``, ``kitchen`` or, for a user's own task, ``other``."""
    for name, tasks in {"gym": GYM, "adroit": ADROIT}.items():
        if task in tasks:
            return name
    return next((name for name in ("maze2d", "antmaze", "kitchen") if task.startswith(name)), "other")


def padded_width(env: EnvSpec, width: int) -> bool:
    """Whether observations of ``width`` are Ant's without its contact forces, which are zero in D4RL's simulator."""
    return env.task == "ant" and width == env.obs_dim - CONTACT_FORCES


def episode_ends(columns: Columns) -> NDArray[np.int64]:
    """The last row of each episode, as the flags cut them: ``[E]``."""
    return np.flatnonzero(columns["terminals"] | columns["timeouts"])


def episode_lengths(columns: Columns) -> NDArray[np.int64]:
    """Rows of each episode: ``[E]``."""
    return np.diff(episode_ends(columns), prepend=-1)


def gym(columns: Columns, env: EnvSpec) -> list[str]:
    """Replay files set timeouts wherever 1,000 samples of a training round were full (D4RL issue 162)."""
    notes = []
    lengths = episode_lengths(columns)
    timed_out = columns["timeouts"][columns["terminals"] | columns["timeouts"]]
    early = int((lengths[timed_out][:-1] < env.limit).sum()) if timed_out.any() else 0
    if early:
        notes.append(
            f"{early} of {int(timed_out.sum())} timeouts come before step {env.limit}: these episodes were "
            "cut, so their returns are partial"
        )
    if lengths.max() > env.limit:
        notes.append(f"the longest episode has {lengths.max()} rows, more than the limit of {env.limit}")
    if env.task == "ant" and columns["observations"].shape[1] == env.obs_dim:
        touched = int(_any_row(columns["observations"][:, -CONTACT_FORCES:]))
        if touched:
            notes.append(
                f"{touched} rows have contact forces in the last {CONTACT_FORCES} observations: they were not recorded "
                "in D4RL's simulator, where these are zero"
            )
    return notes


def _any_row(values: NDArray[Any]) -> int:
    return sum(int((values[i : i + 100_000] != 0).any(-1).sum()) for i in range(0, len(values), 100_000))


def maze2d(columns: Columns, env: EnvSpec) -> list[str]:
    """One continuous run, in which timeouts mark navigation goals (issue 85).

    The published generator stores the old observation after a reached goal while qpos, qvel have moved on.
    """
    notes = []
    if columns["timeouts"][:-1].any():
        notes.append("timeouts mark navigation goals in one continuous run, so returns here are not those of episodes")
    if "infos/qpos" in columns and "infos/qvel" in columns:
        state = np.concatenate([columns["infos/qpos"], columns["infos/qvel"]], axis=1)
        stale = int((np.abs(state - columns["observations"]).max(-1) > 1e-3).sum())
        if stale:
            notes.append(f"{stale} rows repeat the previous observation although the simulator had moved on: kept")
    return notes


def antmaze(columns: Columns, env: EnvSpec) -> list[str]:
    """Rewards and terminals were relabelled from the next row while the ant ran on (issues 77 and 199).

    So a path may hold many terminals in a row (the last row's, judged by the next path's start, is undone already). The
    cut is at every terminal and timeout. v0's timeouts are out of step: the ant jumps inside a path, cut there too.
    """
    notes, terminals, timeouts = [], columns["terminals"], columns["timeouts"]
    place = columns["observations"][:, :2].astype(np.float64)
    jump = np.zeros(len(terminals), dtype=bool)
    jump[:-1] = np.linalg.norm(np.diff(place, axis=0), axis=-1) > JUMP
    jump &= ~(terminals | timeouts)
    if jump.any():
        timeouts |= jump
        notes.append(f"{int(jump.sum())} jumps of the ant (over {JUMP:g} units in a step): the episode is cut there")
    paths = int(timeouts.sum()) + int(not (terminals | timeouts)[-1])
    follows = terminals[1:] & terminals[:-1]
    if follows.any():
        notes.append(
            f"{paths} paths; the ant runs on after a terminal, so terminals come in clusters and {int(follows.sum())} "
            "episodes have one row: count paths, not episodes"
        )
    return notes


def kitchen(columns: Columns, env: EnvSpec) -> list[str]:
    """The reward of a row is the number of tasks complete by then; the environment pays each task once."""
    return ["rewards count the tasks completed so far, so returns of the data cannot be converted to scores"]


def adroit(columns: Columns, env: EnvSpec) -> list[str]:
    """Human demonstrations outlast the registered horizon (issue 137)."""
    lengths = episode_lengths(columns)
    long = int((lengths > env.limit).sum())
    return [f"{long} episodes are longer than the horizon of {env.limit}"] if long else []


def registered(columns: Columns, env: EnvSpec) -> list[str]:
    """Episodes of a Gymnasium environment that go on beyond its time limit.

    Raises UserError where no timeout is flagged: they are several episodes then.
    """
    lengths = episode_lengths(columns)
    long = int((lengths > env.limit).sum()) if env.registered and env.limit > 0 else 0
    if long and not columns["timeouts"][:-1].any():  # the last row always ends an episode
        raise UserError(
            f"The longest episode has {lengths.max():,} rows, more than the time limit of {env.limit:,}: flag the ends "
            "of episodes in 'timeouts', or set env.max_episode_steps= if the recording had another limit."
        )
    return [f"{long} episodes are longer than the time limit of {env.limit:,}"] if long else []


FAMILIES: dict[str, Finding] = {
    "gym": gym, "maze2d": maze2d, "antmaze": antmaze, "adroit": adroit, "kitchen": kitchen,
    "other": registered,
}  # fmt: skip


def align_rewards(columns: Columns, env: EnvSpec, choice: str, name: str) -> list[str]:
    """maze2d's rewards were relabelled for the row itself, where the environment pays for the next one (issue 194).

    ``aligned`` gives each row what its step earned; the last row of the file keeps its own, as nothing says better.
    Raises UserError for ``aligned`` with another family.
    """
    if family(env.task) != "maze2d":
        if choice == "aligned":
            raise UserError(
                f"data.rewards=aligned is for maze2d files, and {name} is read as {env.name}: leave it out."
            )
        return []
    if choice == "recorded":
        return [
            "each reward was computed from its own row's observation, not the next one "
            "(data.rewards=aligned assigns it to the step that earned it)"
        ]
    columns["rewards"][:-1] = columns["rewards"][1:].copy()
    return ["rewards were moved one row up (data.rewards=aligned): each belongs to the step that earned it"]
