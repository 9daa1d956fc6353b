"""``pgd imagine``, also ``pgd train -cn imagine``: PolyGRAD's learner on a recording. Clone, fit the critic, improve.

The recipe is ours (nothing of it is in the paper): a world model of the recorded windows, a clone of the policy that
recorded them with its critic, and improvement in imagination from recorded states, held to the clone by choice. Each
seed is a run of its own; all share the world model.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from pgd_lightning import ranks
from pgd_lightning.data.modules import StartsDataModule
from pgd_lightning.data.windows import PaddedWindows, split_padded
from pgd_lightning.dataset import Dataset, open_dataset
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation import figures
from pgd_lightning.evaluation.callback import Evaluation
from pgd_lightning.evaluation.fidelity import DataDistance, health_card, health_line
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import paired_interval, seed_interval
from pgd_lightning.fitting import ALONE, fit
from pgd_lightning.generators.world import WorldModel
from pgd_lightning.imagination import OfflineImagination, Phases, imagining
from pgd_lightning.prior import READING, build_model, identity, ready_model
from pgd_lightning.progress import say
from pgd_lightning.randomness import derive_seed, seeded
from pgd_lightning.runs import Run, build, command_line, write_atomic
from pgd_lightning.simulators import make
from pgd_lightning.tracking import mirror_figures
from pgd_lightning.trajectory import Policy

WORLD = "world"
FREE = ("log_every", "tolerance")
ELSEWHERE = ("agent", "generator", "guidance", "synthetic", "updates", "prior", "network", "learning", "analysis")


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train ``seeds`` learners one after the other; write and print their scores beside their clones'."""
    began = time.monotonic()
    if ranks.count() > 1:
        raise UserError("pgd imagine is one process, which trains one seed after the other: trainer.devices=1.")
    check(config, overrides)
    dataset = open_dataset(config)
    world = cast(WorldModel, ready_model(config, dataset, WORLD)[0])
    runs = [train_seed(config, dataset, world, seed) for seed in range(config.seed, config.seed + config.seeds)]
    folder, paths = report(runs, config, dataset)
    mirror_figures(config, runs[0], dataset.provenance, paths)
    say(f"\n{(folder / 'table.txt').read_text()}")
    say(f"results: {folder}  ({time.monotonic() - began:.0f} s in all)\nagain:   {command_line()}")


def check(config: DictConfig, overrides: list[str]) -> None:
    """Raises UserError, before anything is trained, for settings that are not used here or do not fit."""
    for key in (o.split("=")[0].lstrip("+~") for o in overrides):
        if key.split(".")[0] in ELSEWHERE:
            raise UserError(f"pgd imagine does not use '{key}': its settings are imagine.*, world.*, data.*, learner=.")
    if not OmegaConf.is_dict(config.imagine.learner):
        raise UserError(f"imagine.learner={config.imagine.learner} is written learner={config.imagine.learner}.")
    build_learner(config, cast(WorldModel, build_model(config, WORLD, 1)), config.seed)


def phases(config: DictConfig) -> Phases:
    """The turns of each kind."""
    return Phases(config.imagine.clone, config.imagine.warm_up, config.imagine.improve)


def run_of(config: DictConfig, dataset: Dataset, seed: int) -> Run:
    """The run of one seed; how often it logs makes no other one of it."""
    settings: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, ["imagine", "evaluation", "physics"]))
    settings["imagine"] = {key: value for key, value in settings["imagine"].items() if key not in FREE}
    settings |= {WORLD: identity(config, dataset, WORLD), "model_seed": config.seed}
    settings |= {"file": dataset.provenance["sha256"], "reading": {key: config.data[key] for key in READING}}
    run = Run.at(
        config.runs_dir, "imagination", config.env.name, f"polygrad-{config.imagine.learner.name}", settings, seed
    )
    run.update(agent=config.imagine.learner.name, generator="polygrad")
    return run


def build_learner(config: DictConfig, world: WorldModel, seed: int) -> OfflineImagination:
    """An untrained learner; its seed alone decides its first weights."""
    imagine = config.imagine
    with seeded(seed, "imagine/init"):
        agent = build(imagine.learner.build)(obs_dim=config.env.obs_dim, action_dim=config.env.action_dim)
    return OfflineImagination(
        phases=phases(config),
        conservatism=build(imagine.conservatism),
        clone_rate=imagine.clone_rate,
        world=world,
        agent=agent,
        **imagining(imagine),
        seed=seed,
    )


def recorded(config: DictConfig, dataset: Dataset) -> PaddedWindows:
    """The windows that are not held out, running past terminals."""
    return split_padded(dataset.recording, config.data.horizon, config.data.validation, config.seed)[0]


def train_seed(config: DictConfig, dataset: Dataset, world: WorldModel, seed: int) -> Run:
    """The finished run of one seed: found, continued or trained."""
    run = run_of(config, dataset, seed)
    if run.finished:
        say(f"imagination: seed {seed} is trained already, in {run.folder}")
        return run
    with run.started(config, dataset.provenance):
        module, turns = build_learner(config, world, seed), phases(config).turns
        evaluation = Evaluation(
            dataset.env, config.imagine.evaluate_every, config.evaluation.episodes, range(seed, seed + 1),
            derive_seed(config.seed, "monitor"), lambda rows: run.append("ledger.jsonl", rows),
            workers=config.ranks.simulators,
        )  # fmt: skip
        say(f"imagination: seed {seed}, {turns} turns, {run.folder}")
        fit(
            run, config, dataset.provenance, module,
            StartsDataModule(recorded(config, dataset), config.imagine.windows, config.imagine.batch_size, seed, turns),
            steps=turns, log_every=config.imagine.log_every, checkpoint_every=config.checkpoint_every,
            callbacks=[evaluation], spread=ALONE,
        )  # fmt: skip
        clone = episodes(config, dataset, module.clone, "clone", seed)
        final = episodes(config, dataset, module.policy, "final", seed)
        run.append("ledger.jsonl", [*clone, *final])
        run.append("health.jsonl", [{"step": turns, **health(config, dataset, module, seed)}])
        run.update(state="finished", score=fmean(row["score"] for row in final))
    return run


def episodes(config: DictConfig, dataset: Dataset, policy: Policy, purpose: str, seed: int) -> list[dict[str, Any]]:
    """The ledger's rows of ``policy``, which acts by its mean; all policies see the same start states."""
    result = rollout(
        dataset.env, policy, 1, config.evaluation.final_episodes, derive_seed(config.seed, "final"),
        workers=config.ranks.simulators,
    )  # fmt: skip
    return result.ledger(dataset.env, phases(config).turns, purpose, seed)


@torch.no_grad()
def health(config: DictConfig, dataset: Dataset, module: OfflineImagination, seed: int) -> dict[str, Any]:
    """The card of windows imagined under the last policy, see :func:`health_card`."""
    data = StartsDataModule(recorded(config, dataset), config.imagine.windows, 0, seed, 0)
    windows, _ = module.imagined(data.turn(phases(config).turns)["starts"], derive_seed(seed, "imagine/health"))
    windows.action = windows.action.clamp(-1, 1)
    simulator = make(dataset.env.task, dataset.env.physics)
    distance = DataDistance(dataset.transitions, 20_000, seed)
    return dict(
        health_card(
            windows[None], module.policy, module.clone, simulator, dataset.obs_std, distance, config.health.rows, seed
        )
    )


def report(runs: list[Run], config: DictConfig, dataset: Dataset) -> tuple[Path, list[Path]]:
    """Table, numbers and learning curves of all seeds, beside the first one's run."""
    folder = runs[0].folder / "report"
    folder.mkdir(exist_ok=True)
    rows = [row for run in runs for row in run.rows("ledger.jsonl")]
    scores = {purpose: _stacked(runs, purpose) for purpose in ("clone", "final")}
    interval = {purpose: seed_interval(found) for purpose, found in scores.items()}
    gain = paired_interval(scores["final"], scores["clone"])
    cards = [run.rows("health.jsonl")[-1] for run in runs]
    card = {key: fmean(c[key] for c in cards) if all(c[key] is not None for c in cards) else None for key in cards[0]}
    kept = config.imagine.conservatism
    title = f"PolyGRAD offline, {config.imagine.learner.name}, {dataset.env.name} ({dataset.label})"
    write_atomic(
        folder / "table.txt",
        f"{title}\n{asdict(phases(config))} turns, conservatism {kept.kind} {kept.weight:g}, last checkpoint, "
        f"{', '.join(sorted({row['simulator'] for row in rows}))}\n\n"
        f"clone of the data's policy  {interval['clone']}\n"
        f"improved in imagination     {interval['final']}\n"
        f"difference, paired          {gain}{'' if gain.excludes_zero else '  not distinguishable'}\n"
        f"imagined windows            {health_line(card)}\n",
    )
    facts = {"scores": {k: vars(v) for k, v in interval.items()}, "difference": vars(gain), "windows": card}
    write_atomic(folder / "summary.json", json.dumps({**facts, "provenance": dataset.provenance}, indent=2))
    first, second = phases(config).clone, phases(config).clone + phases(config).warm_up
    axis = f"turns: clone to {first}, critic to {second}, then improving in imagination"
    curve = figures.learning_curves({"imagination": rows}, title, folder / "learning_curves.png", xlabel=axis)
    return folder, [curve]


def _stacked(runs: list[Run], purpose: str) -> Any:
    return np.concatenate([figures.scores_of(run.rows("ledger.jsonl"), purpose) for run in runs])
