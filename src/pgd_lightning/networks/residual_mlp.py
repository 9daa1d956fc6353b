"""Networks of Diffusion-DICE (arXiv 2407.20109) for noised vectors: a residual U-Net and a scalar energy.

Both take ``(x [..., D], label [...], condition [..., C])`` with broadcasting leading axes; what depends on label and
condition alone is computed on their own axes. Layers start as torch starts them: uniform in +- 1 / sqrt(fan in).

Difference from the reference: the head predicts the noise, where the published one predicts its negative.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FREQUENCIES = 16


class FourierTime(nn.Module):
    """Sines and cosines of the label at 16 fixed frequencies ``scale * N(0, 1)``, then one layer (published)."""

    frequencies: Tensor

    def __init__(self, features: int, scale: float) -> None:
        super().__init__()
        self.register_buffer("frequencies", scale * torch.randn(FREQUENCIES))
        self.layer = nn.Linear(2 * FREQUENCIES, features)

    def waves(self, label: Tensor) -> Tensor:
        """``[...] -> [..., 32]``."""
        phase = 2 * math.pi * label.unsqueeze(-1) * self.frequencies
        return torch.cat([phase.sin(), phase.cos()], dim=-1)

    def forward(self, label: Tensor) -> Tensor:
        return self.layer(self.waves(label))


class SmoothTime(nn.Module):
    """For the label ln(sigma) / 4: itself, and signal and noise of a sample scaled to unit length."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(3, features)

    def forward(self, label: Tensor) -> Tensor:
        shares = [torch.sigmoid(-8 * label).sqrt(), torch.sigmoid(8 * label).sqrt()]
        return self.layer(torch.stack([label, *shares], dim=-1))


def time_features(kind: str, features: int) -> nn.Module:
    """``fourier30`` (published) or ``smooth``."""
    kinds = {"fourier30": lambda: FourierTime(features, 30.0), "smooth": lambda: SmoothTime(features)}
    return kinds[kind]()


def joined(a: Tensor, b: Tensor) -> Tensor:
    """Concatenation along the last axis; the leading ones broadcast."""
    lead = torch.broadcast_shapes(a.shape[:-1], b.shape[:-1])
    return torch.cat([a.expand(*lead, -1), b.expand(*lead, -1)], dim=-1)


class Residual(nn.Module):
    """x -> h + skip(x) with h two layers and the embedding added after the first."""

    def __init__(self, inputs: int, outputs: int, embedding: int) -> None:
        super().__init__()
        self.layer_a = nn.Linear(inputs, outputs)
        self.embed = nn.Linear(embedding, outputs)
        self.layer_b = nn.Linear(outputs, outputs)
        self.skip = nn.Identity() if inputs == outputs else nn.Linear(inputs, outputs)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """``[..., inputs], [..., embedding] -> [..., outputs]``; ``embedding`` is already activated."""
        h = F.silu(self.layer_a(x)) + self.embed(embedding)
        return F.silu(self.layer_b(h)) + self.skip(x)


class VectorUNet(nn.Module):
    """Three residual blocks down, one across, two up, over ``width``, half and a quarter of it."""

    def __init__(self, dim: int, condition_dim: int, width: int, features: int, time: str) -> None:
        super().__init__()
        half, quarter, embedding = width // 2, width // 4, 4 * features
        self.time = time_features(time, features)
        self.condition = nn.Linear(condition_dim, features)
        self.joint = nn.Sequential(nn.Linear(2 * features, embedding), nn.SiLU(), nn.Linear(embedding, embedding))
        self.down = nn.ModuleList(Residual(a, b, embedding) for a, b in pairwise([dim, width, half, quarter]))
        self.across = Residual(quarter, quarter, embedding)
        self.up = nn.ModuleList(Residual(size, size, embedding) for size in (half, width))
        self.head = nn.Linear(2 * width, dim)

    def embedding(self, label: Tensor, condition: Tensor) -> Tensor:
        """What the blocks know of label and condition, ``[..., 4 * features]``."""
        state = F.silu(self.condition(condition))
        return F.silu(self.joint(joined(state, self.time(label))))

    def forward(self, x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        embedding = self.embedding(label, condition)
        skips = []
        for block in self.down:
            x = block(x, embedding)
            skips.append(x)
        x = self.across(x, embedding)
        for block in self.up:
            x = block(torch.cat([skips.pop(), x], dim=-1), embedding)
        return self.head(torch.cat([skips.pop(), x], dim=-1))


class EnergyMLP(nn.Module):
    """SiLU layers from [x, time, condition] to a scalar ``[...]``.

    ``start``: ``torch``'s own initial weights (published) let the signal fade from layer to layer, and learning begins
    with a plateau of thousands of updates; ``he``'s (1502.01852) keep it.
    """

    def __init__(
        self, dim: int, condition_dim: int, hidden: Sequence[int], features: int, time: str, start: str
    ) -> None:
        super().__init__()
        self.time = time_features(time, features)
        # One layer of [x, time, condition] in two parts: the second is computed once for all x of a condition.
        self.first = nn.Linear(dim, hidden[0], bias=False)
        self.context = nn.Linear(features + condition_dim, hidden[0])
        bound = (dim + features + condition_dim) ** -0.5
        for parameter in (self.first.weight, self.context.weight, self.context.bias):
            nn.init.uniform_(parameter, -bound, bound)
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(hidden))
        self.head = nn.Linear(hidden[-1], 1)
        if start == "he":
            std = math.sqrt(6) * bound  # sqrt(2 / fan in) of the whole first layer: torch's bound is 1 / sqrt(fan in)
            for weight in (self.first.weight, self.context.weight):
                nn.init.uniform_(weight, -std, std)
            for layer in self.body:
                nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")  # type: ignore[arg-type]

    def forward(self, x: Tensor, label: Tensor, condition: Tensor) -> Tensor:
        h = F.silu(self.first(x) + self.context(joined(self.time(label), condition)))
        for layer in self.body:
            h = F.silu(layer(h))
        return self.head(h).squeeze(-1)
