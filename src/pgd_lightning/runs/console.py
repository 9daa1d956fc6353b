"""What a command says outside a Trainer, and how it stops when asked to. Loads neither torch nor Lightning."""

import os
import signal
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from pgd_lightning.errors import Stopped
from pgd_lightning.runs.operating_system import SIGNALS

LINE_EVERY = 20.0  # seconds


_said: set[str] = set()  # by this command, of what is said once


def quieten() -> None:
    """Set, before the libraries read it, how much they say: their hints are not about what our users do."""
    os.environ.setdefault("WANDB_SILENT", "true")
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # to W&B itself: without a network the exit waits for it
    for module in ("lightning.*", "torch.*", "tensordict.*", "torchrl.*", "wandb.*"):
        warnings.filterwarnings("ignore", module=module)


def say(text: str, once: bool = False) -> None:
    """One line for the reader of the terminal or the log, at once; ``once``: not if this command said it before."""
    if once and text in _said:
        return
    if once:
        _said.add(text)
    print(text, flush=True)


def duration(seconds: float) -> str:
    """``seconds`` as a reader counts them: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


class Counter:
    """How far work of a known size has come, outside a Trainer."""

    def __init__(self, title: str, total: int, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit

    def __enter__(self) -> "Counter":
        say(f"{self.title}: {self.total:,} {self.unit}")
        self.started = self.last_line = time.monotonic()
        self.first: int | None = None
        self.bar = progress_bar() if sys.stdout.isatty() else None
        if self.bar:
            self.task = self.bar.add_task("", total=self.total, m="")
            self.bar.start()
        return self

    def show(self, done: int) -> None:
        stop_if_asked()
        now = time.monotonic()
        self.first = done if self.first is None else self.first
        if self.bar:
            self.bar.update(self.task, completed=done)
        elif now - self.last_line > LINE_EVERY and done > self.first:  # one number tells no rate
            rate = (done - self.first) / (now - self.started)
            left = duration((self.total - done) / rate)
            say(f"  {done:,} of {self.total:,} {self.unit}, {rate:,.0f}/s, {left} left")
            self.last_line = now

    def __exit__(self, *args: object) -> None:
        if self.bar:
            self.bar.stop()


def progress_bar() -> Progress:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[m]}"),
    )
    return Progress(*columns, TimeElapsedColumn(), TextColumn("elapsed,"), TimeRemainingColumn(), TextColumn("left"))


received: list[int] = []  # signals of this command, the first that counts


def stop_if_asked() -> None:
    """Raises Stopped where a signal came and the command still runs.

    A training notes signals until its step is done; and an exception that a signal raises may be lost, as in a
    destructor or a library that handles everything.
    """
    if received:
        name = signal.Signals(received[0]).name
        raise Stopped(f"Stopped by {name}; the same command continues from the last checkpoint.", received[0])


def stop(number: int, frame: Any) -> None:
    received.append(number)
    stop_if_asked()


@contextmanager
def stopping_on_signals() -> Iterator[None]:
    """Between trainings, which save first (:class:`StopOnSignal`), a signal ends the command at once."""
    received.clear()
    _said.clear()
    before = {number: signal.signal(number, stop) for number in SIGNALS}
    try:
        yield
    except Exception:
        stop_if_asked()  # the error is what a library made of the stop
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
