"""One process at a time, by locks that end with the process that holds them."""

import fcntl
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LOOK_EVERY = 0.5  # seconds between two tries


@contextmanager
def alone(path: Path, waiting: Callable[[], object]) -> Iterator[bool]:
    """Hold the lock file ``path``; ``waiting`` is called once if another process holds it, which is then waited for.

    The operating system releases the lock of a process that was killed. Yields False where the file system has no
    locks: processes then work at the same time, and each must be able to bear it. Raises OSError where ``path`` cannot
    be written.
    """
    with path.open("w") as lock:
        held = taken(lock)
        if held is False:
            waiting()
        while held is False:
            time.sleep(LOOK_EVERY)
            held = taken(lock)
        yield bool(held)


def taken(file: IO[str], wait: bool = False) -> bool | None:
    """Whether the lock of ``file`` could be taken, None if there are no locks here; ``wait`` until it is free."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # EACCES is what NFS may answer for a lock that is held
        return False
    except OSError:
        return None
    return True
