"""From a config to its generator, with the model behind it: found in its run folder, or trained now."""

from glob import escape
from pathlib import Path

from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.models import ready_model, trained_model
from pgd_lightning.config.build import build
from pgd_lightning.data.windows import Windows
from pgd_lightning.errors import UserError
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.runs.identity import trained_section
from pgd_lightning.runs.run import Run, readable
from pgd_lightning.trajectory import Generator


def ready_generator(config: DictConfig, dataset: Dataset) -> Generator | None:
    """The generator of the config, or None for real data only."""
    if config.generator.build is None:
        return None
    section = trained_section(config)
    return made_of(config, ready_model(config, dataset, section)[0] if section else dataset.train.required())


def generator_of(run: Run, settings: DictConfig, dataset: Dataset) -> Generator | None:
    """The generator of the finished agent ``run``, whose ``settings`` were these, or None for real data only.

    The model behind it is the very one that the agent learned from. Raises UserError if it is found neither in the runs
    folder that ``run`` lies in nor in the one that it was trained in.
    """
    if settings.generator.build is None:
        return None
    section = trained_section(settings)
    if section is None:
        return made_of(settings, dataset.train.required())
    return made_of(settings, trained_model(model_behind(run, settings), settings, dataset, section))


def made_of(settings: DictConfig, behind: WindowModel | Windows) -> Generator:
    """The generator of ``settings`` with the model, or the recorded windows, behind it."""
    generator: Generator = build(settings.generator.build)(behind)
    return generator


def model_behind(run: Run, settings: DictConfig) -> Run:
    """The run of the model that the finished agent ``run`` learned from, see :func:`generator_of`."""
    section, env = settings.generator.model, settings.env.name
    wanted = run.record["identity"][section]
    roots = {run.folder.absolute().parents[3]: None, Path(settings.runs_dir).absolute(): None}
    for root in roots:
        for found in readable(sorted(root.glob(f"{section}/{escape(env)}/*/{settings.seed}/run.json"))):
            if found.finished and found.record["identity"] == wanted:
                return found
    raise UserError(
        f"The {section} that {run.folder} learned from is not in {' or '.join(map(str, roots))}: copy its "
        f"folder there, below {section}/{env}, from the runs folder where it was trained."
    )
