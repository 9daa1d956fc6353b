"""D4RL's AntMaze: an ant that has to reach a place in a maze; the reward is 1 there, and the episode over.

The observation is qpos [15] then qvel [14], positions first. D4RL's ant (``d4rl/locomotion/assets/ant.xml``) has
Gymnasium's body, but 0.1 s an action, torques up to 30 and softer contacts; its capsules have their old inertia under
``physics=d4rl``. Cells of 4 units, rows along +y, the start is the origin. Goal, as in D4RL's v2: a new point at every
reset, from the middle of the goal's cell uniformly up to 1 and again up to 0.5 units further in x and y.
"""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators.maze import MAZES, WholeState
from pgd_lightning.simulators.physics import use_old_capsules
from pgd_lightning.simulators.simulator import Array, checked

ANT = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets" / "ant.xml"
CELL, HEIGHT = 4.0, 2.0  # units; a wall's height
START = (1, 1)
GOALS = {"umaze": (3, 1), "medium": (6, 6), "large": (7, 9)}
GOAL_SPREADS = (CELL / 4, CELL / 8)
GOAL_RADIUS = 0.5
TIME_STEP, SUB_STEPS = 0.02, 5
TORQUE = 30.0
DIFFERS = "AntMaze is rebuilt from what is known of D4RL's ant and maze; no recording could be held against it"
SOFT_CONTACT = (0.8, 0.8, 0.01, 0.5, 2.0)  # solimp; MuJoCo's own is 0.9, 0.95, 0.001, 0.5, 2


class AntMaze(WholeState):
    """One of ``GOALS``."""

    independent = True
    differs: str | None = DIFFERS
    end_is_seen = False  # the goal is no part of an observation

    def __init__(self, name: str, physics: str) -> None:
        spec = mujoco.MjSpec.from_file(str(ANT))
        spec.option.timestep = TIME_STEP
        for motor in spec.actuators:
            motor.gear = [1, 0, 0, 0, 0, 0]
            motor.ctrlrange = [-TORQUE, TORQUE]
        for row, line in enumerate(MAZES[name]):
            for column, letter in enumerate(line):
                if letter == "#":
                    x, y = _place(row, column)
                    spec.worldbody.add_geom(
                        type=mujoco.mjtGeom.mjGEOM_BOX, pos=[x, y, HEIGHT / 2], contype=1, conaffinity=1,
                        size=[CELL / 2, CELL / 2, HEIGHT / 2],
                    )  # fmt: skip
        for geom in spec.geoms:
            geom.solimp = SOFT_CONTACT
        self.model = spec.compile()
        self.physics = f"mujoco {mujoco.__version__}, antmaze-{name} (not held against D4RL's)"
        if physics == "d4rl":
            use_old_capsules(self.model, spec)
            self.physics += ", capsules as in D4RL's simulator"
        self.data = mujoco.MjData(self.model)
        self.middle = np.array(_place(*GOALS[name]))
        self.goal: Array = self.middle
        self.obs_dim, self.action_dim = self.model.nq + self.model.nv, int(self.model.nu)

    def reset(self, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        self.goal = self.middle + sum(rng.uniform(0, spread, 2) for spread in GOAL_SPREADS)
        mujoco.mj_resetData(self.model, self.data)
        qpos = self.model.qpos0 + rng.uniform(-0.1, 0.1, self.model.nq)
        mujoco.mj_normalizeQuat(self.model, qpos)  # MuJoCo did so itself in D4RL's time
        return self.set_state({"qpos": qpos, "qvel": 0.1 * rng.standard_normal(self.model.nv)})

    def step(self, action: Array) -> tuple[Array, float, bool]:
        self.data.ctrl[:] = TORQUE * checked(action)
        mujoco.mj_step(self.model, self.data, SUB_STEPS)
        reached = bool(np.linalg.norm(self.data.qpos[:2] - self.goal) <= GOAL_RADIUS)
        return self._obs(), float(reached), reached


def cells_of(position: Array) -> NDArray[np.int64]:
    """Cells (row, column) of positions ``[..., 2]``."""
    return np.rint(position[..., ::-1] / CELL + np.array(START)).astype(np.int64)


def _place(row: int, column: int) -> tuple[float, float]:
    """Middle of a cell; the start is the origin."""
    return CELL * (column - START[1]), CELL * (row - START[0])
