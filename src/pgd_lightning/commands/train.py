"""``pgd train``: the whole story. Data -> prior -> agent on real and synthetic batches -> evaluation -> report."""

from __future__ import annotations

import json
import time
from collections import Counter
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.behaviour import adopt_behaviour
from pgd_lightning.artifacts.building import build_agent, load_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.commands import plan
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data.ahead import Beside
from pgd_lightning.data.modules import SyntheticDataModule, require_lead
from pgd_lightning.evaluation.fidelity import DataDistance, health_card, health_line
from pgd_lightning.evaluation.ledgers import episodes
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.randomness import derive_seed, learner_seeds
from pgd_lightning.report import run_page, run_report
from pgd_lightning.report.figures import scores_of
from pgd_lightning.runs import identity, ranks
from pgd_lightning.runs.console import duration, say
from pgd_lightning.runs.run import Run, command_line, program
from pgd_lightning.simulators import make
from pgd_lightning.training.evaluation import Evaluation
from pgd_lightning.training.fit import ALONE, ROWS, SEEDS, fit
from pgd_lightning.training.loggers import mirror_figures
from pgd_lightning.training.spreading import rows_together, seeds_here, share_of_rows
from pgd_lightning.trajectory import Generator, Policy, Trajectory

# For log-likelihoods under the data's policy.
BEHAVIOUR = ("agent=bc", "generator=none", "seeds=1")


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train the chosen generator's agent and those of ``compare``; write and print the comparison."""
    began = time.monotonic()
    require_lead(config.synthetic.lead, config.synthetic.lifetime)  # before anything is trained
    dataset = open_dataset(config)
    conditions, clone = arms(config, overrides), clone_config(overrides, config)
    run, _ = agent_run(config, dataset)
    if ranks.rank() == 0:
        say(plan.text(plan.planned(conditions, clone, dataset), str(run.folder / "report")))
    runs, windows = [], None
    for condition in conditions:
        behaviour = behaviour_clone(clone, dataset)
        runs.append(train_agent(condition, dataset, behaviour, shared=condition is not config))
        if ranks.rank() == 0:
            windows = run_report.measure_windows(runs[0], dataset) if len(runs) == 1 else windows
            figures = run_report.write(runs, dataset, windows)
    if ranks.rank() > 0:
        return
    mirror_figures(config, runs[0], dataset.provenance, figures)
    report = runs[0].folder / "report"
    say(f"\n{(report / 'table.txt').read_text()}")
    for line in run_page.readings(json.loads((report / "summary.json").read_text())):
        say(line)
    say(f"\npage:    {report / 'index.html'}  ({duration(time.monotonic() - began)} in all)")
    say(f"again:   {command_line()}")
    say(f"next:    {program()} generate run={runs[0].folder}   # synthetic data as a file in D4RL's layout")


def arms(config: DictConfig, overrides: list[str]) -> list[DictConfig]:
    """The configs of the agents that a command trains: its own, then those of the generators to compare with."""
    others = [name for name in config.compare if name != config.generator.name]
    return [config, *(recompose(overrides, f"generator={name}") for name in others)]


def recompose(overrides: list[str], *changes: str) -> DictConfig:
    """The same command with other choices; settings of an agent or generator not chosen any more are left out."""
    keys = {change.split("=")[0] for change in changes}
    obsolete = tuple(f"{group}{mark}" for group in ("agent", "generator") if group in keys for mark in "./")
    kept = (o for o in overrides if o.split("=")[0] not in keys and not o.startswith(obsolete))
    return compose_config("train", [*kept, *changes])


def clone_config(overrides: list[str], config: DictConfig) -> DictConfig:
    """The config of the behaviour-cloned policy that measures likelihood under the behaviour."""
    return recompose(overrides, *BEHAVIOUR, f"updates={config.behaviour.updates}")


def behaviour_clone(clone: DictConfig, dataset: Dataset) -> Policy:
    """A behaviour-cloned policy of the dataset, trained once and kept like any agent."""
    run, module = agent_run(clone, dataset)
    if not run.finished:
        with run.started(clone, dataset.provenance, shared=True):
            if run.finished:  # by another command that we waited for
                load_agent(module, run)
            else:
                fit_agent(run, clone, dataset, module, None, None)
                run.update(state="finished")
    return module.policy


def train_agent(config: DictConfig, dataset: Dataset, behaviour: Policy, shared: bool = False) -> Run:
    """The finished run of this config's agent: found, continued or trained; ``shared``: also by other commands."""
    run, module = agent_run(config, dataset)
    if run.finished:
        say(f"{plan.agent_label(config)}: trained already, in {run.folder}")
        measure(run, config, dataset)
        return run
    generator = ready_generator(config, dataset)
    with run.started(config, dataset.provenance, shared):
        if run.finished:
            complete(run, config, dataset)
            return run
        adopt_behaviour(module, config, dataset)
        label = plan.agent_label(config)
        say(f"{label}: training {config.seeds} seeds for {config.updates:,} updates, in {run.folder}")
        fit_agent(run, config, dataset, module, generator, behaviour)
        rows = final_episodes(config, dataset, module)
        run.append("ledger.jsonl", rows)
        run.update(state="finished", score=fmean(row["score"] for row in rows))
        if ranks.rank() == 0:
            say(f"{label}: score {seed_interval(scores_of(rows, 'final'))}")
    return run


def measure(run: Run, config: DictConfig, dataset: Dataset) -> None:
    """Measure a finished run as ``config`` asks, if that is not how it was asked for before."""
    if not ranks.decided(lambda: run.asked_as(config)):
        with run.started(config, dataset.provenance, shared=True):
            complete(run, config, dataset)


def complete(run: Run, config: DictConfig, dataset: Dataset) -> None:
    """Add the final episodes that a finished run lacks, and compute its score by the constants of ``config.env``."""
    if ranks.rank() > 0:
        return
    wanted, env = config.evaluation.final_episodes, dataset.env
    rows = final_rows(run, dataset)
    counts = Counter(row["seed"] for row in rows)
    there = min(counts[number] for number in range(config.seeds))
    if there < wanted:
        say(f"evaluation: each learner has {there} final episodes; running {wanted - there} more")
        seed, workers = derive_seed(config.seed, "final"), config.ranks.simulators
        module = build_agent(config, dataset)
        load_agent(module, run)
        more = rollout(env, module.policy, config.seeds, wanted, seed, workers=workers, first=there)
        run.append("ledger.jsonl", more.ledger(env, config.updates, "final"))
        rows = final_rows(run, dataset)
    run.update(score=fmean(row["score"] for row in rows if row["index"] < wanted))


def final_rows(run: Run, dataset: Dataset) -> list[dict[str, Any]]:
    """The episodes of the last checkpoint."""
    return [row for row in episodes(run.rows("ledger.jsonl"), dataset.env) if row["purpose"] == "final"]


def final_episodes(config: DictConfig, dataset: Dataset, module: Agent) -> list[dict[str, Any]]:
    """The ledger's rows of the last checkpoint."""
    result = rollout(
        dataset.env,
        module.policy,
        module.num_seeds,
        config.evaluation.final_episodes,
        derive_seed(config.seed, "final"),
        episodes_here(config),
        config.ranks.simulators,
    )
    return of_all_ranks(result.ledger(dataset.env, config.updates, "final", seeds_here(config.seeds).start), config)


def episodes_here(config: DictConfig) -> tuple[int, int]:
    """Which episodes of an evaluation this rank runs, see :func:`rollout`."""
    share = share_of_rows(config)
    return share.number, share.count


def of_all_ranks(rows: list[dict[str, Any]], config: DictConfig) -> list[dict[str, Any]]:
    """Ledger rows gathered from all ranks, sorted by seed and episode."""
    if config.seeds == 1 and not rows_together(config):
        return rows
    parts = ranks.gathered(rows)
    return sorted((row for part in parts for row in part), key=lambda row: (row["seed"], row["index"]))


def agent_run(config: DictConfig, dataset: Dataset) -> tuple[Run, Agent]:
    """The run of this config and its agent, with the weights of the newest checkpoint if it is finished."""
    run, file = plan.agent_run(config, dataset, Run.at), dataset.file
    settings = sorted({*run.record.get("settings", []), identity.asked(config)})
    run.update(
        comparison=identity.digest(identity.condition_free(config, file)), agent=config.agent.name,
        generator=config.generator.name, settings=settings, learners=learner_seeds(config.seed, range(config.seeds)),
        recording=str(dataset.path.absolute()) if dataset.path else None,
    )  # fmt: skip
    module = build_agent(config if run.finished else share_of(config), dataset)
    if run.finished:
        load_agent(module, run)
    return run, module


def share_of(config: DictConfig) -> DictConfig:
    """``config`` with the agent of this rank's seeds alone."""
    seeds = seeds_here(config.seeds)
    mine = config.copy()
    mine.agent.num_seeds = len(seeds)
    OmegaConf.update(mine, "agent.first", seeds.start, force_add=True)
    return mine


@dataclass
class HealthCards:
    """Writes a summary of each synthetic dataset to the run's ``health.jsonl``."""

    run: Run
    module: Agent
    dataset: Dataset
    behaviour: Policy
    rows: int
    seed: int
    data: SyntheticDataModule | None = None  # which knows how the set was made

    def __post_init__(self) -> None:
        self.simulator = make(self.dataset.env.task, self.dataset.env.physics)
        self.distance = DataDistance(self.dataset.transitions, 20_000, self.seed)

    def __call__(self, step: int, windows: Trajectory) -> None:
        card = health_card(
            windows, self.module.policy, self.behaviour, self.simulator, self.dataset.obs_std, self.distance,
            self.rows, self.seed,
        )  # fmt: skip
        used = self.data.used if self.data else None
        self.run.append("health.jsonl", [{"step": step, **card, **(used.record() if used else {})}])
        line = ", ".join([health_line(card), *([str(used)] if used else [])])
        say(f"  synthetic dataset of update {step:,}: {line}")


def fit_agent(
    run: Run,
    config: DictConfig,
    dataset: Dataset,
    module: Agent,
    generator: Generator | None,
    behaviour: Policy | None,
) -> None:
    """Train ``module`` on the config's mixture of experience, evaluating it where ``behaviour`` is given."""
    # Each rank trains, evaluates and generates for its own seeds or rows; the first looks at the health of its sets.
    seeds, share = seeds_here(config.seeds), share_of_rows(config)
    module.generated = generator is not None
    if share.count > 1:
        module.learner.across = ranks.mean
    observers: list[HealthCards] = []
    trains = ranks.rank() == 0 or config.seeds > 1 or share.count > 1
    ahead = Beside(generator, config.ranks.generating) if generator and config.synthetic.lead and trains else None
    data = SyntheticDataModule(
        real=dataset.transitions,
        generator=generator,
        **config.synthetic,
        seeds=module.seeds,
        total_steps=config.updates,
        observers=observers,
        maker=ahead,
        share=share,
    )
    if behaviour is not None and ranks.rank() == 0:
        observers.append(HealthCards(run, module, dataset, behaviour, config.health.rows, config.seed, data))
    evaluation = Evaluation(
        dataset.env, config.evaluation.every, config.evaluation.episodes, seeds,
        derive_seed(config.seed, "monitor"), lambda rows: run.append("ledger.jsonl", of_all_ranks(rows, config)),
        episodes_here(config), config.ranks.simulators,
    )  # fmt: skip
    try:
        fit(
            run, config, dataset.provenance, module, data, title=plan.agent_label(config),
            steps=config.updates, log_every=config.agent.log_every, checkpoint_every=config.checkpoint_every,
            callbacks=[evaluation] if behaviour else [],
            spread=ROWS if share.count > 1 else SEEDS if config.seeds > 1 else ALONE,
        )  # fmt: skip
    finally:
        if ahead:
            ahead.end()
