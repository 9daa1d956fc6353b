"""Pictures of simulator states, where the machine can draw at all."""

import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

SIZE = 240  # pixels


def render(task: str, qpos: NDArray[np.float64]) -> NDArray[np.uint8] | None:
    """Frames ``[F, SIZE, SIZE, 3]`` of positions ``qpos [F, nq]``, or None, with one warning, without OpenGL.

    MuJoCo binds its OpenGL back end at import and a broken one may end the process, so each is tried in a child:
    EGL first, then OSMesa.
    """
    with tempfile.TemporaryDirectory() as folder:
        states, frames = Path(folder) / "qpos.npy", Path(folder) / "frames.npy"
        np.save(states, qpos)
        for backend in ("egl", "osmesa"):
            command = [sys.executable, "-m", __name__, task, str(states), str(frames)]
            try:
                child = subprocess.run(
                    command, env=os.environ | {"MUJOCO_GL": backend}, capture_output=True, timeout=60
                )
            except subprocess.TimeoutExpired:
                continue
            if child.returncode == 0:
                drawn: NDArray[np.uint8] = np.load(frames)
                return drawn
    warnings.warn(
        "no pictures of rollouts: neither EGL nor OSMesa works here (Debian: apt install libegl1 or libosmesa6)",
        stacklevel=2,
    )
    return None


def _draw(task: str, states: str, frames: str) -> None:
    import mujoco

    from pgd_lightning.simulators import make

    simulator = make(task, "today")  # bodies look the same under any
    simulator.reset(0)
    renderer = mujoco.Renderer(simulator.model, SIZE, SIZE)
    camera = mujoco.MjvCamera()
    camera.type = mujoco.mjtCamera.mjCAMERA_FREE
    drawn = []
    for qpos in np.load(states):
        simulator.set_state(simulator.state() | {"qpos": qpos, "qvel": np.zeros(simulator.model.nv)})
        if task.startswith("maze2d"):
            camera.lookat, camera.distance, camera.elevation = simulator.model.stat.center, 10, -90
        else:
            camera.lookat, camera.distance, camera.elevation = np.array([qpos[0], 0, 0.8]), 4.0, -10
        renderer.update_scene(simulator.data, camera)
        drawn.append(renderer.render().copy())
    np.save(frames, np.stack(drawn))


if __name__ == "__main__":
    _draw(*sys.argv[1:])
