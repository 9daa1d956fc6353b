"""Errors over the length of a window, for policies from near the data to far: PGD beside PETS and the simulator.

    python experiments/fidelity/length.py OUT.jsonl ENV [settings]      # adds what OUT.jsonl lacks
    python experiments/fidelity/length.py OUT.jsonl                     # draws OUT.png and prints the table

The policies are stages of this project's PPO run, which recorded the dataset at its medium stage. From the same
recorded starts, each generator makes windows of ``data.horizon`` steps under each policy. By step of the window:

* one_step: error of one real step from the window's state by its action, squared, in the data's variance;
* open_loop: that of the window's state against the simulator's, which began at the window's start and took its actions;
* outside: share of steps with an observation that has a value which the data never reach;
* log_pi: log density of the action under the policy.

``train_s`` is the processor time of the model's training where this call trained it: choose ``prior.steps`` and
``ensemble.steps`` such that both take equally long.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.commands.analyse import ppo_policy
from pgd_lightning.config.compose import compose_config
from pgd_lightning.evaluation.fidelity import beyond, finite, open_loop_errors, step_errors
from pgd_lightning.report.drawing import GUIDED, OTHERS, UNGUIDED, legend_below, plt, save, styled
from pgd_lightning.simulators import make
from pgd_lightning.simulators.substitutes.policies import Ladder
from pgd_lightning.trajectory import Policy, Trajectory

SEED, WINDOWS = 2026, 200
GENERATORS = {"policy-guided": ["generator=pgd"], "unguided": ["generator=unguided"], "PETS": ["generator=pets"]}
COLOURS = {"policy-guided": GUIDED, "unguided": UNGUIDED, "PETS": OTHERS[1]}
MEASURES = {"one_step": "one-step error", "open_loop": "open-loop error", "outside": "share outside the data"}
STAGES = (-5, -3, 0, 2, 5)  # of the PPO run, from the one that recorded the data
ERRORS, SHOWN = ("one_step", "open_loop"), (1, 10, 50, 99)  # at these steps of a window


@torch.no_grad()
def measured(windows: Trajectory, policy: Policy, dataset: Dataset) -> dict[str, Any]:
    """Of ``windows [1, N, T]``, by step: medians over windows (``outside``, ``log_pi``: means)."""
    kept = windows[0][finite(windows)[0]]
    simulator, rows = make(dataset.env.task, dataset.env.physics), kept.batch_size[-1]
    errors = step_errors(simulator, kept, dataset.obs_std, kept.numel(), SEED)
    open_loop = open_loop_errors(simulator, kept, dataset.obs_std)
    outside = beyond(kept.obs, dataset.recording.obs).double()
    return {
        "windows": len(kept),
        "one_step": [median(errors.dynamics[errors.position == place]) for place in range(rows - 1)],
        "open_loop": [median(open_loop[:, place]) for place in range(1, rows)],
        "running": np.isfinite(open_loop).mean(0)[1:].round(3).tolist(),
        "outside": outside.mean(0)[1:].numpy().round(4).tolist(),
        "log_pi": policy.log_prob(kept.obs[None], kept.action[None])[0].mean(0)[:-1].tolist(),
    }


def median(values: NDArray[np.float64]) -> float | None:
    known = values[np.isfinite(values)]
    return float(f"{np.median(known):.4g}") if len(known) else None


def add(out: Path, env: str, settings: list[str]) -> None:
    known = {(line["env"], line["generator"], line["policy"]) for line in lines(out)}
    base = [f"env={env}", "scale=laptop", "data.horizon=100", "agent=bc", *settings]
    dataset = open_dataset(compose_config("train", base))
    ladder = Ladder.load(dataset.env.task)
    starts = dataset.train[torch.linspace(0, len(dataset.train) - 1, WINDOWS).long()].obs[None, :, 0]
    recorded = dataset.transitions[torch.linspace(0, len(dataset.transitions) - 1, 5000).long()]
    stages = dict.fromkeys(min(max(ladder.medium + k, 0), len(ladder.policies) - 1) for k in STAGES)
    for name, choice in GENERATORS.items():
        missing = [stage for stage in stages if (env, name, stage) not in known]
        if not missing:
            continue
        began = time.process_time()
        generator = ready_generator(compose_config("train", [*base, *choice]), dataset)
        seconds = time.process_time() - began
        assert generator is not None
        for stage in missing:
            policy = ppo_policy(f"ppo:{stage}", dataset.env.task, torch.device("cpu"))
            away = (policy.act(recorded.obs[None])[0] - recorded.action).square().mean()
            windows = generator.generate(policy, starts, SEED)
            line = {
                "env": env, "generator": name, "policy": stage, "return": ladder.stages[stage]["return"],
                "distance": float(f"{float(away):.3g}"), "data": dataset.label, "settings": settings,
                "train_s": round(seconds), **measured(windows, policy, dataset),
            }  # fmt: skip
            with out.open("a") as file:
                file.write(json.dumps(line) + "\n")
            print(env, name, stage, line["distance"], [line["one_step"][k - 1] for k in SHOWN], flush=True)


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in out.read_text().splitlines()] if out.exists() else []


@styled
def draw(found: list[dict[str, Any]], path: Path) -> None:
    """A row of panels for each environment; a line for each generator and policy, far ones darker."""
    names = list(dict.fromkeys(line["env"] for line in found))
    figure, axes = plt.subplots(len(names), len(MEASURES), figsize=(11, 3 * len(names)), squeeze=False,
                                layout="constrained")  # fmt: skip
    for name, row in zip(names, axes, strict=True):
        own = [line for line in found if line["env"] == name]
        order = sorted({line["distance"] for line in own})
        for (key, title), axis in zip(MEASURES.items(), row, strict=True):
            for line in own:
                values = [np.nan if value is None else value for value in line[key]]
                weight = (order.index(line["distance"]) + 1) / len(order)
                label = line["generator"] if line["distance"] == order[-1] else None
                style = {"color": COLOURS[line["generator"]], "alpha": 0.25 + 0.75 * weight, "linewidth": 1.2}
                axis.plot(range(1, len(values) + 1), values, label=label, **style)
            axis.set(title=f"{name}: {title}", xlabel="step of the window", xscale="log")
            axis.set_yscale("linear" if key == "outside" else "log")
    legend_below(figure, axes.flat, len(GENERATORS))
    save(figure, "", path)
    path.with_suffix(".svg").unlink()


def table(found: list[dict[str, Any]]) -> None:
    print("| distance to the data | return | windows | one-step error | open-loop error | outside | log pi |")
    print("|---:|---:|---|---|---|---:|---:|")
    for line in sorted(found, key=lambda line: (line["env"], line["distance"], line["generator"])):
        at = [" / ".join("-" if line[k][n - 1] is None else f"{line[k][n - 1]:.1g}" for n in SHOWN) for k in ERRORS]
        means = f"{np.mean(line['outside']):.0%} | {np.mean(line['log_pi']):.1f}"
        print(f"| {line['distance']} | {line['return']:.0f} | {line['generator']} | {' | '.join(at)} | {means} |")


if __name__ == "__main__":
    if len(sys.argv) > 2:
        add(Path(sys.argv[1]), sys.argv[2], sys.argv[3:])
    else:
        draw(lines(Path(sys.argv[1])), Path(sys.argv[1]).with_suffix(".png"))
        table(lines(Path(sys.argv[1])))
