"""The diffusion prior: a denoiser of real windows, trained once for each dataset (PGD).

Differences from the reference: the weight average is kept here and not by Lightning's callback, whose average starts
at its first update instead of at the initial weights; training runs for a number of steps, not of epochs.
"""

import copy
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.window_model import WindowModel, warmup_cosine
from pgd_lightning.networks.muon import Muon
from pgd_lightning.trajectory import Trajectory

LOW = (0.01, 0.03, 0.1)  # noise levels, in units of the encoded windows


def warmup_stable_decay(step: int, warmup: int, warmup_start: float, decays_from: int | None, last: int) -> float:
    """Fraction of the peak learning rate: linear over ``warmup`` steps, 1 until ``decays_from``, 0 from ``last`` on."""
    rising = warmup_start + (1 - warmup_start) * min(step / warmup, 1.0)
    falling = 1.0 if decays_from is None else min(max((last - step) / (last - decays_from), 0.0), 1.0)
    return min(rising, falling)


@torch.no_grad()
def update_ema(average: Denoiser, online: Denoiser, decay: float) -> None:
    """average <- decay average + (1 - decay) online."""
    torch._foreach_lerp_(list(average.parameters()), list(online.parameters()), 1 - decay)


class DiffusionPrior(WindowModel):
    """Trains ``denoiser`` on windows; ``ema`` is the average that is sampled from, ``codec`` the change of units.

    Without ``warmup_steps`` the learning rate follows :func:`warmup_cosine` to ``total_steps``. With them it stays at
    its peak until something sets ``decays_from`` and ``total_steps`` (``training/until_flat.py``).
    """

    name = "prior"
    codec: TrajectoryCodec
    decays_from: int | None = None
    trained_on: Any = None  # the data, for those who trained it from Python

    @property
    def open_ended(self) -> bool:
        """Whether its last step is not known yet."""
        return self.warmup_steps is not None and self.decays_from is None

    def __init__(
        self,
        denoiser: Denoiser,
        codec: TrajectoryCodec,
        learning_rate: float,  # peak
        warmup_start: float,  # fraction of the peak at step 0
        ema_decay: float,
        ema_every: int,
        muon: bool,  # for the weights between hidden layers, instead of Adam
        ema_ramp: float | None,  # the n-th average keeps at most (1 + n) / (ema_ramp + n); null: no limit
        total_steps: int,
        log_every: int,
        seed: int,
        warmup_steps: int | None = None,
    ) -> None:
        super().__init__(codec, learning_rate, total_steps, log_every, seed)
        self.denoiser, self.warmup_start, self.warmup_steps = denoiser, warmup_start, warmup_steps
        self.ema = copy.deepcopy(self.denoiser).requires_grad_(False)
        self.muon = muon
        self.ema_decay, self.ema_every, self.ema_ramp = ema_decay, ema_every, ema_ramp

    def noise_path(self) -> tuple[int | str, ...]:
        """The same on all ranks: each draws the noise of the whole batch and keeps that of its rows."""
        return self.seed, "prior/noise", self.global_step, 0

    def loss(self, batch: Trajectory) -> Tensor:
        ranks = self.trainer.world_size if self._trainer is not None else 1
        return self.denoiser.loss(self.codec.encode(batch), self.global_rank, ranks, self.codec.varies)

    def held_out_loss(self, batch: Trajectory) -> Tensor:
        """Of the averaged weights."""
        return self.ema.loss(self.codec.encode(batch), varies=self.codec.varies)

    def validation_step(self, batch: Trajectory, batch_idx: int) -> None:
        """The loss, and the noise left at low levels, by which the accuracy of windows shows more clearly: the loss is
        mostly that of high levels (``docs/prior.md``)."""
        super().validation_step(batch, batch_idx)
        self.log("prior/left", self.noise_left(batch), batch_size=len(batch))

    def noise_left(self, batch: Trajectory) -> Tensor:
        """Fraction of the noise variance that the averaged weights leave in windows ``[B, T]``.

        The geometric mean over the noise levels ``LOW``, which decide the one-step error.
        """
        x0 = self.codec.encode(batch)
        noise = self.codec.varies * torch.randn_like(x0)
        left = [
            (self.ema(x0 + sigma * noise, x0.new_tensor(sigma)) - x0).mul(self.codec.varies).square().mean() / sigma**2
            for sigma in LOW
        ]
        return torch.stack(left).log().mean().exp() / noise.square().mean()

    def optimizer(self) -> torch.optim.Optimizer:
        """Adam, or Muon for the weights between hidden layers and Adam for the others."""
        if not self.muon:
            return super().optimizer()
        hidden = self.denoiser.network.hidden_weights()  # type: ignore[operator]
        others = {id(p): p for p in self.denoiser.parameters()}
        for p in hidden:
            del others[id(p)]
        return Muon(hidden, others.values(), self.learning_rate)

    @property
    def method(self) -> str:
        return f"edm-{type(self.denoiser.network).__name__.lower()}"

    def rate(self, step: int) -> float:
        if self.warmup_steps is None:
            return warmup_cosine(step, self.total_steps, self.warmup_start)
        return warmup_stable_decay(step, self.warmup_steps, self.warmup_start, self.decays_from, self.total_steps)

    def decay(self, step: int) -> float:
        """What the average keeps of itself after ``step`` updates of the weights.

        With a ramp it looks back over a share of the run, however short that is, until ``ema_decay`` is reached.
        """
        if self.ema_ramp is None:
            return self.ema_decay
        number = step // self.ema_every
        return min(self.ema_decay, (1 + number) / (self.ema_ramp + number))

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        # Not in a batch-end hook: callbacks, the checkpoint among them, run before those of the module.
        super().optimizer_step(*args, **kwargs)
        self.average(self.global_step + 1)

    def average(self, step: int) -> None:
        """Move the average after update number ``step``, where it is due."""
        if step % self.ema_every == 0:
            update_ema(self.ema, self.denoiser, self.decay(step))
