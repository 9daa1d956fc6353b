"""``pgd prior``: train the model behind a generator alone; ``pgd train`` does it by itself."""

from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.artifacts.models import ready_model
from pgd_lightning.errors import UserError
from pgd_lightning.runs.identity import trained_section


def main(config: DictConfig, overrides: list[str]) -> None:
    section = trained_section(config)
    if section is None:
        raise UserError(
            f"generator={config.generator.name} has no model to train: choose one that has, e.g. generator=pgd."
        )
    ready_model(config, open_dataset(config), section)
