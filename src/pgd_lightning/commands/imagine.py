"""``pgd imagine``, also ``pgd train -cn imagine``: PolyGRAD's learner on a recording. Clone, fit the critic, improve.

The recipe is ours (nothing of it is in the paper): a world model of the recorded windows, a clone of the policy that
recorded them with its critic, and improvement in imagination from recorded states, held to the clone by choice. Each
learner is a run of its own; all share the world model.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from omegaconf import DictConfig

from pgd_lightning.artifacts.agent_modules import load_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.models import build_model, ready_model
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import as_text, asked_as
from pgd_lightning.data.modules import StartsDataModule
from pgd_lightning.data.windows import PaddedWindows, split_padded
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.fidelity import DataDistance, health_card, health_line
from pgd_lightning.evaluation.ledgers import episodes, mean_outcome
from pgd_lightning.evaluation.rollout import require_simulator, rollout
from pgd_lightning.evaluation.statistics import paired_interval, seed_interval
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.imagination.learner import OfflineImagination, Phases, imagining
from pgd_lightning.randomness import derive_seed, learner_seeds, seeded
from pgd_lightning.report import figures, run_page
from pgd_lightning.runs import identity, ranks
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.provenance import command_line
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.training.evaluation import Evaluation
from pgd_lightning.training.fit import ALONE, fit
from pgd_lightning.training.loggers import mirror_figures

WORLD = "world"
ELSEWHERE = ("agent", "generator", "guidance", "synthetic", "updates", "prior", "network", "learning", "analysis")


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train ``seeds`` learners one after the other; write and print their scores beside their clones'."""
    began = time.monotonic()
    if ranks.count() > 1:
        raise UserError("pgd imagine is one process, which trains one seed after the other: trainer.devices=1.")
    check(config, overrides)
    require_simulator(build(config.env))
    dataset = open_dataset(config)
    world = cast(WorldModel, ready_model(config, dataset, WORLD)[0])
    runs = [train_learner(config, dataset, world, number) for number in range(config.seeds)]
    folder, paths = report(runs, config, dataset)
    mirror_figures(config, runs[0], dataset.provenance, paths)
    say(f"\n{(folder / 'table.txt').read_text()}")
    say(f"results: {folder}  ({time.monotonic() - began:.0f} s in all)\nagain:   {command_line()}")
    say(f"page: {folder / 'index.html'}")


def check(config: DictConfig, overrides: list[str]) -> None:
    """Raises UserError, before anything is trained, for settings that are not used here or do not fit."""
    for key in (o.split("=")[0].lstrip("+~") for o in overrides):
        if key.split(".")[0] in ELSEWHERE:
            raise UserError(f"pgd imagine does not use '{key}': its settings are imagine.*, world.*, data.*, learner=.")
    build_learner(config, cast(WorldModel, build_model(config, WORLD, 1)), config.seed)


def phases(config: DictConfig) -> Phases:
    """The turns of each kind."""
    return Phases(config.imagine.clone, config.imagine.warm_up, config.imagine.improve)


def run_of(config: DictConfig, dataset: Dataset, number: int) -> Run:
    """The run of one learner."""
    method, what = f"polygrad-{config.imagine.learner.name}", identity.imagination(config, dataset.file)
    run = Run.at(config.runs_dir, "imagination", config.env.name, method, what, config.seed, number)
    learners = learner_seeds(config.seed, [number])
    run.update(agent=config.imagine.learner.name, generator="polygrad", learners=learners)
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


def train_learner(config: DictConfig, dataset: Dataset, world: WorldModel, number: int) -> Run:
    """The finished run of one learner: found, continued or trained."""
    run = run_of(config, dataset, number)
    (seed,) = learner_seeds(config.seed, [number])
    if run.finished:
        say(f"imagination: learner {number} is trained already, in {run.folder}")
        measure(run, config, dataset, world, number)
        return run
    with run.started(as_text(config), dataset.provenance):
        module, turns = build_learner(config, world, seed), phases(config).turns
        evaluation = Evaluation(
            dataset.env, config.imagine.evaluate_every, config.evaluation.episodes, range(number, number + 1),
            derive_seed(config.seed, "monitor"), lambda rows: run.append("ledger.jsonl", rows),
            workers=config.ranks.simulators,
        )  # fmt: skip
        say(f"imagination: learner {number}, {turns} turns, {run.folder}")
        fit(
            run, config, dataset.provenance, module,
            StartsDataModule(recorded(config, dataset), config.imagine.windows, config.imagine.batch_size, seed, turns),
            title=f"imagination, learner {number}", steps=turns, log_every=config.imagine.log_every,
            checkpoint_every=config.checkpoint_every,
            callbacks=[evaluation], spread=ALONE,
        )  # fmt: skip
        final = last_episodes(run, config, dataset, module, number, first=0)
        run.append("health.jsonl", [{"step": turns, **health(config, dataset, module, seed)}])
        run.update(state="finished", **mean_outcome(final, dataset.env))
    return run


def measure(run: Run, config: DictConfig, dataset: Dataset, world: WorldModel, number: int) -> None:
    """Add the final episodes that a finished run lacks, and compute its score by the constants of ``config.env``."""
    if asked_as(run, config):
        return
    with run.started(as_text(config), dataset.provenance):
        wanted = config.evaluation.final_episodes
        final = [row for row in episodes(run.rows("ledger.jsonl"), dataset.env) if row["purpose"] == "final"]
        if len(final) < wanted:
            module = build_learner(config, world, *learner_seeds(config.seed, [number]))
            load_agent(module, run)
            final += last_episodes(run, config, dataset, module, number, first=len(final))
        run.update(**mean_outcome([row for row in final if row["index"] < wanted], dataset.env))


def last_episodes(
    run: Run, config: DictConfig, dataset: Dataset, module: OfflineImagination, number: int, first: int
) -> list[dict[str, Any]]:
    """Roll out the clone and the last policy from the same start states, note both, and return the policy's rows.

    Policies act by their means; episodes before ``first`` are there already.
    """
    rows: dict[str, list[dict[str, Any]]] = {}
    for purpose, policy in (("clone", module.clone), ("final", module.policy)):
        result = rollout(
            dataset.env, policy, 1, config.evaluation.final_episodes, derive_seed(config.seed, "final"),
            workers=config.ranks.simulators, first=first,
        )  # fmt: skip
        rows[purpose] = result.ledger(dataset.env, phases(config).turns, purpose, number)
    run.append("ledger.jsonl", [*rows["clone"], *rows["final"]])
    return rows["final"]


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
    rows = [row for run in runs for row in episodes(run.rows("ledger.jsonl"), dataset.env)]
    asked = [row for row in rows if row["purpose"] == "monitor" or row["index"] < config.evaluation.final_episodes]
    scores = {purpose: figures.scores_of(asked, purpose) for purpose in ("clone", "final")}
    interval = {purpose: seed_interval(found) for purpose, found in scores.items()}
    gain = paired_interval(scores["final"], scores["clone"])
    cards = [run.rows("health.jsonl")[-1] for run in runs]
    card = {key: fmean(c[key] for c in cards) if all(c[key] is not None for c in cards) else None for key in cards[0]}
    kept = config.imagine.conservatism
    title = f"PolyGRAD offline, {config.imagine.learner.name}, {dataset.env.name} ({dataset.label})"
    table = (
        f"{title}\n{asdict(phases(config))} turns, conservatism {kept.kind} {kept.weight:g}, last checkpoint, "
        f"{', '.join(sorted({row['simulator'] for row in rows}))}\n\n"
        f"clone of the data's policy  {interval['clone']}\n"
        f"improved in imagination     {interval['final']}\n"
        f"difference, paired          {gain}{'' if gain.excludes_zero else '  not distinguishable'}\n"
        f"imagined windows            {health_line(card, make(dataset.env.task, dataset.env.physics).unresettable)}\n"
    )
    write_atomic(folder / "table.txt", table)
    facts = {"scores": {k: vars(v) for k, v in interval.items()}, "difference": vars(gain), "windows": card}
    write_atomic(folder / "summary.json", json.dumps({**facts, "provenance": dataset.provenance}, indent=2))
    first, second = phases(config).clone, phases(config).clone + phases(config).warm_up
    axis = f"turns: clone to {first}, critic to {second}, then improving in imagination"
    curve = figures.learning_curves({"imagination": rows}, title, folder / "learning_curves.png", xlabel=axis)
    said = run_page.compared("the policy improved in imagination", "the clone of the data's policy", gain)
    run_page.write_short(
        runs[0], title, dataset.provenance["kind"], [said], table, {"Score of the monitored policies": curve},
        run_page.data_facts(dataset), folder,
    )  # fmt: skip
    return folder, [curve]
