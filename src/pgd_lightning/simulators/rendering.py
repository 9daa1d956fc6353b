"""Pictures of simulator states, where the machine can draw at all."""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.environment import GYMNASIUM

SIZE = 240  # pixels
PATIENCE = 60  # seconds that a backend may take to draw


def render(task: str, qpos: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    """Frames ``[F, SIZE, SIZE, 3]`` of positions ``qpos [F, nq]``, or None, with one warning, without OpenGL.

    MuJoCo binds its OpenGL back end at import and a broken one may end the process, so each is tried in a child:
    EGL first, then OSMesa.
    """
    with tempfile.TemporaryDirectory() as folder:
        states, frames = Path(folder) / "qpos.npy", Path(folder) / "frames.npy"
        np.save(states, qpos)
        slow = False
        for backend in ("egl", "osmesa"):
            command = [sys.executable, "-m", __name__, task, str(states), str(frames)]
            try:
                child = subprocess.run(
                    command, env=os.environ | {"MUJOCO_GL": backend}, capture_output=True, timeout=PATIENCE
                )
            except subprocess.TimeoutExpired:
                slow = True
                continue
            if child.returncode == 0:
                return np.load(frames)
    cause = (
        f"drawing took longer than {PATIENCE} s; `pgd report` draws them when the machine is less busy"
        if slow
        else "neither EGL nor OSMesa works here (Debian: apt install libegl1 or libosmesa6)"
    )
    warnings.warn(f"no pictures of rollouts: {cause}", stacklevel=2)
    return None


def _draw(task: str, states: str, frames: str) -> None:
    import mujoco

    from pgd_lightning.simulators import make

    simulator = make(task, "today")  # bodies look the same under any
    simulator.reset(0)
    renderer = mujoco.Renderer(simulator.model, SIZE, SIZE)
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    if task.startswith("maze2d"):
        show_ball(simulator.model)
    drawn = []
    for qpos in np.load(states):
        simulator.set_state(simulator.state() | {"qpos": qpos, "qvel": np.zeros(simulator.model.nv)})
        aim(camera, task, simulator)
        renderer.update_scene(simulator.data, camera)
        drawn.append(renderer.render().copy())
    np.save(frames, np.stack(drawn))


def aim(camera: Any, task: str, simulator: Any) -> None:
    """Point the camera at what acts."""
    model, data = simulator.model, simulator.data
    if task.startswith(GYMNASIUM):
        camera.lookat, camera.distance, camera.elevation = data.subtree_com[0], 1.5 * model.stat.extent, -20
        return
    if task.startswith("maze2d"):
        walls = model.geom_pos[model.geom_bodyid == 0]
        extent = float((walls.max(0) - walls.min(0)).max()) + 1
        camera.lookat, camera.distance, camera.elevation = (walls.max(0) + walls.min(0)) / 2, 1.25 * extent, -90
    elif task.startswith("kitchen"):
        camera.lookat, camera.distance = np.array([-0.2, 0.5, 2.0]), 2.6
        camera.azimuth, camera.elevation = 70, -35
    elif task in ("pen", "door", "hammer", "relocate"):
        camera.lookat, camera.distance = data.site("S_grasp").xpos, 0.9
        camera.azimuth, camera.elevation = 45, -35
    elif "ant" in task:
        far = task.startswith("antmaze")
        camera.lookat, camera.distance = data.body("torso").xpos, 14.0 if far else 4.5
        camera.elevation = -50 if far else -25
    else:
        camera.lookat, camera.distance, camera.elevation = np.array([data.qpos[0], 0, 0.8]), 4.0, -10


def show_ball(model: Any) -> None:
    """Make the ball of a maze large and orange, and the maze bright: in a picture of this size it is lost else."""
    ball = model.geom("particle_geom").id
    model.geom_size[ball], model.geom_rgba[ball] = 0.3, (0.84, 0.37, 0.0, 1)
    model.vis.headlight.ambient[:] = 0.3


if __name__ == "__main__":
    _draw(*sys.argv[1:])
