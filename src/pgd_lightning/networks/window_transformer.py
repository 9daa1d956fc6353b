"""The causal transformer of PolyGRAD's windows, one token a row, to denoise or to regress (arXiv 2312.08533).

A row never sees later actions, which is physically right.
"""

import math

import torch.nn.functional as F
from torch import Tensor, nn

from pgd_lightning.errors import UserError
from pgd_lightning.networks.temporal_unet import TimeEmbedding


class Block(nn.Module):
    """x + Attention(LN(x)), then x + MLP(LN(x)) with a hidden layer four times as wide and the exact GELU."""

    def __init__(self, features: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_a, self.norm_b = nn.LayerNorm(features), nn.LayerNorm(features)
        self.qkv, self.project = nn.Linear(features, 3 * features), nn.Linear(features, features)
        self.up, self.down = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.project(self.attention(self.norm_a(x)))
        return x + self.down(F.gelu(self.up(self.norm_b(x))))

    def attention(self, x: Tensor) -> Tensor:
        """``[B, T, features]``, each row over itself and those before it."""
        query, key, value = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2)


class WindowTransformer(nn.Module):
    """``(x [B, T, channels], label [B]) -> [B, T, predicted]``, T up to ``rows``; no normalisation before the head.

    Weights start as N(0, 0.02^2), those back into the residual stream divided by sqrt(2 num_blocks); biases at 0.
    7,240,909 parameters for Hopper at T = 10 and the published size. Where it does not denoise it has no label and no
    embedding of one. Raises UserError where ``heads`` do not divide ``features``.
    """

    def __init__(
        self, rows: int, channels: int, predicted: int, features: int, num_blocks: int, heads: int, denoises: bool
    ) -> None:
        super().__init__()
        if features % heads:
            raise UserError(f"A transformer's {features} features are not a multiple of its {heads} heads.")
        self.rows = rows
        self.token, self.position = nn.Linear(channels, features), nn.Embedding(rows, features)
        self.time = TimeEmbedding(features, features // 2) if denoises else None
        self.blocks = nn.ModuleList(Block(features, heads) for _ in range(num_blocks))
        self.head = nn.Linear(features, predicted)
        for name, parameter in self.named_parameters():
            _start(name, parameter, 0.02 / math.sqrt(2 * num_blocks))

    def forward(self, x: Tensor, label: Tensor | None = None) -> Tensor:
        h = self.token(x) + self.position.weight[: x.shape[1]]
        if self.time is not None:
            assert label is not None
            h = h + self.time(label).unsqueeze(1)
        for block in self.blocks:
            h = block(h)
        return self.head(h)


def _start(name: str, parameter: Tensor, residual_std: float) -> None:
    if "norm" in name:
        return
    if name.endswith("bias"):
        nn.init.zeros_(parameter)
    else:
        nn.init.normal_(parameter, std=residual_std if "project" in name or "down" in name else 0.02)
