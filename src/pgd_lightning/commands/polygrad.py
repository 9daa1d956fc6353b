"""``pgd polygrad``, also ``pgd train -cn polygrad``: PolyGRAD online. Collect, fit, imagine, improve; evaluate."""

from __future__ import annotations

import json
import time
from statistics import fmean
from typing import Any

import torch
from omegaconf import DictConfig

from pgd_lightning.artifacts.training_settings import mirror_settings, trainer_settings
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import as_text
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import EpisodeRow, episodes, mean_outcome
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.generators.matching import standardised
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.imagination.collector import OnlineDataModule
from pgd_lightning.imagination.learner import ImaginationLearner
from pgd_lightning.randomness import derive_seed, seeded, stream
from pgd_lightning.report import action_figure, figures, run_page
from pgd_lightning.runs import identity, ranks
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.checkpoints import newest_checkpoint
from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import LEDGER
from pgd_lightning.runs.provenance import command_line
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.training.evaluation import Evaluation
from pgd_lightning.training.fit import ALONE, fit
from pgd_lightning.training.loggers import MirrorSettings, mirror_figures


def main(config: DictConfig, overrides: list[str]) -> None:
    began = time.monotonic()
    if ranks.count() > 1:
        raise UserError("pgd polygrad is one process, for one simulator feeds it: run each seed= as a job of its own.")
    env: EnvSpec = build(config.env)
    if config.data.horizon >= env.limit:
        raise UserError(
            f"data.horizon={config.data.horizon} is longer than an episode of {env.task} ({env.limit} steps): lower it."
        )
    method = f"polygrad-{config.online.learner.name}"
    run = Run.at(config.runs_dir, "online", env.name, method, identity.online(config), config.seed)
    run.update(agent=config.online.learner.name, generator="polygrad")
    provenance = {"kind": "online", "label": f"{env.task}, collected online", "path": None, "sha256": None}
    if run.finished:
        say(f"online: trained already, in {run.folder}")
        return
    mirror = mirror_settings(config, provenance)
    with run.started(as_text(config), provenance):
        module = build_learner(config)
        data = data_module(config, env, module)
        train(run, config, env, module, data, mirror)
        rows = final_episodes(config, env, module)
        run.append(LEDGER, rows)
        paths = report(run, config, env, module, data)
        run.update(state="finished", **mean_outcome(rows, env))
    mirror_figures(mirror, run, paths)
    say(f"\n{(run.folder / 'report' / 'table.txt').read_text()}")
    say(f"results: {run.folder / 'report'}  ({time.monotonic() - began:.0f} s in all)\nagain:   {command_line()}")
    say(f"page: {run.folder / 'report' / 'index.html'}")


def build_learner(config: DictConfig) -> ImaginationLearner:
    """An untrained learner; the seed alone decides its first weights."""
    online = config.online
    with seeded(config.seed, "online/init"):
        world: WorldModel = build(config.world.model)(
            total_steps=online.steps, log_every=online.log_every, seed=config.seed
        )
        return ImaginationLearner(
            world=world,
            agent=build(online.learner.build)(obs_dim=config.env.obs_dim, action_dim=config.env.action_dim),
            generator=build(online.generator),
            guidance=build(online.guidance),
            bounds=build(online.bounds),
            adaptation=online.adaptation,
            tolerance=online.tolerance,
            log_every=online.log_every,
            seed=config.seed,
        )


def turns(config: DictConfig) -> int:
    """How many turns make up ``online.steps``. Raises UserError where they do not."""
    count, rest = divmod(config.online.steps, config.online.turn)
    if rest or config.evaluation.every % config.online.turn:
        raise UserError(
            f"online.steps={config.online.steps} and evaluation.every={config.evaluation.every} are to be multiples of "
            f"online.turn={config.online.turn}."
        )
    return int(count)


def data_module(config: DictConfig, env: EnvSpec, module: ImaginationLearner) -> OnlineDataModule:
    """The collector, its buffer and the batches of each turn."""
    online = config.online
    return OnlineDataModule(
        environment=make(env.task, env.physics),
        limit=env.limit,
        rows=config.data.horizon,
        prefill=online.prefill,
        steps=online.turn,
        patience=online.patience,
        world_updates=online.world_updates,
        world_batch=config.world.batch_size,
        imagined=online.imagined,
        total_turns=turns(config),
        seed=config.seed,
        policy=lambda: module.policy,
    )


def train(
    run: Run,
    config: DictConfig,
    env: EnvSpec,
    module: ImaginationLearner,
    data: OnlineDataModule,
    mirror: MirrorSettings,
) -> None:
    """From the newest checkpoint, if there is one, to the last turn."""
    turn = config.online.turn

    def record(rows: list[EpisodeRow]) -> None:
        run.append(LEDGER, [{**row, "step": row["step"] * turn} for row in rows])

    monitor = derive_seed(config.seed, "monitor")
    if newest_checkpoint(run.checkpoints) is None:
        first = rollout(env, module.policy, 1, config.evaluation.episodes, monitor)
        record(first.ledger(env, 0, "monitor"))
    evaluation = Evaluation(env, config.evaluation.every // turn, config.evaluation.episodes, range(1), monitor, record)
    say(f"online: {config.online.steps} steps of {env.task} in {turns(config)} turns, {run.folder}")
    fit(
        run, module, data, trainer_settings=trainer_settings(config), mirror=mirror, title="online",
        steps=turns(config), log_every=config.online.log_every, checkpoint_every=config.online.checkpoint_every,
        callbacks=[evaluation], spread=ALONE,
    )  # fmt: skip


def final_episodes(config: DictConfig, env: EnvSpec, module: ImaginationLearner) -> list[EpisodeRow]:
    """The ledger's rows of the last policy, which acts by its mean."""
    final = derive_seed(config.seed, "final")
    result = rollout(env, module.policy, 1, config.evaluation.final_episodes, final)
    return result.ledger(env, config.online.steps, "final")


@torch.no_grad()
def report(run: Run, config: DictConfig, env: EnvSpec, module: ImaginationLearner, data: OnlineDataModule) -> list[Any]:
    """Table, learning curve, and the distribution of imagined actions under the last policy."""
    folder = run.folder / "report"
    folder.mkdir(exist_ok=True)
    rows = episodes(run.rows(LEDGER), env)
    physics = make(env.task, env.physics).physics
    title = f"PolyGRAD, {config.online.learner.name}, {env.task}, seed {config.seed}, {physics}"
    final = figures.scores_of(rows, "final")
    first = fmean(row["return"] for row in rows if row["step"] == 0)
    last = fmean(row["return"] for row in rows if row["purpose"] == "final")
    table = (
        f"{title}\n{config.online.steps} steps of the environment, mean action, {final.shape[1]} episodes\n\n"
        f"return before training  {first:.1f}\nreturn of the last policy  {last:.1f}\n"
        f"normalised score  {seed_interval(final)}\n"
    )
    write_atomic(folder / "table.txt", table)
    drawn = data.collector.buffer.windows(config.online.imagined, config.data.horizon, stream(config.seed, "report"))
    windows, shape = module.imagined(drawn.obs[:, 0].to(module.device), derive_seed(config.seed, "report"))
    z = standardised(module.policy, windows)
    facts = {"return_first": first, "return_last": last, "policy_std": float(module.policy.std.mean()), **shape}
    write_atomic(folder / "summary.json", json.dumps(facts | {"strength": float(module.strength)}, indent=2))
    label = f"policy's standard deviation {facts['policy_std']:.2f}"
    curve = figures.learning_curves(
        {"PolyGRAD": rows}, title, folder / "learning_curve.png", xlabel="steps of the environment"
    )
    actions = action_figure.standardised_actions({label: z.flatten().cpu().numpy()}, title, folder / "actions.png")
    said = f"One learner, {final.shape[1]} episodes: return {first:.1f} before training, {last:.1f} of the last policy"
    pictures = {"Score of the monitored policies": curve, "Imagined actions under the last policy": actions}
    run_page.write_short(run, title, f"{said}.", table, pictures, folder)
    return [curve, actions]
