"""One fit of a LightningModule in a run folder: checkpoints, signals, progress and loggers are the same for all."""

import logging
from typing import Any

from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from omegaconf import DictConfig, OmegaConf

from pgd_lightning.errors import UserError
from pgd_lightning.progress import ProgressReport, StopOnSignal, say
from pgd_lightning.runs import AtomicCheckpointIO, Run, newest_checkpoint
from pgd_lightning.tracking import Mirror, loggers

# Lightning sets its level at import; its hints are not about what our users do.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


def fit(
    run: Run,
    config: DictConfig,
    provenance: dict[str, Any],
    module: LightningModule,
    data: LightningDataModule,
    *,
    steps: int,
    checkpoint_every: int,
    callbacks: list[Callback],
    **trainer_settings: Any,
) -> None:
    """Train ``module`` to ``steps`` in ``run``, from its newest checkpoint if there is one.

    Raises UserError where the checkpoint is of a module of another shape.
    """
    record = run.record
    title = f"{record['stage']} {record['method']}"
    checkpoint = ModelCheckpoint(
        run.checkpoints,
        filename="{step:09d}",
        every_n_train_steps=checkpoint_every,
        monitor="step",
        mode="max",
        save_top_k=2,
        enable_version_counter=False,
    )
    trainer = Trainer(
        **OmegaConf.to_container(config.trainer, resolve=True),  # type: ignore[arg-type]
        max_steps=steps,
        max_epochs=-1,
        callbacks=[*callbacks, ProgressReport(title, steps), StopOnSignal(run.checkpoints), checkpoint],
        logger=(logs := loggers(config, run, provenance)),
        plugins=[AtomicCheckpointIO()],
        log_every_n_steps=1,  # the modules decide how often they log
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **trainer_settings,
    )
    start = newest_checkpoint(run.checkpoints)
    if start:
        say(f"{title}: continues from {start.name}")
    try:
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
    except RuntimeError as error:
        if "size mismatch" in str(error) or "Missing key" in str(error):
            raise UserError(
                f"The checkpoint {start} belongs to another config than this run; remove {run.folder} to start afresh."
            ) from error
        raise
    finally:
        for log in logs:
            if isinstance(log, Mirror):
                log.close()
    trainer.save_checkpoint(run.checkpoints / f"step={trainer.global_step:09d}.ckpt")
