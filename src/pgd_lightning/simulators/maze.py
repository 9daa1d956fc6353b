"""D4RL's maze2d in D4RL's own frame: a ball on a plane, pushed by two motors, one fixed goal, no end.

Position (p, q) counts from the ball's place in the model, 0.2 off the centre of cell (1, 1), so the centre of cell
(i, j) lies at (i - 0.2, j - 0.2), and D4RL's goals and starts on whole numbers lie 0.2 off the centres.
"""

from collections.abc import Mapping

import mujoco
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators.simulator import Array, Batched, Simulator, State, checked

MAZES = {
    "umaze": ("#####", "#...#", "###.#", "#...#", "#####"),
    "medium": ("########", "#..##..#", "#..#...#", "##...###", "#..#...#", "#.#..#.#", "#...#..#", "########"),
    "large": (
        "############",
        "#....#.....#",
        "#.##.#.#.#.#",
        "#......#...#",
        "#.####.###.#",
        "#..#.#.....#",
        "##.#.#.#.###",
        "#..#...#...#",
        "############",
    ),
}
GOALS = {"umaze": (1.0, 1.0), "medium": (6.0, 6.0), "large": (7.0, 9.0)}
OFF_CENTRE = 0.2  # of a cell: how far the whole numbers lie off its centre
GOAL_RADIUS = 0.5
MAX_SPEED = 5.0
RESET_SPREAD, RESET_SPEED = 0.1, 0.1

MODEL = """
<mujoco>
  <compiler inertiafromgeom="true" angle="radian" coordinate="local"/>
  <option timestep="0.01" gravity="0 0 0" iterations="20" integrator="Euler"/>
  <default>
    <joint damping="1" limited="false"/>
    <geom friction=".5 .1 .1" density="1000" margin="0.002" condim="1" contype="2" conaffinity="1"/>
  </default>
  <worldbody>
    <light pos="3 4 12" dir="0 0 -1"/>
    <body name="particle" pos="1.2 1.2 0">
      <geom name="particle_geom" type="sphere" size="0.1" rgba="0 0 1 1" contype="1"/>
      <joint name="ball_x" type="slide" pos="0 0 0" axis="1 0 0"/>
      <joint name="ball_y" type="slide" pos="0 0 0" axis="0 1 0"/>
    </body>
    {walls}
  </worldbody>
  <actuator>
    <motor joint="ball_x" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
    <motor joint="ball_y" ctrlrange="-1 1" ctrllimited="true" gear="100"/>
  </actuator>
</mujoco>
"""
WALL = '<geom type="box" pos="{x} {y} 0" size="0.5 0.5 0.2" rgba="0.6 0.6 0.6 1"/>'


def free_cells(name: str) -> NDArray[np.int64]:
    """Cells without a wall, ``[cells, 2]`` (row, column)."""
    return np.argwhere(np.array([list(row) for row in MAZES[name]]) == ".")


def cells_of(position: Array) -> NDArray[np.int64]:
    """Cells (row, column) of positions ``[..., 2]``."""
    return np.rint(position + OFF_CENTRE).astype(np.int64)


def in_wall(name: str, cell: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether cells ``[N, 2]`` are walls of the maze or lie outside of it: ``[N]``."""
    walls = np.array([list(row) for row in MAZES[name]]) == "#"
    inside = ((cell >= 0) & (cell < walls.shape)).all(-1)
    return ~inside | walls[tuple(np.where(inside[:, None], cell, 0).T)]


def reward_of(position: Array, goal: Array, dense: bool) -> Array:
    """1 within the goal's radius, or exp(-distance): ``[..., 2] -> [...]``."""
    distance = np.linalg.norm(position - goal, axis=-1)
    return np.exp(-distance) if dense else (distance <= GOAL_RADIUS).astype(np.float64)


class WholeState(Simulator):
    """A simulator whose observation is (qpos, qvel), the whole state."""

    def set_state(self, state: Mapping[str, Array]) -> Array:
        self.data.qacc_warmstart[:] = 0
        self.data.qpos[:], self.data.qvel[:] = state["qpos"], state["qvel"]
        mujoco.mj_forward(self.model, self.data)
        return self._obs()

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        return {"qpos": obs[: self.model.nq], "qvel": obs[self.model.nq :]}, True

    def _obs(self) -> Array:
        return np.concatenate([self.data.qpos, self.data.qvel])


class Maze(WholeState, Batched):
    """One of ``MAZES``."""

    end_is_seen = True  # there is none
    substeps = 1
    root = None

    def __init__(self, name: str, dense: bool) -> None:
        walls = np.argwhere(np.array([list(row) for row in MAZES[name]]) == "#") + 1.0
        self.model = mujoco.MjModel.from_xml_string(
            MODEL.format(walls="\n    ".join(WALL.format(x=x, y=y) for x, y in walls))
        )
        self.data = mujoco.MjData(self.model)
        self.goal, self.dense, self.cells = np.array(GOALS[name]), dense, free_cells(name)
        self.obs_dim, self.action_dim = 4, 2
        self.physics = f"mujoco {mujoco.__version__}, maze2d-{name}"

    def reset(self, seed: int) -> Array:
        rng = np.random.default_rng(seed)
        cell = self.cells[rng.integers(len(self.cells))]
        mujoco.mj_resetData(self.model, self.data)
        place, speed = cell + rng.uniform(-RESET_SPREAD, RESET_SPREAD, 2), rng.normal(0, RESET_SPEED, 2)
        return self.set_state({"qpos": place, "qvel": speed})

    def step(self, action: Array) -> tuple[Array, float, bool]:
        self.data.qvel[:] = np.clip(self.data.qvel, -MAX_SPEED, MAX_SPEED)
        self.data.ctrl[:] = checked(action)
        mujoco.mj_step(self.model, self.data)
        obs = self._obs()
        return obs, float(reward_of(obs[:2], self.goal, self.dense)), False

    def states_from_obs(self, obs: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
        return obs[:, :2], obs[:, 2:], np.ones(len(obs), dtype=bool)

    def entered(self, qvel: Array) -> Array:
        return np.clip(qvel, -MAX_SPEED, MAX_SPEED)

    def seen(self, qpos: Array, qvel: Array) -> Array:
        return np.concatenate([qpos, qvel], axis=-1)

    def over(self, qpos: Array, qvel: Array) -> Array:
        return np.full(len(qpos), np.nan)

    def outcome(self, moved: Array, qpos: Array, qvel: Array, action: Array) -> tuple[Array, NDArray[np.bool_]]:
        return reward_of(qpos, self.goal, self.dense), np.zeros(len(qpos), dtype=bool)
