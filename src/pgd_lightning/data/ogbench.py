"""OGBench's recordings (Park et al. 2024, arXiv 2410.20092): ``NAME.npz``, and ``NAME-val.npz``, which is held out.

A trajectory of T steps has T + 1 rows, the last of which holds its last observation alone; ``terminals`` mark that row
and say nothing of a task. Rewards and ends of a task are computed from the recorded states (``relabel``).
"""

import zipfile
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.data.d4rl.hdf5 import DAMAGE, column
from pgd_lightning.data.d4rl.reader import Reading, read
from pgd_lightning.data.origin import Provenance
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.sources import OGBENCH, ogbench_file, ogbench_root, single_task
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.locks import alone

Arrays = Mapping[str, NDArray[Any]]
Relabel = Callable[[Arrays], tuple[NDArray[Any], NDArray[np.bool_]]]  # states [N, …] -> reward, success [N]
KEYS = ("observations", "actions", "terminals")
STATES = ("qpos", "qvel", "button_states")


def file_of(source: str, download: bool, say: Callable[[str], object]) -> Path:
    """The file of ``source``, as :func:`ogbench_file`; fetched if it is not there and ``download``."""
    try:
        return ogbench_file(source)
    except UserError:
        if not (download and source.startswith(OGBENCH)):
            raise
    fetch(source.removeprefix(OGBENCH), say)
    return ogbench_file(source)


def fetch(name: str, say: Callable[[str], object]) -> None:
    """Let the package download the dataset ``name``. Raises UserError where it cannot."""
    root = ogbench_root()
    try:
        from ogbench import download_datasets

        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{name}.lock", lambda: say(f"data: another process downloads {name}; waiting")):
            download_datasets([name], str(root))
    except ImportError as error:
        raise UserError(
            f"{name} is downloaded by a package that is not installed ({error}): pip install ogbench"
        ) from error
    except OSError as error:  # urllib's too
        raise UserError(f"{name} cannot be downloaded to {root} ({error}): check the network and the name.") from error


def held_out(path: Path) -> Path | None:
    """The file of held-out trajectories beside ``path``; None if there is none."""
    found = path.with_name(f"{path.stem}-val{path.suffix}")
    return found if found.is_file() else None


def provenance(path: Path, env: EnvSpec) -> Provenance:
    """Where the data come from, as of a D4RL file; the hash is over the held-out trajectories too."""
    digest = sha256()
    for part in filter(None, (path, held_out(path))):
        with part.open("rb") as file:
            file_digest(file, lambda: digest)
    names = single_task(env.name)
    kind, label = "own environment", f"{path.name}, {env.name} (sha256 {digest.hexdigest()[:8]})"
    if names is not None and path.stem == names[1]:  # nobody published a hash
        kind, label = "unverified", f"{env.name} (OGBench by name, unverified, sha256 {digest.hexdigest()[:8]})"
    return {"path": path.name, "sha256": digest.hexdigest(), "kind": kind, "label": label}


def load(path: Path, env: EnvSpec, reading: Reading, relabel: Relabel) -> Recording:
    """Read and check ``path``; terminal are the steps that ``relabel`` finds done in the state in which they begin.

    An episode of the recording ends there, or where its trajectory was cut. Raises UserError as
    :func:`pgd_lightning.data.d4rl.reader.load`.
    """
    arrays = _arrays(path)
    ends, last = column(arrays["terminals"], arrays["terminals"].shape[:1], bool, "terminals", path), _last(arrays)
    notes = [] if ends[-1] else ["the last trajectory has no end: its last row is taken for it"]
    rows, cut = np.flatnonzero(~last), np.flatnonzero(~last) + 1
    obs = arrays["observations"]
    columns = {
        "observations": obs[rows], "actions": arrays["actions"][rows], "next_observations": obs[cut],
        "rewards": np.zeros(len(rows), np.float32), "terminals": np.zeros(len(rows), bool), "timeouts": last[cut],
    }  # fmt: skip
    found = {key: len(values) for key, values in columns.items()}
    recording = read(columns.get, found, path, env, replace(reading, terminals="recorded"))
    reward, success = relabel({key: arrays[key][rows] for key in STATES if key in arrays})
    terminated = torch.from_numpy(success)
    return replace(
        recording,
        reward=torch.from_numpy(reward),
        terminated=terminated,
        truncated=recording.truncated & ~terminated,
        notes=(
            *notes,
            *recording.notes,
            f"{int(last.sum())} trajectories, whose rewards are those of {env.name}: an episode ends at each of the "
            f"{int(success.sum())} steps that begin where its task is done",
        ),
    )


def states(path: Path) -> dict[str, NDArray[Any]]:
    """The recorded qpos, qvel and button_states of every step, ``[L, …]``, where they are in the file."""
    arrays = _arrays(path)
    kept = ~_last(arrays)
    return {key: arrays[key][kept] for key in STATES if key in arrays}


def infos(path: Path, name: str, shape: tuple[int, ...], rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """``name`` of :func:`states` at ``rows [N]``, ``[N, *shape]``; None if the file does not have it in this shape."""
    found = states(path).get(name)
    return None if found is None or found.shape[1:] != shape else found[rows].astype(np.float64)


def _last(arrays: Arrays) -> NDArray[np.bool_]:
    """The last row of each trajectory, ``[N]``; that of the file is always one."""
    last = arrays["terminals"].astype(bool).reshape(-1)
    last[-1:] = True
    return last


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file that are read. Raises UserError for a damaged or foreign one."""
    try:
        with np.load(path, allow_pickle=False) as file:
            found = {key: file[key] for key in (*KEYS, *STATES) if key in file.files}
    except (*DAMAGE, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(f"{path} is not a readable npz file ({error}): remove it and fetch it again.") from error
    missing = [key for key in KEYS if key not in found]
    if missing:
        raise UserError(f"{path} has no '{missing[0]}': OGBench's files have {', '.join(KEYS)}, qpos and qvel.")
    lengths = {key: values.shape[0] if values.ndim else 0 for key, values in found.items()}
    odd = [key for key in lengths if lengths[key] != lengths["observations"]]
    if odd or lengths["observations"] < 2:
        key = odd[0] if odd else "observations"
        raise UserError(
            f"'{key}' in {path} has {lengths[key]} rows where observations have {lengths['observations']}: the file is "
            "damaged or empty; fetch it again."
        )
    return found
