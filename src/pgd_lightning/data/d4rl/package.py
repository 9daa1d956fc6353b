"""Data through an installed ``d4rl`` package: ``gym.make(id).get_dataset()``.

The package from the index does not import without the MuJoCo 2.1.0 binaries that mujoco-py wants, so this is for those
who still have it. Tested against a module of the same interface, not against the package itself.
"""

from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.data.d4rl.reader import Reading, read
from pgd_lightning.data.origin import Provenance
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.sources import PACKAGE
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError


def fetch(env: EnvSpec) -> dict[str, NDArray[Any]]:
    """What ``get_dataset()`` of the environment ``env.d4rl_id`` returns; the package downloads it if it has to.

    Raises UserError if the package is missing or fails.
    """
    try:
        gym: Any = import_module("gym")
        import_module("d4rl")  # registers the environments
    except Exception as error:  # mujoco-py raises its own where the binaries are missing
        raise UserError(
            f"data.source={PACKAGE} needs the old d4rl package, which does not import here ({type(error).__name__}: "
            f"{str(error).splitlines()[0] if str(error) else ''}): give the HDF5 file instead, data.source=<path>."
        ) from error
    try:
        found: dict[str, NDArray[Any]] = gym.make(env.d4rl_id).get_dataset()
    except Exception as error:
        raise UserError(
            f"The d4rl package has no data for {env.d4rl_id} ({type(error).__name__}: {error}): give the HDF5 file "
            "instead, data.source=<path>."
        ) from error
    return {str(key): np.asarray(values) for key, values in found.items()}


def load(columns: dict[str, NDArray[Any]], env: EnvSpec, reading: Reading) -> Recording:
    """Check what :func:`fetch` returned. Raises UserError as :func:`pgd_lightning.data.d4rl.reader.load`."""
    for key, values in columns.items():
        if key.count("/") == 0 and values.dtype.kind not in "fbiu":
            raise UserError(f"'{key}' of the d4rl package holds {values.dtype}, not numbers.")
    rows = {key: len(values) if values.ndim else None for key, values in columns.items()}
    return read(columns.get, rows, Path(f"{PACKAGE}:{env.d4rl_id}"), env, reading)


def provenance(columns: dict[str, NDArray[Any]], env: EnvSpec) -> Provenance:
    """Where the data come from; the hash is over the arrays, since the file is the package's own affair."""
    digest = sha256()
    for key in sorted(k for k in columns if "/" not in k):
        digest.update(f"{key} {columns[key].dtype} {columns[key].shape}".encode())
        digest.update(np.ascontiguousarray(columns[key]).data)
    label = f"{env.d4rl_id} (through the d4rl package, unverified, sha256 of arrays {digest.hexdigest()[:8]})"
    return {"path": env.d4rl_id, "sha256": digest.hexdigest(), "kind": "legacy package", "label": label}
