"""Recordings from Python: by name, file, Minari dataset, or as arrays."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.config.compose import compose_config
from pgd_lightning.config.environments import named
from pgd_lightning.data import d4rl
from pgd_lightning.data.environments import environments
from pgd_lightning.data.outputs import expanded
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import Transition

Settings = Mapping[str, Any]  # of the command line: {"prior.batch_size": 64}


@dataclass(frozen=True)
class Data:
    """A recording, cut into windows, and the settings that it was read with."""

    dataset: Dataset
    settings: tuple[str, ...]

    def __str__(self) -> str:
        recording = self.dataset.recording
        return f"{self.dataset.label}: {len(recording):,} steps in {len(recording.ends):,} episodes"

    @property
    def env(self) -> EnvSpec:
        """Dimensions, time limit and reference returns of its environment."""
        return self.dataset.env

    @property
    def transitions(self) -> Transition:
        """Every recorded step that has a successor or ends in a terminal, ``[B]``."""
        return self.dataset.recording.transitions()

    def composed(self, verb: str, *more: str) -> DictConfig:
        """The settings of ``verb`` for this recording."""
        return compose_config(verb, [*self.settings, *more])


def load(source: str | Path | Mapping[str, Any], env: str | None = None, settings: Settings | None = None) -> Data:
    """A recording: by the name of its environment or dataset, a file in D4RL's layout, ``minari:NAME``, or arrays.

    ``env`` names the environment of a file or of arrays (``env=`` of the command line). Arrays have D4RL's names:
    ``observations [L, O]``, ``actions [L, A]``, ``rewards [L]``, and the episode boundaries ``terminals [L]`` (the task
    ended) and ``timeouts [L]`` (the episode was cut). They are kept as a file below ``runs_dir``, by which later runs
    know them. Raises UserError, in one sentence, where the source cannot be used.
    """
    chosen = typed(settings or {})
    if isinstance(source, Mapping):
        source = _kept_arrays(source, compose_config("prior", chosen).runs_dir)
    if env is None:
        if str(source) not in environments() and not named(str(source), environments()):
            raise UserError(f"load({str(source)!r}): name its environment too, e.g. env='hopper-medium'.")
        chosen = [f"env={source}", *chosen]
    else:
        chosen = [f"env={env}", f"data.source={source}", *chosen]
    return Data(open_dataset(compose_config("prior", chosen)), tuple(chosen))


def typed(settings: Settings) -> list[str]:
    """``settings`` as they are typed on the command line."""
    return [f"{key}={_as_typed(value)}" for key, value in settings.items()]


def _as_typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_as_typed, value))}]"
    return str(value)


def _kept_arrays(arrays: Mapping[str, Any], runs_dir: str) -> Path:
    """The file that holds ``arrays``; the same arrays have the same file.

    Raises UserError for arrays that do not fit.
    """
    needed = ("observations", "actions", "rewards", "terminals", "timeouts")
    if missing := [name for name in needed if name not in arrays]:
        raise UserError(f"load: the arrays lack {', '.join(missing)}; needed are {', '.join(needed)}.")
    columns = {name: np.ascontiguousarray(_array(arrays[name])) for name in arrays}
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"load: the arrays have different lengths: {lengths}.")
    content = hashlib.sha256()
    for name in sorted(columns):
        content.update(name.encode() + str(columns[name].dtype).encode() + columns[name].tobytes())
    path = expanded(runs_dir) / "arrays" / f"{content.hexdigest()[:16]}.hdf5"
    if not path.exists():
        d4rl.write(path, [columns], {"description": "arrays of pgd_lightning.load"}, lengths["rewards"])
    return path


def _array(values: Any) -> NDArray[Any]:
    return values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
