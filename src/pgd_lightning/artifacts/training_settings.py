"""What a training takes out of a config: its devices, and how W&B mirrors it."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.training.fit import TrainerSettings
from pgd_lightning.training.loggers import MirrorSettings


def trainer_settings(config: DictConfig) -> TrainerSettings:
    """The settings of ``config.trainer``."""
    settings: Any = OmegaConf.to_container(config.trainer, resolve=True)
    named = {field.name: settings.pop(field.name) for field in fields(TrainerSettings) if field.name != "more"}
    return TrainerSettings(**named, more=settings)


def mirror_settings(config: DictConfig, provenance: Mapping[str, object]) -> MirrorSettings:
    """The settings of ``config.logger``; the W&B run shows all of ``config`` and where the data came from."""
    shown = {"config": OmegaConf.to_container(config, resolve=True), "provenance": provenance}
    return MirrorSettings(config.logger.wandb, config.logger.project, config.logger.timeout, shown)
