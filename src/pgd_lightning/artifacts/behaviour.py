"""The behaviour model of an agent that is a diffusion model: trained once for a dataset, found again by every agent.

Its run folder is named by what makes it another model: seeds, temperatures and decisions of the agents do not.
"""

from collections.abc import Callable, Sequence

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.agent_modules import fit_scales, load_agent
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.find_or_make import find_or_make
from pgd_lightning.artifacts.training_settings import mirror_settings, trainer_settings
from pgd_lightning.config.build import build
from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings
from pgd_lightning.runs import identity
from pgd_lightning.runs.console import say
from pgd_lightning.runs.identity import BEHAVIOUR as SHARED
from pgd_lightning.runs.run import Run
from pgd_lightning.training.fit import ALONE, fit


def needs_behaviour(config: DictConfig) -> bool:
    """Whether the agent of ``config`` holds a behaviour model."""
    return SHARED in config.agent.learner


def adopt_behaviour(module: Agent, config: DictConfig, dataset: Dataset) -> None:
    """Give ``module`` the trained behaviour model of its data, if it holds one."""
    if needs_behaviour(config):
        trained = ready_behaviour(config, dataset)
        module.learner.get_submodule(SHARED).load_state_dict(
            {name: tensor.squeeze(0) for name, tensor in trained.learner.get_submodule(SHARED).state_dict().items()}
        )


def behaviour_run(config: DictConfig, dataset: Dataset, find: Callable[..., Run]) -> Run:
    """The run of the behaviour model, by ``Run.at`` or ``Run.named``."""
    what = identity.behaviour(config, dataset.file)
    return find(config.runs_dir, SHARED, config.env.name, "diffusion", what, config.pretraining.seed)


def ready_behaviour(config: DictConfig, dataset: Dataset) -> Agent:
    """The behaviour model of ``dataset`` under ``config``, read from its run or trained now."""
    settings = config.pretraining
    run = behaviour_run(config, dataset, Run.at)
    module = build_behaviour(config, dataset)

    def load() -> None:
        say(f"behaviour model: trained already, in {run.folder}", once=True)
        load_agent(module, run)

    def make() -> None:
        size = sum(p.numel() for p in module.learner.parameters())
        say(
            f"behaviour model: training {size:,} parameters for {settings.updates:,} updates, batch size "
            f"{settings.batch_size}, in {run.folder}"
        )
        data = real_batches(config, dataset, [settings.seed], settings.updates, settings.batch_size)
        fit(
            run, module, data, trainer_settings=trainer_settings(config),
            mirror=mirror_settings(config, dataset.provenance), title="behaviour model",
            steps=settings.updates, log_every=settings.log_every,
            checkpoint_every=settings.checkpoint_every, callbacks=[], spread=ALONE,
        )  # fmt: skip

    find_or_make(run, config, dataset.provenance, load, make)
    return module


def real_batches(
    config: DictConfig,
    dataset: Dataset,
    seeds: Sequence[int],
    updates: int,
    batch_size: int,
    next_action: bool = False,
) -> SyntheticDataModule:
    """Batches of real steps alone."""
    settings = SyntheticSettings(**dict(config.synthetic) | {"batch_size": batch_size, "synthetic_batch": 0})
    return SyntheticDataModule(dataset.transitions, None, settings, seeds, updates, next_action=next_action)


def build_behaviour(config: DictConfig, dataset: Dataset) -> Agent:
    """The untrained model as an agent of one loss, with the scales of observations that the real agent has."""
    settings, agent = config.pretraining, OmegaConf.to_container(config.agent, resolve=True)
    assert isinstance(agent, dict)
    agent |= {
        "name": SHARED,
        "num_seeds": 1,
        "seed": settings.seed,
        "learning_rate": settings.learning_rate,
        "lr_schedule": settings.lr_schedule,
        "log_every": settings.log_every,
        "weight_decay": 0.0,
        "matmul_precision": "highest",
        "total_steps": settings.updates,
        "learner": {
            "_target_": "pgd_lightning.agents.behaviour.Behaviour",
            "_partial_": True,
            SHARED: agent["learner"][SHARED],
        },
    }
    module: Agent = build(agent)
    fit_scales(module, dataset)
    return module
