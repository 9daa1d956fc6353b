"""From configs and run folders to priors, agents and generators."""

import torch
from lightning import LightningModule
from omegaconf import DictConfig

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.config.build import build
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.errors import UserError
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.prior import DiffusionPrior, WindowModel
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs.run import Run, last_checkpoint


def build_prior(config: DictConfig, steps: int) -> DiffusionPrior:
    """An untrained prior; the seed alone decides its first weights. Raises UserError where windows are too short."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "prior/init"))
        denoiser = Denoiser(build(config.network), build(config.process))
    if config.data.horizon < denoiser.network.min_length:
        raise UserError(
            f"data.horizon={config.data.horizon} is too short for network.num_blocks={config.network.num_blocks}, "
            f"whose windows have at least {denoiser.network.min_length} rows."
        )
    settings = config.prior
    return DiffusionPrior(
        denoiser=denoiser,
        codec=TrajectoryCodec(config.env.obs_dim, config.env.action_dim, settings.action_clip),
        learning_rate=settings.learning_rate,
        warmup_start=settings.warmup_start,
        ema_decay=settings.ema_decay,
        ema_every=settings.ema_every,
        muon=settings.muon,
        ema_ramp=settings.ema_ramp,
        total_steps=steps,
        log_every=settings.log_every,
        seed=config.seed,
        warmup_steps=settings.auto.warmup if settings.steps == "auto" else None,
    )


def load_model(module: WindowModel, run: Run, dataset: Dataset) -> None:
    """Fill ``module`` from a finished run. Raises UserError where the run is of another file or other dimensions."""
    found = run.record["provenance"]["sha256"]
    if found != dataset.provenance["sha256"]:
        raise UserError(
            f"The {module.name} in {run.folder} was trained on another file ({run.record['provenance']['label']}) than "
            f"the one in use ({dataset.label}): train one with the same env= and data.source=."
        )
    path = last_checkpoint(run)
    state = torch.load(path, map_location="cpu", weights_only=True)["state_dict"]
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(
            f"The {module.name} {path} has other dimensions than this config: {str(error).splitlines()[1].strip()}"
        ) from error


def build_agent(config: DictConfig, dataset: Dataset) -> Agent:
    """An untrained agent that knows the data's scale of observations and rewards."""
    agent: Agent = build(config.agent)
    fit_scales(agent, dataset)
    return agent


def fit_scales(agent: Agent, dataset: Dataset) -> None:
    """Tell ``agent`` the data's scale of observations and rewards."""
    agent.fit_normaliser(dataset.transitions.obs)
    recording = dataset.recording
    agent.fit_rewards(recording.reward, recording.terminated, recording.truncated)


def load_agent(module: LightningModule, run: Run) -> None:
    """Fill ``module`` with what the finished ``run`` ended with."""
    module.load_state_dict(torch.load(last_checkpoint(run), map_location="cpu", weights_only=True)["state_dict"])
