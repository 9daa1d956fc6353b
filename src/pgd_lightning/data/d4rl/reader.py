"""D4RL's HDF5 files with h5py alone: read and check.

Differences from ``d4rl.qlearning_dataset``: the successor is the recorded one where the file has it, never the first
observation of the next episode; an unflagged tail is kept as a truncated episode; 1,000 rows make no episode end.
What is peculiar to a family of files is in ``quirks.py``, where a file comes from in ``file_provenance.py``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.d4rl import families, quirks
from pgd_lightning.data.d4rl.hdf5 import FLAGS, array, column, is_written, opened, pieces
from pgd_lightning.data.recording import Recording, sparse_successors
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError

KEYS = ("observations", "actions", "rewards", "terminals")
ROUNDING = 1e-6  # of float32, by which actions at the bounds of a box may leave it
CHOICES = {
    "out_of_box": ("clip", "error"),
    "rewards": ("recorded", "aligned"),
    "missing_timeouts": ("error", "horizon"),
    "terminals": ("checked", "timeouts", "recorded"),
}


@dataclass(frozen=True)
class Reading:
    """How a file is read where there is a choice (``conf/data``)."""

    out_of_box: str  # actions outside [-1, 1]: clip | error
    rewards: str = "recorded"  # recorded | aligned (maze2d)
    missing_timeouts: str = "error"  # gym files of v0: error | horizon
    terminals: str = "checked"  # which may be time limits: checked | timeouts | recorded

    def __post_init__(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise UserError(f"data.{name}={getattr(self, name)} is neither {' nor '.join(known)}.")


def load(path: Path, env: EnvSpec, out_of_box: str, **choices: str) -> Recording:
    """Read and check a file in D4RL's layout, as ``out_of_box`` and ``choices``, the fields of Reading, say.

    Raises UserError for a missing, truncated or foreign file, a missing key, dims other than the environment's,
    unequal lengths, NaN or infinity, episode ends that nothing tells, terminals that are certainly time limits, and
    actions outside [-1, 1] if ``out_of_box`` is ``error`` (else they are clipped, as D4RL's environments do, and
    counted).
    """
    reading = Reading(out_of_box, **choices)
    if not path.is_file():
        raise UserError(f"There is no file {path}: check data.source=, or leave it out to use the D4RL file.")
    with opened(path) as file:
        recording = read(lambda key: array(file, key, path), _rows(file), path, env, reading)
        flags = {key: array(file, key, path) for key in sorted(FLAGS)}
        unwritten = [key for key, data in flags.items() if data is not None and not is_written(data)]
        notes = tuple(f"'{key}' was not written completely: HDF5 reads what is missing as False" for key in unwritten)
        return replace(recording, notes=notes + recording.notes)


def _rows(file: h5py.File) -> dict[str, int | None]:
    """Rows of every array and of those below ``infos/``, by key; None for what is no array."""
    nodes: list[tuple[str, Any]] = [("", file)]
    if isinstance(file.get("infos", getlink=True), h5py.HardLink) and isinstance(file["infos"], h5py.Group):
        nodes.append(("infos/", file["infos"]))
    found: dict[str, int | None] = {}
    for prefix, group in nodes:
        for name in group:
            data = group[name] if isinstance(group.get(name, getlink=True), h5py.HardLink) else None
            found[f"{prefix}{name}"] = data.shape[0] if isinstance(data, h5py.Dataset) and data.shape else None
    return found


def read(
    get: Callable[[str], Any], found: Mapping[str, int | None], path: Path, env: EnvSpec, reading: Reading
) -> Recording:
    """The recording whose columns ``get`` returns under D4RL's keys (None: there is none), as arrays that are sliced.

    ``found`` has the rows of all keys there are, read or not (None: no array); ``path`` is for the sentences of errors.
    Raises UserError as :func:`load`.
    """
    columns = _columns(get, found, path, env)
    notes = quirks.foreign_keys(found, len(columns["rewards"]))
    if columns["observations"].shape[1] != _width(get, "observations"):
        notes.append(f"observations have {_width(get, 'observations')} values: padded with zero contact forces")
    if "timeouts" not in columns:
        columns["timeouts"] = np.zeros(len(columns["rewards"]), dtype=bool)
        notes += quirks.infer_ends(columns, env, reading.missing_timeouts, path.name)
    notes += quirks.time_limits(columns, env, reading.terminals, path.name)
    notes += quirks.late_flags(columns)
    notes += quirks.unflagged_tail(columns, env)
    notes += families.FAMILIES.get(families.family(env.task), lambda *_: [])(columns, env)
    notes += families.align_rewards(columns, env, reading.rewards, path.name)
    notes += quirks.forget_foreign_successors(columns, env)
    notes += quirks.impossible_returns(columns, env)
    return _cut(columns, path, reading.out_of_box, notes, env)


def _width(get: Callable[[str], Any], key: str) -> int:
    return int(get(key).shape[1])


def _columns(get: Callable[[str], Any], found: Mapping[str, int | None], path: Path, env: EnvSpec) -> families.Columns:
    """The checked columns; ``next_observations`` as ``successor_rows`` [E] and ``successor_values`` [E, O]."""
    shapes = {"observations": (env.obs_dim,), "actions": (env.action_dim,), "rewards": (), "terminals": ()}
    optional: dict[str, tuple[int, ...]] = {"timeouts": (), "next_observations": (env.obs_dim,)}
    if families.family(env.task) == "maze2d":
        optional |= {k: (2,) for k in ("infos/qpos", "infos/qvel") if found.get(k) in (None, found.get("observations"))}
    sources, rows = {}, None
    for key, tail in {**shapes, **optional}.items():
        data = get(key)
        if data is None:
            if key in optional:
                continue
            there = ", ".join([k.encode(errors="replace").decode() for k in found if "/" not in k][:12])
            raise UserError(f"{path} has no '{key}': a D4RL file needs {', '.join(KEYS)}; found {there or 'nothing'}.")
        rows = data.shape[0] if rows is None and data.ndim else rows
        sources[key] = data, _checked_shape(data, key, (rows, *tail), path, env)
    if not rows:
        raise UserError(f"{path} holds no rows.")
    columns: families.Columns = {}
    for key, (data, shape) in sources.items():
        if key == "next_observations":
            columns |= _successors(data, shape, columns["observations"], path)
        else:
            columns[key] = column(data, shape, bool if key in FLAGS else np.float32, key, path)
            if key == "observations":
                columns[key] = _padded(columns[key], env)
    return columns


def _checked_shape(data: Any, key: str, wanted: tuple[int | None, ...], path: Path, env: EnvSpec) -> tuple[int, ...]:
    found: tuple[int, ...] = tuple(data.shape)
    if len(wanted) == 1 and found[1:] == (1,):
        found = found[:1]
    if found and found[0] != wanted[0]:
        raise UserError(
            f"'{key}' in {path} has {found[0]} rows, but 'observations' has {wanted[0]}: the columns are out of step; "
            "write the file again from whole episodes."
        )
    narrow = len(found) == 2 and key.endswith("observations") and families.padded_width(env, found[1])
    if found != wanted and not narrow:
        raise UserError(
            f"'{key}' in {path} has shape {data.shape}, but {env.name} with {wanted[0]} rows needs {wanted}: is "
            "this the right env=?"
        )
    return found


def _padded(obs: NDArray[Any], env: EnvSpec) -> NDArray[Any]:
    if obs.shape[1] == env.obs_dim:
        return obs
    return np.concatenate([obs, np.zeros((len(obs), env.obs_dim - obs.shape[1]), obs.dtype)], axis=1)


def _successors(data: Any, shape: tuple[int, ...], obs: NDArray[Any], path: Path) -> families.Columns:
    """Only the successors that are not the next row's observation: else they would double what is in memory."""
    rows, values = [], []
    for start, piece in pieces(data, shape, np.float32, "next_observations", path):
        piece = np.concatenate([piece, np.zeros((len(piece), obs.shape[1] - piece.shape[1]), piece.dtype)], axis=1)
        row, value = sparse_successors(obs, piece, start)
        rows.append(row)
        values.append(value)
    return {"successor_rows": np.concatenate(rows), "successor_values": np.concatenate(values)}


def _cut(columns: families.Columns, path: Path, out_of_box: str, notes: list[str], env: EnvSpec) -> Recording:
    box = env.box
    obs, action, reward = columns["observations"], columns["actions"], columns["rewards"]
    if box is not None:
        np.copyto(action, box.normalised(action))
        notes.append(f"actions were mapped from {box} to [-1, 1]")
    outside = np.abs(action) > (1 if box is None else 1 + ROUNDING)
    if outside.any() and out_of_box == "error":
        row = int(np.argwhere(outside)[0][0])
        raise UserError(
            f"'actions' in {path} leave {'[-1, 1]' if box is None else 'the action box'}, first at row {row} "
            f"({(action if box is None else box.of_normalised(action))[row].tolist()}): rescale them, or set "
            "data.out_of_box=clip."
        )
    if outside.any():
        where = "[-1, 1]" if box is None else "the action box"
        if not env.simulated and box is None:
            raise UserError(
                f"{int(outside.sum()):,} of {action.size:,} numbers of 'actions' in {path} lie outside [-1, 1]: say "
                "what the bounds of the actions are, env.action_low= and env.action_high=."
            )
        notes.append(f"{int(outside.sum()):,} of {action.size:,} numbers of the actions lay outside {where}: clipped")
    np.clip(action, -1, 1, out=action)
    terminated = columns["terminals"]
    truncated = columns["timeouts"] & ~terminated
    has_successor = np.ones(len(reward), dtype=bool)
    has_successor[columns["unknown_rows"]] = False
    arrays = {
        "obs": obs, "action": action, "reward": reward, "terminated": terminated, "truncated": truncated,
        "has_successor": has_successor, "successor_rows": columns["successor_rows"],
        "successor_values": columns["successor_values"],
    }  # fmt: skip
    return Recording.of_arrays(arrays, int(outside.sum()), tuple(notes))


def infos(path: Path, name: str, shape: tuple[int, ...], rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """``infos/<name>`` at ascending ``rows [N]`` as ``[N, *shape]``; None if the file does not have it in this shape.

    Raises UserError for a damaged file, NaN or infinity.
    """
    with opened(path) as file:
        data = array(file, f"infos/{name}", path)
        rewards = array(file, "rewards", path)
        if data is None or rewards is None or data.shape != (rewards.shape[0], *shape):
            return None
        found = np.empty((len(rows), *shape))
        for start, piece in pieces(data, data.shape, np.float64, f"infos/{name}", path):
            chosen = (rows >= start) & (rows < start + len(piece))
            found[chosen] = piece[rows[chosen] - start]
    return found


def widths(path: Path) -> tuple[int, int]:
    """The numbers of an observation and of an action in a file. Raises UserError for a file that has no such arrays."""
    with opened(path) as file:
        found = {key: array(file, key, path) for key in ("observations", "actions")}
    for key, data in found.items():
        if data is None or len(data.shape) != 2:
            raise UserError(f"{path} has no '{key}' of two axes (steps, numbers): it is not in D4RL's layout.")
    return int(found["observations"].shape[1]), int(found["actions"].shape[1])  # type: ignore[union-attr]


def info_rows(path: Path, start: int, stop: int) -> dict[str, NDArray[Any]]:
    """Rows ``start … stop`` of every number array below ``infos/`` that has as many rows as the file, by name."""
    found: dict[str, NDArray[Any]] = {}
    with opened(path) as file:
        rewards = array(file, "rewards", path)
        names = list(file["infos"]) if isinstance(file.get("infos", getlink=True), h5py.HardLink) else []
        for name in names:
            data = array(file, f"infos/{name}", path)
            if data is not None and rewards is not None and data.shape[:1] == rewards.shape[:1]:
                found[name] = data[start:stop]
    return found
