"""What every simulator promises, and one real step from any recorded or generated state, row by row."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError

Array = NDArray[np.float64]
State = dict[str, Array]
UNSTABLE = [int(getattr(mujoco.mjtWarning, f"mjWARN_BAD{what}")) for what in ("QPOS", "QVEL", "QACC")]


class Simulator(Protocol):
    """One environment, of D4RL's with its rules, without a time limit, which is the caller's to keep.

    Actions are clipped to [-1, 1] before anything else; a non-finite one raises UserError. What has a body here holds
    for every simulator that says nothing else.
    """

    model: Any  # mujoco.MjModel
    data: Any  # mujoco.MjData
    physics: str  # simulator and version, for ledgers
    differs: str | None = None  # how it differs from the simulator that D4RL was recorded in, beyond ``physics``
    independent: bool = False  # whether several may step in threads, and a reset leaves nothing of before
    obs_dim: int
    action_dim: int

    @property
    def unresettable(self) -> str | None:
        """Why no state can be restored from an observation; None where one can."""
        return None

    @property
    def end_is_seen(self) -> bool:
        """Whether an observation and an action decide if the step ends the episode."""

    def reset(self, seed: int) -> Array:
        """A start state that ``seed`` alone decides; returns its observation ``[O]``."""

    def step(self, action: Array) -> tuple[Array, float, bool]:
        """``(next_obs [O], reward, terminated)`` of ``action [A]``."""

    def ended(self) -> bool | None:
        """Whether an episode in the present state has ended; None where that is no matter of observed states."""
        return None

    def state(self) -> State:
        """Everything that decides what happens next, under the names of D4RL's ``infos``: qpos, qvel, …"""
        return {"qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """Put the simulator into this state exactly; returns its observation ``[O]``."""

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        """``(state, exact)`` of an observation; not exact where clipping or omission lost something.

        A root position that neither dynamics nor reward can see is set to 0.
        """


@runtime_checkable
class Batched(Simulator, Protocol):
    """A simulator whose rules are functions of arrays of states, so that many can be stepped at once (``batch.py``).

    Its whole state is qpos and qvel.
    """

    substeps: int  # steps of MuJoCo's in one of its own
    root: tuple[int, ...] | None  # index into the data's xpos of what rewards call its place; None: qpos[0]

    def states_from_obs(self, obs: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        """``(qpos [N, nq], qvel [N, nv], exact [N])`` of observations ``[N, O]``, as :meth:`state_from_obs`."""

    def entered(self, qvel: Array) -> Array:
        """The velocities ``[N, nv]`` with which a step begins."""

    def seen(self, qpos: Array, qvel: Array) -> Array:
        """Observations ``[N, O]``."""

    def over(self, qpos: Array, qvel: Array) -> Array:
        """1 where an episode has ended in that state, 0, or NaN for :meth:`ended`'s None: ``[N]``."""

    def outcome(self, moved: Array, qpos: Array, qvel: Array, action: Array) -> tuple[Array, NDArray[np.bool_]]:
        """``(reward, terminated) [N]`` of the step by ``action [N, A]``, in the box, that led to this state.

        ``moved [N]``: by how much it changed the place.
        """


def checked(action: Array) -> Array:
    """``action [..., A]`` clipped to the box. Raises UserError if it is not finite."""
    finite = np.isfinite(action).all(-1)
    if not finite.all():
        failed = action[~finite][0] if action.ndim > 1 else action
        raise UserError(f"The simulator was given the action {failed}: a policy that acts so has failed.")
    return np.clip(action, -1, 1)


def reset_from_obs(simulator: Simulator, obs: Array) -> bool:
    """Put the simulator where ``obs [O]`` says; whether that is exact (see :meth:`Simulator.state_from_obs`)."""
    state, exact = simulator.state_from_obs(obs)
    simulator.set_state(state)
    return exact


def nothing_stepped(obs: Array) -> tuple[Array, Array, NDArray[Any], NDArray[Any], Array]:
    """As :func:`one_step_by_row`, of ``obs [N, O]`` from which no state can be restored."""
    unknown, none = np.full(len(obs), np.nan), np.zeros(len(obs), dtype=bool)
    return np.full(obs.shape, np.nan), unknown, none, none, unknown


def one_step_by_row(
    simulator: Simulator, obs: Array, action: Array
) -> tuple[Array, Array, NDArray[Any], NDArray[Any], Array]:
    """One real step from each observation: ``(next_obs [N, O], reward, terminated, exact, had_ended [N])``.

    ``had_ended``: 1 where the episode has ended in that state already, 0, or NaN for :meth:`Simulator.ended`'s None.
    Not exact are rows whose state the observation does not determine, and those without a real successor, which get
    NaN: rows that are not finite or so extreme that MuJoCo gives up (it then starts over from its default state).
    """
    results = []
    for row, act in zip(obs, action, strict=True):
        had_ended = np.nan
        if np.isfinite(row).all() and np.isfinite(act).all():
            simulator.data.warning.number[:] = 0
            seen, ended = reset_from_obs(simulator, row), simulator.ended()
            had_ended = had_ended if ended is None else float(ended)
            result = simulator.step(act)
            if not simulator.data.warning.number[UNSTABLE].any():
                results.append((*result, seen, had_ended))
                continue
        results.append((np.full(simulator.obs_dim, np.nan), np.nan, False, False, had_ended))
    columns = list(zip(*results, strict=True)) if results else [()] * 5
    next_obs = np.array(columns[0]).reshape(-1, simulator.obs_dim)
    terminated = np.array(columns[2], dtype=bool)
    return next_obs, np.array(columns[1]), terminated, np.array(columns[3], dtype=bool), np.array(columns[4])


def replay_by_row(
    simulator: Simulator, states: Mapping[str, Array], action: Array
) -> tuple[Array, Array, NDArray[np.bool_]]:
    """One real step from each recorded state ``[N, …]``: ``(next_obs [N, O], reward [N], terminated [N])``."""
    results = []
    for row, act in enumerate(action):
        simulator.set_state({name: values[row] for name, values in states.items()})
        results.append(simulator.step(act))
    next_obs, reward, terminated = zip(*results, strict=True)
    return np.stack(next_obs), np.array(reward), np.array(terminated)
