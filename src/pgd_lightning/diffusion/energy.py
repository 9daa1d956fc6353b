"""Energy guidance: a learned log-ratio tilts a diffusion model toward the samples that a weight prefers.

The score of p(x0) w(x0) at noise level sigma is that of p plus the gradient of g(x, sigma) = log E[w(x0) | x], so a
denoiser D becomes D + sigma^2 grad g. :func:`in_sample_loss` learns g from data alone (Diffusion-DICE, arXiv
2407.20109, theorem 1), :func:`contrastive_loss` from several samples of the model (QGPO, arXiv 2304.12824).
"""

import torch
from torch import Tensor, nn
from torch.func import grad

from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.diffusion.process import Process

MAX_EXPONENT = 80.0  # e^80 is still a float32


class Energy(nn.Module):
    """g(x; sigma, c): a network that sees x as the denoiser of the same process does."""

    def __init__(self, network: nn.Module, process: Process) -> None:
        super().__init__()
        self.network = network  # (x [..., D], c_noise [...], condition [..., C]) -> [...]
        self.process = process

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """``[..., D], [...], [..., C] -> [...]``."""
        _, _, c_in, c_noise = self.process.scalings(sigma)
        return self.network(c_in.unsqueeze(-1) * x, c_noise, condition)


def energy_guided(denoise: Denoise, energy: Denoise, scale: float) -> Denoise:
    """The denoiser of p w at ``scale`` 1: D + scale sigma^2 grad_x g, with ``energy(x, sigma)`` shaped as x's rows.

    At another scale the samples are not those of p w^scale, except for exponential tilts of Gaussians.
    """
    slope = grad(lambda x, sigma: energy(x, sigma).sum())
    return lambda x, sigma: denoise(x, sigma) + scale * sigma.unsqueeze(-1) ** 2 * slope(x, sigma)


def in_sample_loss(g: Tensor, weight: Tensor) -> Tensor:
    """mean of w e^-g + g, divided by its largest exponential: smallest at g = log E[w].

    ``g [...]`` at noised samples, ``weight`` of the clean ones broadcast to it. Beyond g = -80 the exponential keeps
    its value at -80 and its gradient -w e^80.
    """
    capped = (-g).clamp(max=MAX_EXPONENT).detach() - (g - g.detach())
    largest = capped.detach().amax().clamp(min=-1.0)
    return (weight * (capped - largest).exp() + (-largest).exp() * g).mean()


def contrastive_loss(g: Tensor, value: Tensor) -> Tensor:
    """- sum_k softmax_k(value) log softmax_k(g), mean over ``[..., K]``: K samples, one noise level."""
    return -(value.softmax(-1) * g.log_softmax(-1)).sum(-1).mean()


def excess(g: Tensor, exact: Tensor) -> Tensor:
    """How far ``g`` is from the smallest in-sample loss: mean of e^(g* - g) + g - 1 - g*, a Bregman divergence >= 0."""
    return (torch.expm1(exact - g) + g - exact).mean()
