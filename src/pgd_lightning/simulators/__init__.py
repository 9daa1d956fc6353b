"""D4RL's environments on today's MuJoCo, with exact resets."""

from pgd_lightning.errors import UserError
from pgd_lightning.simulators.locomotion import BODIES, Locomotion
from pgd_lightning.simulators.maze import MAZES, Maze
from pgd_lightning.simulators.simulator import Simulator, one_step, replay, reset_from_obs

__all__ = [
    "BODIES", "MAZES", "PHYSICS", "Locomotion", "Maze", "Simulator", "make", "one_step", "replay", "reset_from_obs",
]  # fmt: skip


PHYSICS = ("today", "d4rl")


def make(task: str, physics: str) -> Simulator:
    """The simulator of a task: hopper, halfcheetah, walker2d, ant, or maze2d-{umaze,medium,large}[-dense].

    ``physics`` is ``today`` (MuJoCo as it is) or ``d4rl`` (as it was when D4RL was recorded; no difference in maze2d).
    Raises UserError for another task or physics.
    """
    if physics not in PHYSICS:
        raise UserError(f"physics={physics} is neither {' nor '.join(PHYSICS)}.")
    if task in BODIES:
        return Locomotion(task, physics)
    name = task.removeprefix("maze2d-").removesuffix("-dense")
    if task.startswith("maze2d-") and name in MAZES:
        return Maze(name, dense=task.endswith("-dense"))
    known = [*BODIES, *(f"maze2d-{maze}" for maze in MAZES)]
    raise UserError(f"There is no simulator for '{task}'; there are {', '.join(known)}.")
