"""HDF5 where it is not safe by itself: files that are damaged or hostile, disks that fill up."""

import io
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError

# all that h5py raises for files with flipped bytes; memory is what a false size asks for
DAMAGE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError)
DENSEST = 2000  # bytes of array per byte of file: twice what gzip can reach
BYTES_AT_ONCE = 16 << 20
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32", 32000: "lzf"}  # all that h5py has built in and D4RL may use
LARGEST_CHUNK = 64 << 20  # bytes; h5py's own stay below one MiB
LONGEST_ATTRIBUTE = 10_000  # bytes
FLAGS = {"terminals", "timeouts", "terminations", "truncations"}  # D4RL's and Minari's
MOST_OBJECTS, DEEPEST = 10_000_000, 8


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

    Raises UserError for links on the way to it, groups, arrays that live in other files, filters that HDF5 would load
    as plugins, things that are no numbers, chunks that were never written (of flags they are False, see
    :func:`is_written`), and sizes that the file cannot hold.
    """
    data: Any = file
    for name in key.split("/"):
        node = data.get(name, getlink=True) if isinstance(data, h5py.Group) else None
        if node is None:
            return None
        if not isinstance(node, h5py.HardLink):
            raise UserError(f"'{key}' in {path} is not an array but a link or a group; only plain arrays are read.")
        data = data[name]
    return _checked(data, key, path)


def _checked(data: Any, key: str, path: Path) -> h5py.Dataset:
    if not isinstance(data, h5py.Dataset) or data.is_virtual or data.external:
        raise UserError(f"'{key}' in {path} is not an array but a link or a group; only plain arrays are read.")
    if data.dtype.kind not in "fbiu":
        raise UserError(f"'{key}' in {path} holds {data.dtype}, not numbers.")
    if data.shape is None or data.nbytes > DENSEST * path.stat().st_size:
        raise UserError(f"'{key}' in {path} claims shape {data.shape}, more than the file holds: fetch it again.")
    _check_storage(data, key, path)
    return data


def _check_storage(data: h5py.Dataset, key: str, path: Path) -> None:
    """HDF5 reads chunks that were never written as zeros, and loads a plugin for a filter that it does not know."""
    properties = data.id.get_create_plist()
    filters = {properties.get_filter(i)[0] for i in range(properties.get_nfilters())}
    if filters - set(FILTERS):
        raise UserError(
            f"'{key}' in {path} is packed with HDF5 filter {sorted(filters - set(FILTERS))}; only "
            f"{', '.join(FILTERS.values())} are read: repack it with 'h5repack -f GZIP=4'."
        )
    if data.size == 0:
        return
    if data.chunks is not None:
        chunk = int(np.prod(data.chunks, dtype=object)) * data.dtype.itemsize
        if chunk > max(data.nbytes, LARGEST_CHUNK):
            raise UserError(f"'{key}' in {path} claims chunks of {data.chunks}, more than is sensible: repack it.")
    if not is_written(data) and (key.rpartition("/")[2] not in FLAGS or data.fillvalue):
        raise UserError(f"'{key}' in {path} is not all there: it was never written to its end, or is damaged.")


def is_written(data: h5py.Dataset) -> bool:
    """Whether every number of ``data`` is in the file. ``create_dataset(…, dtype=bool)`` alone stores none."""
    if data.chunks is None:
        return data.size == 0 or bool(data.id.get_storage_size() >= data.nbytes)
    expected = np.prod([-(-n // c) for n, c in zip(data.shape, data.chunks, strict=True)], dtype=object)
    return bool(data.id.get_num_chunks() == expected)


def check_plain(file: h5py.File, path: Path) -> None:
    """For files that other libraries read: every object is a plain array or group, in this file, once.

    Raises UserError for the first that is not.
    """
    todo, seen = [("", file)], 0
    while todo:
        prefix, group = todo.pop()
        for name in group:
            key = f"{prefix}{name}"
            seen += 1
            if seen > MOST_OBJECTS:
                raise UserError(f"{path} holds more than {MOST_OBJECTS} objects: it is damaged, or no dataset.")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise UserError(f"'{key}' in {path} is a link; only plain arrays are read.")
            node = group[name]
            if isinstance(node, h5py.Group):
                if key.count("/") > DEEPEST:
                    raise UserError(f"'{key}' in {path} lies too deep: the file is damaged, or no dataset.")
                todo.append((f"{key}/", node))
            elif node.dtype.kind in "fbiu":
                _checked(node, key, path)
            elif node.is_virtual or node.external:
                raise UserError(f"'{key}' in {path} lies in another file; only plain arrays are read.")


def attribute(file: h5py.File, name: str) -> str | float | int | bool | None:
    """A short attribute as a plain value; None where it is missing, an array, long, or of variable length.

    Strings of variable length lie in a heap whose links HDF5 follows for ever where they form a ring.
    """
    if name not in file.attrs:
        return None
    raw = file.attrs.get_id(name)
    if raw.shape != () or raw.dtype.kind not in "Sfbiu" or raw.get_storage_size() > LONGEST_ATTRIBUTE:
        return None
    value = file.attrs[name]
    return value.decode(errors="replace") if isinstance(value, bytes) else value.item()


def storable(attributes: Mapping[str, Any]) -> dict[str, Any]:
    """The same with strings of fixed length, which :func:`attribute` reads."""
    return {k: np.bytes_(v.encode()) if isinstance(v, str) else v for k, v in attributes.items()}


def column(data: Any, shape: tuple[int, ...], dtype: type, key: str, path: Path) -> NDArray[Any]:
    """The whole of ``data``, an HDF5 or other array, as ``dtype``.

    Raises UserError with the first row that holds NaN, infinity or a number too large for ``dtype``.
    """
    out: NDArray[Any] = np.empty(shape, dtype)
    for start, piece in pieces(data, shape, dtype, key, path):
        out[start : start + len(piece)] = piece
    return out


def pieces(data: Any, shape: tuple[int, ...], dtype: type, key: str, path: Path) -> Iterator[tuple[int, NDArray[Any]]]:
    """``(first row, rows as dtype)`` of ``data``, checked, so that no second copy of it is ever in memory.

    Raises UserError with the first row that holds NaN, infinity or a number too large for ``dtype``.
    """
    rows_at_once = max(BYTES_AT_ONCE // max(int(np.prod(shape[1:])) * 4, 1), 1)
    for start in range(0, shape[0], rows_at_once):
        raw = np.asarray(data[start : start + rows_at_once]).reshape(-1, *shape[1:])
        with np.errstate(over="ignore", invalid="ignore"):
            piece: NDArray[Any] = raw.astype(dtype, copy=False)
        bad = ~np.isfinite(raw if dtype is bool else piece)
        if bad.any():
            row = start + int(np.argwhere(bad)[0][0])
            raise UserError(f"'{key}' in {path} has NaN or infinity, first at row {row}: mend or remove that episode.")
        if dtype is bool and not np.isin(raw.view(np.uint8) if raw.dtype == bool else raw, (0, 1)).all():
            raise UserError(f"'{key}' in {path} holds other numbers than 0 and 1 near row {start}: it is damaged.")
        yield start, piece


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
