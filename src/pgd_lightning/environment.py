"""Facts of a task and its dataset: dimensions, action box, time limit, reference returns, the official file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class DataFile:
    """The official recording of an environment: where it lies and how to recognise it."""

    path: str  # below the base URL, e.g. gym_mujoco_v2/hopper_medium-v2.hdf5
    bytes: int | None  # None where nobody published it
    sha256: str | None


@dataclass(frozen=True)
class ActionBox:
    """The bounds ``low [A]`` and ``high [A]`` of an environment's actions, which are [-1, 1] in this package."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __str__(self) -> str:
        if len(set(self.low)) == len(set(self.high)) == 1:
            return f"[{self.low[0]:g}, {self.high[0]:g}]"
        return " × ".join(f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True))

    def normalised(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """The environment's actions ``[..., A]`` in [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return 2 * (action - low) / (high - low) - 1

    def of_normalised(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Actions ``[..., A]`` in [-1, 1] as the environment takes them."""
        low, high = np.array(self.low), np.array(self.high)
        return low + (np.asarray(action, dtype=np.float64) + 1) / 2 * (high - low)


NO_SIMULATOR = "none"  # the task of a recording without an environment
GYMNASIUM = "gym:"  # before the name of an environment that is registered with Gymnasium


@dataclass(frozen=True)
class EnvSpec:
    """Facts of a task and its dataset (``conf/env``): one of D4RL's, any Gymnasium environment, or none at all."""

    name: str  # hopper-medium
    d4rl_id: str | None  # hopper-medium-v2; None for what is not D4RL's
    task: str  # hopper, gym:Pusher-v5: names the simulator; none: there is none
    dataset: str  # medium
    obs_dim: int
    action_dim: int
    max_episode_steps: int | None  # None: no limit is known
    ref_min_score: float | None  # return that counts as score 0; None: returns are not normalised
    ref_max_score: float | None  # return that counts as score 100
    file: DataFile | None  # that D4RL published
    physics: str  # of the simulator: today or d4rl
    terminates: bool = True  # whether its simulator can end an episode; else a file's terminals are none
    action_low: Sequence[float] | None = None  # [A] bounds of the environment's actions; None: [-1, 1]
    action_high: Sequence[float] | None = None
    success: bool = False  # whether tables show it: an episode that its simulator ends has done its task

    @property
    def simulated(self) -> bool:
        """Whether there is a simulator in which agents can be evaluated."""
        return self.task != NO_SIMULATOR

    @property
    def registered(self) -> bool:
        """Whether it is an environment registered with Gymnasium and none of D4RL's."""
        return self.task.startswith(GYMNASIUM)

    @property
    def option(self) -> str:
        """How it is chosen on the command line, ``env=…``."""
        return self.task.removeprefix(GYMNASIUM).partition(" ")[0] if self.registered else self.name

    @property
    def scored(self) -> bool:
        """Whether returns are normalised to scores."""
        return self.ref_min_score is not None and self.ref_max_score is not None

    @property
    def measure(self) -> str:
        """What tables show of an episode: ``success``, ``score`` or ``return``."""
        if self.success:
            return "success"
        return "score" if self.scored else "return"

    @property
    def limit(self) -> int:
        """The time limit in steps, -1 where none is known, as Gymnasium counts."""
        return -1 if self.max_episode_steps is None else self.max_episode_steps

    @property
    def box(self) -> ActionBox | None:
        """The bounds of the environment's actions; None if they are [-1, 1]."""
        if self.action_low is None or self.action_high is None:
            return None
        return ActionBox(tuple(self.action_low), tuple(self.action_high))

    def own_actions(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions ``[..., A]`` in [-1, 1] as the environment takes them and its recordings hold them."""
        return action if self.box is None else self.box.of_normalised(action).astype(action.dtype)

    def score(self, episode_return: float, success: float | None = None) -> float | None:
        """D4RL's normalised score in percent: 100 (R - min) / (max - min); None without reference returns.

        Where tables show success it is 100 ``success``, and None where that is not known.
        """
        if self.success:
            return None if success is None else 100 * float(success)
        if self.ref_min_score is None or self.ref_max_score is None:
            return None
        return 100 * (episode_return - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    def returned(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """The return behind each :meth:`score`; what tables show without reference returns is one already."""
        if self.ref_min_score is None or self.ref_max_score is None:
            return score
        return self.ref_min_score + (self.ref_max_score - self.ref_min_score) * score / 100
