"""The single tasks of OGBench (Park et al. 2024, arXiv 2410.20092), whose environments the ``ogbench`` package has.

An episode ends where its task is done, and only there. The recordings are of no task: rewards and ends of one are
computed afterwards, by the package's own ``relabel_dataset``.
"""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray

from pgd_lightning.environment import GYMNASIUM
from pgd_lightning.errors import UserError

MODULE = "ogbench"


def require() -> None:
    """Raises UserError where the package cannot be imported."""
    try:
        import_module(MODULE)
    except ImportError as error:
        raise UserError(
            f"OGBench's environments need a package that is not installed ({error}): pip install ogbench"
        ) from error


def is_single_task(task: str) -> bool:
    """Whether ``task`` (``gym:ogbench:antmaze-large-singletask-v0``) is a single task of OGBench's."""
    module, _, name = task.removeprefix(GYMNASIUM).partition(" ")[0].rpartition(":")
    return module == MODULE and "singletask" in name.split("-")


def teleports(env: gymnasium.Env[Any, Any]) -> bool:
    """Whether ``env`` is a maze in which a step may end at a random place."""
    return getattr(env.unwrapped, "_teleport_info", None) is not None


def relabelled(
    env: gymnasium.Env[Any, Any], states: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``(reward, success) [N]`` of recorded ``states`` in the task of ``env``: qpos, qvel, button_states ``[N, …]``.

    A step earns what the state deserves in which it begins: 0 where the task is done there, and what is missing of it
    below 0. Raises UserError for states that are not the environment's.
    """
    from ogbench.relabel_utils import relabel_dataset

    name = env.spec.id if env.spec is not None else ""
    labels: dict[str, Any] = dict(states)
    try:
        relabel_dataset(name, env, labels)
    except KeyError as error:
        raise UserError(f"The recording has no {error}, from which OGBench computes the rewards of {name}.") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"The recorded states are not those of {name} ({error}): is this the right env=?") from error
    return labels["rewards"], labels["masks"] == 0
