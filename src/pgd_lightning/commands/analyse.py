"""``pgd analyse``: are the windows of each generator likely under a policy, and does the real simulator agree?

For every target policy: real windows, unguided ones, guided ones over a sweep of the guidance coefficient, and the
baseline generators, all from the same start states and in the same number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import torch
from omegaconf import DictConfig

from pgd_lightning.agents.online_policy import OnlinePolicy
from pgd_lightning.artifacts.agent_modules import trained_for
from pgd_lightning.artifacts.agents import behaviour_clone, train_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.commands import train
from pgd_lightning.commands.check import replay_rows, sampled_rows
from pgd_lightning.config.saved import as_text, settings_of
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.analysis import Analyst, BehaviourDensity, Coverage, WindowRow
from pgd_lightning.evaluation.recorded_steps import Replay
from pgd_lightning.randomness import derive_seed
from pgd_lightning.report.analysis_figure import analysis_figure
from pgd_lightning.report.analysis_table import line, table
from pgd_lightning.runs import identity
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import Run, finished_agent
from pgd_lightning.simulators import Simulator, make
from pgd_lightning.simulators.substitutes.policies import Ladder, ladders
from pgd_lightning.training.fit import accelerator
from pgd_lightning.trajectory import Generator, Policy, Trajectory


def main(config: DictConfig, overrides: list[str]) -> None:
    began = time.monotonic()
    require_sources(config)
    dataset = open_dataset(config)
    what = identity.analysis(config, dataset.file)
    run = Run.at(config.runs_dir, "analysis", config.env.name, f"fidelity-{config.agent.name}", what, config.seed)
    with run.started(as_text(config), dataset.provenance):
        analyst = make_analyst(config, dataset)
        floor = recorded_floor(config, dataset, analyst.simulator)
        rows: list[WindowRow] = []
        for name in config.analysis.targets:
            policy, num_seeds = target_policy(name, config, overrides, dataset)
            for row in analyse(name, policy, num_seeds, config, overrides, dataset, analyst):
                rows.append(row)
                say(line(row))
        write_atomic(run.folder / "analysis.json", json.dumps(rows, indent=1))
        title = f"windows on {dataset.label}"
        write_atomic(run.folder / "table.txt", table(rows, title, analyst, floor))
        analysis_figure(rows, title, run.folder / "analysis.png")
        run.update(state="finished", floor=floor.as_dict() if floor else None)
    say(f"\n{(run.folder / 'table.txt').read_text()}")
    say(f"results: {run.folder}  ({time.monotonic() - began:.0f} s in all)")


def require_sources(config: DictConfig) -> None:
    """Raises UserError, before anything is trained, for a generator or a target that there is not."""
    if "none" in config.analysis.generators:
        raise UserError("analysis.generators names 'none', which makes no windows: leave it out.")
    for name in config.analysis.targets:
        if name.partition(":")[0] == "ppo":
            ppo_policy(name, config.env.task, torch.device("cpu"))
        elif name not in ("behaviour", "agent"):
            finished_agent(name)


def make_analyst(config: DictConfig, dataset: Dataset) -> Analyst:
    """What all rows are measured against, fitted to the real data."""
    settings = config.analysis
    real = dataset.transitions
    return Analyst(
        make(dataset.env.task, dataset.env.physics),
        dataset.obs_std,
        BehaviourDensity(real, settings.components, settings.density_rows, config.seed),
        Coverage(real, settings.density_rows, config.seed),
        settings.rows,
        config.seed,
    )


def recorded_floor(config: DictConfig, dataset: Dataset, simulator: Simulator) -> Replay | None:
    """Recorded rows stepped from the states that the file keeps, where observations hide a part of them (Adroit)."""
    rows = sampled_rows(dataset.recording, config.analysis.rows, derive_seed(config.seed, "floor"))
    return replay_rows(config, dataset.env, simulator, dataset.recording, dataset.path, rows)


def target_policy(name: str, config: DictConfig, overrides: list[str], dataset: Dataset) -> tuple[Policy, int]:
    """The policy that windows are to follow, and its number of seeds.

    ``behaviour`` is a clone of the data's policy, ``agent`` the config's agent on real data only (both trained now
    unless they are there), ``ppo`` or ``ppo:K`` a stage of the package's own PPO run (the last, or number K), and
    anything else the folder of a finished agent run. Raises UserError if there is none of that kind.
    """
    if name == "behaviour":
        return behaviour_clone(train.clone_config(overrides, config), dataset), 1
    if name.partition(":")[0] == "ppo":
        return ppo_policy(name, dataset.env.task, accelerator(config.trainer.accelerator)), 1
    if name == "agent":
        alone = train.recompose(overrides, "generator=none")
        behaviour = behaviour_clone(train.clone_config(overrides, config), dataset)
        run = train_agent(alone, dataset, behaviour)
    else:
        run = finished_agent(name)
    settings = settings_of(run)
    module = trained_for(dataset.env, run, settings)
    return module.to(accelerator(config.trainer.accelerator)).policy, settings.seeds


def ppo_policy(name: str, task: str, device: torch.device) -> Policy:
    """A stage of the shipped ladder of this body. Raises UserError where there is no such stage, or no ladder."""
    if task not in ladders():
        raise UserError(f"{name}: there are PPO policies of {', '.join(ladders())}, and none of {task}.")
    ladder = Ladder.load(task)
    _, colon, stage = name.partition(":")
    places = {str(place): place for place in range(len(ladder.policies))} | ({} if colon else {"": ladder.expert})
    if stage not in places:
        raise UserError(f"{name}: the ladder of {task} has {len(ladder.policies)} stages, ppo:0 is the first.")
    return OnlinePolicy(ladder.policies[places[stage]].to(device))


def analyse(
    name: str,
    policy: Policy,
    num_seeds: int,
    config: DictConfig,
    overrides: list[str],
    dataset: Dataset,
    analyst: Analyst,
) -> Iterator[WindowRow]:
    """A row for each source of windows ``[S, N, T]``, S * N as nearly the same for all targets as seeds allow."""
    num = min(max(config.analysis.windows // num_seeds, 1), len(dataset.train.required()))
    chosen = torch.linspace(0, len(dataset.train) - 1, num).long()
    real = dataset.train[chosen]
    starts = real.obs[:, 0].expand(num_seeds, -1, -1).to(policy.device)
    seed = derive_seed(config.seed, "analysis")
    yield measured(analyst, real.unsqueeze(0).expand(num_seeds, *real.batch_size), policy, name, "real")
    unguided = generator_of(overrides, dataset, "generator=pgd")
    yield measured(analyst, unguided.generate(None, starts, seed), policy, name, "unguided", coef=0.0)
    for setting, coef in sweep(config):
        guided = generator_of(overrides, dataset, "generator=pgd", f"{setting}={coef}")
        yield measured(analyst, guided.generate(policy, starts, seed), policy, name, "pgd", coef=coef)
    for other in config.analysis.generators:
        baseline = generator_of(overrides, dataset, f"generator={other}")
        yield measured(analyst, baseline.generate(policy, starts, seed), policy, name, other)


def sweep(config: DictConfig) -> list[tuple[str, float]]:
    """The setting that says how strong guidance is, and its values: the configured one times each factor.

    A calibrated strength ends at 1.
    """
    factors = list(config.analysis.factors)
    if "strength" in config.guidance:
        strengths = dict.fromkeys(min(factor * config.guidance.strength, 1.0) for factor in factors)
        return [("guidance.strength", strength) for strength in strengths]
    return [("guidance.coef", factor * config.guidance.coef) for factor in factors]


def generator_of(overrides: list[str], dataset: Dataset, *choices: str) -> Generator:
    """The generator of this command with other ``choices``, its model trained."""
    generator = ready_generator(train.recompose(overrides, *choices), dataset)
    assert generator is not None
    return generator


def measured(
    analyst: Analyst, windows: Trajectory, policy: Policy, target: str, generator: str, coef: float | None = None
) -> WindowRow:
    """The row of one source of windows under one target."""
    label = f"{generator} x {coef:g}" if coef else generator
    return {
        "target": target, "generator": generator, "guidance_coef": coef, "label": label, **analyst.row(windows, policy)
    }  # fmt: skip
