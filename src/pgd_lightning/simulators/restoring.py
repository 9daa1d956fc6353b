"""States of a MuJoCo environment from its observations, found by trying.

The environment is put into random states. An entry of qpos or qvel counts as observed where, in all of them, it equals
an entry of the observation up to a constant (an angle also by its cosine and sine). Entries that are not observed keep
their initial values. Then rows of real episodes are restored and stepped again: only where the observation and the
step, with its reward and its end, come out the same is the environment one whose states can be restored.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators.simulator import Array, State

CALM, WILD = 24, 8  # random states, and those whose velocities may be clipped in an observation
CALM_SPEED, WILD_SPEED, MOVED = 0.5, 100.0, 0.1  # standard deviations of velocities and of positions, in MuJoCo's units
SAME = 1e-9  # difference of equal numbers, as a share of their size
EPISODES, STEPS = 4, 32  # of random actions, of which rows are restored
ROUNDING = 1e-5  # of an observation that was restored: float32 and the order of operations
RIGHT = 0.01  # largest difference of a repeated step, as a share of what the step changes
# of its reward in nine of ten rows, as a share of the usual one: Ant's pays the place of a body that lags a sub-step
RIGHT_REWARD, MOST = 0.05, 0.9
SMALLEST = 1e-6  # change of an observation that a difference is a share of


@dataclass(frozen=True)
class Restoring:
    """``state = obs[index] - shift`` where ``index >= 0``, ``arctan2`` of two entries for ``angles``, else initial."""

    initial: Array  # [nq + nv]
    index: NDArray[np.int64]  # [nq + nv] into the observation, -1 where not observed so
    shift: Array  # [nq + nv]
    limit: Array  # [nq + nv] from which on the observation is clipped; inf
    angles: tuple[tuple[int, int, int], ...]  # (entry of the state, of its cosine and of its sine)
    nq: int

    def state(self, obs: Array) -> tuple[State, bool]:
        """``(state, exact)`` of ``obs [O]``; not exact where the observation is clipped."""
        found, seen = self.initial.copy(), self.index >= 0
        found[seen] = obs[self.index[seen]] - self.shift[seen]
        for entry, cosine, sine in self.angles:
            found[entry] = np.arctan2(obs[sine], obs[cosine])
        exact = bool((np.abs(obs[self.index[seen]]) < self.limit[seen]).all())
        return {"qpos": found[: self.nq], "qvel": found[self.nq :]}, exact

    def observe(self, env: gymnasium.Env[Any, Any]) -> Array:
        """The observation ``[O]`` of the present state."""
        return observation(env)


def set_state(env: gymnasium.Env[Any, Any], qpos: Array, qvel: Array) -> None:
    """Put MuJoCo into this state, with nothing left of the one before: a solver's warm start would change the step."""
    inner: Any = env.unwrapped
    mujoco.mj_resetData(inner.model, inner.data)
    inner.set_state(np.asarray(qpos, dtype=np.float64), np.asarray(qvel, dtype=np.float64))


def observation(env: gymnasium.Env[Any, Any]) -> Array:
    """What the environment and the wrappers of its observations make of the present state, ``[O]``."""
    inner: Any = env.unwrapped
    obs = getattr(inner, observer(inner))()
    for wrapper in reversed(_wrappers(env)):
        if isinstance(wrapper, gymnasium.ObservationWrapper):
            obs = wrapper.observation(obs)
    return np.asarray(obs, dtype=np.float64).ravel()


def missing(env: gymnasium.Env[Any, Any]) -> list[str]:
    """The methods without which ``env`` cannot be put into a state and observed there."""
    inner: Any = env.unwrapped
    return [method for method in ("set_state", observer(inner)) if not hasattr(inner, method)]


def observer(env: Any) -> str:
    """The method that makes an observation of the present state: Gymnasium's name for it, or OGBench's."""
    return "get_ob" if hasattr(env, "get_ob") else "_get_obs"


def _wrappers(env: Any) -> list[Any]:
    """From the outside in."""
    found = []
    while isinstance(env, gymnasium.Wrapper):
        found.append(env)
        env = env.env
    return found


def restoring_of(env: gymnasium.Env[Any, Any], name: str) -> Restoring | str:
    """How the states of ``env`` are restored from observations; a reason where they cannot be."""
    inner: Any = env.unwrapped
    model = getattr(inner, "model", None)
    if not isinstance(model, mujoco.MjModel):
        return f"{name} does not run in MuJoCo, so its states cannot be set"
    if lacking := missing(env):
        return f"{name} has no method {' and '.join(lacking)}, so its states cannot be set"
    env.reset(seed=0)
    try:
        found = _matched(env)
        difference = _difference(env, found)
    except Exception as error:  # of code that is not ours
        return f"setting a state of {name} failed ({type(error).__name__}: {error})"
    return f"the observations of {name} do not determine its states ({difference})" if difference else found


def _matched(env: Any) -> Restoring:
    """The channels of the observation in which each entry of the state is found, by states that are set at random."""
    inner = env.unwrapped
    model, start = inner.model, inner.data.qpos.copy()
    state, obs = _set_at_random(env, start)
    index, shift, limit = np.full(state.shape[1], -1), np.zeros(state.shape[1]), np.full(state.shape[1], np.inf)
    angles = []
    for entry, values in enumerate(state.T):
        if copied := _copied(values, obs):
            index[entry], shift[entry], limit[entry] = copied
        elif entry < model.nq and (turned := _cosine_and_sine(values, obs)):
            angles.append((entry, *turned))
    resting = (getattr(inner, "init_qpos", start), getattr(inner, "init_qvel", np.zeros(model.nv)))
    initial = np.concatenate([np.asarray(part, dtype=np.float64) for part in resting])
    return Restoring(initial, index, shift, limit, tuple(angles), model.nq)


def _set_at_random(env: Any, start: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """States around ``start``, ``CALM`` slow and then ``WILD`` fast ones, and their observations."""
    model, rng = env.unwrapped.model, np.random.default_rng(0)
    states, seen = [], []
    for number in range(CALM + WILD):
        qpos = start.copy()
        mujoco.mj_integratePos(model, qpos, rng.normal(size=model.nv) * MOVED, 1.0)
        qvel = rng.normal(size=model.nv) * (CALM_SPEED if number < CALM else WILD_SPEED)
        set_state(env, qpos, qvel)
        states.append(np.concatenate([qpos, qvel]))
        seen.append(observation(env))
    return np.stack(states), np.stack(seen)


def _copied(values: NDArray[np.float64], obs: NDArray[np.float64]) -> tuple[int, float, float] | None:
    """The channel that is ``values`` plus a constant, the constant, and where fast states are clipped (else inf)."""
    calm = values[:CALM, None]
    constant = np.median(obs[:CALM] - calm, axis=0)
    columns = np.flatnonzero((np.abs(obs[:CALM] - calm - constant) <= SAME * (1 + np.abs(obs[:CALM]))).all(0))
    if not len(columns):
        return None
    column = int(columns[np.argmin(np.abs(constant[columns]))])
    shift = float(constant[column]) if abs(constant[column]) > SAME else 0.0
    wild, meant = obs[CALM:, column], values[CALM:] + shift
    clipped = np.abs(wild - meant) > SAME * (1 + np.abs(meant))
    return column, shift, float(np.abs(wild[clipped]).max()) if clipped.any() else np.inf


def _cosine_and_sine(values: NDArray[np.float64], obs: NDArray[np.float64]) -> tuple[int, int] | None:
    """The channels that are the cosine and the sine of ``values``."""
    cosines, sines = (
        np.flatnonzero((np.abs(obs[:CALM] - of(values[:CALM])[:, None]) <= SAME).all(0)) for of in (np.cos, np.sin)
    )
    return (int(cosines[0]), int(sines[0])) if len(cosines) and len(sines) else None


def _difference(env: Any, found: Restoring) -> str:
    """What of real rows does not come out the same from their restored states; empty where all does."""
    rows = []
    env.action_space.seed(0)
    for seed in range(EPISODES):
        obs, _ = env.reset(seed=seed)
        for _ in range(STEPS):
            action = env.action_space.sample()
            after, reward, terminated, truncated, _ = env.step(action)
            rows.append((*(np.array(seen, dtype=np.float64) for seen in (obs, after)), action, reward, terminated))
            if terminated or truncated:
                break
            obs = after
    shares, paid, ends = [], [], 0
    for obs, after, action, reward, terminated in reversed(rows):  # so that nothing is left of a row's own episode
        state, exact = found.state(obs)
        if not exact:
            continue
        set_state(env, state["qpos"], state["qvel"])
        if (np.abs(observation(env) - obs) > ROUNDING * (1 + np.abs(obs))).any():
            return "a restored state has another observation"
        again, again_paid, again_ended, _, _ = env.step(action)
        shares.append(np.abs(again - after).max() / max(np.abs(after - obs).max(), SMALLEST))
        paid.append(abs(float(again_paid) - float(reward)))
        ends += bool(again_ended) != bool(terminated)
    if not shares:
        return "all of them were clipped"
    usual = max(float(np.median([abs(float(row[3])) for row in rows])), SMALLEST)
    wrong = ["observation"] if max(shares) > RIGHT else []
    wrong += ["reward"] if np.quantile(paid, MOST) > RIGHT_REWARD * usual else []
    wrong += ["end"] if ends else []
    return f"a step from a restored state has another {' and another '.join(wrong)}" if wrong else ""
