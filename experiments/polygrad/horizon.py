"""Error and time against horizon of world models, one policy, one run: no training but what is missing.

    python experiments/polygrad/horizon.py models    OUT.json env=hopper-medium data.source=FILE [more settings]
    python experiments/polygrad/horizon.py ablations OUT.json env=hopper-medium data.source=FILE [more settings]

OUT.json may hold models already, which are not measured again. The policy is the clone of the data's. Start states are
those of held-out episodes. Each model imagines windows, the simulator repeats their actions from the same start; e_k is
the mean over dims of the squared difference at row k, in the data's variance; windows count up to where the simulator's
or the model's episode ends.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pgd_lightning.artifacts.agents import behaviour_clone
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.commands import train
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.evaluation.fidelity import open_loop_errors
from pgd_lightning.generators.matching import shape_of, standardised
from pgd_lightning.simulators import make

SEED, WINDOWS = 2026, 200
Settings = dict[str, tuple[int, list[str]]]  # name: (rows imagined, settings)
MODELS: Settings = {
    "PolyGRAD, 10 rows": (10, ["generator=polygrad", "data.horizon=10"]),
    "PolyGRAD, 50 rows": (50, ["generator=polygrad", "data.horizon=50"]),
    "autoregressive diffusion": (50, ["generator=autoregressive_diffusion"]),
    "PETS": (200, ["generator=pets"]),
    "transformer": (200, ["generator=transformer", "data.horizon=16"]),
    "Dreamer's RSSM": (200, ["generator=rssm"]),
    "recurrent mixture density": (200, ["generator=autoregressive"]),
}
TEN, GUIDANCE = ["generator=polygrad", "data.horizon=10"], "generator.build.guidance"
ABLATED = [*TEN, "guidance@generator.build.guidance=on_policy_ablated"]
ABLATIONS: Settings = {
    "score steps (the paper's)": (10, TEN),
    "actions drawn anew": (10, [*ABLATED, f"{GUIDANCE}.kind=sample"]),
    "no guidance": (10, [*ABLATED, f"{GUIDANCE}.kind=none"]),
    "actions not clipped": (10, [*TEN, f"{GUIDANCE}.clip=null"]),
    "states moved as well": (10, [*ABLATED, f"{GUIDANCE}.move_states=true"]),
    "states of the step's mean": (10, [*ABLATED, f"{GUIDANCE}.point=posterior_mean"]),
}


def held_out_starts(dataset: Dataset) -> torch.Tensor:
    """Observations ``[1, N, O]`` of held-out episodes from which a long window can follow."""
    assert dataset.validation is not None
    rows = torch.linspace(0, len(dataset.validation) - 1, min(WINDOWS, len(dataset.validation))).long()
    return dataset.validation[rows].obs[None, :, 0]


@torch.no_grad()
def measured(name: str, rows: int, settings: list[str], overrides: list[str], starts: torch.Tensor) -> dict[str, Any]:
    """One model: errors by row, the shape of its actions, seconds a window and a step."""
    config = compose_config("train", [*overrides, *settings])
    dataset = open_dataset(config)
    policy = behaviour_clone(train.clone_config(overrides, compose_config("train", overrides)), dataset)
    generator = ready_generator(config, dataset)
    if rows != config.data.horizon:
        generator = build({**config.generator.build, "rows": rows})(generator.model)
    generator.generate(policy, starts[:, :8], SEED)
    began = time.perf_counter()
    windows = generator.generate(policy, starts, SEED)
    seconds = time.perf_counter() - began
    kept = windows[0]
    by_row = open_loop_errors(make(dataset.env.task, dataset.env.physics), kept, dataset.obs_std)
    points = [k for k in (1, 2, 5, 9, 20, 49, 100, 199) if k < rows]
    alive = {str(k): int(np.isfinite(by_row[:, k]).sum()) for k in points}
    return {
        "model": name,
        "rows": rows,
        "mean": {str(k): float(np.nanmean(by_row[:, k])) if alive[str(k)] else None for k in points},
        "median": {str(k): float(np.nanmedian(by_row[:, k])) if alive[str(k)] else None for k in points},
        "windows": alive,
        "actions": shape_of(standardised(policy, windows)),
        "seconds_a_window": seconds / len(kept),
        "milliseconds_a_step": 1000 * seconds / len(kept) / (rows - 1),
    }


def main(which: str, out: str, overrides: list[str]) -> None:
    dataset = open_dataset(compose_config("train", overrides))
    starts = held_out_starts(dataset)
    found = json.loads(Path(out).read_text())["models"] if Path(out).exists() else []
    for name, (rows, settings) in {"models": MODELS, "ablations": ABLATIONS}[which].items():
        if name in [model["model"] for model in found]:
            continue
        found.append(measured(name, rows, settings, overrides, starts))
        print(json.dumps(found[-1]), flush=True)
        Path(out).write_text(json.dumps({"data": dataset.label, "starts": starts.shape[1], "models": found}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
