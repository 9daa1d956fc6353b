"""D4RL's Franka kitchen: a robot arm, four things to do, a reward of 1 for each once.

The observation is D4RL's: robot joints [9], objects [21], goal [30], where the goal holds the joints that the tasks
want and 0 elsewhere. The simulator is Gymnasium-Robotics' ``FrankaKitchen-v1``.
"""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from pgd_lightning.simulators.robotics import robotics
from pgd_lightning.simulators.simulator import Array, State, checked

TASKS = {
    "kitchen": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
ROBOT_NOISE = 0.1  # of D4RL's readings, as a share of the amplitudes in the robot's description
DIFFERS = "kitchen's robot is Gymnasium-Robotics' Franka, whose controller and joints are not D4RL's"


class Kitchen:
    """One of ``TASKS``. The robot's controller goes by its last noisy reading, so no reset is exact."""

    differs: str | None = DIFFERS

    def __init__(self, name: str) -> None:
        self.env: Any = robotics(
            "franka_kitchen.kitchen_env",
            lambda module: module.KitchenEnv(tasks_to_complete=list(TASKS[name]), robot_noise_ratio=ROBOT_NOISE),
        )
        indices = robotics("franka_kitchen.kitchen_env", lambda module: module.OBS_ELEMENT_INDICES)
        self.env.reset(seed=0)
        self.model: Any = self.env.model
        self.data: Any = self.env.data
        self.goal = np.zeros(self.model.nq)
        for task, values in self.env.goal.items():
            self.goal[indices[task]] = values
        self.obs_dim, self.action_dim = 2 * self.model.nq, 9
        self.physics = f"mujoco {mujoco.__version__}, FrankaKitchen-v1 (not D4RL's robot)"

    def reset(self, seed: int) -> Array:
        return self._seen(self.env.reset(seed=seed % 2**32)[0])

    def step(self, action: Array) -> tuple[Array, float, bool]:
        obs, reward, terminated, _, _ = self.env.step(checked(action))
        return self._seen(obs), float(reward), bool(terminated)

    def state(self) -> State:
        return {"qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """As promised, except for the robot's last reading, which is taken anew; all tasks count as open again."""
        self.data.qacc_warmstart[:] = 0
        robot = self.env.robot_env
        robot.set_state(*(np.asarray(state[name], dtype=np.float64) for name in ("qpos", "qvel")))
        self.env.tasks_to_complete = set(self.env.goal)
        self.env.episode_task_completions.clear()
        return self._seen(self.env._get_obs(robot._get_obs()))

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        """Positions as seen, at rest. Never exact."""
        return {"qpos": obs[: self.model.nq], "qvel": np.zeros(self.model.nv)}, False

    def _seen(self, obs: dict[str, Array]) -> Array:
        seen = obs["observation"]
        return np.concatenate([seen[:9], seen[18 : 18 + self.model.nq - 9], self.goal])
