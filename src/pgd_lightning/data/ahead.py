"""Who makes a synthetic set that was asked for before it is due: this process when it is due, or another meanwhile.

Both give the same bits on the same device. The other process has the generator from the start and gets a copy of the
policy, so what the agent learns in the meantime changes nothing.
"""

import atexit
import io
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, Protocol

import torch
from torch import Tensor

from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import Generator, Policy, Trajectory


class Maker(Protocol):
    """Makes one set at a time."""

    def begin(self, policy: Policy, starts: Tensor, seed: int) -> None:
        """Ask for the windows of ``policy``, which must not change any more, from ``starts [S, N, O]``."""

    def result(self) -> Trajectory:
        """The windows asked for last, ``[S, N, T]``; waits for them."""

    @property
    def used(self) -> Any:
        """What the generator says of how it made them, see :func:`used_by`."""


def used_by(generator: Any) -> Any:
    """What ``generator`` says of how it made its last windows, such as the strength of its guidance; None: nothing."""
    return getattr(generator, "used", None)


class InTurn:
    """This process, when the result is wanted."""

    def __init__(self, generator: Generator) -> None:
        self.generator = generator
        self.asked: tuple[Policy, Tensor, int] | None = None

    def begin(self, policy: Policy, starts: Tensor, seed: int) -> None:
        self.asked = policy, starts, seed

    def result(self) -> Trajectory:
        assert self.asked is not None
        return self.generator.generate(*self.asked)

    @property
    def used(self) -> Any:
        return used_by(self.generator)


class Beside:
    """A process of its own, started by ``spawn``, on ``device`` (None: the policy's)."""

    def __init__(self, generator: Generator, device: str | None) -> None:
        self.device, self.used = device, None
        try:
            torch.zeros(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"ranks.generating={device} is no device here: {str(error).splitlines()[0]}") from error
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        atexit.register(self.end)
        self._send(generator)

    def end(self) -> None:
        """End the process, whatever it is making."""
        with suppress(OSError):
            self.pipe.close()
        self.process.kill()

    def begin(self, policy: Policy, starts: Tensor, seed: int) -> None:
        self._send(self.device or str(starts.device))
        self._send((policy, starts, seed))

    def result(self) -> Trajectory:
        try:
            answer = _received(self.pipe)
        except (EOFError, OSError) as error:
            raise _lost() from error
        if isinstance(answer, Exception):
            raise answer
        windows, self.used = answer
        return windows  # type: ignore[no-any-return]

    def _send(self, message: object) -> None:
        try:
            _sent(self.pipe, message)
        except OSError as error:
            raise _lost() from error


def _lost() -> UserError:
    return UserError(
        "The process that generates synthetic data was lost, perhaps for want of memory; the same command continues, "
        "and synthetic.lead=0 does without it."
    )


def _sent(pipe: Connection, message: object) -> None:
    buffer = io.BytesIO()
    torch.save(message, buffer)  # by value: torch's own way between processes needs shared memory and open files
    pipe.send_bytes(buffer.getvalue())


def _received(pipe: Connection, device: str = "cpu") -> Any:
    return torch.load(io.BytesIO(pipe.recv_bytes()), map_location=device, weights_only=False)


def _work(pipe: Connection) -> None:
    """Answers until the other end closes. Signals are the other end's to obey, who has something to save."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
    with suppress(EOFError, OSError):
        generator: Generator = _received(pipe)
        while True:
            device = _received(pipe)
            try:
                answer: Any = generator.generate(*_received(pipe, device)).cpu(), used_by(generator)
            except EOFError:
                raise
            except Exception as error:
                answer = error
            _sent(pipe, answer)


def _end_with_parent() -> None:
    """In the middle of a set, too: nobody is left who wants it."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
