"""What each number of an observation and of an action is called, with its unit, and which of them tell most.

Joints have the names of their MuJoCo models. What else an observation holds is named as the environments' documentation
names it: Gymnasium's for the four bodies, Gymnasium-Robotics' for Adroit and the kitchen, D4RL's for the mazes. Actions
lie in [-1, 1] and are shares of what the actuator can do.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from pgd_lightning.environment import EnvSpec

XYZ, WXYZ = ("x", "y", "z"), ("w", "x", "y", "z")
BOX = "[-1 to 1]"

LEG = {"thigh_joint": "thigh joint", "leg_joint": "leg joint", "foot_joint": "foot joint"}
LEFT_LEG = {
    "thigh_left_joint": "left thigh joint",
    "leg_left_joint": "left leg joint",
    "foot_left_joint": "left foot joint",
}
CHEETAH = {
    "bthigh": "back thigh", "bshin": "back shin", "bfoot": "back foot",
    "fthigh": "front thigh", "fshin": "front shin", "ffoot": "front foot",
}  # fmt: skip
ANT = {f"{joint}_{leg}": f"{joint} {leg}" for leg in range(1, 5) for joint in ("hip", "ankle")}
ANT_MOTORS = [f"{joint}_{leg}" for leg in (4, 1, 2, 3) for joint in ("hip", "ankle")]
ANT_BODIES = ["world", "torso", *(f"{part} {leg}" for leg in range(1, 5) for part in ("leg", "thigh", "shin"))]
WRIST = {"WRJ1": "wrist horizontal", "WRJ0": "wrist vertical"}
FINGERS = {"FF": "forefinger", "MF": "middle finger", "RF": "ring finger", "LF": "little finger"}
PHALANGES = {"J3": "MCP horizontal", "J2": "MCP vertical", "J1": "PIP", "J0": "DIP"}
THUMB = {
    "THJ4": "thumb CMC horizontal", "THJ3": "thumb CMC vertical", "THJ2": "thumb MCP horizontal",
    "THJ1": "thumb MCP vertical", "THJ0": "thumb IP",
}  # fmt: skip
HAND = {
    **WRIST,
    **{
        f"{short}{place}": f"{finger} {joint}"
        for short, finger in FINGERS.items()
        for place, joint in (({"J4": "CMC"} if short == "LF" else {}) | PHALANGES).items()
    },
    **THUMB,
}
SHIFTS = {f"ART{axis}": f"arm {axis}" for axis in XYZ}
TURNS = {"ARRx": "arm vertical", "ARRy": "arm horizontal", "ARRz": "arm roll"}
PANDA = {f"panda0_joint{number}": f"arm joint {number}" for number in range(1, 8)}
GRIPPER = {"panda0_finger_joint1": "right finger", "panda0_finger_joint2": "left finger"}
STOVE = {
    joint: name
    for number, burner in enumerate(("bottom right", "bottom left", "top right", "top left"), 1)
    for joint, name in (
        (f"knob_Joint_{number}", f"{burner} knob angle [rad]"),
        (f"{burner.replace(' ', '_')}_burner", f"{burner} burner [m]"),
    )
}
SCENE = {
    **STOVE,
    "light_switch": "light switch angle [rad]", "light_joint": "light [m]", "slide_cabinet": "slide cabinet [m]",
    "left_hinge_cabinet": "left cabinet door angle [rad]", "right_hinge_cabinet": "right cabinet door angle [rad]",
    "microwave": "microwave door angle [rad]",
}  # fmt: skip


@dataclass(frozen=True)
class Channels:
    """Names of a task's observation and action dims, each once."""

    obs: tuple[str, ...]  # [O]
    action: tuple[str, ...]  # [A]
    telling: tuple[str, ...]  # observations that show most of what happens

    @property
    def drawn(self) -> list[tuple[str, int, str]]:
        """What a figure of trajectories draws: ``("obs" or "action", dim, name)``, the first action last."""
        return [*(("obs", self.obs.index(name), name) for name in self.telling), ("action", 0, self.action[0])]


def channels_of(env: EnvSpec) -> Channels:
    """The names of an environment's dims: of D4RL's tasks :func:`channels`, of all others numbers from 0."""
    if env.simulated and not env.registered:
        return channels(env.task)
    obs = tuple(f"observation {dim}" for dim in range(env.obs_dim))
    return Channels(obs, tuple(f"action {dim} {BOX}" for dim in range(env.action_dim)), obs[:4])


def channels(task: str) -> Channels:
    """The names of one of ``simulators.TASKS``; ``maze2d`` and the like stand for every maze of the family."""
    for family, named in FAMILIES.items():
        if task.startswith(family):
            return named()
    raise KeyError(task)


def _angles(joints: Iterable[str]) -> list[str]:
    return [f"{joint} angle [rad]" for joint in joints]


def _speeds(joints: Iterable[str]) -> list[str]:
    return [f"{joint} velocity [rad/s]" for joint in joints]


def _along(what: str, unit: str) -> list[str]:
    return [f"{what} {axis} [{unit}]" for axis in XYZ]


def _commands(joints: Iterable[str], what: str) -> tuple[str, ...]:
    return tuple(f"{joint} {what} {BOX}" for joint in joints)


def _runner(joints: dict[str, str]) -> Channels:
    """hopper, halfcheetah, walker2d: a torso in a plane, then joints."""
    names = list(joints.values())
    return Channels(
        (
            "torso height [m]", "torso angle [rad]", *_angles(names),
            "forward velocity [m/s]", "vertical velocity [m/s]", "torso angular velocity [rad/s]", *_speeds(names),
        ),
        _commands(names, "torque"),
        ("torso height [m]", "torso angle [rad]", "forward velocity [m/s]", f"{names[-1]} angle [rad]"),
    )  # fmt: skip


def _ant_state(joints: Iterable[str]) -> list[str]:
    names = list(joints)
    return [
        "torso height [m]", *(f"torso quaternion {part} [1]" for part in WXYZ), *_angles(names),
        *(f"torso velocity {axis} [m/s]" for axis in XYZ), *(f"torso angular velocity {axis} [rad/s]" for axis in XYZ),
        *_speeds(names),
    ]  # fmt: skip


def _ant() -> Channels:
    contacts = (
        f"{body} contact {what} {axis} [{unit}]"
        for body in ANT_BODIES
        for what, unit in (("torque", "N m"), ("force", "N"))
        for axis in XYZ
    )
    return Channels(
        (*_ant_state(ANT.values()), *contacts),
        _commands((ANT[joint] for joint in ANT_MOTORS), "torque"),
        ("torso height [m]", "torso velocity x [m/s]", "hip 1 angle [rad]", "ankle 1 angle [rad]"),
    )


def _antmaze() -> Channels:
    return Channels(
        ("torso x [m]", "torso y [m]", *_ant_state(ANT.values())),
        _commands((ANT[joint] for joint in ANT_MOTORS), "torque"),
        ("torso x [m]", "torso y [m]", "torso height [m]", "hip 1 angle [rad]"),
    )


def _maze() -> Channels:
    obs = ("ball x [m]", "ball y [m]", "ball velocity x [m/s]", "ball velocity y [m/s]")
    return Channels(obs, _commands(("ball x", "ball y"), "force"), obs)


def _pen() -> Channels:
    return Channels(
        (
            *_angles(HAND.values()), *_along("pen", "m"), *_along("pen velocity", "m/s"),
            *_along("pen angular velocity", "rad/s"), *_along("pen direction", "1"), *_along("target direction", "1"),
            *_along("pen to target", "m"), *_along("pen direction to target", "1"),
        ),
        _commands(HAND.values(), "target"),
        ("pen z [m]", "pen direction to target x [1]", "pen direction to target z [1]", "forefinger PIP angle [rad]"),
    )  # fmt: skip


def _door() -> Channels:
    joints = (*TURNS.values(), *HAND.values())
    return Channels(
        (
            *_angles(joints), "latch angle [rad]", "door hinge angle [rad]", *_along("palm", "m"),
            *_along("handle", "m"), *_along("handle to palm", "m"), "door open [-1 or 1]",
        ),
        _commands((SHIFTS["ARTz"], *joints), "target"),
        ("door hinge angle [rad]", "latch angle [rad]", "handle to palm x [m]", "forefinger PIP angle [rad]"),
    )  # fmt: skip


def _hammer() -> Channels:
    joints = (TURNS["ARRx"], TURNS["ARRy"], *HAND.values())
    return Channels(
        (
            *_angles(joints), "nail depth [m]", *_along("hammer velocity", "m/s"),
            *_along("hammer angular velocity", "rad/s"), *_along("palm", "m"), *_along("hammer", "m"),
            *_along("hammer rotation", "rad"), *_along("nail", "m"), "nail force [N]",
        ),
        _commands(joints, "target"),
        ("nail depth [m]", "hammer z [m]", "palm z [m]", "forefinger PIP angle [rad]"),
    )  # fmt: skip


def _relocate() -> Channels:
    shifts, joints = SHIFTS.values(), (*TURNS.values(), *HAND.values())
    return Channels(
        (
            *(f"{shift} [m]" for shift in shifts), *_angles(joints), *_along("ball to palm", "m"),
            *_along("target to palm", "m"), *_along("target to ball", "m"),
        ),
        _commands((*shifts, *joints), "target"),
        ("ball to palm z [m]", "target to ball x [m]", "target to ball z [m]", "forefinger PIP angle [rad]"),
    )  # fmt: skip


def _kitchen() -> Channels:
    seen = [
        *_angles(PANDA.values()), *(f"{finger} [m]" for finger in GRIPPER.values()), *SCENE.values(),
        *_along("kettle", "m"), *(f"kettle quaternion {part} [1]" for part in WXYZ),
    ]  # fmt: skip
    return Channels(
        (*seen, *(f"goal: {name}" for name in seen)),
        _commands((*PANDA.values(), *GRIPPER.values()), "velocity"),
        ("microwave door angle [rad]", "kettle x [m]", "slide cabinet [m]", "arm joint 4 angle [rad]"),
    )


FAMILIES: dict[str, Callable[[], Channels]] = {
    "hopper": lambda: _runner(LEG),
    "halfcheetah": lambda: _runner(CHEETAH),
    "walker2d": lambda: _runner(LEG | LEFT_LEG),
    "antmaze": _antmaze,
    "ant": _ant,
    "maze2d": _maze,
    "pen": _pen,
    "door": _door,
    "hammer": _hammer,
    "relocate": _relocate,
    "kitchen": _kitchen,
}
