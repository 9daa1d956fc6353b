"""Recordings written as Minari datasets, through the ``minari`` package (``pip install pgd-lightning[minari]``)."""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.data.minari import ENV, KNOWN, storage
from pgd_lightning.data.outputs import expanded, require_new
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.sources import MINARI, minari_root
from pgd_lightning.environment import ActionBox, EnvSpec
from pgd_lightning.errors import UserError

ID = re.compile(r"[-\w]+-v\d+")


def destination(target: str, overwrite: bool) -> Path:
    """The folder that ``minari:NAME-vN`` or ``minari:FOLDER/NAME-vN`` is written to.

    Raises UserError where the name is none for Minari, or the folder exists and either ``overwrite`` is not set or it
    is no Minari dataset.
    """
    name = target.removeprefix(MINARI)
    folder = expanded(name).absolute() if name.startswith((".", "/", "~")) else minari_root() / name
    if not ID.fullmatch(folder.name):
        raise UserError(
            f"'{folder.name}' is no name for a Minari dataset: it has letters, digits, - and _ alone, and ends in a "
            "version, such as -v0."
        )
    require_new(folder, overwrite)
    if folder.exists() and not (folder / "data" / "metadata.json").is_file():
        raise UserError(f"{folder} is there already and is no Minari dataset: choose another out=.")
    return folder


def write(
    target: str, recording: Recording, env: EnvSpec, description: str,
    infos: Callable[[int, int], dict[str, NDArray[Any]]], overwrite: bool = False,
) -> Path:  # fmt: skip
    """Store ``recording`` as the Minari dataset ``minari:NAME-vN`` or ``minari:FOLDER/NAME-vN``; returns its folder.

    ``infos(start, stop)`` gives further arrays of these rows, ``[T, …]``. The folder appears whole or not at all.
    Raises UserError as :func:`destination`, or where Minari cannot hold the recording or the disk is full.
    """
    folder = destination(target, overwrite)
    inside = set(recording.successor_rows.tolist()) - set(recording.ends.tolist())
    if inside:
        raise UserError(
            f"{len(inside)} successors inside episodes are not the next row's observation, first at row {min(inside)}: "
            "Minari cannot hold them."
        )
    part, old = (folder.with_name(f".{folder.name}.{os.getpid()}.{kind}") for kind in ("part", "old"))
    try:
        part.mkdir(parents=True)
        made = storage().new(part / "data", *spaces(env), data_format="hdf5")
        name = folder.relative_to(minari_root()).as_posix() if folder.is_relative_to(minari_root()) else folder.name
        said = {"dataset_id": name, "minari_version": version("minari"), "description": description, ENV: env.name}
        made.update_metadata(said)
        made.update_episodes(buffers(recording, env, infos))
        destination(target, overwrite)  # another command may have been faster
        if folder.exists():
            folder.rename(old)
        part.rename(folder)
    except (OSError, RuntimeError) as error:
        raise UserError(f"Cannot write {folder}: {error}. Free some space and run the command again.") from error
    finally:
        if old.exists() and not folder.exists():  # the disk failed between the two renames
            old.rename(folder)
        for left in (part, old):
            shutil.rmtree(left, ignore_errors=True)
    return folder


def spaces(env: EnvSpec) -> tuple[Any, Any]:
    from minari.serialization import deserialize_space

    def box(low: Sequence[float], high: Sequence[float]) -> Any:
        space = {"type": "Box", "dtype": "float32", "shape": [len(low)], "low": list(low), "high": list(high)}
        return deserialize_space(json.dumps(space))

    bounds = ActionBox((-1.0,) * env.action_dim, (1.0,) * env.action_dim) if env.box is None else env.box
    return box([-np.inf] * env.obs_dim, [np.inf] * env.obs_dim), box(bounds.low, bounds.high)


def buffers(recording: Recording, env: EnvSpec, infos: Callable[[int, int], dict[str, NDArray[Any]]]) -> Iterator[Any]:
    from minari.data_collector import EpisodeBuffer

    for start, end in zip(recording.starts.tolist(), recording.ends.tolist(), strict=True):
        rows = slice(start, end + 1)
        last = recording.successors(torch.tensor([end]))
        yield EpisodeBuffer(
            observations=torch.cat([recording.obs[rows], last]).numpy(),  # type: ignore[arg-type]
            actions=env.own_actions(recording.action[rows].numpy()),
            rewards=recording.reward[rows].numpy(),
            terminations=recording.terminated[rows].numpy(),
            truncations=recording.truncated[rows].numpy(),
            infos={KNOWN: recording.has_successor[rows].numpy(), **infos(start, end + 1)},
        )
