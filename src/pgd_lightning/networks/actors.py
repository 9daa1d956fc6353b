"""Actors of one learner: each keeps the promises of ``Policy`` (act, log_prob, score) without a seed axis.

Actions lie in [-1, 1]: the mean is tanh of the last layer. The density is a plain Normal around it, not squashed, so
log_prob carries no tanh log-determinant.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgd_lightning.networks.mlp import elu_mlp, mlp

LOG_STD_RANGE = (-20.0, 2.0)


def normal_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(action; mean, std^2), summed over the last axis: ``[..., A] -> [...]``."""
    standard = (action - mean) * torch.exp(-log_std)
    return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class GaussianActor(nn.Module):
    """N(tanh f(s), diag std^2) with a standard deviation that is learned but does not depend on the state."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp(obs_dim, hidden, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def clamped_log_std(self) -> Tensor:
        """log std ``[A]``, kept in [-20, 2]."""
        return self.log_std.clamp(*LOG_STD_RANGE)

    def act(self, obs: Tensor) -> Tensor:
        """The mean: ``[..., O] -> [..., A]``."""
        return self.body(obs).tanh()

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation: ``[..., O] -> [..., A]`` each."""
        mean = self.act(obs)
        return mean, self.clamped_log_std().exp().expand_as(mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """mean + std noise, kept in the box: ``[..., O], [..., A] -> [..., A]``."""
        return (self.act(obs) + self.clamped_log_std().exp() * noise).clamp(-1, 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """``[..., O], [..., A] -> [...]``."""
        return normal_log_prob(action, self.act(obs), self.clamped_log_std())

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(mean - a) / (std^2 + spread): gradient of log_prob in the action, blurred by the variance ``spread``."""
        return (self.act(obs) - action) / (torch.exp(2 * self.clamped_log_std()) + spread)


class DeterministicActor(nn.Module):
    """a = tanh f(s); as a density, the unit Gaussian around it (PGD, section 4)."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp(obs_dim, hidden, action_dim)

    def act(self, obs: Tensor) -> Tensor:
        """``[..., O] -> [..., A]``."""
        return self.body(obs).tanh()

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and a deviation of 1: ``[..., O] -> [..., A]`` each."""
        mean = self.act(obs)
        return mean, torch.ones_like(mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """:meth:`act`: the unit Gaussian is how it counts, not how it acts."""
        return self.act(obs)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """log N(a; act(s), 1), ``[..., O], [..., A] -> [...]``."""
        return normal_log_prob(action, self.act(obs), torch.zeros_like(action))

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(act(s) - a) / (1 + spread): gradient of log_prob in the action, blurred by the variance ``spread``."""
        return (self.act(obs) - action) / (1.0 + spread)


class FlooredActor(nn.Module):
    """N(tanh f(s), diag std^2) with std = exp(l) + floor, independent of the state (PolyGRAD, arXiv 2312.08533).

    Layers are followed by LayerNorm and ELU and start as torch starts them. Draws leave the box: what learns from them
    must know what was drawn, and simulators clip.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], first_std: float, floor: float) -> None:
        super().__init__()
        self.body = elu_mlp(obs_dim, hidden, action_dim)
        self.log_excess = nn.Parameter(torch.full((action_dim,), math.log(first_std - floor)))  # l
        self.floor = floor

    @property
    def device(self) -> torch.device:
        return self.log_excess.device

    @property
    def std(self) -> Tensor:
        """``[A]``, above the floor."""
        return self.log_excess.exp() + self.floor

    def act(self, obs: Tensor) -> Tensor:
        """The mean: ``[..., O] -> [..., A]``."""
        return self.body(obs).tanh()

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation: ``[..., O] -> [..., A]`` each."""
        mean = self.act(obs)
        return mean, self.std.expand_as(mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """mean + std noise, not clipped: ``[..., O], [..., A] -> [..., A]``."""
        return self.act(obs) + self.std * noise

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """``[..., O], [..., A] -> [...]``."""
        return normal_log_prob(action, self.act(obs), self.std.log())

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(mean - a) / (std^2 + spread), see :class:`GaussianActor`."""
        return (self.act(obs) - action) / (self.std**2 + spread)
