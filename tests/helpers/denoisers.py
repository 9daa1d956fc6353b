"""EDM's process of PGD, denoisers whose answer is known, and noise that is given."""

import torch

from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import Churn

EDM_1 = EDM(sigma_data=1.0, sigma_min=0.002, sigma_max=80.0, rho=7.0, p_mean=-1.2, p_std=1.2)


def churn(literal: bool) -> Churn:
    return Churn(amount=80, noise_scale=1.003, sigma_min=0.05, sigma_max=50, literal=literal)


def zero_network() -> Denoiser:
    return Denoiser(ZeroNetwork(), EDM_1)


class ZeroNetwork(torch.nn.Module):
    def forward(self, x, label):
        return torch.zeros_like(x)


def injected_start():
    row, channel = torch.arange(3.0)[:, None], torch.arange(5.0)
    return 80 * torch.sin(1 + row + 3 * channel)[None]


def injected_noise(sigmas):
    steps = iter([k for k, s in enumerate(sigmas[:-1]) if churn(True).gamma(s, len(sigmas) - 1) > 0])
    row, channel = torch.arange(3.0)[:, None], torch.arange(5.0)
    return lambda x: torch.cos(0.7 * next(steps) + row + 2 * channel)[None]
