"""Policies trained online, by PPO, as targets of guidance."""

import torch
from torch import Tensor, nn

from pgd_lightning.trajectory import GaussianPolicy

MIN_STD = 0.1  # of a squashed Gaussian: where the squashing is flat, its linearisation has none


class OnlinePolicy(GaussianPolicy):
    """A tanh-Gaussian policy as the Gaussian that its tanh, linearised at the mean, makes of it.

    The exact density grows without bound at the edge of the box, and its score with it; guidance asks for the score
    of actions anywhere. ``policy`` gives the mean and standard deviation of the action before its tanh. All tensors
    carry a leading axis S = 1.
    """

    def __init__(self, policy: nn.Module) -> None:
        self.policy = policy.requires_grad_(False)

    @property
    def device(self) -> torch.device:
        return next(self.policy.parameters()).device

    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviation ``[1, ..., A]`` of the linearised tanh."""
        mean, std = self.policy(obs)
        mean = mean.tanh()
        return mean, (std * (1 - mean**2)).clamp_min(MIN_STD).log()
