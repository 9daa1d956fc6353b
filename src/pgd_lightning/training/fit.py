"""One fit of a LightningModule in a run folder: checkpoints, signals, progress and loggers are the same for all."""

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.plugins.environments import LightningEnvironment
from lightning.pytorch.callbacks import ModelCheckpoint

from pgd_lightning.agents.agent import Agent
from pgd_lightning.errors import UserError
from pgd_lightning.networks.compiling import compile_networks
from pgd_lightning.runs import ranks
from pgd_lightning.runs.checkpoints import AtomicCheckpointIO, checkpoint_at, newest_checkpoint
from pgd_lightning.runs.console import say, stop_if_asked
from pgd_lightning.runs.run import LOOK_EVERY, Run
from pgd_lightning.training.callbacks import Heartbeat, ProgressReport, StopOnSignal
from pgd_lightning.training.loggers import Mirror, MirrorSettings, loggers
from pgd_lightning.training.spreading import JoinSeeds, RowsTogether, SeedsApart, TakeSeeds

# Lightning sets its level at import; its hints are not about what our users do.
logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)

ROWS, SEEDS, ALONE = "rows", "seeds", "alone"  # what ranks share of a training


@dataclass(frozen=True)
class TrainerSettings:
    """Devices, ranks and precision of a training (``conf/trainer``)."""

    accelerator: str
    devices: int | str
    strategy: str
    num_nodes: int
    precision: str
    compile: str | None  # see :func:`pgd_lightning.networks.compiling.compile_networks`
    more: Mapping[str, Any]  # arguments of lightning.Trainer that conf/trainer does not have (+trainer.NAME=)

    def arguments(self) -> dict[str, Any]:
        """The arguments of lightning.Trainer."""
        named = {name: value for name, value in vars(self).items() if name not in ("compile", "more")}
        return named | dict(self.more)


def fit(
    run: Run,
    module: LightningModule,
    data: LightningDataModule,
    *,
    trainer_settings: TrainerSettings,
    mirror: MirrorSettings,
    title: str,
    steps: int,
    log_every: int,
    checkpoint_every: int,
    callbacks: list[Callback],
    spread: str,
    **more: Any,
) -> None:
    """Train ``module`` to ``steps`` in ``run``, from its newest checkpoint if there is one.

    A callback may set another last step on the way. ``title`` names the training in progress lines. ``spread`` says
    what several ranks do: share the ROWS of each batch, train the SEEDS that each has, or leave it ALONE to the first.
    Afterwards every rank has the trained module (of SEEDS its own). ``more`` are arguments of lightning.Trainer.
    Raises UserError where the checkpoint is of a module of another shape.
    """
    if spread == ALONE and ranks.rank() > 0:
        _take_from_first(module, checkpoint_at(run.checkpoints, steps))
        return
    compile_networks(module, trainer_settings.compile)
    if isinstance(module, Agent):
        module.compiling = trainer_settings.compile
    checkpoint = ModelCheckpoint(
        run.checkpoints,
        filename="{step:09d}",
        every_n_train_steps=checkpoint_every,
        save_top_k=-1,  # how many stay is decided where they are saved, whoever saves
        enable_version_counter=False,
    )
    joining = [JoinSeeds()] if spread == SEEDS and ranks.count() > 1 else []
    own = [*joining, Heartbeat(run.beat), ProgressReport(title), StopOnSignal(run.checkpoints), checkpoint]
    logs = loggers(mirror, run) if ranks.rank() == 0 else []
    trainer = Trainer(
        **trainer_of(trainer_settings, spread, module),
        max_steps=steps,
        max_epochs=-1,
        callbacks=[*callbacks, *own],
        logger=logs,
        log_every_n_steps=log_every,  # it repeats what was logged last, so the module logs at the same steps
        num_sanity_val_steps=0,
        enable_progress_bar=False,
        enable_model_summary=False,
        **more,
    )  # fmt: skip
    newest = partial(newest_checkpoint, run.checkpoints)
    start = newest() if spread == ALONE else ranks.decided(newest)
    if start:
        say(f"{title}: continues from {start.name}")
    try:
        trainer.fit(module, data, ckpt_path=start, weights_only=True)
    except RuntimeError as error:
        if "size mismatch" in str(error) or "Missing key" in str(error):
            raise UserError(
                f"The checkpoint {start} belongs to another config than this run; remove {run.folder} to start afresh."
            ) from error
        raise ranks.lost(error) or error from None
    finally:
        for log in logs:
            if isinstance(log, Mirror):
                log.close()
    trainer.save_checkpoint(checkpoint_at(run.checkpoints, trainer.max_steps))
    stop_if_asked()  # in its last step


def _take_from_first(module: LightningModule, last: Path) -> None:
    """Wait until rank 0 has saved ``last``, and load it."""
    while not last.exists():
        time.sleep(LOOK_EVERY)
    module.load_state_dict(torch.load(last, map_location="cpu", weights_only=True)["state_dict"])


def accelerator(choice: str) -> torch.device:
    """Where models compute outside of training: on the GPU, if ``trainer.accelerator`` allows one, or on the CPU."""
    allowed = choice in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return torch.device("cuda", torch.cuda.current_device()) if allowed else torch.device("cpu")


def trainer_of(settings: TrainerSettings, spread: str, module: LightningModule) -> dict[str, Any]:
    """Lightning's settings of devices, ranks and precision. Agents are trained in float32, whatever the prior is."""
    arguments = settings.arguments()
    if spread != ROWS or isinstance(module, Agent):
        arguments["precision"] = "32-true"
    checkpoints: AtomicCheckpointIO = AtomicCheckpointIO()
    if ranks.count() == 1 or spread == ALONE:
        alone = {"devices": 1, "num_nodes": 1, "strategy": "auto", "plugins": [checkpoints, LightningEnvironment()]}
        return arguments | alone
    if isinstance(module, Agent) and spread == ROWS:
        arguments["strategy"] = RowsTogether()
    elif spread == SEEDS:
        assert isinstance(module, Agent)
        arguments["strategy"] = SeedsApart()
        checkpoints = TakeSeeds(module, range(module.first, module.first + module.num_seeds))
    return arguments | {"plugins": [checkpoints, ranks.environment()]}
