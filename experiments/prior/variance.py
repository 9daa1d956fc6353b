"""How much of the data's variance do windows keep? ``python experiments/prior/variance.py OUT.jsonl [RUN ...]``

RUN are finished agents with windows of a prior (generator=pgd). For each sampler and number of steps, OUT.jsonl gets
``WINDOWS`` windows of that prior, unguided and guided by the agent's final policy as in its training, and is printed:

* variance: of an observation's channel over that of recorded windows, mean over channels; ``actions`` likewise;
* diversity, energy: as in compare.py; reward: mean, beside the recorded windows' own;
* median, mean: one-step error; log_pi: mean log density of the actions under the policy.
"""

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from compare import machine, spread
from torch import Tensor

from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.dataset import Dataset, dataset_of
from pgd_lightning.artifacts.generators import generator_of
from pgd_lightning.config.saved import settings_of
from pgd_lightning.diffusion import samplers
from pgd_lightning.evaluation.fidelity import log_likelihood, step_errors
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Trajectory

WINDOWS, ROWS, SEED = 512, 3000, 0
SAMPLERS = {
    "euler_ancestral": samplers.euler_ancestral,
    "dpmpp_2m": samplers.dpmpp_2m,
    "dpmpp_2m_sde": partial(samplers.dpmpp_2m, stochastic=True),
}
STEPS = (8, 16, 32)


@torch.no_grad()
def lines(folder: str) -> Any:
    run = finished_agent(folder)
    settings = settings_of(run)
    dataset = dataset_of(run, settings, settings.data.source)
    policy, generator = trained_agent(run, settings).policy, generator_of(run, settings, dataset)
    assert isinstance(generator, PGD)
    recorded = dataset.train[torch.linspace(0, len(dataset.train) - 1, WINDOWS).long()]
    about = {"data": dataset.label, "agent": run.record["method"], "prior_steps": settings.prior.steps}
    yield {**about, "sampler": "recorded", "reward": float(recorded.reward.mean()), "machine": machine()}
    starts = torch.zeros(settings.seeds, WINDOWS // settings.seeds, dataset.env.obs_dim)
    for name, sampler in SAMPLERS.items():
        for steps in STEPS:
            generator.sampler, generator.num_steps = sampler, steps
            for guided in (False, True):
                windows = generator.generate(policy if guided else None, starts, SEED)
                found = {"log_pi": float(log_likelihood(policy, windows).mean())}
                found |= measured(windows.flatten(0, 1), recorded, dataset, generator)
                yield {**about, "sampler": name, "steps": steps, "guided": guided, **found}


def measured(windows: Trajectory, recorded: Trajectory, dataset: Dataset, generator: PGD) -> dict[str, float]:
    errors = step_errors(make(dataset.env.task, dataset.env.physics), windows, dataset.obs_std, ROWS, SEED).dynamics
    return {
        "median": float(np.median(errors)),
        "mean": float(errors.mean()),
        "variance": kept(windows.obs, recorded.obs),
        "actions": kept(windows.action, recorded.action),
        "reward": float(windows.reward.mean()),
        **spread(windows, dataset, generator.prior),
    }


def kept(values: Tensor, recorded: Tensor) -> float:
    """Mean over channels of the variance of ``values`` over that of ``recorded``, where these vary."""
    some, all_of = values.flatten(0, -2).var(0), recorded.flatten(0, -2).var(0)
    return float((some / all_of)[all_of > 0].mean())


def table(found: list[dict[str, Any]]) -> None:
    print("| data | sampler | steps | variance | diversity | distance | reward | error, median | mean | log pi |")
    print("|---|---|---:|---|---|---|---|---|---|---:|")
    plain: dict[str, Any] = {}
    for line in found:
        if line["sampler"] == "recorded":
            print(f"| {line['data']} | recorded | | 1 | 1 | 0 | {line['reward']:.3g} | | | |")
        elif not line["guided"]:
            plain = line
        else:
            keys = ("variance", "diversity", "energy", "reward", "median", "mean", "log_pi")
            pairs = (f"{plain[key]:.2g} / {line[key]:.2g}" for key in keys)
            print(f"| {line['data']} | {line['sampler']} | {line['steps']} | {' | '.join(pairs)} |")


def main(out: Path, folders: list[str]) -> None:
    for folder in folders:
        for line in lines(folder):
            short = {key: float(f"{v:.4g}") if isinstance(v, float) else v for key, v in line.items()}
            with out.open("a") as file:
                file.write(json.dumps(short) + "\n")
    table([json.loads(line) for line in out.read_text().splitlines()])


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
