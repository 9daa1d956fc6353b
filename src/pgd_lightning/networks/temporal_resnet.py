"""Residual convolutions over the rows of a window, all at full resolution: the denoiser of the scales that are ours.

A denoiser that is good at little noise has to carry each row through the network unharmed and to compare it with its
neighbours. So nothing is pooled, every block adds to what came before, and the noise label scales and shifts what a
block sees (the adaptive layer norm of Peebles and Xie 2023, 2212.09748). Dilations of 1, 2, 4, 8, again and again, let
a row see thirty rows to each side after eight blocks (van den Oord et al. 2016, 1609.03499). docs/prior.md has the
comparison.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgd_lightning.networks.temporal_unet import Conv, TimeEmbedding

DILATIONS = (1, 2, 4, 8)


class Block(nn.Module):
    """x + (1 + gate) Linear(SiLU(Conv(LN(x) (1 + scale) + shift))), the three of them linear in the noise embedding."""

    def __init__(self, features: int, dilation: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(features, elementwise_affine=False)
        self.conv = Conv(features, features, 3, dilation=dilation)
        self.out = nn.Linear(features, features)
        self.modulation = nn.Linear(features, 3 * features)
        nn.init.zeros_(self.modulation.weight)
        nn.init.zeros_(self.modulation.bias)

    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        shift, scale, gate = self.modulation(tau).unsqueeze(-2).chunk(3, -1)
        h = self.out(F.silu(self.conv(torch.addcmul(shift, self.norm(x), 1 + scale))))
        return torch.addcmul(x, h, 1 + gate)


class TemporalResNet(nn.Module):
    """``(x [B, T, channels], label [B]) -> [B, T, channels]`` for any T up to ``rows``.

    The head starts at zero, so an untrained denoiser returns c_skip x: what is right for standard normal data.
    """

    min_length = 1

    def __init__(self, rows: int, channels: int, features: int, num_blocks: int) -> None:
        super().__init__()
        self.time = TimeEmbedding(features, features // 8)
        self.inlet = nn.Linear(channels, features)
        self.position = nn.Parameter(0.02 * torch.randn(rows, features))
        self.blocks = nn.ModuleList(Block(features, DILATIONS[i % len(DILATIONS)]) for i in range(num_blocks))
        self.head = nn.Linear(features, channels)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def hidden_weights(self) -> list[Tensor]:
        """The weights between hidden layers."""
        return [w for block in self.blocks for w in (block.conv.weight, block.out.weight)]  # type: ignore[misc,union-attr]

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        tau = F.silu(self.time(label))
        h = self.inlet(x) + self.position[: x.shape[-2]]
        for block in self.blocks:
            h = block(h, tau)
        return self.head(h)
