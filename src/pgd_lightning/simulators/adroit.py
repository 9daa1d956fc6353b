"""D4RL's Adroit: a hand that turns a pen, opens a door, swings a hammer or moves a ball.

Model and observations are those of Gymnasium-Robotics' ``AdroitHand*-v1``, which equal D4RL's. Rewards are D4RL's and
computed here, because the versions that install have the sign of the hand-to-object term turned (Gymnasium-Robotics
pull request 220). Pen ends where the pen falls below 0.075, as in D4RL. No joint velocity of the arm is in the
observation, so only recorded states (``infos``) can be reset exactly.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import least_squares

from pgd_lightning.errors import UserError
from pgd_lightning.simulators.robotics import robotics
from pgd_lightning.simulators.simulator import Array, Simulator, State, checked

DROPPED = 0.075  # height below which the pen has fallen


@dataclass(frozen=True)
class Place:
    """A part of the state that lies in the model and not in qpos: its name in ``infos`` and where it is kept."""

    name: str
    array: str  # of mujoco.MjModel
    kind: str  # body or site
    of: str
    also: str | None = None  # another name under which files carry it


@dataclass(frozen=True)
class View:
    """What the observation shows of the state."""

    joints: NDArray[np.int64]  # entries of qpos
    joints_seen: NDArray[np.int64]  # where they stand in the observation
    place: str  # the part outside qpos that it shows
    compared: slice  # entries that qpos and places alone decide
    speeds_seen: slice | None = None  # of the object, its last six dofs


@dataclass(frozen=True)
class Task:
    """What differs between the four."""

    env: str  # class in gymnasium_robotics.envs.adroit_hand
    places: tuple[Place, ...]
    reward: Callable[[Any], float]
    view: View


def _distance(*points: Array) -> float:
    return float(np.linalg.norm(points[0] - points[1]))


def _site(env: Any, name: str) -> Array:
    return env.data.site(name).xpos


def pen_reward(env: Any) -> float:
    """D4RL ``pen_v0``: close to the target place, turned as the target is, not dropped."""
    position = env.data.body("Object").xpos
    distance = _distance(position, _site(env, "eps_ball"))
    alike = float(
        (_site(env, "object_top") - _site(env, "object_bottom"))
        @ (_site(env, "target_top") - _site(env, "target_bottom"))
        / (env.pen_length * env.tar_length)
    )
    bonus = 10 * (distance < 0.075 and alike > 0.9) + 50 * (distance < 0.075 and alike > 0.95)
    return -distance + alike + bonus - 5 * bool(position[2] < DROPPED)


def door_reward(env: Any) -> float:
    """D4RL ``door_v0``: hand to handle, hinge to 90 degrees."""
    angle = float(env.data.joint("door_hinge").qpos[0])
    reach = _distance(_site(env, "S_grasp"), _site(env, "S_handle"))
    speed = float((env.data.qvel**2).sum())
    return -0.1 * reach - 0.1 * (angle - 1.57) ** 2 - 1e-5 * speed + 2 * (angle > 0.2) + 8 * (angle > 1) + 10 * (
        angle > 1.35
    )  # fmt: skip


def hammer_reward(env: Any) -> float:
    """D4RL ``hammer_v0``: hand to hammer, its head to the nail, the nail into the board."""
    hammer, head, nail = env.data.body("Object").xpos, _site(env, "tool"), _site(env, "S_target")
    left = _distance(nail, _site(env, "nail_goal"))
    cost = 0.1 * _distance(_site(env, "S_grasp"), hammer) + _distance(head, nail) + 10 * left
    lifted = bool(hammer[2] > 0.04 and head[2] > 0.04)
    return -cost - 1e-2 * float(np.linalg.norm(env.data.qvel)) + 2 * lifted + 25 * (left < 0.02) + 75 * (left < 0.01)


def relocate_reward(env: Any) -> float:
    """D4RL ``relocate_v0``: hand to ball, then both to the target."""
    ball, palm, target = env.data.body("Object").xpos, _site(env, "S_grasp"), _site(env, "target")
    distance = _distance(ball, target)
    reward = -0.1 * _distance(palm, ball)
    if ball[2] > 0.04:
        reward += 1 - 0.5 * _distance(palm, target) - 0.5 * distance
    return reward + 10 * (distance < 0.1) + 20 * (distance < 0.05)


FIRST = np.arange(30)
TASKS = {
    "pen": Task(
        "AdroitHandPenEnv", (Place("desired_orien", "body_quat", "body", "target"),), pen_reward,
        View(FIRST[:24], FIRST[:24], "desired_orien", slice(24, None), slice(27, 33)),
    ),
    "door": Task(
        "AdroitHandDoorEnv", (Place("door_body_pos", "body_pos", "body", "frame"),), door_reward,
        View(np.r_[1:28, 29, 28], np.r_[:27, 27, 28], "door_body_pos", slice(27, 38)),
    ),
    "hammer": Task(
        "AdroitHandHammerEnv", (Place("board_pos", "body_pos", "body", "nail_board"),), hammer_reward,
        View(FIRST[:27], FIRST[:27], "board_pos", slice(33, 45), slice(27, 33)),
    ),
    "relocate": Task(
        "AdroitHandRelocateEnv",
        (
            Place("obj_body_pos", "body_pos", "body", "Object", also="obj_pos"),
            Place("target_pos", "site_pos", "site", "target"),
        ),
        relocate_reward,
        View(FIRST, FIRST, "target_pos", slice(30, None)),
    ),
}  # fmt: skip


class Adroit(Simulator):
    """One of ``TASKS``."""

    independent = True
    end_is_seen = True

    def __init__(self, task: str) -> None:
        self.env: Any = robotics("adroit_hand", lambda module: getattr(module, TASKS[task].env)())
        self.env.reset(seed=0)  # measures the pen
        self.name, self.task = task, TASKS[task]
        self.model: Any = self.env.model
        self.data: Any = self.env.data
        self.obs_dim, self.action_dim = int(self.env.observation_space.shape[0]), int(self.model.nu)
        self.physics = f"mujoco {mujoco.__version__}, {self.task.env.removesuffix('Env')}, D4RL's rewards"

    def reset(self, seed: int) -> Array:
        return self.env.reset(seed=seed % 2**32)[0]

    def step(self, action: Array) -> tuple[Array, float, bool]:
        obs = self.env.step(checked(action))[0]
        return obs, float(self.task.reward(self.env)), bool(self.ended())

    def ended(self) -> bool | None:
        """Whether the pen is dropped."""
        return bool(self.data.body("Object").xpos[2] < DROPPED) if self.name == "pen" else None

    def state(self) -> State:
        return {
            "qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy(),
            **{place.name: self._kept(place).copy() for place in self.task.places},
        }  # fmt: skip

    def set_state(self, state: Mapping[str, Array]) -> Array:
        """As promised. Relocate's files have ``obj_pos``: in an episode's first row the place of the ball's body."""
        self._put_places(state)
        self.data.qacc_warmstart[:] = 0
        self.env.set_state(*(np.asarray(state[name], dtype=np.float64) for name in ("qpos", "qvel")))
        return self.env._get_obs()

    def _put_places(self, state: Mapping[str, Array]) -> None:
        for place in self.task.places:
            known = [name for name in (place.name, place.also) if name and name in state]
            if not known:
                raise UserError(f"A state of {self.name} has no {place.name}, without which it cannot be set.")
            self._kept(place)[:] = state[known[0]]

    def _kept(self, place: Place) -> Array:
        owner = getattr(self.model, place.kind)(place.of).id
        return getattr(self.model, place.array)[owner]

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        """A state that looks like ``obs``, at rest where no velocity is seen. Never exact.

        What the observation gives of the joints is copied; the rest, and what lies in the model, is found by least
        squares on the observation. Difference from the workshop version of Policy-Guided Diffusion (appendix B), for
        pen: hidden velocities are 0 there only for what it does not take from finite differences of two rows.
        """
        view = self.task.view
        qpos, qvel = np.zeros(self.model.nq), np.zeros(self.model.nv)
        qpos[view.joints] = obs[view.joints_seen]
        if view.speeds_seen is not None:
            qvel[-6:] = obs[view.speeds_seen]
        hidden = np.setdiff1d(np.arange(self.model.nq), view.joints)

        def candidate(unknown: Array) -> State:
            qpos[hidden] = unknown[: len(hidden)]
            place = unknown[len(hidden) :]
            found = {view.place: place if view.place != "desired_orien" else _quaternion(place)}
            rest = {place.name: self._kept(place).copy() for place in self.task.places if place.name not in found}
            return {"qpos": qpos.copy(), "qvel": qvel, **rest, **found}

        def difference(unknown: Array) -> Array:
            state = candidate(unknown)
            self._put_places(state)
            self.data.qpos[:] = state["qpos"]
            mujoco.mj_kinematics(self.model, self.data)
            return (self.env._get_obs() - obs)[view.compared]

        solved = least_squares(difference, np.zeros(len(hidden) + 3), method="lm", max_nfev=300)
        return candidate(solved.x), False


def _quaternion(turn: Array) -> Array:
    """Of a rotation by ``|turn|`` about ``turn [3]``."""
    angle, quaternion = float(np.linalg.norm(turn)), np.zeros(4)
    mujoco.mju_axisAngle2Quat(quaternion, turn / max(angle, 1e-12), angle)
    return quaternion
