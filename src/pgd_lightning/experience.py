"""From a config to its generator, with the model behind it: found in its run folder, or trained now."""

from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from pgd_lightning.data.modules import SyntheticDataModule
from pgd_lightning.dataset import Dataset
from pgd_lightning.fitting import fit
from pgd_lightning.generators.ensemble import Ensemble, held_out
from pgd_lightning.models import load_agent
from pgd_lightning.prior import identity as prior_identity
from pgd_lightning.prior import ready_prior
from pgd_lightning.progress import say
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs import Run, build
from pgd_lightning.trajectory import Generator

FREE = {"log_every", "checkpoint_every"}


def ready_generator(config: DictConfig, dataset: Dataset) -> Generator | None:
    """The generator of the config, or None for real data only."""
    if config.generator.build is None:
        return None
    ready = {"prior": ready_prior, "ensemble": ready_ensemble}[config.generator.model]
    generator: Generator = build(config.generator.build)(ready(config, dataset)[0])
    return generator


def model_identity(config: DictConfig, dataset: Dataset) -> dict[str, Any]:
    """What makes the model behind the config's generator another model."""
    if config.generator.model == "prior":
        return {"prior": prior_identity(config, dataset)}
    return {"ensemble": ensemble_identity(config, dataset)}


def ensemble_identity(config: DictConfig, dataset: Dataset) -> dict[str, Any]:
    """What makes an ensemble another ensemble; how often it logs or saves does not."""
    settings = OmegaConf.to_container(config.ensemble, resolve=True)
    assert isinstance(settings, dict)
    reading = {key: config.data[key] for key in ("out_of_box", "rewards", "missing_timeouts")}
    return {
        "ensemble": {k: v for k, v in settings.items() if k not in FREE},
        "reading": reading,
        "file": dataset.provenance["sha256"],
        "precision": config.trainer.precision,
    }


def ready_ensemble(config: DictConfig, dataset: Dataset) -> tuple[Ensemble, Run]:
    """The trained ensemble of ``dataset``, read from its run or trained now, and its run."""
    settings = config.ensemble
    what = ensemble_identity(config, dataset)
    run = Run.at(config.runs_dir, "ensemble", config.env.name, "pets", what, config.seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(config.seed, "ensemble/init"))
        model: Ensemble = build(settings.model)
    steps = dataset.transitions
    train, chosen_by = held_out(len(steps), settings.held_out, config.seed)
    if run.finished:
        say(f"ensemble: trained already, in {run.folder}")
        load_agent(model, run)
    else:
        with run.started(config, dataset.provenance):
            model.fit_scales(steps[train])
            say(f"ensemble: {settings.steps} steps of {settings.batch_size}, {run.folder}")
            data = SyntheticDataModule(
                real=steps[train],
                generator=None,
                **dict(config.synthetic) | {"batch_size": settings.batch_size, "synthetic_batch": 0},
                seed=derive_seed(config.seed, "ensemble/batches"),
                num_seeds=1,
                total_steps=settings.steps,
                observers=[],
            )
            fit(
                run, config, dataset.provenance, model, data,
                steps=settings.steps, checkpoint_every=settings.checkpoint_every, callbacks=[],
            )  # fmt: skip
            run.update(state="finished")
    model.choose_elites(steps[chosen_by[: settings.elite_rows]])
    return model, run
