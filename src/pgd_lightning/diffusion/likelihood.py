"""The density that a denoiser's probability-flow ODE gives to a sample."""

import math
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.func import vjp

from pgd_lightning.diffusion.denoiser import Denoise


def flow_log_prob(denoise: Denoise, x: Tensor, sigmas: Tensor, start_scale: Tensor) -> Tensor:
    """log p(x) ``[...]`` of ``x [..., D]`` at noise level ``sigmas[0]`` (Song et al. 2021, 2011.13456, equation 39).

    The ODE dx / d ln sigma = x - D(x; sigma) is followed up the ascending ``sigmas`` by midpoint steps; there x is
    normal with deviation ``start_scale``. The divergence is exact: one backward pass for each dim and step.
    """
    change = x.new_zeros(x.shape[:-1])
    for low, high in pairwise(sigmas):
        h, middle = (high / low).log(), (low * high).sqrt()
        halfway = x + h / 2 * (x - denoise(x, low))
        denoised, trace = _with_trace(denoise, halfway, middle)
        x = x + h * (halfway - denoised)
        change = change + h * (x.shape[-1] - trace)
    normal = -0.5 * (x / start_scale) ** 2 - start_scale.log() - 0.5 * math.log(2 * math.pi)
    return normal.sum(-1) + change


def _with_trace(denoise: Denoise, x: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """D(x; sigma) and the trace of its Jacobian ``[...]``."""
    evaluated: Any = vjp(lambda y: denoise(y, sigma), x)
    denoised, pull = evaluated
    units = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    return denoised, sum((pull(unit.expand_as(x))[0] * unit).sum(-1) for unit in units)  # type: ignore[return-value]
