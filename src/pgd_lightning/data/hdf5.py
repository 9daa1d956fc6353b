"""HDF5 where it is not safe by itself: files that are damaged or hostile, disks that fill up."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError

DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError)  # all that h5py raises for files with flipped bytes
DENSEST = 2000  # bytes of array per byte of file: twice what gzip can reach
ROWS_AT_ONCE = 100_000


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """``path`` for reading, without file locks. Raises UserError where the file is damaged or no HDF5 file."""
    try:
        with h5py.File(path, "r", locking=False) as file:
            yield file
    except DAMAGE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} is not a readable HDF5 file ({reason}): it may be truncated; remove it and fetch or record it "
            "again."
        ) from error


def array(file: h5py.File, key: str, path: Path) -> h5py.Dataset | None:
    """The array ``key``, None if there is none.

    Raises UserError for links, groups, arrays that live in other files, things that are no numbers, and sizes that
    the file cannot hold.
    """
    node = file.get(key, getlink=True)
    if node is None:
        return None
    data = file[key] if isinstance(node, h5py.HardLink) else None
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise UserError(f"'{key}' in {path} is not an array but a link or a group; only plain arrays are read.")
    if data.dtype.kind not in "fbiu":
        raise UserError(f"'{key}' in {path} holds {data.dtype}, not numbers.")
    if data.shape is None or data.nbytes > DENSEST * path.stat().st_size:
        raise UserError(f"'{key}' in {path} claims shape {data.shape}, more than the file holds: fetch it again.")
    return data


def column(data: h5py.Dataset, shape: tuple[int, ...], dtype: type, key: str, path: Path) -> NDArray[Any]:
    """The whole array as ``dtype``, read in pieces so that no second copy of it is ever in memory.

    Raises UserError with the first row that holds NaN, infinity or a number too large for ``dtype``.
    """
    out: NDArray[Any] = np.empty(shape, dtype)
    for start in range(0, shape[0], ROWS_AT_ONCE):
        piece = data[start : start + ROWS_AT_ONCE].reshape(-1, *shape[1:])
        kept = out[start : start + len(piece)]
        with np.errstate(over="ignore", invalid="ignore"):
            kept[...] = piece
        bad = ~np.isfinite(kept if dtype is np.float32 else piece)
        if bad.any():
            row = start + int(np.argwhere(bad)[0][0])
            raise UserError(f"'{key}' in {path} has NaN or infinity, first at row {row}: mend or remove that episode.")
    return out


class PatientFile:
    """A file for HDF5 to write to that goes on in memory when the disk is full, and keeps the ``error``.

    HDF5 itself does not survive a failed write: closing the file then fails, leaks it, or corrupts the heap.
    """

    def __init__(self, disk: io.FileIO) -> None:
        self.error: OSError | None = None
        self._reach(disk)

    def _reach(self, target: io.FileIO | io.BytesIO) -> None:
        self.target, self.read, self.readinto = target, target.read, target.readinto
        self.seek, self.tell = target.seek, target.tell

    def write(self, data: bytes | memoryview) -> int:
        view, place = memoryview(data).cast("B"), self.target.tell()

        def all_of_it() -> None:
            done = 0
            while done < len(view):
                done += self.target.write(view[done:]) or 0

        self._persist(place, all_of_it)
        return len(view)

    def truncate(self, size: int) -> int:
        self._persist(self.target.tell(), lambda: self.target.truncate(size))
        return size

    def flush(self) -> None:
        """Nothing is buffered."""

    def _persist(self, place: int, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            self.error = self.error or error
            self.seek(0)
            self._reach(io.BytesIO(self.read() or b""))
            self.seek(place)
            act()
