"""From a config to its generator, with the model behind it: found in its run folder, or trained now."""

from omegaconf import DictConfig

from pgd_lightning.dataset import Dataset
from pgd_lightning.prior import ready_model
from pgd_lightning.runs import build
from pgd_lightning.trajectory import Generator


def ready_generator(config: DictConfig, dataset: Dataset) -> Generator | None:
    """The generator of the config, or None for real data only."""
    if config.generator.build is None:
        return None
    model, _ = ready_model(config, dataset, config.generator.model)
    generator: Generator = build(config.generator.build)(model)
    return generator
