"""Policies trained online, by PPO, as targets of guidance."""

import torch
from torch import Tensor, nn

from pgd_lightning.networks.actors import normal_log_prob

MIN_STD = 0.1


class OnlinePolicy:
    """A tanh-Gaussian policy as the Gaussian that its tanh, linearised at the mean, makes of it.

    The exact density grows without bound at the edge of the box, and its score with it; guidance asks for the score
    of actions anywhere. ``policy`` gives the mean and deviation of the action before its tanh. All tensors carry a
    leading axis S = 1.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self.policy.parameters()).device

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and deviation."""
        mean, std = self.policy(obs)
        mean = mean.tanh()
        return mean, (std * (1 - mean**2)).clamp_min(MIN_STD)

    def act(self, obs: Tensor) -> Tensor:
        """The mean action."""
        return self.normal(obs)[0]

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """mean + std noise, kept in the box."""
        mean, std = self.normal(obs)
        return (mean + std * noise).clamp(-1, 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density, summed over action dims."""
        mean, std = self.normal(obs)
        return normal_log_prob(action, mean, std.log())

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """Gradient of :meth:`log_prob` in the action, after its variance has grown by ``spread``."""
        mean, std = self.normal(obs)
        return (mean - action) / (std**2 + spread)
