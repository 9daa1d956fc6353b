"""The piecewise f-divergence of Diffusion-DICE (arXiv 2407.20109, equation 8): Pearson above 1, reverse KL below.

Its weights (f')^-1 are positive everywhere, so that their logarithm exists, and grow only linearly. All functions act
elementwise.
"""

import torch
from torch import Tensor


def divergence(x: Tensor) -> Tensor:
    """f(x) = (x - 1)^2 for x >= 1, x ln x - x + 1 for 0 <= x < 1."""
    return torch.where(x >= 1, (x - 1) ** 2, torch.xlogy(x, x) - x + 1)


def derivative(x: Tensor) -> Tensor:
    """f'(x) = 2 (x - 1), or ln x."""
    return torch.where(x >= 1, 2 * (x - 1), x.clamp(max=1.0).log())


def conjugate(y: Tensor) -> Tensor:
    """f*(y) = y^2 / 4 + y for y >= 0, e^y - 1 below."""
    # The exponential of the other branch must not overflow: its gradient, infinite times 0, would be NaN.
    return torch.where(y >= 0, y**2 / 4 + y, y.clamp(max=0.0).expm1())


def weight(y: Tensor) -> Tensor:
    """w(y) = (f')^-1(y) = y / 2 + 1 for y >= 0, e^y below: the derivative of :func:`conjugate`."""
    return torch.where(y >= 0, y / 2 + 1, y.clamp(max=0.0).exp())
