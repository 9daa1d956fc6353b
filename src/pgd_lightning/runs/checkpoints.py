"""Checkpoints of a run: written whole, the newest kept, read as tensors and plain containers only."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from pgd_lightning.errors import UserError
from pgd_lightning.runs.folder import RunFolder

KEPT = 2  # checkpoints of a run: the newest, and the one before it should that be damaged


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, and are read as tensors and plain containers only.

    Each save, by whomever, keeps only the ``KEPT`` newest of its folder.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            part.unlink(missing_ok=True)
            raise UserError(
                f"Cannot save the checkpoint {path}: {error}. The one before it is kept; free some space and run the "
                "same command to continue."
            ) from error
        part.replace(path)
        earlier = [other for other in sorted(path.parent.glob("*.ckpt")) if other.name <= path.name]
        for left in (*earlier[:-KEPT], *path.parent.glob(".*.part")):  # a part is what a killed process left
            left.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint of ``folder``; an unreadable one is named and passed over."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            print(f"warning: {path} cannot be read ({error.__class__.__name__}); trying the one before it")
        else:
            return path
    return None


def last_checkpoint(run: RunFolder) -> Path:
    """What the finished ``run`` ended with. Raises UserError where that is damaged: one before it is not its result."""
    path, total = newest_checkpoint(run.checkpoints), run.heartbeat.get("total")
    last = max(run.checkpoints.glob("*.ckpt"), default=None)
    ended = last if total is None else checkpoint_at(run.checkpoints, total)
    if path is None or path != ended:
        raise UserError(
            f"The last checkpoint of the finished {run.folder} is missing or damaged: restore it from a copy, or "
            "remove the folder to train again."
        )
    return path


def checkpoint_at(folder: Path, step: int) -> Path:
    """Where the checkpoint of this step lies: names sort by step."""
    return folder / f"step={step:09d}.ckpt"
