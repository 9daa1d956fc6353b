"""What a long training shows: a bar on a terminal, a line now and then in a log file; and how it saves and stops."""

import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from rich.progress import Progress

from pgd_lightning.errors import Stopped
from pgd_lightning.runs.checkpoints import checkpoint_at
from pgd_lightning.runs.console import LINE_EVERY, duration, progress_bar, received, say, stop
from pgd_lightning.runs.names import MEASURES
from pgd_lightning.runs.operating_system import SIGNALS

EVALUATED = {f"eval/{key}": f"evaluation {measure.name}" for key, measure in reversed(MEASURES.items())}
NAMES = {**EVALUATED, "train/value": "mean value"}
AGREE_EVERY = 8  # steps between the questions whether another rank was asked to stop


class ProgressReport(Callback):
    """Steps done, rate, time left and the metrics that the module shows."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.started = self.last_line = time.monotonic()
        self.first_step = trainer.global_step
        if sys.stdout.isatty():
            self.bar = progress_bar()
            self.task = self.bar.add_task(self.title, total=trainer.max_steps, completed=trainer.global_step, m="")
            self.bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        now = time.monotonic()
        if self.bar and trainer.global_step % 10 == 0:
            words = ", ".join(_words(_shown(trainer, module)))
            self.bar.update(self.task, completed=trainer.global_step, total=trainer.max_steps, m=words)
        elif not self.bar and now - self.last_line > LINE_EVERY and trainer.global_step < trainer.max_steps:
            rate = (trainer.global_step - self.first_step) / (now - self.started)
            done = f"step {trainer.global_step:,}, {rate:.3g}/s"
            if not getattr(module, "open_ended", False):
                left = duration((trainer.max_steps - trainer.global_step) / rate)
                done = f"step {trainer.global_step:,} of {trainer.max_steps:,}, {rate:.3g}/s, {left} left"
            say(", ".join([f"{self.title}: {done}", *_words(_shown(trainer, module))]))
            self.last_line = now

    def on_train_end(self, trainer: Trainer, module: LightningModule) -> None:
        self._close()
        if trainer.is_global_zero and trainer.global_step > self.first_step:
            took = time.monotonic() - self.started
            steps = trainer.global_step - self.first_step
            losses = {key: value for key, value in _shown(trainer, module).items() if key.endswith("loss")}
            say(
                ", ".join(
                    [f"{self.title}: {steps:,} steps in {duration(took)} ({steps / took:.3g}/s)", *_words(losses)]
                )
            )

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar:
            self.bar.stop()
            self.bar = None


def _shown(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What was logged last of the names that ``module`` shows, and of an evaluation.

    Lightning's own ``prog_bar=True`` reads each number at every step from then on, and so waits for a GPU.
    """
    logged = trainer.callback_metrics
    names = (*getattr(module, "shown", ()), *EVALUATED)
    return {name: logged[name] for name in names if name in logged}


def _words(metrics: Mapping[str, Any]) -> list[str]:
    named = ((NAMES.get(key, key.split("/")[-1]), float(value)) for key, value in metrics.items())
    return [f"{'held-out loss' if name == 'val_loss' else name} {value:.3g}" for name, value in named]


class Heartbeat(Callback):
    """Tells ``beat`` every now and then how far the training is."""

    def __init__(self, beat: Callable[..., None]) -> None:
        self.beat = beat
        self.last = 0.0

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self._beat(trainer)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if time.monotonic() - self.last > LINE_EVERY or trainer.global_step == trainer.max_steps:
            self._beat(trainer)

    def on_exception(self, trainer: Trainer, module: LightningModule, exception: BaseException) -> None:
        self._beat(trainer)

    def _beat(self, trainer: Trainer) -> None:
        self.last = time.monotonic()
        if trainer.is_global_zero:
            self.beat(step=trainer.global_step, total=trainer.max_steps)


class StopOnSignal(Callback):
    """On SIGINT, SIGTERM, SIGUSR1 or SIGUSR2: finish the step, save, and stop with a sentence.

    The handler only sets a flag: saving inside a signal handler loses checkpoints.
    """

    def __init__(self, checkpoints: Path) -> None:
        self.checkpoints = checkpoints
        self.before: dict[int, Any] = {}

    def on_train_start(self, trainer: Trainer, module: LightningModule) -> None:
        self.before = {number: signal.signal(number, self._note) for number in SIGNALS}
        if self.before[signal.SIGINT] is not stop:  # no command: what an earlier training was told is past
            received.clear()

    def _note(self, number: int, frame: Any) -> None:
        received.append(number)

    def on_train_batch_end(
        self, trainer: Trainer, module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if not self._asked(trainer):
            return
        trainer.save_checkpoint(checkpoint_at(self.checkpoints, trainer.global_step))
        number = received[0] if received else None
        name = signal.Signals(number).name if number else "a signal to another rank"
        raise Stopped(
            f"Stopped by {name} at step {trainer.global_step}; everything is saved, and the same command continues "
            "from here.",
            number,
        )

    def _asked(self, trainer: Trainer) -> bool:
        """Whether to stop now; ranks decide together, so that all save the same step."""
        if trainer.world_size == 1:
            return bool(received)
        if trainer.global_step % AGREE_EVERY:
            return False
        return bool(trainer.strategy.reduce_boolean_decision(bool(received), all=False))

    def teardown(self, trainer: Trainer, module: LightningModule, stage: str) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)
        self.before = {}
