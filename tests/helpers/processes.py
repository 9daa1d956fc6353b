"""Processes of their own, forked from one that imported everything: an import costs as much as a small training."""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from helpers.undrawn import leave_undrawn
from pgd_lightning.__main__ import main


def context() -> ForkServerContext:
    """How they are started."""
    context = ForkServerContext()
    context.set_forkserver_preload(
        ["pgd_lightning.commands.train", "pgd_lightning.runs.ranks", "pgd_lightning.artifacts.models"]
    )
    return context


def forked(function: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Begins a process that calls ``function``, which a module has by name, with ``arguments``."""
    process = context().Process(target=function, args=arguments)
    process.start()
    return process


class Spawned:
    """The command in a process of its own, which draws no figures.

    ``largest``: bytes beyond which no file of it may grow. Ranks that it starts are Python processes as usual.
    """

    def __init__(self, arguments: list[str], folder: Path, largest: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.output = folder / f"output-{len(list(folder.iterdir()))}.txt"
        self.process = forked(_run, arguments, self.output, largest)
        self.pid = self.process.pid

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def wait_for(self, folder: Path, glob: str, seconds: float = 300) -> None:
        """Until a file that matches appears, or the process ends."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and self.running and not list(folder.glob(glob)):
            time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def ended(self, seconds: float = 600) -> tuple[int | None, str]:
        """Exit code and everything printed, once it has ended."""
        self.process.join(seconds)
        return self.process.exitcode, self.output.read_text()


def _run(arguments: list[str], output: Path, largest: int | None) -> None:
    file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(file, 1), os.dup2(file, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [UNDRAWING, os.environ.get("PYTHONPATH")]))
    leave_undrawn(setattr)
    if largest:
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, largest))
    sys.argv = ["pgd", *arguments]
    code = main()
    sys.stdout.flush()
    sys.exit(code)


UNDRAWING = str(Path(__file__).parent / "undrawing")
