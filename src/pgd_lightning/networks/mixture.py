"""A mixture-density layer (Bishop 1994): a network predicts the parameters of diagonal Gaussians and their weights."""

import math

import torch
from torch import Tensor, nn

LOG_STD_RANGE = (-7.0, 2.0)  # of standardised channels: e^-7 is a thousandth of a standard deviation


class MixtureLayer(nn.Module):
    """Density of ``x [..., D]`` given features ``[..., inputs]``."""

    def __init__(self, inputs: int, channels: int, components: int) -> None:
        super().__init__()
        self.components, self.channels = components, channels
        self.layer = nn.Linear(inputs, components * (1 + 2 * channels))

    def parts(self, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights ``[..., K]``, means and log standard deviations ``[..., K, D]``."""
        logits, rest = self.layer(features).split([self.components, 2 * self.components * self.channels], dim=-1)
        mean, log_std = rest.unflatten(-1, (self.components, -1)).chunk(2, dim=-1)
        low, high = LOG_STD_RANGE
        # A smooth clamp, or a component beyond the range would get no gradient back.
        return logits.log_softmax(-1), mean, low + (high - low) * torch.sigmoid(log_std)

    def log_prob(self, features: Tensor, x: Tensor, counted: Tensor | float = 1.0) -> Tensor:
        """``[..., inputs], [..., D] -> [...]`` of the channels that ``counted [D]`` has 1 for, not 0."""
        log_weight, mean, log_std = self.parts(features)
        standard = (x.unsqueeze(-2) - mean) * torch.exp(-log_std)
        each = (counted * (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi))).sum(-1)
        return torch.logsumexp(log_weight + each, dim=-1)

    def sample(self, features: Tensor, random: torch.Generator) -> Tensor:
        """One draw for each of ``features [..., inputs]``: ``[..., D]``."""
        log_weight, mean, log_std = self.parts(features)
        flat = log_weight.exp().flatten(0, -2)
        chosen = torch.multinomial(flat, 1, generator=random).view(*log_weight.shape[:-1], 1, 1)
        mean, log_std = (torch.take_along_dim(t, chosen, dim=-2).squeeze(-2) for t in (mean, log_std))
        noise = torch.randn(mean.shape, generator=random, device=mean.device)
        return mean + log_std.exp() * noise
