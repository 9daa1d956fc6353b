"""What processes that run one command together tell each other; alone, a process is the first and only rank.

:mod:`pgd_lightning.commands.launch` says what each of them does.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments import (
    ClusterEnvironment,
    LightningEnvironment,
    SLURMEnvironment,
    TorchElasticEnvironment,
)

from pgd_lightning.errors import Unreachable

T = TypeVar("T")


def rank() -> int:
    """Place of this process in its group; 0 without one."""
    return dist.get_rank() if dist.is_initialized() else 0


def count() -> int:
    """Processes in the group; 1 without one."""
    return dist.get_world_size() if dist.is_initialized() else 1


def wait() -> None:
    """Until every rank is here."""
    if count() > 1:
        dist.barrier()


def gathered(mine: T) -> list[T]:
    """What every rank has, in the order of ranks."""
    if count() == 1:
        return [mine]
    everyone: list[Any] = [None] * count()
    dist.all_gather_object(everyone, mine)
    return everyone


def mean(value: torch.Tensor) -> torch.Tensor:
    """The mean over ranks."""
    if count() == 1:
        return value
    total = value.clone()
    dist.all_reduce(total)
    return total / count()


def decided(choose: Callable[[], T]) -> T:
    """What the first rank chooses; the others do not look."""
    if count() == 1:
        return choose()
    chosen: list[Any] = [choose() if rank() == 0 else None]
    dist.broadcast_object_list(chosen, src=0)
    return chosen[0]


def environment() -> ClusterEnvironment:
    """How this process was started. Requeueing is the job script's, so Lightning's own is off."""
    if TorchElasticEnvironment.detect():
        return TorchElasticEnvironment()
    if int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        return SLURMEnvironment(auto_requeue=False)
    return LightningEnvironment()


def lost(error: RuntimeError) -> Unreachable | None:
    """A sentence for an error of the group's network: one of the others was killed, or hangs. None for any other."""
    network = isinstance(error, dist.DistBackendError | dist.DistNetworkError)
    if count() == 1 or not (network or "gloo" in str(error)):
        return None
    return Unreachable(
        f"Rank {rank()} cannot reach the others any more: one of them was lost. The same command continues from the "
        "last checkpoint."
    )
