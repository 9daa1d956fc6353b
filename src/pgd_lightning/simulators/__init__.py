"""D4RL's environments on today's MuJoCo, with exact resets, and any other that is registered with Gymnasium."""

import mujoco

from pgd_lightning.environment import GYMNASIUM, NO_SIMULATOR
from pgd_lightning.errors import UserError
from pgd_lightning.simulators import ogbench
from pgd_lightning.simulators.absent import Absent
from pgd_lightning.simulators.adroit import TASKS as HANDS
from pgd_lightning.simulators.adroit import Adroit
from pgd_lightning.simulators.antmaze import AntMaze
from pgd_lightning.simulators.batch import one_step, replay
from pgd_lightning.simulators.kitchen import TASKS as KITCHENS
from pgd_lightning.simulators.kitchen import Kitchen
from pgd_lightning.simulators.locomotion import BODIES, Locomotion
from pgd_lightning.simulators.maze import MAZES, Maze
from pgd_lightning.simulators.physics import changed, require_known_contacts, restore_contacts
from pgd_lightning.simulators.registered import Registered, facts, is_registered, relabelled, task_of
from pgd_lightning.simulators.simulator import Simulator, reset_from_obs

__all__ = [
    "BODIES", "MAZES", "PHYSICS", "TASKS", "Locomotion", "Maze", "Simulator", "facts", "is_registered", "make",
    "ogbench", "one_step", "relabelled", "replay", "reset_from_obs", "task_of",
]  # fmt: skip
PHYSICS = ("today", "d4rl")
TASKS = (
    *BODIES,
    *(f"maze2d-{maze}{suffix}" for maze in MAZES for suffix in ("", "-dense")),
    *(f"antmaze-{maze}" for maze in MAZES),
    *HANDS,
    *KITCHENS,
)


def make(task: str, physics: str) -> Simulator:
    """The simulator of a task: one of ``TASKS``, ``gym:`` and a name of Gymnasium's registry, or ``none``.

    ``physics`` is ``today`` (MuJoCo as it is) or ``d4rl`` (as it was when D4RL was recorded; it makes a difference to
    Hopper, HalfCheetah, Walker2d, the ants and the kitchen's kettle and doors). Raises UserError for another task or
    physics, or with a MuJoCo that cannot reproduce recordings.
    """
    simulator = _made(task, physics)
    if task != NO_SIMULATOR and not task.startswith(GYMNASIUM):  # those of users keep the physics that is installed
        restore_contacts(simulator.model, mujoco.__version__)
        simulator.differs = "; ".join(filter(None, (simulator.differs, changed(task, mujoco.__version__)))) or None
    return simulator


def _made(task: str, physics: str) -> Simulator:
    if physics not in PHYSICS:
        raise UserError(f"physics={physics} is neither {' nor '.join(PHYSICS)}.")
    if task == NO_SIMULATOR:
        return Absent()
    if task.startswith(GYMNASIUM):
        return Registered(task)
    require_known_contacts(mujoco.__version__)
    if task not in TASKS:
        raise UserError(f"There is no simulator for '{task}'; there are {', '.join(TASKS)}.")
    if task in BODIES:
        return Locomotion(task, physics)
    if task in HANDS:
        return Adroit(task)
    if task in KITCHENS:
        return Kitchen(task, physics)
    family, _, maze = task.removesuffix("-dense").partition("-")
    return AntMaze(maze, physics) if family == "antmaze" else Maze(maze, dense=task.endswith("-dense"))
