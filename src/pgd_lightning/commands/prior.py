"""``pgd prior``: train the model behind a generator alone; ``pgd train`` does it by itself."""

from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.artifacts.models import ready_model
from pgd_lightning.errors import UserError


def main(config: DictConfig, overrides: list[str]) -> None:
    if config.generator.model is None:
        raise UserError("generator=none has no model to train: choose one that has, e.g. generator=pgd.")
    ready_model(config, open_dataset(config), config.generator.model)
