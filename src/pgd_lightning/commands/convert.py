"""``pgd convert``: a recording from any source into D4RL's HDF5 layout, or into a Minari dataset."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import read_recording
from pgd_lightning.config.build import build
from pgd_lightning.data import d4rl, minari_writer, ogbench, sources
from pgd_lightning.data.outputs import expanded, require_new
from pgd_lightning.data.recording import Recording
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say
from pgd_lightning.runs.provenance import program

ROWS_AT_ONCE = 10_000


def main(config: DictConfig, overrides: list[str]) -> None:
    """Read ``data.source``, write ``out``. Raises UserError where either is not possible."""
    env: EnvSpec = build(config.env)
    out = destination(config.out, config.overwrite)
    recording, provenance, path = read_recording(config, env)
    source = sources.minari_folder(config.data.source) if provenance["kind"] == "minari" else path
    require_new(out, config.overwrite, source)
    say(f"data: {provenance['label']}, {len(recording)} rows in {len(recording.ends)} episodes")
    for note in recording.notes:
        say(f"data: {note}")
    infos = info_rows(path)
    if config.out.startswith(sources.MINARI):
        label = f"converted from {provenance['label']}"
        written = f"minari:{minari_writer.write(config.out, recording, env, label, infos, config.overwrite)}"
    else:
        attributes = {"converted_from": provenance["label"], "env": env.name}
        d4rl.write(out, chunks(recording, env, infos), attributes, len(recording), config.overwrite)
        written = str(out)
    say(f"\nwritten: {out}\nnext:    {program()} check env={env.option} data.source={written}")


def destination(out: str, overwrite: bool) -> Path:
    """The file or folder that ``out`` means. Raises UserError if it is neither, or exists and may not be replaced."""
    if out.startswith(sources.MINARI):
        return minari_writer.destination(out, overwrite)
    path = expanded(out)
    if path.suffix not in (".hdf5", ".h5"):
        raise UserError(f"out={out} is neither a .hdf5 file nor minari:NAME-v0.")
    require_new(path, overwrite)
    return path


def info_rows(path: Path | None) -> Callable[[int, int], dict[str, NDArray[Any]]]:
    """What gives further arrays of the rows from one number up to another."""
    if path is None:
        return no_infos
    if not sources.is_ogbench(path.name):
        return partial(d4rl.info_rows, path)
    states = ogbench.states(path)
    return lambda start, stop: {name: values[start:stop] for name, values in states.items()}


def no_infos(start: int, stop: int) -> dict[str, NDArray[Any]]:
    """For sources whose further arrays are not read."""
    return {}


def chunks(
    recording: Recording, env: EnvSpec, infos: Callable[[int, int], dict[str, NDArray[Any]]]
) -> Iterator[dict[str, NDArray[Any]]]:
    """The recording under D4RL's keys; ``next_observations`` only if every successor is known."""
    complete = bool(recording.has_successor.all())
    for start in range(0, len(recording), ROWS_AT_ONCE):
        rows = slice(start, min(start + ROWS_AT_ONCE, len(recording)))
        chunk = {
            "observations": recording.obs[rows].numpy(),
            "actions": env.own_actions(recording.action[rows].numpy()),
            "rewards": recording.reward[rows].numpy(),
            "terminals": recording.terminated[rows].numpy(),
            "timeouts": recording.truncated[rows].numpy(),
        }
        if complete:
            chunk["next_observations"] = recording.successors(torch.arange(rows.start, rows.stop)).numpy()
        yield chunk | {f"infos/{name}": np.asarray(v) for name, v in infos(rows.start, rows.stop).items()}
