"""``pgd analyse``: are the windows of each generator likely under a policy, and does the real simulator agree?

For every target policy: real windows, unguided ones, guided ones over a sweep of the guidance coefficient, and the
baseline generators, all from the same start states and in the same number.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig

from pgd_lightning.agents.online import OnlinePolicy
from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.agents import behaviour_clone, train_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.commands import train
from pgd_lightning.commands.check import replay_rows, sampled_rows
from pgd_lightning.config.saved import as_text, settings_of
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.analysis import Analyst, BehaviourDensity, Coverage
from pgd_lightning.evaluation.fidelity import not_available
from pgd_lightning.evaluation.replay import Replay
from pgd_lightning.randomness import derive_seed
from pgd_lightning.report.analysis_figure import analysis_figure
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
        rows: list[dict[str, Any]] = []
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
    if settings.env.name != dataset.env.name:
        raise UserError(f"The agent in {name} was trained on {settings.env.name}, not on {dataset.env.name}.")
    module = trained_agent(run, settings)
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
) -> Iterator[dict[str, Any]]:
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
) -> dict[str, Any]:
    """The row of one source of windows under one target."""
    label = f"{generator} x {coef:g}" if generator == "pgd" else generator
    return {
        "target": target, "generator": generator, "guidance_coef": coef, "label": label, **analyst.row(windows, policy)
    }  # fmt: skip


def line(row: dict[str, Any]) -> str:
    """A row in short."""
    head = f"{shortened(row['target']):<12}{row['label']:<20}"
    if not row["windows"]:
        return f"{head}no finite window"
    errors = f"{'no row to step':<57}"
    if row["dynamics_error_interval"] is not None:
        low, high = row["dynamics_error_interval"]
        errors = (
            f"{row['dynamics_error_median']:>11.2e} [{low:.1e}, {high:.1e}]{row['dynamics_error_p90']:>10.1e}"
            f"{row['reward_error']:>9.2g}{row['return_real']:>8.1f}"
        )
    return (
        f"{head}{row['log_likelihood']:>10.3f}{row['mean_density']:>10.3g}{errors}{row['behaviour_log_density']:>9.2f}"
        f"{row['data_distance']:>9.2f}{row['sample_distance']:>7.2f}{row['outside_box']:>9.1%}{ends(row)}"
    )


def shortened(target: str) -> str:
    """At most 11 characters of a target's name: of a folder the last ones, which tell it from others."""
    return target if len(target) <= 11 else f"…{target[-10:]}"


def ends(row: dict[str, Any]) -> str:
    """Starts and terminals by the simulator, see :func:`~pgd_lightning.evaluation.fidelity.ends_judged`."""
    started = row["starts_after_end"]
    counts = (row["false_terminals"], row["terminals_checked"]), (row["missed_terminals"], row["others_checked"])
    false, missed = ("-" if None in pair else "{} of {}".format(*pair) for pair in counts)
    return f"{'-' if started is None else f'{started:.1%}':>8}{false:>12}{missed:>14}"


def table(rows: list[dict[str, Any]], title: str, analyst: Analyst, floor: Replay | None) -> str:
    """All rows as plain text, with what the columns mean."""
    head = (
        f"{'target':<12}{'windows':<20}{'log pi':>10}{'mean pi':>10}{'error':>11} {'95 % interval':<18}{'90 %':>8}"
        f"{'reward':>9}{'return':>8}{'log p':>9}{'to data':>9}{'apart':>7}{'outside':>9}"
        f"{'ended':>8}{'false ends':>12}{'missed ends':>14}"
    )
    resets = {row["reset"] for row in rows if row["windows"]}
    lost = sum(row["rows_not_resettable"] for row in rows if row["windows"])
    stepped = f"{analyst.simulator.physics}; resets {' and '.join(sorted(resets))}, {lost} rows could not be reset"
    if analyst.simulator.unresettable:
        stepped = not_available(analyst.simulator.unresettable)
    return (
        "\n".join(
            [
                title,
                stepped,
                "",
                head,
                *(line(row) for row in rows),
                "",
                *([said(floor)] if floor else []),
                "log pi, mean pi: mean over rows of the log density, of the density, of the action under the target",
                "error: one real step, squared, in the data's variance: median with interval over rows, 90 % quantile",
                "reward: median absolute error; return: what the simulator pays in a window",
                f"log p: density of (obs, action) under a mixture fitted to the data; held-out data: "
                f"{analyst.density.held_out:.2f}",
                "to data, apart: median distance to the nearest real row, between samples, in deviations of the data",
                "outside: share of rows with a value that the data never reach",
                "ended: share of steps that start where an episode has ended already; false, missed ends: terminals "
                "that the simulator does not confirm, other steps that end there",
            ]
        )
        + "\n"
    )


def said(floor: Replay) -> str:
    """The error that is the simulator's own."""
    return (
        f"floor: {floor.rows} recorded rows stepped from the file's {floor.state}: the largest component differs by "
        f"{floor.median:.1e} (median), {floor.most:.1e} (99 %), the reward by {floor.reward_median:.1e}"
    )
