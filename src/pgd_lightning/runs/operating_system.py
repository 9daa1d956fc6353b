"""The process of a command, before it begins: its encoding, its output, signals, threads and memory.

Loads neither torch nor Lightning, which read some of it when they are loaded.
"""

import ctypes
import errno
import io
import locale
import os
import platform
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pgd_lightning.errors import Stopped

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
INTERRUPTED = "\ninterrupted; the same command continues from the last checkpoint"
MEANT_EMPTY = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES")  # empty: no GPU
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # M_TRIM_THRESHOLD and M_MMAP_THRESHOLD of malloc.h
LARGEST = 32 * 2**20  # what glibc takes for the second on 64 bits
KEPT = 2**30  # free bytes at the top of the heap that are kept
TURNS = 20_000  # of GNU OpenMP's waiting loop; measured in docs/performance.md


def prepare() -> None:
    """Prepare the process, before torch is loaded.

    UTF-8 mode, no empty environment variables, output that survives unknown characters and a closed reader, idle
    threads that yield their core.
    """
    if sys.stdout is not sys.__stdout__:  # not a command: called, and listened to, by other Python code
        return
    if not sys.flags.utf8_mode and locale.getencoding().lower() != "utf-8":
        os.environ["PYTHONUTF8"] = "1"  # is read when Python starts
        os.execv(sys.executable, [sys.executable, "-m", "pgd_lightning", *sys.argv[1:]])
    for name in [name for name, value in os.environ.items() if not value and name not in MEANT_EMPTY]:
        del os.environ[name]
    sys.stdout, sys.stderr = lasting(sys.stdout, 1), lasting(sys.stderr, 2)
    yield_cores()


def lasting(stream: Any, number: int) -> io.TextIOWrapper:
    """``stream``, but it goes nowhere once its reader is gone, and shows letters that it does not know as ``?``."""
    if stream is None:  # closed by the caller
        return open(os.devnull, "w")
    stream.flush()
    buffer = io.BufferedWriter(Lasting(number, "w", closefd=False))
    return io.TextIOWrapper(buffer, stream.encoding, "replace", line_buffering=stream.line_buffering)


class Lasting(io.FileIO):
    """A file descriptor that becomes the null device when its pipe or terminal is closed."""

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.fileno())
            return len(data)


@contextmanager
def leaving_at_once() -> Iterator[None]:
    """Until a verb begins, a signal ends the process: there is nothing to save, and an import garbles what it raises.

    Ranks leave that to their launcher.
    """

    def leave(number: int, frame: Any) -> None:
        said = f"\nerror: Stopped by {signal.Signals(number).name} before it began; the same command begins again."
        os.write(2, f"{INTERRUPTED if number == signal.SIGINT else said}\n".encode())
        os._exit(128 + number if number == signal.SIGINT else Stopped.exit_code)

    heard = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    before = {n: signal.signal(n, leave) for n in heard if "TORCHELASTIC_RUN_ID" not in os.environ}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def yield_cores() -> None:
    """Let a thread that waits for the others give up its core soon. Before torch is loaded; what the user set stays.

    A small network's kernels end after some microseconds, and GNU OpenMP's threads wait for the next one in a loop of
    300,000 turns. On a machine with other jobs, the core is then held by a thread that waits for one without a core.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", str(TURNS))


def keep_memory() -> bool:
    """Let glibc keep freed memory; False where the allocator is not glibc's and nothing was changed.

    By default it returns every block above 32 MiB, and often smaller ones, to the kernel as soon as it is free. An
    update allocates the same blocks again and pays for thousands of page faults.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
