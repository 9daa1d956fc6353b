"""Minari datasets read through the ``minari`` package (``pip install pgd-lightning[minari]``).

A Minari episode of T steps holds T + 1 observations, so the last successor is always there; where a recording has none
(``infos/has_successor`` says so) its own observation is repeated. Nothing is ever downloaded here.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.data.d4rl.hdf5 import DAMAGE, DENSEST, check_plain, opened
from pgd_lightning.data.d4rl.reader import Reading, read
from pgd_lightning.data.origin import Provenance, minari_facts
from pgd_lightning.data.recording import Recording
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError

ENV = "pgd_lightning_env"  # our entry in a Minari set's metadata: what it was read as
KNOWN = "has_successor"  # our entry in a Minari episode's infos


def storage() -> Any:
    """Minari's class that reads and writes episodes. Raises UserError without the package."""
    try:
        from minari.dataset.minari_storage import MinariStorage
    except ImportError as error:
        raise _missing(error, "hdf5") from error
    return MinariStorage


def _missing(error: ImportError, extra: str) -> UserError:
    return UserError(
        f"Minari datasets of this kind need a package that is not installed ({error}): pip install 'minari[{extra}]'; "
        "or give an HDF5 file."
    )


def provenance(folder: Path, env: EnvSpec) -> Provenance:
    """Where the data come from, as of a D4RL file; the hash is over all files of ``data``."""
    digest = sha256()
    for path in sorted(p for p in (folder / "data").rglob("*") if p.is_file()):
        digest.update(path.relative_to(folder).as_posix().encode())
        with path.open("rb") as file:
            file_digest(file, lambda: digest)
    metadata = _metadata(folder)
    name = str(metadata.get("dataset_id", folder.name))[:200]
    read_as = env.name if env.file is None else f"as {env.name}, not D4RL"
    label = f"{name} (Minari) {read_as} (sha256 {digest.hexdigest()[:8]})"
    found: Provenance = {
        "path": name, "sha256": digest.hexdigest(), "kind": "minari", "label": label, "minari_id": name,
    }  # fmt: skip
    facts = minari_facts(metadata)
    named = {"its environment": facts.get("environment"), f"its '{ENV}'": metadata.get(ENV)}
    says = {where: text for where, text in named.items() if isinstance(text, str)}
    if facts:
        found["minari"] = facts
    if says:
        found["says"] = says
    return found


def _metadata(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / "data" / "metadata.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}/data/metadata.json cannot be read ({error}): fetch the dataset again.") from error
    if not isinstance(found, dict):
        raise UserError(f"{folder}/data/metadata.json is not Minari's: fetch the dataset again.")
    return found


def load(folder: Path, env: EnvSpec, reading: Reading) -> Recording:
    """Read and check a local Minari dataset. Raises UserError as :func:`pgd_lightning.data.d4rl.reader.load`.

    Observations are taken as they are. Of a dictionary, D4RL's tasks take ``observation``, antmaze behind
    ``achieved_goal``; others take all of it in the order of its space, as Gymnasium's ``FlattenObservation`` does.
    """
    columns = _columns(folder, env)
    known = columns.pop(f"infos/{KNOWN}", None)
    recording = read(columns.get, {key: len(values) for key, values in columns.items()}, folder, env, reading)
    notes = recording.notes
    if env.task.startswith("maze2d") and known is None:
        notes = (*notes, "a Minari point maze differs from D4RL's maze2d in coordinates, goal and reward")
    if known is None:
        return replace(recording, notes=notes)
    return replace(recording, has_successor=torch.from_numpy(known.astype(bool)), notes=notes)


def _columns(folder: Path, env: EnvSpec) -> dict[str, NDArray[Any]]:
    """All episodes one after the other, under D4RL's keys."""
    columns: dict[str, NDArray[Any]] = {}
    rows, space = 0, _space(folder)
    for number, episode in enumerate(_episodes(folder)):
        part = _rows_of(episode | {"observations": _observations(episode["observations"], env, space, folder)},
                        env, folder, number)  # fmt: skip
        steps = len(part["rewards"])
        for key, values in part.items():
            if key not in columns:
                columns[key] = np.empty((_steps(folder), *values.shape[1:]), values.dtype)
            if rows + steps > len(columns[key]) or columns[key].shape[1:] != values.shape[1:]:
                raise UserError(
                    f"Episode {number} (counted from 0) of {folder} does not fit its metadata ('{key}'): fetch "
                    "the dataset again."
                )
            columns[key][rows : rows + steps] = values
        rows += steps
        if set(part) != set(columns):
            odd = ", ".join(sorted(set(part) ^ set(columns)))
            raise UserError(
                f"Episode {number} (counted from 0) of {folder} has not the arrays of those before it, or not as long "
                f"as its steps ({odd}): they cannot be one recording."
            )
    return {key: values[:rows] for key, values in columns.items()}


def widths(folder: Path) -> tuple[int, int]:
    """The numbers of an observation and of an action. Raises UserError as :func:`load`."""
    episode = next(_episodes(folder), None)
    obs = None if episode is None else flattened(episode["observations"], _space(folder))
    if episode is None or obs is None:
        raise UserError(f"The observations of {folder} are no vectors of numbers: name its environment with env=.")
    return obs.shape[1], np.asarray(episode["actions"]).shape[-1]


def _space(folder: Path) -> Mapping[str, Any]:
    """Its observation space as Minari describes it."""
    try:
        space = json.loads(_metadata(folder)["observation_space"])
    except (KeyError, TypeError, ValueError):
        return {}
    return space if isinstance(space, dict) else {}


def _steps(folder: Path) -> int:
    steps, size = _metadata(folder).get("total_steps"), sum(p.stat().st_size for p in (folder / "data").rglob("*"))
    if not isinstance(steps, int) or not 0 < steps < DENSEST * size:
        raise UserError(f"{folder} claims {steps} steps, which its files cannot hold: fetch the dataset again.")
    return steps


def _episodes(folder: Path) -> Iterator[dict[str, Any]]:
    metadata = _metadata(folder)
    if not {"observation_space", "action_space"} <= set(metadata):
        raise UserError(  # minari would import and build whatever environment the file names
            f"{folder} does not describe its observation and action space; only datasets that do are read."
        )
    extra = "hdf5" if metadata.get("data_format") == "hdf5" else "arrow"
    main = folder / "data" / "main_data.hdf5"
    if main.is_file():
        with opened(main) as file:
            check_plain(file, main)
    try:
        source = storage().read(folder / "data")
        yield from source.get_episodes(range(source.total_episodes))
    except ImportError as error:
        raise _missing(error, extra) from error
    except (*DAMAGE, AssertionError, NotImplementedError) as error:
        raise UserError(f"{folder} cannot be read ({error}): fetch the dataset again.") from error


def _rows_of(episode: Mapping[str, Any], env: EnvSpec, folder: Path, number: int) -> dict[str, NDArray[Any]]:
    """Episode ``number``, counted from 0, of T steps under D4RL's keys, ``[T, …]``; the last row always ends it."""
    obs = episode["observations"]
    rewards, terminals, timeouts = (
        np.asarray(episode[key]) for key in ("rewards", "terminations", "truncations")
    )  # fmt: skip
    steps = len(rewards)
    wanted = dict.fromkeys(("actions", "terminations", "truncations"), steps) | {"observations": steps + 1}
    lengths = {key: len(obs if key == "observations" else episode[key]) for key in wanted}
    wrong = [f"{lengths[key]} {key} instead of {wanted[key]}" for key in wanted if lengths[key] != wanted[key]]
    if steps == 0 or wrong:
        raise UserError(
            f"Episode {number} (counted from 0) of {folder} has {steps} rewards but {', '.join(wrong) or 'no steps'}: "
            "its columns are out of step; fetch or record the dataset again."
        )
    timeouts = timeouts.astype(bool)
    timeouts[-1] |= not terminals[-1]
    part = {
        "observations": obs[:-1], "actions": np.asarray(episode["actions"]), "rewards": rewards,
        "terminals": terminals.astype(bool), "timeouts": timeouts, "next_observations": obs[1:],
    }  # fmt: skip
    infos = episode.get("infos") or {}
    kept = ("qpos", "qvel") if env.task.startswith("maze2d") else ()
    for name in (KNOWN, *kept):
        if isinstance(infos.get(name), np.ndarray) and len(infos[name]) in (steps, steps + 1):
            part[f"infos/{name}"] = infos[name][:steps]
    return part


def _observations(obs: Any, env: EnvSpec, space: Mapping[str, Any], folder: Path) -> NDArray[Any]:
    if isinstance(obs, dict) and "observation" in obs and env.simulated and not env.registered:
        parts = [np.asarray(obs[key]) for key in ("achieved_goal", "observation") if key in obs]
        obs = parts[-1] if parts[-1].shape[-1] == env.obs_dim else np.concatenate(parts, axis=-1)
    found = flattened(obs, space)
    if found is None:
        raise UserError(f"The observations of {folder} are no plain vectors: {env.name} needs {env.obs_dim} numbers.")
    return found


def flattened(obs: Any, space: Mapping[str, Any]) -> NDArray[Any] | None:
    """Observations ``[T, O]`` of an episode, dictionaries of boxes in the order of their ``space``; None for others.

    ``space`` is Minari's description of it.
    """
    if not isinstance(obs, dict):
        return obs if isinstance(obs, np.ndarray) and obs.ndim == 2 else None
    parts: list[NDArray[Any]] = []
    for name, inner in space.get("subspaces", {}).items():
        part = obs.get(name)
        if inner["type"] != "Box":
            part = flattened(part, inner)
        elif isinstance(part, np.ndarray):
            part = part.reshape(len(part), -1)
        if part is None:
            return None
        parts.append(part)
    return np.concatenate(parts, axis=-1) if parts else None
