"""Throughput on this machine, each figure with a ratio measured in the same run. ``make bench`` prints and saves it."""

import json
import os
import platform
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning import Trainer
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from pgd_lightning.agents.iql import IQL
from pgd_lightning.agents.policy import StackedPolicy
from pgd_lightning.agents.seeds import call_stacked, stacked_learners
from pgd_lightning.artifacts.models import build_prior
from pgd_lightning.commands.polygrad import build_learner
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl
from pgd_lightning.data.environments import environment
from pgd_lightning.data.mixing import real_batch
from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import dpmpp_2m, heun
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.networks.temporal_unet import Conv, RowGroupNorm, TemporalUNet
from pgd_lightning.randomness import stream
from pgd_lightning.simulators.substitutes.recipes import RECIPES
from pgd_lightning.trajectory import Transition

PROCESS = EDM(sigma_data=1.0, sigma_min=0.002, sigma_max=80.0, rho=7.0, p_mean=-1.2, p_std=1.2)
WINDOWS, ROWS, CHANNELS, FEATURES = 64, 32, 16, 64  # hopper at laptop scale
EARLIER = (
    "network=temporal_unet",
    "guidance=literal",
    "guidance.coef=0.5",
)  # of the laptop, as the published network and rule


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


def iql_updates(num_seeds: int, compiled: bool = False) -> float:
    """Updates of one seed a second, all seeds together; the losses eager or by torch.compile."""
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
    learners = stacked_learners(make, range(num_seeds))
    optimizer = torch.optim.Adam([p for p in learners.parameters() if p.requires_grad], fused=True)
    shape = (num_seeds, 256)
    batch = Transition(
        obs=torch.randn(*shape, 11), action=torch.rand(*shape, 3), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, 11), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip

    def losses_of() -> dict[str, torch.Tensor]:
        found: dict[str, torch.Tensor] = call_stacked(learners, "losses", batch, names=learners.phases()[0])
        return found

    function: Callable[[], dict[str, torch.Tensor]] = torch.compile(losses_of) if compiled else losses_of

    def update() -> None:
        optimizer.zero_grad()
        losses = function()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()

    return num_seeds * rate(update, repeats=40)


def literal_sampling(num_steps: int) -> float:
    """Windows a second of the published sampler, Heun with churn: what ``2 num_steps - 1`` evaluations take."""
    denoiser = Denoiser(TemporalUNet(CHANNELS, FEATURES, 3, 8), PROCESS)
    x = 80 * torch.randn(256, ROWS, CHANNELS)
    with torch.no_grad():
        one = rate(lambda: denoiser(x, torch.ones(())), repeats=8)
    return 256 * one / (2 * num_steps - 1)


def guided_windows(*settings: str, windows: int, repeats: int) -> float:
    """Windows a second of ``generator=pgd`` with these settings, guided by one IQL policy."""
    config = compose_config("train", ["env=hopper-medium", "scale=laptop", "seeds=1", *settings])
    agent: Any = build(config.agent)
    generator = build(config.generator.build)(build_prior(config, 1))
    starts = torch.randn(1, windows, config.env.obs_dim)
    return windows * rate(lambda: generator.generate(agent.policy, starts, 0), repeats=repeats)


def share_in_products() -> float:
    """Of an IQL update's processor time, one seed: what its matrix products take."""
    config = compose_config("train", ["env=hopper-medium", "scale=laptop", "seeds=1"])
    agent: Any = build(config.agent)
    optimizer = torch.optim.AdamW([p for p in agent.learner.parameters() if p.requires_grad], fused=True)
    shape = (1, 256)
    batch = Transition(
        obs=torch.randn(*shape, 11), action=torch.rand(*shape, 3), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, 11), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip

    def update() -> None:
        optimizer.zero_grad(set_to_none=True)
        losses = call_stacked(agent.learner, "losses", batch, names=agent.learner.phases()[0])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        agent._update_targets()

    for _ in range(5):
        update()
    with profile(activities=[ProfilerActivity.CPU]) as found:
        for _ in range(50):
            update()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    products = sum(times.get(f"aten::{name}", 0) for name in ("mm", "addmm", "bmm", "baddbmm"))
    return products / sum(times.values())


def polygrad_windows(num_steps: int, guided: bool) -> float:
    """Windows a second of PolyGRAD's imagination, 10 rows, the laptop's width."""
    config = compose_config("polygrad", ["env=hopper", "scale=laptop", f"world.sampling.num_steps={num_steps}"])
    learner = build_learner(config)
    generator = learner.make(model=learner.world, guidance=learner.guidance)
    policy = learner.policy if guided else None
    return 256 * rate(lambda: generator.generate(policy, torch.randn(256, 11), 0), repeats=5)


def evaluation_steps() -> float:
    """Steps of halfcheetah a second in an evaluation of 5 seeds x 4 episodes, policies included."""
    env = environment("halfcheetah-medium", physics="today")
    agent = IQL(17, 6, [256, 256], 0.99, 0.7, 3.0, 100.0)
    stacked = StackedPolicy(stacked_learners(lambda: agent, range(5)), lambda obs: obs)
    rollout(replace(env, max_episode_steps=10), stacked, 5, 1, 0)
    began = time.perf_counter()
    found = rollout(env, stacked, 5, 4, 0)
    return float(found.lengths.sum() / (time.perf_counter() - began))


def loading() -> float:
    """Rows a second of reading a compressed HDF5 file, its checks included."""
    env = environment("maze2d-umaze", physics="today")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "maze.hdf5"
        chunks = (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(20_000, 0, {}))
        d4rl.write(path, chunks, {}, 20_000)
        return 20_000 * rate(lambda: d4rl.load(path, env, out_of_box="clip"), repeats=5)


def lightning_updates(num_updates: int) -> tuple[float, float]:
    """IQL updates a second of one seed under Lightning's Trainer as ``pgd train`` has it, and of the same in a loop."""
    config = compose_config("train", ["env=hopper-medium", "scale=laptop", "seeds=1", f"updates={num_updates}"])
    shape = (100_000,)
    data = Transition(
        obs=torch.randn(*shape, 11), action=torch.rand(*shape, 3), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, 11), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip
    agent: Any = build(config.agent)
    module = SyntheticDataModule(data, None, SyntheticSettings(**config.synthetic), seeds=[0], total_steps=num_updates)
    trainer = Trainer(
        max_steps=num_updates, max_epochs=-1, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, accelerator="cpu",
    )  # fmt: skip
    began = time.process_time()
    trainer.fit(agent, module)
    inside = num_updates / (time.process_time() - began)
    optimizer = torch.optim.AdamW([p for p in agent.learner.parameters() if p.requires_grad], fused=True)
    began = time.process_time()
    for step in range(num_updates):
        batch = real_batch(data, [0], 256, step)
        optimizer.zero_grad(set_to_none=True)
        losses = call_stacked(agent.learner, "losses", batch, names=agent.learner.phases()[0])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        agent._update_targets()
    return inside, num_updates / (time.process_time() - began)


def main() -> None:
    torch.manual_seed(stream(0).initial_seed())
    matrix = torch.randn(1024, 1024)
    matmul = 2 * 1024**3 * rate(lambda: matrix @ matrix) / 1e9
    network = TemporalUNet(CHANNELS, FEATURES, 3, 8)
    with FlopCounterMode(display=False) as counter:
        Denoiser(network, PROCESS).loss(torch.randn(WINDOWS, ROWS, CHANNELS)).backward()
    ours = rate(prior_step(network))
    usual = rate(prior_step(plain(TemporalUNet(CHANNELS, FEATURES, 3, 8))))
    few, many, literal = sampling(dpmpp_2m, 16), sampling(heun, 16), literal_sampling(256)
    guided = guided_windows(windows=256, repeats=5)
    fewer = guided_windows("sampler.num_steps=8", windows=256, repeats=5)
    earlier = guided_windows(*EARLIER, "sampler=dpmpp_2m", windows=256, repeats=5)
    guided_literal = guided_windows(*EARLIER, "sampler=heun_churn", windows=64, repeats=1)
    one, five, sixteen = iql_updates(1), iql_updates(5), iql_updates(16)
    compiled = {}
    if shutil.which("g++"):  # which torch.compile needs on a CPU
        compiled["  compiled over eager, 1 seed"] = round(iql_updates(1, compiled=True) / one, 2)
        compiled["  compiled over eager, 5 seeds"] = round(iql_updates(5, compiled=True) / five, 2)
    short, whole = polygrad_windows(32, True), polygrad_windows(128, True)
    inside, bare = lightning_updates(600)
    achieved = counter.get_total_flops() * ours / 1e9
    results = {
        "matrix product 1024 x 1024, GFLOP/s": round(matmul),
        "prior train steps/s (F=64, batch 64)": round(ours, 1),
        "  GFLOP/s": round(achieved, 1),
        "  share of the matrix product's rate": round(achieved / matmul, 2),
        "  over conv1d + group_norm": round(ours / usual, 2),
        "windows/s, DPM-Solver++(2M), 16 steps": round(few),
        "  over Heun, 16 steps": round(few / many, 2),
        "  over the published 256 steps with churn": round(few / literal, 1),
        "guided windows/s, the laptop's default, 16 steps": round(guided),
        "  8 steps over that": round(fewer / guided, 2),
        "  over its earlier default, 16 steps": round(guided / earlier, 2),
        "  over the published 256 steps, guided": round(guided / guided_literal, 1),
        "IQL seed-updates/s, 1 seed": round(one),
        "  share of matrix products": round(share_in_products(), 2),
        "IQL seed-updates/s, 5 seeds": round(five),
        "  over 1 seed": round(five / one, 2),
        "IQL seed-updates/s, 16 seeds": round(sixteen),
        "  over 1 seed ": round(sixteen / one, 2),
        **compiled,
        "Lightning's share of an IQL update": round(1 - inside / bare, 2),
        "PolyGRAD windows/s, 10 rows, 32 steps": round(short),
        "  over the published 128 steps": round(short / whole, 2),
        "halfcheetah steps/s in evaluation, 5 x 4 episodes": round(evaluation_steps()),
        "rows/s read from compressed HDF5": round(loading()),
        "peak memory of this run, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
    for name, value in results.items():
        print(f"{name:<48}{value:>10}")
    facts = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
        "torch": torch.__version__,
    }
    path = Path(__file__).with_name("latest.json")
    path.write_text(json.dumps(facts | {"date": time.strftime("%Y-%m-%d")} | results, indent=2) + "\n")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
