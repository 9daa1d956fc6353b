"""One real step from many states at once, in threads of MuJoCo's; what cannot be stepped so is stepped row by row.

Held bit for bit against the steps of one simulator, row by row (``tests/test_batch.py``), for any number of threads.
"""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np
from mujoco.rollout import Rollout
from numpy.typing import NDArray

from pgd_lightning.simulators.simulator import (
    Array,
    Batched,
    Simulator,
    checked,
    nothing_stepped,
    one_step_by_row,
    replay_by_row,
)

BLOCK = 4096  # rows at once, a matter of memory
ROWS_A_THREAD = 64  # fewer are not worth a thread and its data
CLOCK = 1.0  # the time at which a step begins: MuJoCo sets it to 0 where it gives up on a state


def threads_here() -> int:
    """As many as torch computes in: OMP_NUM_THREADS, or this process's share of the cores."""
    import torch

    return torch.get_num_threads()


def one_step(
    simulator: Simulator, obs: Array, action: Array, threads: int | None = None
) -> tuple[Array, Array, NDArray[Any], NDArray[Any], Array]:
    """One real step from each observation: ``(next_obs [N, O], reward, terminated, exact, had_ended [N])``.

    As :func:`one_step_by_row` says, in ``threads`` (None: :func:`threads_here`).
    """
    if simulator.unresettable:
        return nothing_stepped(obs)
    if not isinstance(simulator, Batched) or not len(obs):
        return one_step_by_row(simulator, obs, action)
    obs, action = np.asarray(obs, dtype=np.float64), np.asarray(action)
    rows = np.flatnonzero(np.isfinite(obs).all(-1) & np.isfinite(action).all(-1))
    qpos, qvel, exact = simulator.states_from_obs(obs[rows])
    found, steady = _stepped(simulator, qpos, qvel, checked(action[rows]), threads)
    other = np.ones(len(obs), dtype=bool)
    other[rows[steady]] = False
    rest = one_step_by_row(simulator, obs[other], action[other])
    columns = (*found, exact, simulator.over(qpos, qvel))
    return tuple(_merged(many[steady], other, few) for many, few in zip(columns, rest, strict=True))  # type: ignore[return-value]


def replay(
    simulator: Simulator, states: Mapping[str, Array], action: Array, threads: int | None = None
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """One real step from each recorded state ``[N, …]``: ``(next_obs [N, O], reward [N], terminated [N])``."""
    if not isinstance(simulator, Batched) or not len(action):
        return replay_by_row(simulator, states, action)
    qpos, qvel = (np.asarray(states[name], dtype=np.float64) for name in ("qpos", "qvel"))
    found, steady = _stepped(simulator, qpos, qvel, checked(np.asarray(action)), threads)
    if steady.all():
        return found
    rest = replay_by_row(simulator, {name: rows[~steady] for name, rows in states.items()}, action[~steady])
    return tuple(_merged(many[steady], ~steady, few) for many, few in zip(found, rest, strict=True))  # type: ignore[return-value]


def _merged(many: NDArray[Any], other: NDArray[np.bool_], few: NDArray[Any]) -> NDArray[Any]:
    """``few`` in the rows ``other``, ``many`` in the rest."""
    result: NDArray[Any] = np.empty((len(other), *many.shape[1:]), dtype=many.dtype)
    result[~other], result[other] = many, few
    return result


def _stepped(
    simulator: Batched, qpos: Array, qvel: Array, action: Array, threads: int | None
) -> tuple[tuple[Array, Array, NDArray[np.bool_]], NDArray[np.bool_]]:
    """``((next_obs, reward, terminated), steady)``; not steady are rows at which MuJoCo gave a warning."""
    model, wanted = simulator.model, threads or threads_here()
    threads = max(1, min(wanted, len(qpos) // ROWS_A_THREAD))
    state = np.concatenate([np.full((len(qpos), 1), CLOCK), qpos, simulator.entered(qvel)], axis=-1)
    after, moved = [state[:0]], [np.empty(0)]
    with Rollout(nthread=threads if threads > 1 else 0) as pool:
        data = [mujoco.MjData(model) for _ in range(threads)]
        for first in range(0, len(state), BLOCK):
            block, acts = state[first : first + BLOCK], action[first : first + BLOCK]
            if simulator.root is None:
                steps, _ = pool.rollout(model, data, block, acts[:, None], nstep=simulator.substeps)
                after.append(steps[:, -1])
                moved.append(after[-1][:, 1] - block[:, 1])
            else:
                rows, places = _one_by_one(simulator, data[0], block, acts)
                after.append(rows)
                moved.append(places - block[:, 1])
    time, qpos, qvel = np.split(np.concatenate(after), [1, 1 + model.nq], axis=-1)
    steady = np.abs(time[:, 0] - CLOCK - simulator.substeps * model.opt.timestep) < model.opt.timestep / 2
    reward, terminated = simulator.outcome(np.concatenate(moved), qpos, qvel, action)
    return (simulator.seen(qpos, qvel), reward, terminated), steady


def _one_by_one(simulator: Batched, data: Any, states: Array, actions: Array) -> tuple[Array, Array]:
    """States after a step, and places, which a rollout does not tell where they are not in the state."""
    after, places = np.empty_like(states), np.empty(len(states))
    spec, place, model = mujoco.mjtState.mjSTATE_FULLPHYSICS, data.xpos, simulator.model
    for row, action in enumerate(actions):
        mujoco.mj_setState(model, data, states[row], spec)
        data.qacc_warmstart[:] = 0
        data.ctrl[:] = action
        mujoco.mj_step(model, data, simulator.substeps)
        mujoco.mj_getState(model, data, after[row], spec)
        places[row] = place[simulator.root]
    return after, places
