"""Hopper, HalfCheetah, Walker2d and Ant as D4RL's v2 datasets know them, on Gymnasium's v5 environments.

Held against Gymnasium's v4 bit for bit: v5 withholds the healthy reward of 1 at the terminal step, which D4RL pays;
Walker2d's default v5 model has other feet; the control cost is that of the clipped action, because D4RL clips first.
Ant's observation has 84 contact forces after its 27 values, zero in the simulator that D4RL used.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators.physics import use_old_capsules
from pgd_lightning.simulators.simulator import Array, Batched, State, checked

Healthy = Callable[[Any, Array, Array], NDArray[np.bool_]]
"""``(environment, qpos [N, nq], qvel [N, nv]) -> [N]``"""


def _between(values: Array, limits: tuple[float, float]) -> NDArray[np.bool_]:
    return (limits[0] < values) & (values < limits[1])


def _walker_is_healthy(env: Any, qpos: Array, qvel: Array) -> NDArray[np.bool_]:
    return _between(qpos[:, 1], env._healthy_z_range) & _between(qpos[:, 2], env._healthy_angle_range)


def _hopper_is_healthy(env: Any, qpos: Array, qvel: Array) -> NDArray[np.bool_]:
    state = np.concatenate([qpos[:, 2:], qvel], axis=-1)
    return _walker_is_healthy(env, qpos, qvel) & _between(state, env._healthy_state_range).all(-1)


def _ant_is_healthy(env: Any, qpos: Array, qvel: Array) -> NDArray[np.bool_]:
    low, high = env._healthy_z_range
    finite = np.isfinite(qpos).all(-1) & np.isfinite(qvel).all(-1)
    return finite & (low <= qpos[:, 2]) & (qpos[:, 2] <= high)


@dataclass(frozen=True)
class Body:
    """How Gymnasium's environment becomes D4RL's."""

    env_id: str
    root: int  # leading entries of qpos that the observation leaves out
    healthy_reward: float  # paid by D4RL at the terminal step too
    clipped_velocity: bool  # the observation clips qvel to +-10
    healthy: Healthy | None  # the environment's is_healthy for arrays
    torso: tuple[int, ...] | None = None  # index into xpos of the place whose change is paid; None: qpos[0]
    contact_zeros: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)


BODIES = {
    "hopper": Body("Hopper-v5", 1, 1.0, True, _hopper_is_healthy),
    "halfcheetah": Body("HalfCheetah-v5", 1, 0.0, False, None),
    "walker2d": Body("Walker2d-v5", 1, 1.0, True, _walker_is_healthy, arguments={"xml_file": "walker2d.xml"}),
    "ant": Body(
        "Ant-v5", 2, 1.0, False, _ant_is_healthy, (1, 0), 84,
        {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0},
    ),
}  # fmt: skip
VELOCITY_CLIP = 10.0


class Locomotion(Batched):
    """One of ``BODIES``, with today's inertia of capsules or D4RL's (see :mod:`pgd_lightning.simulators.physics`)."""

    end_is_seen = True

    def __init__(self, task: str, physics: str) -> None:
        self.body = BODIES[task]
        self.env: Any = gymnasium.make(self.body.env_id, **self.body.arguments).unwrapped
        obs, _ = self.env.reset(seed=0)
        self.model: Any = self.env.model  # type: ignore[attr-defined]
        self.data: Any = self.env.data  # type: ignore[attr-defined]
        self.obs_dim = len(self._padded(obs))
        self.action_dim = int(self.model.nu)
        self.substeps = int(self.env.frame_skip)  # type: ignore[attr-defined]
        self.root = self.body.torso
        self.physics = f"mujoco {mujoco.__version__}, {self.body.env_id}"
        if physics == "d4rl":
            use_old_capsules(self.model, mujoco.MjSpec.from_file(self.env.fullpath))  # type: ignore[attr-defined]
            self.physics += ", capsules as in D4RL's simulator"

    def reset(self, seed: int) -> Array:
        return self._padded(self.env.reset(seed=seed % 2**32)[0])

    def step(self, action: Array) -> tuple[Array, float, bool]:
        obs, reward, terminated, _, _ = self.env.step(checked(action))
        return self._padded(obs), float(reward) + self.body.healthy_reward * terminated, bool(terminated)

    def ended(self) -> bool | None:
        healthy = getattr(self.env, "is_healthy", None)
        return None if healthy is None else not healthy

    def set_state(self, state: Mapping[str, Array]) -> Array:
        # A warm start left over from another state would change the contact solver's answer.
        self.data.qacc_warmstart[:] = 0
        self.env.set_state(*(np.asarray(state[name], dtype=np.float64) for name in ("qpos", "qvel")))
        return self._padded(self.env._get_obs())

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        qpos, qvel, exact = self.states_from_obs(obs[None])
        return {"qpos": qpos[0], "qvel": qvel[0]}, bool(exact[0])

    def states_from_obs(self, obs: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        known = self.model.nq - self.body.root
        qpos = np.concatenate([np.zeros((len(obs), self.body.root)), obs[:, :known]], axis=-1)
        qvel = obs[:, known : known + self.model.nv]
        clipped = np.abs(qvel).max(-1) >= VELOCITY_CLIP
        return qpos, qvel, ~(clipped & self.body.clipped_velocity)

    def entered(self, qvel: Array) -> Array:
        return qvel

    def seen(self, qpos: Array, qvel: Array) -> Array:
        if self.body.clipped_velocity:
            qvel = np.clip(qvel, -VELOCITY_CLIP, VELOCITY_CLIP)
        return np.concatenate([qpos[:, self.body.root :], qvel, np.zeros((len(qpos), self.body.contact_zeros))], -1)

    def over(self, qpos: Array, qvel: Array) -> Array:
        if self.body.healthy is None:
            return np.full(len(qpos), np.nan)
        return (~self.body.healthy(self.env, qpos, qvel)).astype(np.float64)

    def outcome(self, moved: Array, qpos: Array, qvel: Array, action: Array) -> tuple[Array, NDArray[np.bool_]]:
        """In the environment's own order of operations, and with its rounding."""
        terminated = self.over(qpos, qvel) == 1
        survived = self.body.healthy_reward * ~terminated
        forward = self.env._forward_reward_weight * (moved / self.env.dt)
        reward = (forward + survived) - self.env._ctrl_cost_weight * np.square(action).sum(-1)
        return reward + self.body.healthy_reward * terminated, terminated

    def _padded(self, obs: Array) -> Array:
        return np.concatenate([obs, np.zeros(self.body.contact_zeros)])
