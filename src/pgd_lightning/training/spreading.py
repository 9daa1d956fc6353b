"""An agent, spread over ranks: by its seeds, or the only seed's batches by their rows.

Of seeds, each rank trains, evaluates and generates for its own. They are independent, so nothing is averaged and every
agent is spread correctly. Checkpoints hold all seeds, as those of one process do: ranks join their parts when saving
and take them when loading, and a run may continue on another number of ranks.

Of rows, each rank takes its part of every batch, synthetic set and evaluation, and gradients are averaged: the update
is that of one process, up to rounding and to the noise that a learner draws, another one on each rank.
"""

from collections.abc import Callable
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor
from torch.utils._pytree import tree_map_only

from pgd_lightning.agents.agent import Agent
from pgd_lightning.data.modules import ALL, Share, SyntheticDataModule
from pgd_lightning.errors import UserError
from pgd_lightning.runs import ranks
from pgd_lightning.runs.checkpoints import AtomicCheckpointIO

SET = SyntheticDataModule.__qualname__  # where Lightning keeps the synthetic set


def seeds_here(num_seeds: int) -> range:
    """The seeds of this rank. A single seed is trained by the first rank, while the others wait.

    Raises UserError where a rank would have none.
    """
    count, rank = ranks.count(), ranks.rank()
    if num_seeds == 1:
        return range(1)
    if num_seeds < count:
        raise UserError(
            f"seeds={num_seeds} are too few for {count} processes: set seeds={count} or trainer.devices={num_seeds}."
        )
    return range(num_seeds * rank // count, num_seeds * (rank + 1) // count)


def rows_together(choice: str, num_seeds: int) -> bool:
    """Whether ranks share the rows of one learner's batches; ``choice`` is ``ranks.agents``.

    Raises UserError where there are several learners.
    """
    if choice == "rows" and num_seeds > 1 and ranks.count() > 1:
        raise UserError(f"ranks.agents=rows shares the batches of one learner: set seeds=1 (now {num_seeds}).")
    return choice == "rows" and ranks.count() > 1


def share_of_rows(choice: str, num_seeds: int) -> Share:
    """What this rank takes of each batch, set and evaluation, see :func:`rows_together`."""
    return Share(ranks.rank(), ranks.count(), ranks.gathered) if rows_together(choice, num_seeds) else ALL


class RowsTogether(DDPStrategy):
    """Averages gradients by itself: DDP expects one backward pass an update, and agents of several phases have more."""

    def configure_ddp(self) -> None:
        """The module stays as it is."""

    def post_backward(self, closure_loss: Tensor) -> None:
        """Every gradient becomes its mean over ranks."""
        assert self.lightning_module is not None
        gradients = [p.grad for p in self.lightning_module.parameters() if p.grad is not None]
        together = ranks.mean(torch.cat([gradient.flatten() for gradient in gradients]))
        for gradient, mean in zip(gradients, together.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(mean.view_as(gradient))


class SeedsApart(DDPStrategy):
    """Ranks with modules of their own: Lightning's bookkeeping of ranks without DDP's averages."""

    def configure_ddp(self) -> None:
        """The module stays as it is."""


def with_seed_axis(checkpoint: dict[str, Any], shared: Callable[[str], bool], change: Callable[[Any], Any]) -> Any:
    """``checkpoint`` with every tensor that has a seed axis replaced by its ``change``, and all else as it is."""

    def stacked(tensor: Tensor) -> Any:
        return change(tensor) if tensor.dim() else tensor

    new = dict(checkpoint)
    state = checkpoint["state_dict"]
    new["state_dict"] = {k: v if shared(k) else change(v) for k, v in state.items()}
    new["optimizer_states"] = [
        {**optimizer, "state": tree_map_only(Tensor, stacked, optimizer["state"])}
        for optimizer in checkpoint["optimizer_states"]
    ]
    if SET in checkpoint:
        new[SET] = tree_map_only(Tensor, stacked, checkpoint[SET])
    return new


def shared_by(module: Agent) -> Callable[[str], bool]:
    """Which names of the module's state have no seed axis."""
    common = tuple(f"learner.{name}." for name in module.learner.shared)
    return lambda name: not name.startswith("learner.") or name.startswith(common)


class JoinSeeds(Callback):
    """Makes each checkpoint one of all seeds."""

    def on_save_checkpoint(self, trainer: Trainer, module: LightningModule, checkpoint: dict[str, Any]) -> None:
        assert isinstance(module, Agent)
        own: list[Tensor] = []
        with_seed_axis(checkpoint, shared_by(module), own.append)
        parts = ranks.gathered([tensor.cpu() for tensor in own])
        whole = iter([torch.cat(tensors) for tensors in zip(*parts, strict=True)])
        checkpoint.update(with_seed_axis(checkpoint, shared_by(module), lambda _: next(whole)))


class TakeSeeds(AtomicCheckpointIO):
    """Reads of each checkpoint the part of ``seeds``."""

    def __init__(self, module: Agent, seeds: range) -> None:
        super().__init__()
        self.shared, self.seeds = shared_by(module), seeds

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        whole = super().load_checkpoint(path, map_location, weights_only)
        return with_seed_axis(whole, self.shared, lambda t: t[self.seeds.start : self.seeds.stop])
