"""D4RL's HDF5 files with h5py alone: read, check, describe, write.

Differences from ``d4rl.qlearning_dataset``: the successor is the recorded one where the file has it, never the first
observation of the next episode; an unflagged tail is kept as a truncated episode; 1,000 rows make no episode end.
"""

import os
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.data.download import DataUnavailable, locate
from pgd_lightning.data.hdf5 import PatientFile, array, column, opened
from pgd_lightning.data.recording import Recording
from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import EnvSpec

__all__ = ["DataUnavailable", "Recording", "load", "locate", "provenance", "write"]

KEYS = ("observations", "actions", "rewards", "terminals")
FLAGS = {"terminals", "timeouts"}
OUT_OF_BOX = {"clip", "error"}


def load(path: Path, env: EnvSpec, out_of_box: str) -> Recording:
    """Read and check a file in D4RL's layout.

    Raises UserError for a missing, truncated or foreign file, a missing key, dims other than the environment's,
    unequal lengths, NaN or infinity, and actions outside [-1, 1] if ``out_of_box`` is ``error`` (else they are
    clipped, as D4RL's environments do, and counted).
    """
    if out_of_box not in OUT_OF_BOX:
        raise UserError(f"data.out_of_box={out_of_box} is neither clip nor error.")
    if not path.is_file():
        raise UserError(f"There is no file {path}: check data.source=, or leave it out to use the D4RL file.")
    with opened(path) as file:
        columns = _read(file, path, env)
    return _cut(columns, path, out_of_box)


def _read(file: h5py.File, path: Path, env: EnvSpec) -> dict[str, NDArray[Any]]:
    shapes = {"observations": (env.obs_dim,), "actions": (env.action_dim,), "rewards": (), "terminals": ()}
    optional = {"timeouts": (), "next_observations": (env.obs_dim,)}
    columns, rows = {}, None
    for key, tail in {**shapes, **optional}.items():
        data = array(file, key, path)
        if data is None:
            if key in optional:
                continue
            found = ", ".join(str(k) for k in list(file)[:12]) or "nothing"
            raise UserError(f"{path} has no '{key}': a D4RL file needs {', '.join(KEYS)}; found {found}.")
        rows = data.shape[0] if rows is None and data.ndim else rows
        shape = data.shape[:1] if tail == () and data.shape[1:] == (1,) else data.shape
        if shape != (rows, *tail):
            raise UserError(
                f"'{key}' in {path} has shape {data.shape}, but {env.name} with {rows} rows needs {(rows, *tail)}: is "
                "this the right env=?"
            )
        columns[key] = column(data, shape, bool if key in FLAGS else np.float32, key, path)
    if not rows:
        raise UserError(f"{path} holds no rows.")
    return columns


def _cut(columns: dict[str, NDArray[Any]], path: Path, out_of_box: str) -> Recording:
    obs, action, reward = (torch.from_numpy(columns[k]) for k in ("observations", "actions", "rewards"))
    outside = action.abs() > 1
    if outside.any() and out_of_box == "error":
        row = int(outside.any(-1).nonzero()[0])
        raise UserError(
            f"'actions' in {path} leave [-1, 1], first at row {row} ({action[row].tolist()}): rescale them, or set "
            "data.out_of_box=clip."
        )
    terminated = torch.from_numpy(columns["terminals"])
    truncated = torch.from_numpy(columns.get("timeouts", np.zeros(len(reward), dtype=bool))) & ~terminated
    truncated[-1] = ~terminated[-1]  # an unflagged tail is an episode that was cut
    has_successor = torch.ones_like(terminated)
    if "next_observations" in columns:
        next_obs = torch.from_numpy(columns["next_observations"])
    else:
        ends = terminated | truncated
        next_obs = torch.cat([obs[1:], obs[-1:]])
        next_obs[ends] = obs[ends]
        has_successor = ~ends
    return Recording(
        obs, action.clamp_(-1, 1), reward, next_obs, terminated, truncated, has_successor, int(outside.sum())
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    digest = sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def provenance(path: Path, env: EnvSpec) -> dict[str, Any]:
    """Where the data come from, for run folders, titles and tables; ``label`` is the short form.

    A file is official only if its SHA-256 is the published one; where none is published, only its name says so, and
    the label adds "unverified".
    """
    digest = file_hash(path)
    with opened(path) as file:
        recipe = {k: _plain(file.attrs[k]) for k in file.attrs if str(k).startswith("recipe")}
    found: dict[str, Any] = {"path": path.name, "sha256": digest, **recipe}
    if digest == env.file.sha256:
        return found | {"kind": "official", "label": f"{env.d4rl_id} (D4RL, sha256 {digest[:8]})"}
    if recipe.get("recipe") == env.name:
        label = (
            f"{env.name} LOCAL STAND-IN, not D4RL (recipe v{recipe.get('recipe_version')}, seed "
            f"{recipe.get('recipe_seed')}, sha256 {digest[:8]})"
        )
        return found | {"kind": "local recipe", "label": label}
    if env.file.sha256 is None and path.name == Path(env.file.path).name:
        return found | {"kind": "unverified", "label": f"{env.d4rl_id} (D4RL by name, unverified, sha256 {digest[:8]})"}
    return found | {"kind": "user file", "label": f"{path.name} as {env.name}, not D4RL (sha256 {digest[:8]})"}


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else str(value)


def write(path: Path, chunks: Iterable[dict[str, NDArray[Any]]], attributes: dict[str, Any], total: int) -> None:
    """Stream ``chunks`` (D4RL's keys, rows first) to an HDF5 file that appears whole or not at all.

    Raises UserError if the disk is full or the chunks do not make ``total`` rows.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("w+b", buffering=0) as disk:
            store = PatientFile(disk)
            with h5py.File(store, "w") as file:
                file.attrs.update(attributes)
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
        part.replace(path)
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error}. Free some space and run the command again.") from error
    finally:
        part.unlink(missing_ok=True)


def _append(file: h5py.File, chunk: dict[str, NDArray[Any]], rows: int, total: int) -> None:
    for key, values in chunk.items():
        tail = values.shape[1:]
        data = file.get(key) or file.create_dataset(
            key, (0, *tail), _stored(values), maxshape=(None, *tail), chunks=(min(total, 10_000), *tail),
            compression="gzip", compression_opts=1,
        )  # fmt: skip
        data.resize(rows + len(values), axis=0)
        data[rows:] = values


def _stored(values: NDArray[Any]) -> Any:
    return np.float32 if values.dtype.kind == "f" else values.dtype
