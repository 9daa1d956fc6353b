"""One step of every simulator in another MuJoCo, from states and actions recorded with this one.

::

    python experiments/simulators/mujoco_versions.py record states.pkl
    pip install --no-deps --target other mujoco==4.0.0 mujoco-core==4.0.0
    PYTHONPATH=other python experiments/simulators/mujoco_versions.py compare states.pkl

Each task: 15 episodes of at most 60 steps of random, correlated actions; the error of a step is the largest component
of the observation. The kitchen is left out: its observation has noise.
"""

import pickle
import sys
from pathlib import Path

import mujoco
import numpy as np

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import make

TASKS = (
    "hopper", "halfcheetah", "walker2d", "ant", "maze2d-umaze", "antmaze-umaze", "pen", "door", "hammer", "relocate",
)  # fmt: skip
EPISODES, STEPS = 15, 60


def visited(task: str) -> list[tuple[dict, np.ndarray]]:
    """States and the actions taken in them."""
    simulator, rng, rows = make(task, "today"), np.random.default_rng(0), []
    for episode in range(EPISODES):
        simulator.reset(episode)
        action = np.zeros(simulator.action_dim)
        for _ in range(STEPS):
            action = np.clip(0.7 * action + 0.6 * rng.normal(size=simulator.action_dim), -1, 1)
            rows.append((simulator.state(), action))
            if simulator.step(action)[2]:
                break
    return rows


def stepped(task: str, rows: list[tuple[dict, np.ndarray]]) -> list[tuple[np.ndarray, float, bool]]:
    simulator, found = make(task, "today"), []
    for state, action in rows:
        simulator.set_state(state)
        found.append(simulator.step(action))
    return found


def main() -> None:
    what, path = sys.argv[1], Path(sys.argv[2])
    if what == "record":
        kept = {task: (rows := visited(task), stepped(task, rows)) for task in TASKS}
        path.write_bytes(pickle.dumps(kept))
        return
    print(
        f"MuJoCo {mujoco.__version__}\n\n| task | steps | median | 90 % | 99 % | largest |\n|---|---|---|---|---|---|"
    )
    for task, (rows, before) in pickle.loads(path.read_bytes()).items():
        try:
            after = stepped(task, rows)
        except UserError as error:
            print(f"| {task} | {error} |")
            continue
        errors = [np.abs(a[0] - b[0]).max() for a, b in zip(after, before, strict=True)]
        shown = " | ".join(f"{value:.1e}" for value in np.quantile(errors, [0.5, 0.9, 0.99, 1]))
        print(f"| {task} | {len(errors)} | {shown} |", flush=True)


if __name__ == "__main__":
    main()
