"""The density that a denoiser's probability-flow ODE gives to a sample."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from pgd_lightning.diffusion.denoiser import Denoise


def flow_log_prob(denoise: Denoise, x: Tensor, sigmas: Tensor) -> Tensor:
    """log p(x) ``[...]`` of ``x [..., D]`` at noise level ``sigmas[0]`` (Song et al. 2021, 2011.13456, equation 39).

    The ODE is followed up the ascending ``sigmas`` by midpoint steps in ln sigma, for y = x / sqrt(1 + sigma^2), whose
    size hardly changes: dy / d ln sigma = (x / (1 + sigma^2) - D) / sqrt(1 + sigma^2). At the top y is a standard
    normal. The divergence is exact: one backward pass for each dim and step.
    """
    y, change = x * (1 + sigmas[0] ** 2).rsqrt(), x.new_zeros(x.shape[:-1])
    for low, high in pairwise(sigmas):
        h, middle = (high / low).log(), (low * high).sqrt()
        (m, m_middle) = ((1 + sigma**2).rsqrt() for sigma in (low, middle))
        halfway = y + h / 2 * m * (m * y - denoise(y / m, low))
        denoised, trace = _with_trace(denoise, halfway / m_middle, middle)
        y = y + h * m_middle * (m_middle * halfway - denoised)
        change = change + h * (x.shape[-1] * m_middle**2 - trace)
    normal = -0.5 * y**2 - 0.5 * math.log(2 * math.pi) - 0.5 * torch.log1p(sigmas[0] ** 2)
    return normal.sum(-1) + change


def _with_trace(denoise: Denoise, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """D(x; sigma) and the trace of its Jacobian ``[...]``."""
    evaluated: Any = vjp(lambda y: denoise(y, sigma), x)
    denoised, pull = evaluated
    units = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return denoised, sum((pull(unit.expand_as(x))[0] * unit).sum(-1) for unit in units)  # type: ignore[return-value]
