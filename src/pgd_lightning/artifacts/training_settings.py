"""What a training takes out of a config: its devices, and how W&B mirrors it."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.training.fit import TrainerSettings
from pgd_lightning.training.loggers import MirrorSettings

NAMED = ("accelerator", "devices", "strategy", "num_nodes", "precision", "compile")


def trainer_settings(config: DictConfig) -> TrainerSettings:
    """The settings of ``config.trainer``."""
    settings: Any = OmegaConf.to_container(config.trainer, resolve=True)
    more = {name: value for name, value in settings.items() if name not in NAMED}
    return TrainerSettings(**{name: settings[name] for name in NAMED}, more=more)


def mirror_settings(config: DictConfig, provenance: Mapping[str, object]) -> MirrorSettings:
    """The settings of ``config.logger``; the W&B run shows all of ``config`` and where the data came from."""
    shown = {"config": OmegaConf.to_container(config, resolve=True), "provenance": provenance}
    return MirrorSettings(config.logger.wandb, config.logger.project, config.logger.timeout, shown)
