"""Actors of one learner: each satisfies ``Policy`` without a seed axis.

Actions lie in [-1, 1]: the mean is tanh of the last layer. The density is a plain Gaussian around it, not squashed, so
log_prob carries no tanh log-determinant.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgd_lightning.networks.mlp import elu_mlp, mlp
from pgd_lightning.trajectory import GaussianPolicy

LOG_STD_RANGE = (-20.0, 2.0)


class GaussianActor(GaussianPolicy, nn.Module):
    """N(tanh f(s), diag std^2) with a standard deviation that is learned but does not depend on the state."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp(obs_dim, hidden, action_dim)
        self.log_std = nn.Parameter(torch.zeros(action_dim))

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[..., A]`` and log std ``[A]``, the latter kept in [-20, 2]."""
        return self.body(obs).tanh(), self.log_std.clamp(*LOG_STD_RANGE)


class DeterministicActor(GaussianPolicy, nn.Module):
    """a = tanh f(s); as a density, the unit Gaussian around it (PGD, section 4)."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.body = mlp(obs_dim, hidden, action_dim)

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """The action ``[..., A]`` and log 1."""
        mean = self.body(obs).tanh()
        return mean, torch.zeros_like(mean)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """:meth:`act`: the unit Gaussian is only its density."""
        return self.act(obs)


class FlooredActor(GaussianPolicy, nn.Module):
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

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[..., A]`` and log std ``[A]``."""
        return self.body(obs).tanh(), self.std.log()

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """mean + std noise, not clipped: ``[..., O], [..., A] -> [..., A]``."""
        mean, log_std = self.gaussian(obs)
        return mean + log_std.exp() * noise
