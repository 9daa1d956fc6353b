"""An agent and its experience: the finished run is found, continued or trained now."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.agent_modules import build_agent, load_agent
from pgd_lightning.artifacts.behaviour import adopt_behaviour
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.find_or_make import find_or_make
from pgd_lightning.artifacts.generators import ready_generator
from pgd_lightning.artifacts.training_settings import mirror_settings, trainer_settings
from pgd_lightning.config.saved import as_text, asked_as
from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings
from pgd_lightning.evaluation.ledgers import (
    EpisodeRow,
    beside_the_critics,
    episodes,
    expectation,
    mean_outcome,
    scores_of,
)
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.randomness import derive_seed, learner_seeds
from pgd_lightning.runs import identity, ranks
from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import LEDGER
from pgd_lightning.runs.names import MEASURES, agent_name, label
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.training.evaluation import Evaluation
from pgd_lightning.training.fit import ALONE, ROWS, SEEDS, accelerator, fit
from pgd_lightning.training.health_cards import HealthCards
from pgd_lightning.training.spreading import rows_together, seeds_here, share_of_rows
from pgd_lightning.trajectory import Generator, Policy


def agent_label(config: DictConfig) -> str:
    """The agent of ``config`` and its experience, in words."""
    name = agent_name(config.agent.name)
    return name if config.agent.name == "bc" else f"{name}, {label(config.generator.name)}"


def run_of_agent(config: DictConfig, dataset: Dataset, find: Callable[..., Run]) -> Run:
    """The run of this agent, by ``Run.at`` or ``Run.named``."""
    method = f"{config.agent.name}-{config.generator.name}"
    what = identity.agent(config, dataset.file)
    return find(config.runs_dir, "agent", config.env.name, method, what, config.seed)


def run_and_agent(config: DictConfig, dataset: Dataset) -> tuple[Run, Agent]:
    """The run of this config and its agent, with the weights of the newest checkpoint if it is finished."""
    run, file = run_of_agent(config, dataset, Run.at), dataset.file
    run.note("settings", identity.asked(config))
    run.update(
        comparison=identity.digest(identity.condition_free(config, file)), agent=config.agent.name,
        generator=config.generator.name, learners=learner_seeds(config.seed, range(config.seeds)),
        recording=str(dataset.path.absolute()) if dataset.path else None,
    )  # fmt: skip
    module = build_agent(config if run.finished else share_of(config), dataset)
    if run.finished:
        load_agent(module, run)
    return run, module


def behaviour_clone(clone: DictConfig, dataset: Dataset) -> Policy:
    """A behaviour-cloned policy of the dataset, trained once and kept like any agent."""
    run, module = run_and_agent(clone, dataset)

    def train() -> None:
        fit_agent(run, clone, dataset, module, None, None)

    find_or_make(run, clone, dataset.provenance, lambda: load_agent(module, run), train)
    return module.to(accelerator(clone.trainer.accelerator)).policy


def train_agent(config: DictConfig, dataset: Dataset, behaviour: Policy, shared: bool = False) -> Run:
    """The finished run of this config's agent: found, continued or trained; ``shared``: also by other commands."""
    run, module = run_and_agent(config, dataset)
    if run.finished:
        say(f"{agent_label(config)}: trained already, in {run.folder}")
        measure(run, config, dataset)
        return run
    generator = ready_generator(config, dataset)
    with run.started(as_text(config), dataset.provenance, shared):
        if run.finished:
            complete(run, config, dataset)
            return run
        adopt_behaviour(module, config, dataset)
        label = agent_label(config)
        say(f"{label}: training {config.seeds} seeds for {config.updates:,} updates, in {run.folder}")
        fit_agent(run, config, dataset, module, generator, behaviour)
        rows = final_episodes(config, dataset, module)
        run.append(LEDGER, rows)
        run.update(state="finished", **mean_outcome(rows, dataset.env))
        if ranks.rank() == 0 and rows:
            say(f"{label}: {MEASURES[dataset.env.measure].said(seed_interval(scores_of(rows, 'final')))}")
            if pair := beside_the_critics(rows):
                say(f"{label}: {expectation(pair)}")
    return run


def measure(run: Run, config: DictConfig, dataset: Dataset) -> None:
    """Measure a finished run as ``config`` asks, if that was not done before."""
    if not ranks.decided(lambda: run.evaluated and asked_as(run, config)):
        with run.started(as_text(config), dataset.provenance, shared=True):
            complete(run, config, dataset)


def complete(run: Run, config: DictConfig, dataset: Dataset) -> None:
    """Add the final episodes that a finished run lacks, and compute its score by the constants of ``config.env``.

    If there are some of another simulator (MuJoCo was updated since), all are run again and take their place.
    """
    if ranks.rank() > 0 or not dataset.env.simulated:
        return
    wanted, env = config.evaluation.final_episodes, dataset.env
    rows = final_rows(run, dataset)
    counts = Counter(row["seed"] for row in rows)
    there = min(counts[number] for number in range(config.seeds))
    if there < wanted:
        now = make(env.task, env.physics).physics
        others = {row["simulator"] for row in rows} - {now}
        if others:
            say(f"evaluation: the final episodes were of {' and '.join(others)}; running all {wanted} in {now}")
            there = 0
        else:
            say(f"evaluation: each learner has {there} final episodes; running {wanted - there} more")
        module = build_agent(config, dataset)
        load_agent(module, run)
        more = rollout(
            env, module.policy, config.seeds, wanted, derive_seed(config.seed, "final"), first=there,
            critic=module.critic,
        )  # fmt: skip
        run.append(LEDGER, more.ledger(env, config.updates, "final"))
        rows = final_rows(run, dataset)
    run.update(**mean_outcome([row for row in rows if row["index"] < wanted], env))


def final_rows(run: Run, dataset: Dataset) -> list[EpisodeRow]:
    """The episodes of the last checkpoint."""
    return [row for row in episodes(run.rows(LEDGER), dataset.env) if row["purpose"] == "final"]


def final_episodes(config: DictConfig, dataset: Dataset, module: Agent) -> list[EpisodeRow]:
    """The ledger's rows of the last checkpoint; none without an environment."""
    if not dataset.env.simulated:
        return []
    result = rollout(
        dataset.env,
        module.policy,
        module.num_seeds,
        config.evaluation.final_episodes,
        derive_seed(config.seed, "final"),
        episodes_here(config),
        critic=module.critic,
    )
    return of_all_ranks(result.ledger(dataset.env, config.updates, "final", seeds_here(config.seeds).start), config)


def episodes_here(config: DictConfig) -> tuple[int, int]:
    """Which episodes of an evaluation this rank runs, see :func:`rollout`."""
    share = share_of_rows(config.ranks.agents, config.seeds)
    return share.number, share.count


def of_all_ranks(rows: list[EpisodeRow], config: DictConfig) -> list[EpisodeRow]:
    """Ledger rows gathered from all ranks, sorted by seed and episode."""
    if config.seeds == 1 and not rows_together(config.ranks.agents, config.seeds):
        return rows
    parts = ranks.gathered(rows)
    return sorted((row for part in parts for row in part), key=lambda row: (row["seed"], row["index"]))


def share_of(config: DictConfig) -> DictConfig:
    """``config`` with the agent of this rank's seeds alone."""
    seeds = seeds_here(config.seeds)
    mine = config.copy()
    mine.agent.num_seeds = len(seeds)
    OmegaConf.update(mine, "agent.first", seeds.start, force_add=True)
    return mine


def fit_agent(
    run: Run, config: DictConfig, dataset: Dataset, module: Agent, generator: Generator | None, behaviour: Policy | None
) -> None:
    """Train ``module`` on the config's mixture of experience, evaluating it where ``behaviour`` is given."""
    # Each rank trains, evaluates and generates for its own seeds or rows; the first looks at the health of its sets.
    seeds, share = seeds_here(config.seeds), share_of_rows(config.ranks.agents, config.seeds)
    module.generated = generator is not None
    never_guided = config.synthetic.first_unguided and config.synthetic.lifetime >= config.updates
    if generator is not None and never_guided and config.generator.build.get("guidance") is not None:
        say(
            "warning: the first synthetic dataset is unguided and lasts for all updates (synthetic.lifetime="
            f"{config.synthetic.lifetime}): nothing is guided in this run"
        )
    if share.count > 1:
        module.learner.across = ranks.mean
    observers: list[HealthCards] = []
    data = SyntheticDataModule(
        dataset.transitions, generator, SyntheticSettings(**config.synthetic), module.seeds, config.updates, observers,
        share, module.learner.next_action,
    )  # fmt: skip
    if behaviour is not None and ranks.rank() == 0:
        observers.append(
            HealthCards(
                run,
                module,
                dataset.env,
                dataset.transitions,
                dataset.obs_std,
                behaviour,
                config.health.rows,
                config.seed,
                data,
            )
        )
    evaluation = Evaluation(
        dataset.env, config.evaluation.every, config.evaluation.episodes, seeds,
        derive_seed(config.seed, "monitor"), lambda rows: run.append(LEDGER, of_all_ranks(rows, config)),
        episodes_here(config),
    )  # fmt: skip
    fit(
        run, module, data, trainer_settings=trainer_settings(config),
        mirror=mirror_settings(config, dataset.provenance), title=agent_label(config),
        steps=config.updates, log_every=config.agent.log_every, checkpoint_every=config.checkpoint_every,
        callbacks=[evaluation] if behaviour and dataset.env.simulated else [],
        spread=ROWS if share.count > 1 else SEEDS if config.seeds > 1 else ALONE,
    )  # fmt: skip
