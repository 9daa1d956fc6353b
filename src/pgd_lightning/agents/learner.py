"""One learner: networks, losses and Polyak pairs, in plain torch and without a seed axis."""

from collections.abc import Callable

from torch import Tensor, nn

from pgd_lightning.trajectory import Transition


class Learner(nn.Module):
    """What an algorithm has to say. :class:`pgd_lightning.agents.Agent` stacks S of them and trains them.

    ``actor`` has ``act``, ``log_prob`` and ``score`` (networks.actors). The losses of one phase touch disjoint
    parameters, so that one Adam on their sum is one Adam for each.
    """

    actor: nn.Module
    discount: float | None = None  # None: the learner has no value estimate
    penalised = False  # whether its values are less than the return that they estimate
    shared: tuple[str, ...] = ()  # submodules that all seeds have in common and none trains
    next_action = False  # whether its losses read ``Transition.next_action``
    polyak_phase: int = 0  # the phase before which the targets move
    across: Callable[[Tensor], Tensor] = staticmethod(lambda mean: mean)  # of this process's rows -> of the whole batch

    def phases(self) -> list[tuple[str, ...]]:
        """The losses that each optimiser step of one update sums."""
        raise NotImplementedError

    def losses(self, batch: Transition, names: tuple[str, ...]) -> dict[str, Tensor]:
        """The losses ``names`` of a batch ``[B]``, scalars. Noise comes from torch's global generator."""
        return {name: getattr(self, f"{name}_loss")(batch) for name in names}

    def targets(self) -> list[tuple[nn.Module, nn.Module]]:
        """(target, online) pairs: the target follows the online module by Polyak averaging."""
        return []

    def diagnostics(self, batch: Transition) -> dict[str, Tensor]:
        """Further scalars worth a curve."""
        return {}

    def values(self, batch: Transition) -> Tensor:
        """Value estimate of the data's actions ``[B]``; the agent watches its scale if ``discount`` is set."""
        raise NotImplementedError
