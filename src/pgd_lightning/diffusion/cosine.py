"""The discrete cosine process that predicts the clean sample (PolyGRAD, arXiv 2312.08533).

The schedule is that of Nichol and Dhariwal (2102.09672) with an exponent, tau, rescaled to run from 1 to 0. A state
of discrete diffusion is y_t = sqrt(alphabar_t) x_sigma with sigma_t^2 = (1 - alphabar_t) / alphabar_t, so that one of
its posterior steps is one step of ``samplers.euler_ancestral``.

Differences from the reference: tables in float64 (there float32, which loses digits of 1 - alphabar at small t);
sampling may take fewer steps than there are levels.
"""

import math
from dataclasses import dataclass
from functools import cache, cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cosine:
    """``num_levels`` noise levels, t = 0 the cleanest; see :class:`pgd_lightning.diffusion.process.EDM`."""

    num_levels: int  # N
    temperature: float  # tau: alphabar ~ cos(pi u / 2)^(2 tau)
    max_beta: float

    @cached_property
    def alphabar(self) -> Tensor:
        """Share of the signal's variance ``[N]``, descending."""
        u = torch.arange(self.num_levels + 1, dtype=torch.float64) / self.num_levels
        power = torch.cos(math.pi * u / 2).clamp(min=0) ** (2 * self.temperature)
        kept = (power[-1] - power) / (power[-1] - power[0])
        beta = (1 - kept[1:] / kept[:-1]).clamp(0, self.max_beta)
        return torch.cumprod(1 - beta, 0)

    @cached_property
    def sigmas(self) -> Tensor:
        """Noise levels ``[N]``, ascending in t."""
        return ((1 - self.alphabar) / self.alphabar).sqrt()

    def level(self, sigma: Tensor) -> Tensor:
        """The t whose noise level is nearest to ``sigma`` in ratio, as a number for the network."""
        _, edges = _tables(self, sigma.device, sigma.dtype)
        return torch.bucketize(sigma.contiguous(), edges).to(sigma.dtype)

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``0, 1, sqrt(alphabar), t``: the network sees y_t and says x0."""
        return torch.zeros_like(sigma), torch.ones_like(sigma), (1 + sigma**2).rsqrt(), self.level(sigma)

    def weight(self, sigma: Tensor) -> Tensor:
        """1: every level counts the same."""
        return torch.ones_like(sigma)

    def sample_sigma(self, num: int, device: torch.device | str) -> Tensor:
        """Noise levels for training ``[num]``, uniform in t."""
        table, _ = _tables(self, torch.device(device), torch.get_default_dtype())
        return table[torch.randint(self.num_levels, (num,), device=device)]

    def schedule(self, num_steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending noise levels ``[num_steps + 1]`` that end in 0: all of them, or evenly spaced ones."""
        levels = torch.linspace(self.num_levels - 1, 0, num_steps, dtype=torch.float64).round().long()
        sigmas = torch.cat([self.sigmas[levels], self.sigmas.new_zeros(1)])
        return sigmas.to(device, torch.get_default_dtype())

    def start_scale(self, sigma: Tensor) -> Tensor:
        """sqrt(1 + sigma^2): y starts as a standard normal."""
        return (1 + sigma**2).sqrt()


@cache
def _tables(process: Cosine, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Noise levels, and what separates them, ``[N], [N - 1]``: copied to a device once, not at every step."""
    edges = (process.sigmas[1:] * process.sigmas[:-1]).sqrt()
    return process.sigmas.to(device, dtype), edges.to(device, dtype)
