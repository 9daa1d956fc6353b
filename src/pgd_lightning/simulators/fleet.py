"""Several simulators of one task, stepped together: in this process, or dealt out to worker processes.

Which process steps a simulator changes nothing that it computes. Workers live as long as this process and are used
again by the next evaluation; started by ``spawn``, they share neither threads nor a GPU with it.
"""

import atexit
import multiprocessing
import signal
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from functools import cache
from multiprocessing.connection import Connection
from typing import Any, Protocol

import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import make
from pgd_lightning.simulators.simulator import Array, Batched, Simulator, checked

Numbers = Sequence[int] | NDArray[np.int64]


class Fleet(Protocol):
    """Simulators with numbers from 0."""

    physics: str

    def reset(self, seeds: Sequence[int]) -> Array:
        """One simulator for each of ``seeds``, in the start state that it decides: observations ``[K, O]``."""

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """Those ``numbers [k]`` take ``actions [k, A]``: ``(next_obs [k, O], reward [k], terminated [k])``."""


class Here:
    """All in this process."""

    def __init__(self, task: str, physics: str) -> None:
        self.make = lambda: make(task, physics)
        self.simulators: list[Simulator] = [self.make()]
        self.physics = self.simulators[0].physics

    def reset(self, seeds: Sequence[int]) -> Array:
        self.simulators = [self.make() for _ in seeds]  # new ones: ant's first reward remembers what was before
        return np.stack([self.simulators[number].reset(seed) for number, seed in enumerate(seeds)])

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        rows = [self.simulators[number].step(action) for number, action in zip(numbers, actions, strict=True)]
        obs, reward, terminated = zip(*rows, strict=True)
        return np.stack(obs), np.array(reward), np.array(terminated)


class Together:
    """All in this process, of a simulator whose rules are functions of arrays: one model, and MuJoCo's data of each.

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


def here(task: str, physics: str) -> Fleet:
    """The simulators of ``task`` in this process."""
    simulator = make(task, physics)
    return Together(simulator) if isinstance(simulator, Batched) else Here(task, physics)


class Workers:
    """Simulator number n lives in process n modulo their count."""

    def __init__(self, task: str, physics: str, count: int) -> None:
        context = multiprocessing.get_context("spawn")
        pairs = [context.Pipe() for _ in range(count)]
        self.processes = [context.Process(target=_work, args=(b, task, physics), daemon=True) for _, b in pairs]
        for process, (_, theirs) in zip(self.processes, pairs, strict=True):
            process.start()
            theirs.close()
        self.pipes = [ours for ours, _ in pairs]
        atexit.register(self._end)
        self.physics: str = [_answer(pipe) for pipe in self.pipes][-1]  # all of them are ready

    def _end(self) -> None:
        for pipe in self.pipes:
            with suppress(OSError):
                pipe.close()

    def reset(self, seeds: Sequence[int]) -> Array:
        return np.stack(self._dealt("reset", range(len(seeds)), [[seed] for seed in seeds])[0])

    def step(self, numbers: Numbers, actions: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        obs, reward, terminated = self._dealt("step", numbers, list(actions))
        return np.stack(obs), np.array(reward), np.array(terminated)

    def _dealt(self, what: str, numbers: Numbers, given: Sequence[Any]) -> list[list[Any]]:
        """Columns of the answers, in the order of ``numbers``."""
        count = len(self.pipes)
        asked: list[list[int]] = [[] for _ in self.pipes]  # places in ``numbers``
        for place, number in enumerate(numbers):
            asked[number % count].append(place)
        for pipe, places in zip(self.pipes, asked, strict=True):
            if places:
                rows = np.stack([given[place] for place in places])
                _sent(pipe, (what, [numbers[place] // count for place in places], rows))
        answers = {
            place: row
            for pipe, places in zip(self.pipes, asked, strict=True)
            if places
            for place, row in zip(places, zip(*_answer(pipe), strict=True), strict=True)
        }
        return [list(column) for column in zip(*(answers[place] for place in range(len(numbers))), strict=True)]


def _sent(pipe: Connection, message: object) -> None:
    try:
        pipe.send(message)
    except OSError as error:
        raise _lost() from error


def _answer(pipe: Connection) -> Any:
    try:
        answer = pipe.recv()
    except (EOFError, OSError) as error:
        raise _lost() from error
    if isinstance(answer, Exception):
        raise answer
    return answer


def _lost() -> UserError:
    return UserError(
        "A process that steps simulators was lost, perhaps for want of memory; the same command continues, and "
        "ranks.simulators=0 does without them."
    )


def _work(pipe: Connection, task: str, physics: str) -> None:
    """A worker: answers until the other end closes. Signals are the other end's to obey, who has something to save."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    try:
        fleet = here(task, physics)
        pipe.send(fleet.physics)
    except Exception as error:
        pipe.send(error)
        return
    while True:
        try:
            what, numbers, rows = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            if what == "reset":
                pipe.send((fleet.reset([int(row[0]) for row in rows]),))  # numbers are 0, 1, 2, ...
            else:
                pipe.send(fleet.step(numbers, rows))
        except Exception as error:
            pipe.send(error)


@cache
def fleet(task: str, physics: str, workers: int) -> Fleet:
    """The simulators of ``task``, in this process if there are no ``workers``; the same ones at every call."""
    return Workers(task, physics, workers) if workers else here(task, physics)
