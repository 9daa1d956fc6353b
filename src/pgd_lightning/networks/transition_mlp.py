"""The residual network of SynthER (arXiv 2303.06614) for noised transitions.

Layers start as torch starts them. 25,520,027 trained parameters for 27 channels at the published width of 2048.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RandomFourierTime(nn.Module):
    """The label itself with sines and cosines of it at frequencies N(0, 1) that are never trained, then two layers."""

    frequencies: Tensor

    def __init__(self, waves: int, features: int) -> None:
        super().__init__()
        self.register_buffer("frequencies", torch.randn(waves // 2))
        self.layers = nn.Sequential(nn.Linear(waves + 1, features), nn.SiLU(), nn.Linear(features, features))

    def inputs(self, label: Tensor) -> Tensor:
        """``[...] -> [..., waves + 1]``: the label, sines, cosines."""
        label = label.unsqueeze(-1)
        phase = 2 * math.pi * label * self.frequencies
        return torch.cat([label, phase.sin(), phase.cos()], dim=-1)

    def forward(self, label: Tensor) -> Tensor:
        return self.layers(self.inputs(label))


class TransitionMLP(nn.Module):
    """``(x [B, 1, D], label [B]) -> [B, 1, D]``: a transition is a window of one row.

    Projection plus time, up to ``width``, residual blocks x + Linear(ReLU(x)) without normalisation, ReLU, head.
    """

    def __init__(self, channels: int, width: int, num_blocks: int, features: int, waves: int) -> None:
        super().__init__()
        self.project = nn.Linear(channels, features)
        self.time = RandomFourierTime(waves, features)
        self.widen = nn.Linear(features, width)
        self.blocks = nn.ModuleList(nn.Linear(width, width) for _ in range(num_blocks))
        self.head = nn.Linear(width, channels)

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        x = self.widen(self.project(x) + self.time(label).unsqueeze(-2))
        for block in self.blocks:
            x = x + block(F.relu(x))
        return self.head(F.relu(x))
