"""D4RL's environments on today's MuJoCo, with exact resets."""

from pgd_lightning.errors import UserError
from pgd_lightning.simulators.locomotion import BODIES, Locomotion
from pgd_lightning.simulators.maze import MAZES, Maze
from pgd_lightning.simulators.simulator import Simulator, one_step, replay, reset_from_obs

__all__ = ["BODIES", "MAZES", "Locomotion", "Maze", "Simulator", "make", "one_step", "replay", "reset_from_obs"]


def make(task: str) -> Simulator:
    """The simulator of a task: hopper, halfcheetah, walker2d, ant, or maze2d-{umaze,medium,large}[-dense].

    Raises UserError for another name.
    """
    if task in BODIES:
        return Locomotion(task)
    name = task.removeprefix("maze2d-").removesuffix("-dense")
    if task.startswith("maze2d-") and name in MAZES:
        return Maze(name, dense=task.endswith("-dense"))
    known = [*BODIES, *(f"maze2d-{maze}" for maze in MAZES)]
    raise UserError(f"There is no simulator for '{task}'; there are {', '.join(known)}.")
