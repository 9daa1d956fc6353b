"""Encoder and decoder of whole windows, given the first state: two perceptrons on the flattened window."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgd_lightning.networks.mlp import mlp


class WindowVAE(nn.Module):
    """q(z | x, s0) and p(x | z, s0) of windows ``x [..., T, D]`` with first state ``s0 [..., O]``, z ``[..., latent]``.

    The decoder's standard deviation is one number a channel, the same in all rows, learned.
    """

    def __init__(
        self, rows: int, channels: int, obs_dim: int, latent: int, hidden: Sequence[int], min_std: float
    ) -> None:
        super().__init__()
        self.rows, self.latent, self.min_std = rows, latent, min_std
        self.encoder = mlp(rows * channels + obs_dim, hidden, 2 * latent)
        self.decoder = mlp(latent + obs_dim, hidden, rows * channels)
        self.log_std = nn.Parameter(torch.zeros(channels))

    @property
    def std(self) -> Tensor:
        """Deviation of each channel around the decoder's mean, ``[D]``; a constant channel would drive it to 0."""
        return self.min_std + self.log_std.exp()

    def encode(self, x: Tensor, first: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log standard deviations of z, ``[..., latent]`` each."""
        mean, log_std = self.encoder(torch.cat([x.flatten(-2), first], dim=-1)).chunk(2, dim=-1)
        return mean, log_std

    def decode(self, z: Tensor, first: Tensor) -> Tensor:
        """Mean window ``[..., T, D]``."""
        return self.decoder(torch.cat([z, first], dim=-1)).unflatten(-1, (self.rows, -1))
