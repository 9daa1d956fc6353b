"""Peak memory of what ``scale=paper`` keeps on one device, as JSON: ``python benchmarks/memory.py [cpu|cuda]``.

On a GPU the peak of allocated memory, on a CPU that of the process's resident memory beyond what the empty program
has. Each part runs in a process of its own.
"""

import json
import resource
import subprocess
import sys
from typing import Any

import torch

from pgd_lightning.artifacts.models import build_prior
from pgd_lightning.config.compose import compose_config
from pgd_lightning.generators.prior import DiffusionPrior, update_ema
from pgd_lightning.trajectory import Transition

CONFIG = ["env=hopper-medium", "scale=paper"]


def paper_prior(device: str) -> tuple[DiffusionPrior, Any]:
    config = compose_config("train", CONFIG)
    return build_prior(config, 1_000_000).to(device), config


def prior_step(device: str) -> str:
    """Two train steps: weights, gradients, Adam's moments, the average, activations."""
    prior, config = paper_prior(device)
    optimizer = torch.optim.Adam(prior.denoiser.parameters(), fused=True)
    x = torch.randn(config.prior.batch_size, config.data.horizon, prior.codec.channels, device=device)
    for _ in range(2):
        optimizer.zero_grad()
        prior.denoiser.loss(x).backward()
        optimizer.step()
        update_ema(prior.ema, prior.denoiser, 0.995)
    return f"prior, {sum(p.numel() for p in prior.denoiser.parameters()):,} parameters, batch {len(x)}, train steps"


@torch.no_grad()
def sampling(device: str) -> str:
    """One evaluation of the windows that are denoised at once."""
    prior, config = paper_prior(device)
    x = torch.randn(config.sampler.batch_size, config.data.horizon, prior.codec.channels, device=device)
    prior.ema(x, torch.tensor(1.0, device=device))
    return f"prior and its average, one evaluation of {len(x)} windows"


def synthetic_sets(device: str) -> str:
    """The steps that 8 seeds learn from at a time."""
    config = compose_config("train", CONFIG)
    shape = (8, config.synthetic.num_windows * (config.data.horizon - 1))
    obs = torch.ones(*shape, config.env.obs_dim, device=device)
    steps = Transition(
        obs=obs, action=torch.ones(*shape, config.env.action_dim, device=device), reward=obs[..., 0].clone(),
        next_obs=obs.clone(), terminated=obs[..., 0] > 2, batch_size=shape,
    )  # fmt: skip
    return f"synthetic sets of 8 seeds, {steps.batch_size[1]:,} steps each"


PARTS = {part.__name__: part for part in (prior_step, sampling, synthetic_sets)}


def resident() -> int:
    """Peak, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main(device: str, part: str | None) -> None:
    if part:
        torch.ones(1, device=device)
        empty = resident()
        what = PARTS[part](device)
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else resident() - empty
        print(json.dumps({"what": what, "device": device, "gib": round(peak / 2**30, 2)}))
        return
    for name in PARTS:
        subprocess.run([sys.executable, __file__, device, name], check=True)


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "cpu", sys.argv[2] if len(sys.argv) > 2 else None)
