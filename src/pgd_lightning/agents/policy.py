"""The policies of S learners as one ``Policy``."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pgd_lightning.agents.learner import Learner
from pgd_lightning.agents.seeds import call_stacked, is_shared


def variance_over(action: Tensor, variance: Tensor | float) -> Tensor:
    """``variance`` for each entry of ``action``. A number is filled in, not copied to the device."""
    variance = variance.to(action.dtype) if isinstance(variance, Tensor) else action.new_full((), variance)
    return variance.expand_as(action)


class StackedPolicy:
    """Each seed's actor on its own slice: all tensors carry a leading axis S. No gradients; environment units."""

    def __init__(self, learner: Learner, normalised: Callable[[Tensor], Tensor]) -> None:
        self.learner, self.normalised = learner, normalised

    @property
    def device(self) -> torch.device:
        """Where the weights are, and the observations must be."""
        return next(self.learner.parameters()).device

    @property
    def num_seeds(self) -> int:
        """S."""
        return len(next(iter(self.state_dict().values())))

    @torch.no_grad()
    def act(self, obs: Tensor) -> Tensor:
        """``[S, ..., O] -> [S, ..., A]``."""
        return call_stacked(self.learner, "actor.act", self.normalised(obs))

    @torch.no_grad()
    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """``[S, ..., O], [S, ..., A] -> [S, ..., A]``."""
        return call_stacked(self.learner, "actor.draw", self.normalised(obs), noise)

    @torch.no_grad()
    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """``[S, ..., O], [S, ..., A] -> [S, ...]``."""
        return call_stacked(self.learner, "actor.log_prob", self.normalised(obs), action)

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation, ``[S, ..., A]`` each; differentiable in ``obs``."""
        return call_stacked(self.learner, "actor.normal", self.normalised(obs))

    @torch.no_grad()
    def score(self, obs: Tensor, action: Tensor, noise_variance: Tensor | float = 0.0) -> Tensor:
        """Gradient of :meth:`log_prob` in the action, ``[S, ..., A]``; ``noise_variance`` as in ``Policy.score``."""
        variance = variance_over(action, noise_variance)
        return call_stacked(self.learner, "actor.score", self.normalised(obs), action, variance)

    def state_dict(self) -> dict[str, Tensor]:
        """The weights that each seed has of its own, ``[S, ...]``."""
        return {name: t for name, t in self.learner.state_dict().items() if not is_shared(self.learner, name)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights of another moment."""
        self.learner.load_state_dict(dict(state), strict=False)
