"""Writing HDF5 files in D4RL's layout."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.d4rl.hdf5 import PatientFile, storable
from pgd_lightning.data.outputs import require_new
from pgd_lightning.errors import UserError


def write(
    path: Path, chunks: Iterable[dict[str, NDArray[Any]]], attributes: dict[str, Any], total: int,
    overwrite: bool = False,
) -> None:  # fmt: skip
    """Stream ``chunks`` (D4RL's keys, rows first) to an HDF5 file that appears whole or not at all.

    Raises UserError if there is a file and ``overwrite`` is not set, the disk is full or the chunks do not make
    ``total`` rows.
    """
    require_new(path, overwrite)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b", buffering=0) as disk:
            store = PatientFile(disk)
            with h5py.File(store, "w") as file:
                file.attrs.update(storable(attributes))
                rows = 0
                for chunk in chunks:
                    _append(file, chunk, rows, total)
                    rows += len(chunk["rewards"])
                    if store.error:
                        break
            if store.error:
                raise store.error
            os.fsync(disk.fileno())
        if rows != total:
            raise UserError(f"{path} was to hold {total} rows, but {rows} came; nothing was written.")
        require_new(path, overwrite)  # another command may have been faster
        part.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error}. Free some space and run the command again.") from error
    finally:
        part.unlink(missing_ok=True)


def _append(file: h5py.File, chunk: dict[str, NDArray[Any]], rows: int, total: int) -> None:
    for key, values in chunk.items():
        tail, dtype = values.shape[1:], np.float32 if values.dtype.kind == "f" else values.dtype
        data = file.get(key) or file.create_dataset(
            key, (0, *tail), dtype, maxshape=(None, *tail), chunks=(min(total, 10_000), *tail),
            compression="gzip", compression_opts=1,
        )  # fmt: skip
        data.resize(rows + len(values), axis=0)
        data[rows:] = values
