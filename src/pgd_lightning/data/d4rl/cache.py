"""Decoded recordings as memory-mapped arrays, shared by every process that reads the same file the same way.

A folder per recording, ``<key>/``, with one ``.npy`` an array and ``index.json``, which has their shapes, checksums and
whatever else belongs to the recording. It appears by a rename, so it is whole or not there; one that was damaged since
is made again. Nothing in it is irreplaceable: delete the cache at any time.
"""

import json
import os
import shutil
import zlib
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.recording import ARRAYS, Recording
from pgd_lightning.locks import alone

VERSION = 3  # of what is stored; a change in how files are read needs a new one
INDEX = "index.json"


def cache_key(identity: Any) -> str:
    """The folder's name for everything that decides what is read: the file's hash, the environment, the choices."""
    return sha256(json.dumps([VERSION, identity], sort_keys=True, default=str).encode()).hexdigest()[:32]


def cached(folder: Path, key: str, make: Callable[[], Recording], warn: Callable[[str], None]) -> Recording:
    """The recording ``key`` mapped from ``folder``; ``make`` is called, and its result stored, where it is not there.

    One process makes it, others wait; where the file system has no locks each makes its own, and one is kept. A cache
    that cannot be written is no error: ``warn`` gets a sentence, and the recording stays in memory.
    """
    home, recording = folder / key, None
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with alone(folder / f"{key}.lock", lambda: warn("waiting for another process that decodes it")) as sole:
            found = _open(home)
            if found is not None:
                return found
            recording = make()
            if sole:  # then a part is what a killed process left
                for left in folder.glob(f".{key}.*"):
                    shutil.rmtree(left, ignore_errors=True)
            _store(recording, home)
        return _open(home) or recording
    except OSError as error:
        warn(f"the cache {folder} cannot be used ({error}): data stay in memory; data.cache=null does without it")
        return recording or make()


def _open(home: Path) -> Recording | None:
    """The mapped recording in ``home``, None if it is not there or not whole."""
    try:
        index = json.loads((home / INDEX).read_text())
        arrays = {name: _mapped(home / f"{name}.npy", index["checksums"][name]) for name in ARRAYS}
        return Recording.of_arrays(arrays, index["clipped_actions"], tuple(index["notes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _mapped(path: Path, checksum: int) -> NDArray[Any]:
    """A private mapping: pages are shared until somebody writes to one. Raises ValueError if the bytes are others."""
    if _checksum(path) != checksum:
        raise ValueError(f"{path} was changed")
    return np.load(path, mmap_mode="c", allow_pickle=False) if path.stat().st_size else np.empty(0)


def _checksum(path: Path) -> int:
    total = 0
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            total = zlib.crc32(piece, total)
    return total


def _store(recording: Recording, home: Path) -> None:
    """Write beside ``home`` and rename; a folder that is there is damaged, and goes. Raises OSError."""
    part = home.with_name(f".{home.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    try:
        checksums = {}
        for name, array in recording.arrays().items():
            with (part / f"{name}.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
                file.flush()
                os.fsync(file.fileno())
            checksums[name] = _checksum(part / f"{name}.npy")
        index = {
            "checksums": checksums, "clipped_actions": recording.clipped_actions, "notes": recording.notes,
        }  # fmt: skip
        (part / INDEX).write_text(json.dumps(index))
        if home.exists():
            old = home.with_name(f".{home.name}.{os.getpid()}.old")
            home.rename(old)
            shutil.rmtree(old, ignore_errors=True)
        part.rename(home)
    finally:
        shutil.rmtree(part, ignore_errors=True)
