"""The residual network that denoises PolyGRAD's windows, flattened over time (arXiv 2312.08533)."""

import torch.nn.functional as F
from torch import Tensor, nn

from pgd_lightning.networks.transition_mlp import RandomFourierTime


class WindowMLP(nn.Module):
    """``(x [B, T, channels], label [B]) -> [B, T, predicted]``: any row may use any other.

    Project and add the time, up to ``width``, blocks x + Linear(ReLU(LayerNorm(x))), LayerNorm, ReLU, head. Layers
    start as torch starts them. 6,664,450 trained parameters for Hopper at T = 10 and the published width of 1024.
    """

    def __init__(
        self,
        rows: int,
        channels: int,
        predicted: int,
        width: int,
        num_blocks: int,
        min_features: int,  # of the projection, which has as many features as inputs
        waves: int,
    ) -> None:
        super().__init__()
        self.rows, self.predicted = rows, predicted
        features = max(rows * channels, min_features)
        self.time = RandomFourierTime(waves, features)
        self.project = nn.Linear(rows * channels, features)
        self.widen = nn.Linear(features, width)
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(num_blocks))
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(num_blocks))
        self.last_norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, rows * predicted)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        h = self.widen(self.project(x.flatten(1)) + self.time(label))
        for norm, block in zip(self.norms, self.blocks, strict=True):
            h = h + block(F.relu(norm(h)))
        return self.head(F.relu(self.last_norm(h))).unflatten(-1, (self.rows, self.predicted))
