"""Priors of equal training time: ``python compare.py --data FOLDER... --budget 240``.

Trains what plan.yaml lists and the ledger lacks, one thread, one prior after the other, each for ``--budget`` seconds
of processor time, and appends one JSON line for each. Killed, it begins the run anew that it was in.
"""

import argparse
import copy
import datetime
import json
import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from ablations import ABLATIONS, Differences, Weighted
from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.models import build_prior
from pgd_lightning.config.compose import compose_config
from pgd_lightning.diffusion import samplers
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.evaluation.fidelity import step_errors
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.generators.prior import DiffusionPrior, update_ema
from pgd_lightning.generators.window_model import warmup_cosine
from pgd_lightning.randomness import seed_global
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Trajectory

HERE = Path(__file__).parent
TURNS = 10_000  # resolution of the schedule, which follows the time used
WINDOWS, ROWS = 512, 2000  # sampled, and stepped in the simulator
SIGMAS = (0.01, 0.03, 0.1, 0.3, 1.0)
USUAL = "ramped/ancestral-16"
SAMPLERS = {"ancestral": samplers.euler_ancestral, "dpmpp_2m": samplers.dpmpp_2m}
EVALUATIONS = (8, 16, 32)
ALREADY = (0.125, 0.25, 0.5)  # of the training time, when windows are measured too


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders in which the files lie")
    parser.add_argument("--budget", type=float, default=240.0, help="seconds of processor time of one training")
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    parser.add_argument("--ledger", type=Path, default=HERE / "ledger.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    while True:
        plan = yaml.safe_load(options.plan.read_text())
        done = [json.loads(line) for line in options.ledger.read_text().splitlines()] if options.ledger.exists() else []
        known = {(d["condition"], d["data"], d["seed"], d["budget_s"]) for d in done}
        for condition, data, seed, *rest in plan["runs"]:
            budget = rest[0] if rest else options.budget
            overrides = plan["conditions"][condition]
            if (condition, data, seed, budget) not in known:
                break
        else:
            print("all that is planned is in the ledger")
            return
        line = one_run(
            condition, overrides, data, plan["data"][data], seed, budget, options.data, condition in plan["samplers"]
        )
        with options.ledger.open("a") as ledger:
            ledger.write(json.dumps(line) + "\n")
        print(condition, data, seed, line["steps"], json.dumps(line["sampled"][USUAL]), flush=True)


def one_run(
    condition: str,
    overrides: list[str],
    data: str,
    reading: list[str],
    seed: int,
    budget: float,
    folders: list[Path],
    compare_samplers: bool,
) -> dict[str, Any]:
    """Train and measure."""
    path = next(p for p in (folder / f"{data}.hdf5" for folder in folders) if p.exists())
    experimental = [o for o in overrides if o.startswith("try.")]
    tried = {k.removeprefix("try."): v for k, v in (o.split("=") for o in experimental)}
    settings = [o for o in overrides if o not in experimental]
    config = compose_config("prior", ["scale=laptop", *reading, *settings, f"data.source={path}", f"seed={seed}"])
    dataset = open_dataset(config)
    margin = int(tried.get("margin", 0))
    model, averages, trained = train(config, dataset, budget, tried)
    return {
        "condition": condition, "overrides": overrides, "data": data, "seed": seed, "budget_s": budget,
        "windows": len(dataset.train),
        "parameters": sum(p.numel() for p in model.denoiser.parameters()), **trained,
        "left": {name: left(model, average, dataset) for name, average in averages.items()},
        "sampled": sampled(model, averages, dataset, config, compare_samplers, margin),
        "real": reference(dataset, config),
        "torch": torch.__version__, "machine": machine(), "commit": commit(),
        "finished": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }  # fmt: skip


def train(
    config: DictConfig, dataset: Dataset, budget: float, tried: dict[str, str]
) -> tuple[DiffusionPrior, dict[str, Denoiser], dict[str, Any]]:
    """A prior after ``budget`` seconds, its averages by name, and how it went."""
    model, margin = build_prior(config, TURNS), int(tried.get("margin", 0))
    if "network" in tried:
        ABLATIONS[tried["network"]](model.denoiser.network)
        model.ema = copy.deepcopy(model.denoiser).requires_grad_(False)
    if "codec" in tried:
        model.codec.__class__ = {"differences": Differences}[tried["codec"]]
    if "last_two" in tried:  # the weight of the reward's and the terminal's loss
        model.denoiser.__class__, model.denoiser.small = Weighted, float(tried["last_two"])
    model.fit_units(dataset.train.batches(1024))
    optimizer = model.optimizer()
    averages = {"last": model.denoiser, "published": copy.deepcopy(model.ema), "ramped": copy.deepcopy(model.ema)}
    size, bf16 = config.prior.batch_size, config.trainer.precision == "bf16-mixed"
    order, step, losses = torch.empty(0, dtype=torch.long), 0, []
    curve, remaining = {}, list(ALREADY)
    seed_global(config.seed, "prior/noise")
    began, wall = time.process_time(), time.time()
    while (used := (time.process_time() - began) / budget) < 1:
        if remaining and used >= remaining[0]:
            paused = time.process_time()
            with torch.random.fork_rng():
                usual = sampled(model, {"ramped": averages["ramped"]}, dataset, config, False, margin)[USUAL]
            curve[f"{remaining.pop(0) * budget:g}"] = usual.get("median")
            began += time.process_time() - paused
        if len(order) < size:
            order = torch.randperm(len(dataset.train))
        batch, order = dataset.train[order[:size]], order[size:]
        rate = warmup_cosine(int(used * TURNS), TURNS, config.prior.warmup_start)
        for group in optimizer.param_groups:
            group["lr"] = model.learning_rate * rate
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = model.denoiser.loss(model.codec.encode(batch))
        loss.backward()
        optimizer.step()
        step += 1
        losses.append(float(loss.detach()))
        if step % config.prior.ema_every == 0:
            update_ema(averages["published"], model.denoiser, config.prior.ema_decay)
            update_ema(averages["ramped"], model.denoiser, model.decay(step))
    seconds = time.process_time() - began
    return model, averages, {
        "steps": step, "seconds": round(seconds, 1), "wall_s": round(time.time() - wall, 1),
        "loss": float(np.mean(losses[-len(losses) // 20 :])), "curve": curve,
    }  # fmt: skip


@torch.no_grad()
def left(model: DiffusionPrior, average: Denoiser, dataset: Dataset) -> dict[str, float]:
    """Share of the noise's variance that is left in held-out windows, by its level; last the training loss."""
    held_out = dataset.validation or dataset.train
    rows = torch.arange(len(held_out))[:: max(len(held_out) // 1024, 1)]
    x0 = model.codec.encode(held_out[rows])
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(x0.shape, generator=generator)
    shares = {str(s): float((average(x0 + s * noise, torch.tensor(s)) - x0).square().mean() / s**2) for s in SIGMAS}
    sigma = (-1.2 + 1.2 * torch.randn(len(x0), generator=generator)).exp()
    return shares | {"loss": float(average.losses(x0, sigma, noise).mean())}


@torch.no_grad()
def sampled(
    model: DiffusionPrior,
    averages: dict[str, Denoiser],
    dataset: Dataset,
    config: DictConfig,
    compare_samplers: bool,
    margin: int,
) -> dict[str, Any]:
    """What windows are worth, by ``average/sampler-evaluations``; ``margin`` steps are cut off at both ends."""
    chosen = [(average, "ancestral", 16) for average in averages]
    if compare_samplers:
        chosen += [("ramped", s, n) for s in SAMPLERS for n in EVALUATIONS if (s, n) != ("ancestral", 16)]
    results, ema, inner = {}, model.ema, slice(margin, config.data.horizon - margin)
    for average, name, evaluations in chosen:
        model.ema = averages[average]
        pgd = PGD(model, SAMPLERS[name], evaluations, None, None, config.data.horizon, WINDOWS, "float32")
        windows = pgd.generate(None, torch.zeros(WINDOWS, config.env.obs_dim), 0)[:, inner]
        results[f"{average}/{name}-{evaluations}"] = measured(windows, dataset, model)
    model.ema = ema
    return results


def measured(windows: Trajectory, dataset: Dataset, model: DiffusionPrior) -> dict[str, Any]:
    """One-step error in the simulator, by position in the window too; spread and distance beside held-out windows."""
    finite = torch.isfinite(windows.obs).flatten(1).all(-1) & torch.isfinite(windows.action).flatten(1).all(-1)
    kept = windows[finite]
    if not len(kept):
        return {"finite": 0.0}
    errors = step_errors(make(dataset.env.task, dataset.env.physics), kept, dataset.obs_std, ROWS, 0)
    positions = range(windows.batch_size[-1] - 1)
    return {
        "finite": float(finite.float().mean()),
        "median": float(np.median(errors.dynamics)),
        "mean": float(np.mean(errors.dynamics)),
        "reward": float(np.median(errors.reward)),
        "positions": [float(f"{np.median(errors.dynamics[errors.position == p]):.3g}") for p in positions],
        **spread(kept, dataset, model),
    }


def spread(windows: Trajectory, dataset: Dataset, model: DiffusionPrior) -> dict[str, float]:
    """``diversity``: mean distance between two windows over that of two recorded ones; ``energy``: the energy
    distance to recorded ones over their mean distance (0: the same law). Of standardised obs and actions."""
    recorded = dataset.train[torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:WINDOWS]]
    recorded = recorded[:, : windows.batch_size[-1]]
    a, b = (TrajectoryCodec.encode(model.codec, w)[..., :-2].flatten(1) for w in (windows, recorded))
    aa, bb = (mean_distance(w, w) * len(w) / (len(w) - 1) for w in (a, b))
    return {"diversity": aa / bb, "energy": (2 * mean_distance(a, b) - aa - bb) / bb}


def mean_distance(a: Tensor, b: Tensor) -> float:
    return float(torch.cdist(a, b).mean())


def reference(dataset: Dataset, config: DictConfig) -> dict[str, float]:
    """The error of recorded steps in the simulator, and that of saying that nothing changes."""
    held_out = dataset.validation or dataset.train
    real = held_out[torch.arange(len(held_out))[:WINDOWS]]
    simulator = make(dataset.env.task, dataset.env.physics)
    floor = step_errors(simulator, real, dataset.obs_std, ROWS // 4, 0)
    moved = (real.obs[:, 1:] - real.obs[:, :-1]) / torch.where(dataset.obs_std == 0, 1, dataset.obs_std)
    still = moved.square().mean(-1)
    return {"median": float(np.median(floor.dynamics)), "mean": float(floor.dynamics.mean()),
            "persistence_median": float(still.median()), "persistence_mean": float(still.mean())}  # fmt: skip


def machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def commit() -> str:
    return subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()


if __name__ == "__main__":
    main()
