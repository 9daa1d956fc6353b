"""Throughput on this machine, each figure with a ratio measured in the same run. ``make bench`` prints and saves it."""

import json
import platform
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pgd_lightning.agents.iql import IQL
from pgd_lightning.agents.seeds import call_stacked, stacked_learners
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import dpmpp_2m, heun
from pgd_lightning.networks.temporal_unet import Conv, RowGroupNorm, TemporalUNet
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Transition

PROCESS = EDM(sigma_data=1.0, sigma_min=0.002, sigma_max=80.0, rho=7.0, p_mean=-1.2, p_std=1.2)
WINDOWS, ROWS, CHANNELS, FEATURES = 64, 32, 16, 64  # hopper at laptop scale


def rate(action: Callable[[], Any], repeats: int = 15) -> float:
    """Calls a second: the median of ``repeats`` after three to warm up."""
    for _ in range(3):
        action()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        action()
        times.append(time.perf_counter() - began)
    return 1 / sorted(times)[repeats // 2]


class PlainConv(nn.Conv1d):
    """The convolution as it is usually written: channels first, transposed to and fro."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, 0, 0, 1)) if self.kernel_size[0] == 2 else x
        return F.conv1d(x.transpose(1, 2), self.weight, self.bias, padding=(self.kernel_size[0] - 1) // 2).transpose(
            1, 2
        )


class PlainNorm(nn.GroupNorm):
    """The normalisation of each row as torch offers it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = x.reshape(-1, x.shape[-1])
        return F.group_norm(rows, self.num_groups, self.weight, self.bias, self.eps).view_as(x)


def plain(network: TemporalUNet) -> TemporalUNet:
    """The same network without its layout."""
    for module in network.modules():
        if isinstance(module, Conv):
            module.__class__ = PlainConv  # type: ignore[assignment]
        elif isinstance(module, RowGroupNorm):
            module.__class__ = PlainNorm  # type: ignore[assignment]
    return network


def prior_step(network: TemporalUNet) -> Callable[[], None]:
    denoiser = Denoiser(network, PROCESS)
    optimizer = torch.optim.Adam(denoiser.parameters(), fused=True)
    x = torch.randn(WINDOWS, ROWS, CHANNELS)

    def step() -> None:
        optimizer.zero_grad()
        denoiser.loss(x).backward()
        optimizer.step()

    return step


@torch.no_grad()
def sampling(sampler: Any, num_steps: int) -> float:
    """Windows a second of an unguided sampler."""
    denoiser = Denoiser(TemporalUNet(CHANNELS, FEATURES, 3, 8), PROCESS)
    x = 80 * torch.randn(256, ROWS, CHANNELS)
    with torch.no_grad():
        return 256 * rate(lambda: sampler(denoiser, x, PROCESS.schedule(num_steps)), repeats=5)


def iql_updates(num_seeds: int) -> float:
    """Updates of one seed a second, all seeds together."""
    make = partial(
        IQL,
        obs_dim=11,
        action_dim=3,
        hidden=[256, 256],
        discount=0.99,
        expectile=0.7,
        temperature=3.0,
        max_weight=100.0,
    )
    learners = stacked_learners(make, num_seeds, 0)
    optimizer = torch.optim.Adam([p for p in learners.parameters() if p.requires_grad], fused=True)
    shape = (num_seeds, 256)
    batch = Transition(
        obs=torch.randn(*shape, 11), action=torch.rand(*shape, 3), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, 11), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip

    def update() -> None:
        optimizer.zero_grad()
        losses = call_stacked(learners, "losses", batch, names=learners.phases()[0])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return num_seeds * rate(update, repeats=40)


def main() -> None:
    torch.manual_seed(stream(0).initial_seed())
    matrix = torch.randn(1024, 1024)
    ours = rate(prior_step(TemporalUNet(CHANNELS, FEATURES, 3, 8)))
    usual = rate(prior_step(plain(TemporalUNet(CHANNELS, FEATURES, 3, 8))))
    few, many = sampling(dpmpp_2m, 16), sampling(heun, 16)
    one, five = iql_updates(1), iql_updates(5)
    results = {
        "matrix product, GFLOP/s": round(2 * 1024**3 * rate(lambda: matrix @ matrix) / 1e9),
        "prior train steps/s (F=64, batch 64)": round(ours, 1),
        "  over conv1d + group_norm": round(ours / usual, 2),
        "windows/s, DPM-Solver++(2M), 16 steps": round(few),
        "  over Heun, 16 steps": round(few / many, 2),
        "IQL seed-updates/s, 1 seed": round(one),
        "IQL seed-updates/s, 5 seeds": round(five),
        "  over 1 seed": round(five / one, 2),
    }
    for name, value in results.items():
        print(f"{name:<42}{value:>10}")
    facts = {
        "machine": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }
    path = Path(__file__).with_name("latest.json")
    path.write_text(json.dumps(facts | {"date": time.strftime("%Y-%m-%d")} | results, indent=2) + "\n")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
