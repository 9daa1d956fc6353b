"""Agents as modules: built from a config, filled from a finished run."""

import torch
from lightning import LightningModule
from omegaconf import DictConfig

from pgd_lightning.agents.agent import Agent
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.config.build import build
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


def load_agent(module: LightningModule, run: Run) -> None:
    """Fill ``module`` with what the finished ``run`` ended with."""
    module.load_state_dict(torch.load(last_checkpoint(run), map_location="cpu", weights_only=True)["state_dict"])
