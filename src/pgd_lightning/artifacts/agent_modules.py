"""Agents as modules: built from a config, filled from a finished run."""

import torch
from lightning import LightningModule
from omegaconf import DictConfig

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.config.build import build
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.runs.checkpoints import last_checkpoint
from pgd_lightning.runs.run import Run


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


def trained_agent(run: Run, settings: DictConfig) -> Agent:
    """The agent of the finished ``run`` with these ``settings``; its checkpoint holds what it knows of the data."""
    module: Agent = build(settings.agent)
    load_agent(module, run)
    return module


def trained_for(env: EnvSpec, run: Run, settings: DictConfig) -> Agent:
    """As :func:`trained_agent`, for data of ``env``. Raises UserError where the run is of another environment."""
    of_run: EnvSpec = build(settings.env)
    if acts_in(of_run) != acts_in(env):
        raise UserError(
            f"The agent in {run.folder} was trained in {acts_in(of_run)}, but the data are of {acts_in(env)}: give the "
            "folder of an agent of the data's environment."
        )
    return trained_agent(run, settings)


def acts_in(env: EnvSpec) -> str:
    """What two environments agree in if an agent of one can act in the other, whatever was recorded there."""
    box = f" in {env.box}" if env.box else ""
    return f"{env.task} ({env.obs_dim} observed values, {env.action_dim} values of an action{box})"


def load_agent(module: LightningModule, run: Run) -> None:
    """Fill ``module`` with what the finished ``run`` ended with."""
    module.load_state_dict(torch.load(last_checkpoint(run), map_location="cpu", weights_only=True)["state_dict"])
