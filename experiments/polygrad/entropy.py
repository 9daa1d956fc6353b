"""Do imagined actions follow the policy at any entropy? ``python entropy.py RUN OUT``: no training.

RUN is a finished ``pgd polygrad`` run. Its last policy is given one deviation after the other, the strength of guidance
is searched for each, and the standardised actions are held against the standard normal (PolyGRAD, arXiv 2312.08533).
"""

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from pgd_lightning.commands import polygrad
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.generators.matching import Bounds, StdMatched, shape_of, standardised
from pgd_lightning.randomness import stream
from pgd_lightning.report.action_figure import standardised_actions
from pgd_lightning.runs.checkpoints import newest_checkpoint
from pgd_lightning.runs.run import open_run
from pgd_lightning.trajectory import Policy

DEVIATIONS = (1.0, 0.5, 0.3, 0.2, 0.1, 0.05)
WINDOWS = 1000


class Alone:
    """A policy of one learner behind the axis of seeds that matching expects."""

    def __init__(self, policy: Policy) -> None:
        self.policy = policy

    def __getattr__(self, name: str) -> Any:
        return getattr(self.policy, name)


@torch.no_grad()
def main(folder: str, out: str) -> None:
    run = open_run(folder)
    config = settings_of(run)
    module = polygrad.build_learner(config)
    data = polygrad.data_module(config, build(config.env), module)
    checkpoint = torch.load(newest_checkpoint(run.checkpoints), map_location="cpu", weights_only=True)
    module.load_state_dict(checkpoint["state_dict"])
    data.load_state_dict(checkpoint["OnlineDataModule"])
    starts = data.collector.buffer.windows(WINDOWS, config.data.horizon, stream(0, "entropy")).obs[None, :, 0]
    samples, rows = {}, []
    policy = module.policy
    policy.floor = 0.0
    for deviation in DEVIATIONS:
        policy.log_excess.fill_(math.log(deviation))
        matched = StdMatched(
            module.world, module.make, replace(module.guidance), Bounds(module.bounds.low, module.bounds.high),
            windows=256, tries=12, tolerance=0.1,
        )  # fmt: skip
        strength = matched.match(Alone(policy), starts[:, :256], 0)
        windows = module.make(model=module.world, guidance=replace(module.guidance, coef=strength)).generate(
            Alone(policy), starts, 1
        )
        z = standardised(Alone(policy), windows)
        samples[f"deviation {deviation:g}"] = z.flatten().numpy()
        rows.append({"deviation": deviation, "strength": float(strength), **shape_of(z)})
        print(rows[-1], flush=True)
    Path(out).mkdir(parents=True, exist_ok=True)
    (Path(out) / "entropy.json").write_text(json.dumps(rows, indent=1))
    title = f"imagined actions of one policy at several deviations, {config.env.name}, seed {config.seed}"
    standardised_actions(samples, title, Path(out) / "entropy.png")


if __name__ == "__main__":
    main(*sys.argv[1:])
