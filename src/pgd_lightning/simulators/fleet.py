"""Several simulators of one task, stepped together in this process."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from functools import cache
from typing import Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators import make
from pgd_lightning.simulators.batch import threads_here
from pgd_lightning.simulators.simulator import Array, Batched, Simulator, checked

Numbers = Sequence[int] | NDArray[np.int64]


class Fleet(Protocol):
    """Simulators with numbers from 0."""

    physics: str

    def reset(self, seeds: Sequence[int]) -> Array:
        """One simulator for each of ``seeds``, in the start state that it decides: observations ``[K, O]``."""

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Those ``numbers [k]`` take ``actions [k, A]``: ``(next_obs [k, O], reward [k], terminated [k])``."""


class Each:
    """Each of its own: one after the other, or in as many threads as torch has where a step is MuJoCo's alone.

    Which thread steps a simulator changes nothing that it computes.
    """

    def __init__(self, task: str, physics: str, threads: int | None = None) -> None:
        self.make = lambda: make(task, physics)
        self.simulators: list[Simulator] = [self.make()]
        self.physics = self.simulators[0].physics
        self.threads = (threads or threads_here()) if self.simulators[0].independent else 1
        self.pool = ThreadPoolExecutor(self.threads)

    def reset(self, seeds: Sequence[int]) -> Array:
        if not self.simulators[0].independent:
            self.simulators = []  # new ones: a first reward may remember what was before, as Gymnasium's ant does
        self.simulators += [self.make() for _ in range(len(seeds) - len(self.simulators))]
        return np.stack([self.simulators[number].reset(seed) for number, seed in enumerate(seeds)])

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        pairs = [(self.simulators[number], action) for number, action in zip(numbers, actions, strict=True)]
        share = -(-len(pairs) // self.threads)
        shares = [pairs[first : first + share] for first in range(0, len(pairs), share)]
        stepped = self.pool.map(_stepped, shares) if len(shares) > 1 else map(_stepped, shares)
        obs, reward, terminated = zip(*(row for rows in stepped for row in rows), strict=True)
        return np.stack(obs), np.array(reward), np.array(terminated)


def _stepped(pairs: Sequence[tuple[Simulator, Array]]) -> list[tuple[Array, float, bool]]:
    return [simulator.step(action) for simulator, action in pairs]


class Together:
    """All at once, of a simulator whose rules are functions of arrays: one model, and MuJoCo's data of each.

    MuJoCo's own rollout cannot do this: it does not tell from which accelerations its solver starts the next step.
    """

    def __init__(self, simulator: Batched) -> None:
        self.simulator, self.physics = simulator, simulator.physics

    def reset(self, seeds: Sequence[int]) -> Array:
        obs, self.data = [], []
        for seed in seeds:
            obs.append(self.simulator.reset(seed))
            self.data.append(copy(self.simulator.data))
        self.qpos, self.qvel = (np.stack([getattr(data, name) for data in self.data]) for name in ("qpos", "qvel"))
        root = self.simulator.root
        self.place = self.qpos[:, 0].copy() if root is None else np.array([data.xpos[root] for data in self.data])
        return np.stack(obs)

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        simulator, numbers, actions = self.simulator, np.asarray(numbers), checked(actions)
        before, entered = self.place[numbers], simulator.entered(self.qvel[numbers])
        for row in np.flatnonzero((entered != self.qvel[numbers]).any(-1)):
            self.data[numbers[row]].qvel[:] = entered[row]
        model, substeps, root = simulator.model, simulator.substeps, simulator.root
        for number, action in zip(numbers.tolist(), actions, strict=True):
            data = self.data[number]
            data.ctrl[:] = action
            mujoco.mj_step(model, data, substeps)
            self.qpos[number], self.qvel[number] = data.qpos, data.qvel
            self.place[number] = self.qpos[number, 0] if root is None else data.xpos[root]
        qpos, qvel = self.qpos[numbers], self.qvel[numbers]
        reward, terminated = simulator.outcome(self.place[numbers] - before, qpos, qvel, actions)
        return simulator.seen(qpos, qvel), reward, terminated


@cache
def fleet(task: str, physics: str) -> Fleet:
    """The simulators of ``task``; the same ones at every call."""
    simulator = make(task, physics)
    return Together(simulator) if isinstance(simulator, Batched) else Each(task, physics)
