"""Hopper, HalfCheetah, Walker2d and Ant as D4RL's v2 data sets know them, on Gymnasium's v5 environments.

Held against Gymnasium's v4 bit for bit: v5 withholds the healthy reward of 1 at the terminal step, which D4RL pays;
Walker2d's default v5 model has other feet; the control cost is that of the clipped action, because D4RL clips first.
Ant's observation has 84 contact forces after its 27 values, zero in the simulator that D4RL used.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import gymnasium
import mujoco
import numpy as np

from pgd_lightning.simulators.physics import use_old_capsules
from pgd_lightning.simulators.simulator import Array, State, checked


@dataclass(frozen=True)
class Body:
    """How Gymnasium's environment becomes D4RL's."""

    env_id: str
    root: int  # leading entries of qpos that the observation leaves out
    healthy_reward: float  # paid by D4RL at the terminal step too
    clipped_velocity: bool  # the observation clips qvel to +-10
    contact_zeros: int = 0
    arguments: dict[str, Any] = field(default_factory=dict)


BODIES = {
    "hopper": Body("Hopper-v5", 1, 1.0, True),
    "halfcheetah": Body("HalfCheetah-v5", 1, 0.0, False),
    "walker2d": Body("Walker2d-v5", 1, 1.0, True, arguments={"xml_file": "walker2d.xml"}),
    "ant": Body("Ant-v5", 2, 1.0, False, 84, {"include_cfrc_ext_in_observation": False, "contact_cost_weight": 0.0}),
}
VELOCITY_CLIP = 10.0


class Locomotion:
    """One of ``BODIES``, with today's inertia of capsules or D4RL's (see :mod:`pgd_lightning.simulators.physics`)."""

    differs: str | None = None
    end_is_seen = True

    def __init__(self, task: str, physics: str) -> None:
        self.body = BODIES[task]
        self.env: Any = gymnasium.make(self.body.env_id, **self.body.arguments).unwrapped
        obs, _ = self.env.reset(seed=0)
        self.model: Any = self.env.model  # type: ignore[attr-defined]
        self.data: Any = self.env.data  # type: ignore[attr-defined]
        self.obs_dim = len(self._padded(obs))
        self.action_dim = int(self.model.nu)
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

    def state(self) -> State:
        return {"qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        # A warm start left over from another state would change the contact solver's answer.
        self.data.qacc_warmstart[:] = 0
        self.env.set_state(*(np.asarray(state[name], dtype=np.float64) for name in ("qpos", "qvel")))
        return self._padded(self.env._get_obs())

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        known = self.model.nq - self.body.root
        qpos = np.concatenate([np.zeros(self.body.root), obs[:known]])
        qvel = obs[known : known + self.model.nv]
        exact = not (self.body.clipped_velocity and np.abs(qvel).max() >= VELOCITY_CLIP)
        return {"qpos": qpos, "qvel": qvel}, exact

    def _padded(self, obs: Array) -> Array:
        return np.concatenate([obs, np.zeros(self.body.contact_zeros)])
