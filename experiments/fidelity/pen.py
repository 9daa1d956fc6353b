"""More steps of the pen expert: ``python pen.py FILE STEPS OUT.hdf5``.

FILE holds rollouts of a policy with its Gaussian, ``infos/action_mean`` and ``infos/action_log_std``, as D4RL's expert
files of Adroit do. A network fitted to those means acts in the simulator as its policy did.
"""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor, nn

from pgd_lightning.data import d4rl
from pgd_lightning.networks.mlp import mlp
from pgd_lightning.simulators.substitutes.recipes import Act, record_policies

TASK, HORIZON, SEED = "pen", 100, 0
HIDDEN, EPOCHS, BATCH, RATE = [256, 256], 1500, 256, 1e-3


def fit(obs: Tensor, mean: Tensor) -> tuple[Callable[[Tensor], Tensor], float]:
    """A network for ``obs [L, O] -> mean [L, A]`` and its error on the last tenth, in the means' standard deviation."""
    torch.manual_seed(SEED)
    centre, scale = obs.mean(0), obs.std(0).clamp(min=1e-3)
    network = mlp(obs.shape[1], HIDDEN, mean.shape[1])
    optimizer = torch.optim.Adam(network.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, EPOCHS)
    known = len(obs) * 9 // 10
    for _ in range(EPOCHS):
        for rows in torch.randperm(known).split(BATCH):
            optimizer.zero_grad()
            nn.functional.mse_loss(network((obs[rows] - centre) / scale), mean[rows]).backward()
            optimizer.step()
        schedule.step()

    def predicted(rows: Tensor) -> Tensor:
        return network((rows - centre) / scale)

    with torch.no_grad():
        wrong = (predicted(obs[known:]) - mean[known:]).square().mean().sqrt()
    return predicted, float(wrong / mean.std(0).mean())


@torch.no_grad()
def sample(
    predicted: Callable[[Tensor], Tensor], log_std: np.ndarray, obs: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, float]:
    """An action in the box and the Gaussian's log density before clipping."""
    noise = rng.standard_normal(len(log_std))
    mean = predicted(torch.as_tensor(obs, dtype=torch.float32)).double().numpy()
    density = -0.5 * noise**2 - log_std - 0.5 * np.log(2 * np.pi)
    return np.clip(mean + np.exp(log_std) * noise, -1, 1), float(density.sum())


def main(source: str, steps: int, out: str) -> None:
    with h5py.File(source) as file:
        obs, mean = (torch.from_numpy(file[key][:]).float() for key in ("observations", "infos/action_mean"))
        log_std = file["infos/action_log_std"][0].astype(float)
    predicted, error = fit(obs, mean)
    print(f"fitted to {len(obs)} rows: error on held-out rows {error:.3f} of the means' standard deviation")
    act: Act = partial(sample, predicted, log_std)
    chunks = (chunk for chunk, _ in record_policies(TASK, HORIZON, lambda: [act], steps, SEED, {}))
    attributes = {"description": f"a network fitted to the means of {Path(source).name}, sampled", "seed": SEED}
    d4rl.write(Path(out), chunks, attributes, steps)
    with h5py.File(out) as file:
        ends = np.flatnonzero(file["terminals"][:] | file["timeouts"][:])
        returns = np.add.reduceat(file["rewards"][:], np.concatenate([[0], ends[:-1] + 1]))
    print(f"{out}: {len(ends)} episodes, mean return {returns.mean():.1f}")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
