"""D4RL's Franka kitchen: a robot arm, four things to do, a reward of 1 for each once.

The observation is D4RL's: robot joints [9], objects [21], goal [30], where the goal holds the joints that the tasks
want and 0 elsewhere. Joints are read with D4RL's noise, and the robot's controller and the reward go by the reading.
Scene and robot are those of Gymnasium-Robotics' ``FrankaKitchen-v1``, which come from D4RL's; noise of the objects,
reward and end are D4RL's and computed here, because ``FrankaKitchen-v1`` judges tasks by the true joints.
"""

from collections.abc import Mapping
from typing import Any

import mujoco
import numpy as np

from pgd_lightning.errors import UserError
from pgd_lightning.simulators.physics import use_old_capsules
from pgd_lightning.simulators.robotics import robotics
from pgd_lightning.simulators.simulator import Array, Simulator, State, checked

TASKS = {
    "kitchen": ("microwave", "kettle", "light switch", "slide cabinet"),
    "kitchen-mixed": ("microwave", "kettle", "bottom burner", "light switch"),
}
ROBOT = 9  # joints
NOISE = 0.1  # of D4RL's readings, as a share of the amplitudes
OBJECT_AMPLITUDE = np.repeat([0.005, 0.0005, 0.005, 0.1, 0.005, 0.1, 0.005], [2, 6, 3, 3, 3, 3, 1])  # of 21 joints
NEAR = 0.3  # a task is done within this distance of its joints to the goal's
STAND = (0.12, 0.9)  # radius and half-length of what the robot stands on, which nothing touches in D4RL
DIFFERS = "kitchen's scene is Gymnasium-Robotics' copy of D4RL's, which no recording could be held against"


def goal_of(name: str) -> Array:
    """The goal ``[30]`` in the observations of one of ``TASKS``."""
    goal = np.zeros(ROBOT + len(OBJECT_AMPLITUDE))
    for joints, wanted in _elements(name).values():
        goal[joints] = wanted
    return goal


def _elements(name: str) -> dict[str, tuple[Any, Any]]:
    """``{task: (its joints, where they are wanted)}``."""
    return robotics(
        "franka_kitchen.kitchen_env",
        lambda module: {t: (module.OBS_ELEMENT_INDICES[t], module.OBS_ELEMENT_GOALS[t]) for t in TASKS[name]},
    )


class Kitchen(Simulator):
    """One of ``TASKS``."""

    independent = True
    differs: str | None = DIFFERS
    end_is_seen = False  # nor is it seen which tasks were done before

    def __init__(self, name: str, physics: str) -> None:
        try:
            env = robotics(
                "franka_kitchen.kitchen_env",
                lambda module: module.KitchenEnv(tasks_to_complete=list(TASKS[name]), robot_noise_ratio=NOISE),
            )
        except AssertionError as error:  # it compares a joint's type in a way that newer versions do not know
            raise UserError(
                f"gymnasium-robotics cannot build the kitchen with MuJoCo {mujoco.__version__}: pip install "
                "'mujoco<3.5'."
            ) from error
        self.robot: Any = env.robot_env
        self.model: Any = self.robot.model
        self.data: Any = self.robot.data
        self.physics = f"mujoco {mujoco.__version__}, FrankaKitchen-v1 (not held against D4RL's)"
        if physics == "d4rl":
            use_old_capsules(self.model, mujoco.MjSpec.from_file(self.robot.fullpath))
            self.physics += ", capsules as in D4RL's simulator"
        self.model.geom_contype[np.isclose(self.model.geom_size[:, :2], STAND).all(-1)] = 0
        self.joints = {task: joints for task, (joints, _) in _elements(name).items()}
        self.goal = goal_of(name)
        self.open = set(self.joints)
        self.obs_dim, self.action_dim = 2 * self.model.nq, ROBOT

    def reset(self, seed: int) -> Array:
        self.open = set(self.joints)
        self.robot.reset(seed=seed % 2**32)
        return self._obs()

    def step(self, action: Array) -> tuple[Array, float, bool]:
        self.robot.step(checked(action))
        obs = self._obs()
        done = {
            task for task in self.open if np.linalg.norm((obs[: self.model.nq] - self.goal)[self.joints[task]]) < NEAR
        }
        self.open -= done
        return obs, float(len(done)), not self.open

    def state(self) -> State:
        """Besides joints and speeds: ``reading [9]`` of the robot, by which it is steered, and ``open [4]`` tasks."""
        return {
            "qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy(),
            "reading": self.robot._last_robot_qpos.copy(),
            "open": np.array([float(task in self.open) for task in self.joints]),
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """As promised, but for the noise of what is read next. Without ``reading`` the robot is read anew; without
        ``open`` all tasks are open.
        """
        self.data.qacc_warmstart[:] = 0
        self.robot.set_state(*(np.asarray(state[name], dtype=np.float64) for name in ("qpos", "qvel")))
        self.robot._get_obs()
        if "reading" in state:
            self.robot._last_robot_qpos = np.array(state["reading"], dtype=np.float64)
        still = state.get("open", np.ones(len(self.joints)))
        self.open = {task for task, is_open in zip(self.joints, still, strict=True) if is_open}
        return self._obs()

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        """Positions as read, at rest. Never exact."""
        return {"qpos": obs[: self.model.nq], "qvel": np.zeros(self.model.nv), "reading": obs[:ROBOT]}, False

    def _obs(self) -> Array:
        noise = NOISE * OBJECT_AMPLITUDE * self.robot.np_random.uniform(-1, 1, len(OBJECT_AMPLITUDE))
        return np.concatenate([self.robot._last_robot_qpos, self.data.qpos[ROBOT:] + noise, self.goal])
