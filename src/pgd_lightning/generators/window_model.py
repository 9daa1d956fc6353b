"""What models of recorded windows share: units, noise by (seed, step), a loss that is watched, a learning rate."""

import math
from collections.abc import Iterable
from typing import Any, Protocol

import torch
from lightning import LightningModule
from torch import Tensor, nn

from pgd_lightning.errors import UserError
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.randomness import seed_global
from pgd_lightning.trajectory import Trajectory


def warmup_cosine(step: int, total_steps: int, warmup_start: float) -> float:
    """Fraction of the peak learning rate: linear from ``warmup_start`` over a tenth of all steps, then cosine to 0."""
    warmup = total_steps // 10
    if step < warmup:
        return warmup_start + (1 - warmup_start) * step / warmup
    done = min((step - warmup) / max(total_steps - warmup, 1), 1.0)
    return 0.5 * (1 + math.cos(math.pi * done))


class HeldOut(Protocol):
    """Windows that were not trained on."""

    def batches(self, size: int) -> Iterable[Trajectory]:
        """All of them in order, ``size`` at a time."""


class Units(Protocol):
    """Units in which a model sees windows."""

    action_dim: int

    def fit(self, batches: Iterable[Trajectory]) -> None:
        """Find them."""


class WindowModel(LightningModule):
    """Trains on recorded windows, logs its loss and stops where that is no number.

    A subclass has a ``name``, that of its section of the config and its logs, and a :meth:`loss`. All
    that is not trained must not require gradients.
    """

    name: str

    def __init__(
        self,
        codec: Units,
        learning_rate: float,  # peak
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.codec = codec
        self.learning_rate, self.total_steps = learning_rate, total_steps
        self.log_every, self.seed = log_every, seed

    @property
    def method(self) -> str:
        """What its run folder is called."""
        return self.name

    @property
    def shown(self) -> tuple[str, ...]:
        """Names of what is shown beside the bar."""
        return f"{self.name}/loss", f"{self.name}/val_loss"

    def fit_units(self, batches: Iterable[Trajectory]) -> None:
        """Find the units in which the model sees windows, before it is trained."""
        self.codec.fit(batches)

    def settle(self, held_out: HeldOut | None) -> None:
        """Decide, once trained, what held-out windows decide."""

    def loss(self, batch: Trajectory) -> Tensor:
        """What is trained on, of windows ``[B, T]`` in environment units; noise from torch's global generator."""
        raise NotImplementedError

    def held_out_loss(self, batch: Trajectory) -> Tensor:
        """What is watched on held-out windows ``[B, T]``."""
        return self.loss(batch)

    def noise_path(self) -> tuple[int | str, ...]:
        """What seeds this step's noise, another one on each rank."""
        return self.seed, "prior/noise", self.global_step, self.global_rank

    def training_step(self, batch: Trajectory, batch_idx: int) -> Tensor:
        seed_global(*self.noise_path())
        loss = self.loss(batch)
        if self.global_step == 0 or (self.global_step + 1) % self.log_every == 0:  # Lightning writes after the latter
            if not loss.isfinite():
                what = f"The loss of {self.name} is {loss.item()} at step {self.global_step}"
                if self.global_step == 0:
                    raise UserError(
                        f"{what}, before anything is learned: process.*, network.* or trainer.precision is beyond what "
                        "can be computed."
                    )
                raise UserError(
                    f"{what}: lower its learning_rate (now {self.learning_rate}) and start again; the last checkpoint "
                    "is kept."
                )
            self.log(f"{self.name}/loss", loss.detach(), sync_dist=True)
        return loss

    def validation_step(self, batch: Trajectory, batch_idx: int) -> None:
        """Loss on held-out episodes, with the same noise at each validation."""
        seed_global(self.seed, "prior/validation", batch_idx)
        self.log(f"{self.name}/val_loss", self.held_out_loss(batch), batch_size=len(batch))

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam on all that is trained."""
        trained = [p for p in self.parameters() if p.requires_grad]
        return torch.optim.Adam(trained, lr=self.learning_rate, fused=True)

    def rate(self, step: int) -> float:
        """Fraction of the peak learning rate at ``step``: constant, unless a subclass says otherwise."""
        return 1.0

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer()
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self.rate)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


class EncodedWindowModel(WindowModel):
    """Trains one network on windows as ``codec`` encodes them, at the rate of :func:`warmup_cosine`."""

    codec: TrajectoryCodec

    def __init__(
        self,
        network: nn.Module,
        codec: TrajectoryCodec,
        learning_rate: float,  # peak
        warmup_start: float,  # fraction of the peak at step 0
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__(codec, learning_rate, total_steps, log_every, seed)
        self.network, self.warmup_start = network, warmup_start

    def rate(self, step: int) -> float:
        return warmup_cosine(step, self.total_steps, self.warmup_start)
