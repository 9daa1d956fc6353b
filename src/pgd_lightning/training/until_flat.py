"""``prior.steps=auto``: training that ends itself.

The learning rate stays at its peak after the warm-up until more training hardly pays or the time is spent; then it
decays, which ends the training (warm-up, stable, decay: Hu et al. 2024, MiniCPM, section 4; Hägele et al. 2024).
"""

import time
from typing import Any

from lightning import Callback, LightningModule, Trainer

from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.runs import ranks
from pgd_lightning.runs.console import say

CHECK_EVERY = 10  # steps between two looks at the clock
LOOK_BACK = 0.8  # compare with the validation at this share of the steps: the steps since are a quarter more


class UntilFlat(Callback):
    """Chooses the step from which the learning rate of a :class:`DiffusionPrior` decays, and so the last step.

    ``gain``: decay when a quarter more steps removed less than this fraction of the noise left in held-out windows
    (:meth:`DiffusionPrior.noise_left`), not before so many ``validations`` after the warm-up.
    ``minutes``: of training at most, the decay and the attempts before a resume included; where nothing is held out,
    they alone decide. ``decay``: fraction of all steps in which the rate decays.
    """

    def __init__(self, minutes: float, gain: float, validations: int, decay: float) -> None:
        self.minutes, self.gain, self.validations, self.decay = minutes, gain, validations, decay
        self.history: list[tuple[int, float]] = []  # step, noise left
        self.seconds = 0.0
        self.decays_from: int | None = None

    def state_dict(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("history", "seconds", "decays_from")}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.last = time.monotonic()
        self._apply(trainer, module)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        self.seconds, self.last = self.seconds + now - self.last, now
        if self.decays_from is not None or trainer.global_step % CHECK_EVERY:
            return
        if ranks.decided(lambda: self.seconds > 60 * self.minutes * (1 - self.decay)):
            self._begin(trainer, module, f"prior.auto.minutes={self.minutes:g} are nearly spent")

    def on_validation_end(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, DiffusionPrior)
        if self.decays_from is not None or trainer.global_step < (module.warmup_steps or 0):
            return
        self.history.append((trainer.global_step, float(trainer.callback_metrics["prior/left"])))
        removed = ranks.decided(self.removed)
        if removed is not None and removed < self.gain:
            self._begin(trainer, module, f"a quarter more steps removed {100 * removed:.2g} % of the noise left")

    def removed(self) -> float | None:
        """The fraction of the noise left that the last quarter more steps removed; None too early to say."""
        step, left = self.history[-1]
        before = [(s, value) for s, value in self.history if s <= LOOK_BACK * step]
        return 1 - left / before[-1][1] if before and len(self.history) >= self.validations else None

    def _begin(self, trainer: Trainer, module: LightningModule, why: str) -> None:
        self.decays_from = trainer.global_step
        self._apply(trainer, module)
        if ranks.rank() == 0:
            say(f"prior: {why}; the learning rate decays now, to step {trainer.max_steps:,}")

    def _apply(self, trainer: Trainer, module: LightningModule) -> None:
        assert isinstance(module, DiffusionPrior)
        if self.decays_from is not None:
            last = self.decays_from + max(round(self.decays_from * self.decay / (1 - self.decay)), 1)
            trainer.fit_loop.epoch_loop.max_steps = last  # what Trainer.max_steps reads
            module.decays_from, module.total_steps = self.decays_from, last
