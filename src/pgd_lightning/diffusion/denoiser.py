"""A network and a process make a denoiser: an estimate of the clean window or vector at any noise level."""

from collections.abc import Callable

import torch
from einops import reduce
from torch import Tensor, nn

from pgd_lightning.channels import weights
from pgd_lightning.diffusion.process import Process

Denoise = Callable[[Tensor, Tensor], Tensor]  # (x, sigma []) -> denoised, shaped as x


class Denoiser(nn.Module):
    """D(x; sigma) = E[x0 | x] with the preconditioning of Karras et al. (equation 7)."""

    def __init__(self, network: nn.Module, process: Process) -> None:
        super().__init__()
        self.network = network  # (x [B, T, D], c_noise [B]) -> [B, T, D]
        self.process = process

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        """Denoise ``x [..., T, D]`` at ``sigma``, one number for all windows or ``[...]`` one for each."""
        windows = x.flatten(0, -3)
        level = sigma.expand(x.shape[:-2]).reshape(-1)
        c_skip, c_out, c_in, c_noise = (c.to(x.dtype) for c in self.process.scalings(level))
        output = self.network(c_in[:, None, None] * windows, c_noise).to(x.dtype)
        return torch.addcmul(c_skip[:, None, None] * windows, c_out[:, None, None], output).view_as(x)

    def losses(self, x0: Tensor, sigma: Tensor, noise: Tensor, varies: Tensor | float = 1.0) -> Tensor:
        """Weighted squared error ``[B]`` of ``x0 [B, T, D]`` noised by ``sigma [B]`` and ``noise [B, T, D]``.

        Every channel of every row counts the same (PGD, section 3; Karras et al., equation 2) where ``varies [D]`` is
        1; where it is 0, x0 is 0, and a channel gets no noise and does not count.
        """
        denoised = self(x0 + sigma[:, None, None] * varies * noise, sigma)
        return self.process.weight(sigma) * reduce(weights(varies) * (denoised - x0) ** 2, "b t d -> b", "mean")

    def loss(self, x0: Tensor, part: int = 0, parts: int = 1, varies: Tensor | float = 1.0) -> Tensor:
        """The training loss: one noise level a window, mean over the batch ``[B, T, D]``.

        Of a batch in ``parts``, x0 is every ``parts``-th window from ``part`` on; noise is drawn for all of them, so
        the mean over the parts is the loss of the whole.
        """
        num = len(x0) * parts
        sigma = self.process.sample_sigma(num, x0.device)[part::parts]
        noise = torch.randn(num, *x0.shape[1:], device=x0.device)[part::parts]
        return self.losses(x0, sigma, noise, varies).mean()


class ConditionalDenoiser(nn.Module):
    """D(x; sigma, c) = E[x0 | x, c] for vectors x, given a condition.

    The leading axes of x, sigma and the condition broadcast, so that many x of one condition share what the network
    computes from the condition alone.
    """

    def __init__(self, network: nn.Module, process: Process) -> None:
        super().__init__()
        self.network = network  # (x [..., D], c_noise [...], condition [..., C]) -> [..., D]
        self.process = process

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        """Denoise ``x [..., D]`` at ``sigma [...]``, given ``condition [..., C]``."""
        c_skip, c_out, c_in, c_noise = self.process.scalings(sigma)
        output = self.network(c_in.unsqueeze(-1) * x, c_noise, condition)
        return c_skip.unsqueeze(-1) * x + c_out.unsqueeze(-1) * output

    def losses(self, x0: Tensor, condition: Tensor, sigma: Tensor, noise: Tensor) -> Tensor:
        """Weighted squared error ``[B]``, summed over the dims of ``x0 [B, D]``, at ``sigma [B]``."""
        denoised = self(x0 + sigma.unsqueeze(-1) * noise, sigma, condition)
        return self.process.weight(sigma) * ((denoised - x0) ** 2).sum(-1)

    def loss(self, x0: Tensor, condition: Tensor) -> Tensor:
        """The training loss: one noise level a row, mean over the batch ``[B, D]``."""
        sigma = self.process.sample_sigma(len(x0), x0.device)
        return self.losses(x0, condition, sigma, torch.randn_like(x0)).mean()
