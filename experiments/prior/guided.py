"""Guided windows by sampler, evaluations and guidance: ``python guided.py --data FOLDER... --body DATA...``.

Under the policy of an agent trained on the recording alone. Each line of the ledger is a set of windows: ``distance``,
the mean squared distance of its actions to the policy's; ``share``, how likely they are under the policy (0: as the
data's, 1: as its own, by the likeness of ``generators/calibration.py``; meaningless where these are hardly apart); the
one-step error in the simulator; diversity. What the ledger holds is not made again.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from compare import commit, machine, spread

import pgd_lightning as pgd
from pgd_lightning.evaluation.fidelity import finite, step_errors
from pgd_lightning.generators.calibration import gauge, likeness
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Policy, Trajectory

HERE = Path(__file__).parent
LEAST_STD = 0.1  # of a policy, as in conf/guidance/calibrated.yaml
STEPS = 2000  # tried in the simulator


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", type=Path, required=True, help="folders in which the files lie")
    parser.add_argument("--body", nargs="+", required=True, help="names of plan.yaml's data")
    parser.add_argument("--agent", nargs="+", default=["td3_bc"])
    parser.add_argument("--updates", type=int, default=10_000)
    parser.add_argument("--windows", type=int, default=512)
    parser.add_argument("--scale", default="laptop")
    parser.add_argument("--set", nargs="*", default=[], help="more settings, as prior.learning_rate=2e-3")
    parser.add_argument("--samplers", nargs="+", default=["euler_ancestral", "dpmpp_2m"])
    parser.add_argument("--runs", type=Path, default=Path("runs"))
    parser.add_argument("--plan", type=Path, default=HERE / "plan.yaml")
    parser.add_argument("--ledger", type=Path, default=HERE / "guided.jsonl")
    options = parser.parse_args()
    torch.set_num_threads(1)
    plan = yaml.safe_load(options.plan.read_text())
    lines = options.ledger.read_text().splitlines() if options.ledger.exists() else []
    known = {tuple(json.loads(line)[key] for key in ("data", "agent", "sampled")) for line in lines}
    for body in options.body:
        path = next(p for p in (folder / f"{body}.hdf5" for folder in options.data) if p.exists())
        env, *more = plan["data"][body]
        settings = {"scale": options.scale, "runs_dir": str(options.runs)}
        settings |= dict(setting.split("=") for setting in (*more, *options.set))
        data = pgd.load(path, env=env.removeprefix("env="), settings=settings)
        prior = pgd.train_prior(data)
        for agent in options.agent:
            trained = pgd.train_agent(
                data, agent, "none", updates=options.updates, seeds=1, settings={"evaluation.every": options.updates}
            )
            policy = trained.policy
            ends = likeness_of_ends(policy, data, options.windows)
            for sampled, given in sets(options.samplers):
                if (body, agent, sampled) in known:
                    continue
                began = time.process_time()
                guided = None if given["coef"] == 0 else policy
                windows = pgd.generate(prior, guided, options.windows, **given).flatten(0, -2)
                seconds = time.process_time() - began
                line = {
                    "data": body, "agent": agent, "updates": options.updates, "sampled": sampled,
                    "seconds": round(seconds, 2), **measured(windows, policy, ends, data, prior),
                    "machine": machine(), "commit": commit(),
                }  # fmt: skip
                with options.ledger.open("a") as ledger:
                    ledger.write(json.dumps(line) + "\n")
                print(json.dumps(line), flush=True)


def sets(samplers: list[str]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Names and what ``pgd.generate`` is given for each."""
    for sampler in samplers:
        for evaluations in (8, 16, 32):
            chosen = {"sampler": sampler, "sampler.num_steps": evaluations}
            yield f"{sampler}-{evaluations}/none", {"coef": 0.0, "settings": chosen}
            for guidance, coefs in (("literal", (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)), ("score", (1.0, 10.0, 30.0, 100.0))):
                for coef in coefs:
                    settings = chosen | {"guidance": guidance}
                    yield f"{sampler}-{evaluations}/{guidance}-{coef:g}", {"coef": coef, "settings": settings}


def likeness_of_ends(policy: Policy, data: pgd.Data, windows: int) -> tuple[float, float]:
    """Of recorded actions, and of the policy's own at the same states."""
    train = data.dataset.train
    recorded = train[torch.randperm(len(train), generator=torch.Generator().manual_seed(0))[:windows]].unsqueeze(0)
    mean, std = gauge(policy, recorded.obs, LEAST_STD)
    own = mean + std * torch.randn(mean.shape, generator=torch.Generator().manual_seed(1))
    return float(likeness(recorded.action, mean, std)), float(likeness(own.clamp(-1, 1), mean, std))


def measured(
    windows: Trajectory, policy: Policy, ends: tuple[float, float], data: pgd.Data, prior: DiffusionPrior
) -> dict[str, Any]:
    """Of ``windows [N, T]``."""
    good = finite(windows)
    if not good.any():
        return {"finite": 0.0}
    kept = windows[good]
    like = float(likeness(kept.action.unsqueeze(0), *gauge(policy, kept.obs.unsqueeze(0), LEAST_STD)))
    errors = step_errors(make(data.env.task, data.env.physics), kept, data.dataset.obs_std, STEPS, 0)
    return {
        "finite": float(good.float().mean()),
        "share": (like - ends[0]) / (ends[1] - ends[0]),
        "distance": float((kept.action - policy.act(kept.obs.unsqueeze(0))[0]).square().mean()),
        "median": float(np.median(errors.dynamics)),
        "mean": float(np.mean(errors.dynamics)),
        "reward": float(np.median(errors.reward)),
        **spread(kept, data.dataset, prior),
    }


if __name__ == "__main__":
    main()
