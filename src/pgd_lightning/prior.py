"""``pgd prior``: train the diffusion prior of a data set, once; every agent on the same data finds it by rule."""

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.data.modules import WindowDataModule
from pgd_lightning.dataset import Dataset, open_dataset
from pgd_lightning.errors import UserError
from pgd_lightning.fitting import fit
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.models import build_prior, load_prior
from pgd_lightning.progress import say
from pgd_lightning.runs import Run


def main(config: DictConfig, overrides: list[str]) -> None:
    dataset = open_dataset(config)
    _, run = ready_prior(config, dataset)
    say(f"prior: in {run.folder}")


def identity(config: DictConfig, dataset: Dataset) -> dict[str, object]:
    """What makes a prior another prior; how often it logs or saves does not."""
    kept = {"horizon", "stride", "validation", "out_of_box", "rewards", "missing_timeouts"}
    free = {"log_every", "validate_every", "checkpoint_every"}
    settings = OmegaConf.to_container(
        OmegaConf.masked_copy(config, ["process", "network", "data", "prior"]), resolve=True
    )
    assert isinstance(settings, dict)
    settings["data"] = {k: v for k, v in settings["data"].items() if k in kept}
    settings["prior"] = {k: v for k, v in settings["prior"].items() if k not in free}
    return settings | {"file": dataset.provenance["sha256"], "precision": config.trainer.precision}


def ready_prior(config: DictConfig, dataset: Dataset) -> tuple[DiffusionPrior, Run]:
    """The trained prior of ``dataset`` under ``config``, read from its run or trained now, and its run."""
    network = config.network._target_.rpartition(".")[2].lower()
    what = identity(config, dataset)
    run = Run.at(config.runs_dir, "prior", config.env.name, f"edm-{network}", what, config.seed)
    steps = config.prior.steps or config.prior.epochs * (len(dataset.train) // config.prior.batch_size)
    module = build_prior(config, steps)
    if run.finished:
        say(f"prior: trained already, in {run.folder}")
        load_prior(module, run, dataset)
        return module, run
    if len(dataset.train) < config.prior.batch_size:
        raise UserError(
            f"{dataset.provenance['path']} gives {len(dataset.train)} training windows, fewer than a batch of "
            f"{config.prior.batch_size}: set prior.batch_size={len(dataset.train)} or data.stride=1."
        )
    with run.started(config, dataset.provenance):
        module.codec.fit(dataset.train.batches(1024))
        data = WindowDataModule(dataset.train, dataset.validation, config.prior.batch_size, config.seed, steps)
        say(f"prior: {sum(p.numel() for p in module.denoiser.parameters()):,} parameters, {steps} steps, {run.folder}")
        fit(
            run, config, dataset.provenance, module, data,
            steps=steps, checkpoint_every=config.prior.checkpoint_every, callbacks=[],
            check_val_every_n_epoch=None, val_check_interval=min(config.prior.validate_every, steps),
            limit_val_batches=8 if dataset.validation else 0,
        )  # fmt: skip
        run.update(state="finished")
    return module, run
