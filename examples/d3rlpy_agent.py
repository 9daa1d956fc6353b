"""d3rlpy's TD3+BC on real and synthetic data that this package exported, in an environment of its own.

d3rlpy 2.8 pins another Gymnasium than this package needs, so it runs apart, and files go to and fro::

    pgd generate run=runs/agent/hopper-medium/… out=synthetic.hdf5
    python -m venv d3rlpy-env && d3rlpy-env/bin/pip install d3rlpy h5py
    d3rlpy-env/bin/python examples/d3rlpy_agent.py policy.pt real.hdf5 synthetic.hdf5

``policy.pt`` is a TorchScript module that this package takes as it is::

    pgd.evaluate(torch.jit.load("policy.pt"), data)
"""

import argparse

import d3rlpy
import h5py
import numpy as np
from d3rlpy.dataset import MDPDataset


def dataset(files: list[str]) -> MDPDataset:
    """The files' steps, one after another; each is in D4RL's layout."""
    names = ("observations", "actions", "rewards", "terminals", "timeouts")
    columns: dict[str, list[np.ndarray]] = {name: [] for name in names}
    for path in files:
        with h5py.File(path) as file:
            for name in names:
                columns[name].append(file[name][:])
            columns["timeouts"][-1][-1] |= not columns["terminals"][-1][-1]
    return MDPDataset(*(np.concatenate(columns[name]) for name in names))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="where the trained policy is written")
    parser.add_argument("files", nargs="+", help="recordings in D4RL's layout")
    parser.add_argument("--updates", type=int, default=20_000)
    given = parser.parse_args()
    agent = d3rlpy.algos.TD3PlusBCConfig().create(device="cpu:0")
    agent.fit(
        dataset(given.files), n_steps=given.updates, n_steps_per_epoch=min(given.updates, 1000), show_progress=False
    )
    agent.save_policy(given.policy)
    print(f"written: {given.policy}")


if __name__ == "__main__":
    main()
