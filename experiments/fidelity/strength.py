"""Does calibrated guidance mean the same everywhere? ``python strength.py RUNS OUT.jsonl FILE.hdf5=RUN,RUN …``.

For each finished agent RUN on a data FILE, whose prior lies below RUNS: windows of each form of guidance, sampler and
strength, measured on a set that the search did not see. One line of JSON for each, added to OUT; lines that are there
are not measured again. ``python strength.py OUT.jsonl`` writes the tables.
"""

import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig

from pgd_lightning.artifacts.agent_modules import build_agent, load_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.models import ready_model
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.config.saved import settings_of
from pgd_lightning.evaluation.fidelity import log_likelihood, step_errors
from pgd_lightning.generators.calibration import gauge, likeness
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Policy, Trajectory

RULES = {"literal": "calibrated", "score": "calibrated_score"}
SAMPLERS = [("euler_ancestral", 16), ("euler_ancestral", 8), ("euler_ancestral", 32)]
STRENGTHS = [0.0, 0.25, 0.5, 1.0]
WINDOWS, ROWS, SEED = 64, 1000, 0  # windows of each learner; rows stepped in the simulator
LEAST = 0.1


@cache
def ready(runs: str, file: str, folder: str) -> tuple[list[str], Dataset, WindowModel, Policy]:
    """The settings of a finished agent's windows, its data, their prior and its policy."""
    run = finished_agent(folder)
    settings = settings_of(run)
    base = [
        f"env={settings.env.name}", f"data.source={file}", f"runs_dir={runs}", f"prior.steps={settings.prior.steps}",
        f"agent={settings.agent.name}", f"seeds={settings.seeds}",
    ]  # fmt: skip
    config = compose_config("train", base)
    dataset = open_dataset(config)
    module = build_agent(settings, dataset)
    load_agent(module, run)
    return base, dataset, ready_model(config, dataset, "prior")[0], module.policy


def measure(runs: str, out: Path, file: str, folder: str, sampler: str, steps: int) -> None:
    """All lines of one policy and sampler."""
    base, dataset, model, policy = ready(runs, file, folder)
    there = {tuple(json.loads(line)["key"]) for line in out.read_text().splitlines()} if out.exists() else set()
    unguided = None
    for rule, name in RULES.items():
        for strength in STRENGTHS:
            agent = base[-2].removeprefix("agent=")
            key = (Path(file).stem, agent, sampler, steps, rule if strength else "", strength)
            first = strength == 0 and rule == "literal"
            if (strength == 0 and not first) or (key in there and not first):
                continue
            changes = [f"sampler={sampler}", f"sampler.num_steps={steps}", f"guidance={name}"]
            config = compose_config("train", [*base, *changes, f"guidance.strength={strength}"])
            line, windows = sampled(build(config.generator.build)(model), config, policy)
            unguided = windows if first else unguided
            if key in there:
                continue
            line |= against(windows, unguided, policy, dataset)
            with out.open("a") as lines:
                lines.write(json.dumps({"key": list(key), **line}) + "\n")
            print(*key, {k: np.round(v, 4) if isinstance(v, float) else v for k, v in line.items()}, flush=True)


def sampled(generator: PGD, config: DictConfig, policy: Policy) -> tuple[dict[str, Any], Trajectory]:
    """What was found, how long the search took, and the windows."""
    find, taken, tried = generator._calibrated, [], []

    def timed(*args: Any) -> Any:
        began = time.process_time()
        found = find(*args)
        taken.append(time.process_time() - began)
        return found

    windows_of = generator._windows

    def counted(*args: Any) -> Any:
        tried.append(1)
        return windows_of(*args)

    generator._calibrated, generator._windows = timed, counted  # type: ignore[method-assign]
    began = time.process_time()
    windows = generator.generate(policy, torch.zeros(config.seeds, WINDOWS, config.env.obs_dim), SEED)
    whole = time.process_time() - began
    assert generator.used is not None
    used = generator.used.record()
    return {
        "coef": used["guidance_coef"], "found": used["guidance_share"], "tries": len(tried) - 2,
        "search_s": sum(taken), "set_s": whole - sum(taken),
    }, windows  # fmt: skip


@torch.no_grad()
def against(windows: Trajectory, unguided: Trajectory | None, policy: Policy, dataset: Dataset) -> dict[str, Any]:
    """The windows of all learners under the policy, in the simulator and among themselves."""
    kept = windows[..., :-1]
    mean, std = gauge(policy, kept.obs, LEAST)
    value = likeness(kept.action, mean, std)
    plain = unguided if unguided is not None else windows
    low = likeness(plain[..., :-1].action, *gauge(policy, plain[..., :-1].obs, LEAST))
    draws = (mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))).clamp(-1, 1)
    high = likeness(draws, mean, std)
    errors = step_errors(
        make(dataset.env.task, dataset.env.physics), windows.flatten(0, 1), dataset.obs_std, ROWS, SEED
    )
    return {
        "share": ((value - low) / (high - low)).tolist(),
        "likeness": float(value.mean()),
        "of_draws": float(high.mean()),
        "log_pi": float(log_likelihood(policy, windows).mean()),
        "distance": float((kept.action - mean).square().mean()),
        "z": float(((kept.action - mean) / std).square().mean()),
        "std": float(std.mean()),
        "error": float(np.median(errors.dynamics)),
        "diversity": diversity(windows, dataset),
    }


def diversity(windows: Trajectory, dataset: Dataset) -> float:
    """Mean distance between two windows of one learner over that of two recorded ones, standardised obs and actions."""
    chosen = torch.randperm(len(dataset.train), generator=torch.Generator().manual_seed(0))[:512]
    real = dataset.train[chosen]
    scale = torch.cat([real.obs, real.action], -1).flatten(0, -2).std(0).clamp(min=1e-6)

    def apart(part: Trajectory) -> float:
        x = (torch.cat([part.obs, part.action], -1) / scale).flatten(1)
        return float(torch.cdist(x, x).sum() / (len(x) * (len(x) - 1)))

    return float(np.mean([apart(part) for part in windows])) / apart(real)


def tables(out: Path) -> str:
    """One table for each policy."""
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    text = []
    for data, agent in dict.fromkeys(tuple(line["key"][:2]) for line in lines):
        mine = [line for line in lines if tuple(line["key"][:2]) == (data, agent)]
        text += [
            f"\n**{data}, {agent}** (standard deviation measured with: {mine[0]['std']:.2f})\n",
            "| sampler | form | strength | coefficient | share | distance | log pi | error | diversity | search |",
            "|---|---|---:|---|---|---:|---:|---:|---:|---:|",
        ]
        text += [row(line) for line in mine]
    return "\n".join(text)


def row(line: dict[str, Any]) -> str:
    _, _, sampler, steps, rule, strength = line["key"]
    coef = ", ".join(f"{c:.2g}" for c in line["coef"]) if strength else ""
    cost = f"{line['search_s'] / (line['set_s'] * 512 / WINDOWS):.0%}" if strength else ""
    return (
        f"| {sampler} {steps} | {rule} | {strength:g} | {coef} | {', '.join(f'{s:.2f}' for s in line['share'])} "
        f"| {line['distance']:.3g} | {line['log_pi']:.2f} | {line['error']:.2g} | {line['diversity']:.2f} | {cost} |"
    )


def main(*arguments: str) -> None:
    if len(arguments) == 1:
        print(tables(Path(arguments[0])))
        return
    runs, out, *policies = arguments
    for sampler, steps in SAMPLERS:
        for policy in policies:
            file, folders = policy.split("=")
            for folder in folders.split(","):
                measure(runs, Path(out), file, folder, sampler, steps)


if __name__ == "__main__":
    main(*sys.argv[1:])
