"""Which channels of a recording vary, and by how much: a constant one has no unit to standardise it by."""

import torch
from torch import Tensor

ROUNDING = 1e-6  # some steps of float32, relative


def varying(mean: Tensor, std: Tensor, smallest: Tensor | float = 1.0) -> Tensor:
    """``std [D]`` with 0 for each channel that is constant but for rounding.

    Rounding is relative to the size of a channel's values, |mean|, or ``smallest`` where they are smaller: values near
    0 may be differences of values of that size. 0 takes any spread around 0 as meant.
    """
    size = torch.maximum(mean.abs(), torch.as_tensor(smallest, dtype=mean.dtype, device=mean.device))
    return torch.where(std > ROUNDING * size, std, 0.0)


def mean_and_std(values: Tensor, smallest: Tensor | float = 1.0) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation ``[D]`` of ``values [N, D]``, the latter as :func:`varying` has it."""
    mean = values.mean(0)
    return mean, varying(mean, values.std(0, correction=0), smallest)


def divisor(std: Tensor) -> Tensor:
    """What standardising divides by: ``std``, or infinity for a constant channel, which is then always 0."""
    return torch.where(std > 0, std, torch.inf)


def in_own_units(std: Tensor) -> Tensor:
    """``std`` with 1 for a constant channel: errors and distances there count in the environment's units."""
    return torch.where(std > 0, std, 1.0)


def weights(varies: Tensor | float) -> Tensor:
    """Weights ``[D]`` with which a plain mean over channels is the mean over those that vary.

    ``varies [D]``: 1 for a channel that varies, 0 for a constant one.
    """
    varies = torch.as_tensor(varies)
    return varies / varies.mean().clamp(min=ROUNDING)
