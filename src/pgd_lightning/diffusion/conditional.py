"""A denoiser of windows in which the actions and the first state are given (PolyGRAD, arXiv 2312.08533).

Given entries carry no noise, are returned as they are, and so are moved by no sampler that draws its noise through
:meth:`WorldDenoiser.free`. In the noise coordinate sigma the published conditioning on actions, scaled by
sqrt(alphabar) and not noised, is nothing else than an action channel without noise: c_in is sqrt(alphabar).
"""

import torch
from einops import reduce
from torch import Tensor, nn

from pgd_lightning.channels import weights
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import Process


class WorldDenoiser(Denoiser):
    """D(x; sigma) = E[x0 | x] for windows whose channels are [obs, reward, terminated, action]."""

    def __init__(self, network: nn.Module, process: Process, obs_dim: int, action_dim: int) -> None:
        super().__init__(network, process)  # (c_in x [B, T, D], c_noise [B]) -> [B, T, D - A]
        self.obs_dim, self.action_dim = obs_dim, action_dim

    @property
    def predicted(self) -> int:
        """Channels that are denoised, D - A."""
        return self.obs_dim + 2

    def free(self, noise: Tensor) -> Tensor:
        """``noise [..., T, D]`` with zeros where nothing is diffused: in the actions and the first state."""
        kept = torch.zeros_like(noise)
        kept[..., : self.predicted] = noise[..., : self.predicted]
        kept[..., 0, : self.obs_dim] = 0
        return kept

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        windows, level = x.flatten(0, -3), sigma.expand(x.shape[:-2]).reshape(-1)
        c_skip, c_out, c_in, c_noise = (c.to(x.dtype) for c in self.process.scalings(level))
        seen = c_in[:, None, None] * windows
        seen[:, 0, : self.obs_dim] = windows[:, 0, : self.obs_dim]  # the first state is shown at full size
        output = self.network(seen, c_noise).to(x.dtype)
        denoised = windows.clone()
        free = c_skip[:, None, None] * windows[..., : self.predicted] + c_out[:, None, None] * output
        denoised[..., : self.predicted] = free
        denoised[:, 0, : self.obs_dim] = windows[:, 0, : self.obs_dim]
        return denoised.view_as(x)

    def losses(self, x0: Tensor, sigma: Tensor, noise: Tensor, varies: Tensor | float = 1.0) -> Tensor:
        """Weighted squared error ``[B]``, mean over rows and denoised channels; the first state counts as zeros.

        See :meth:`Denoiser.losses`; a constant action is 0 already.
        """
        denoised = self(x0 + sigma[:, None, None] * varies * self.free(noise), sigma)
        error = (denoised - x0)[..., : self.predicted] ** 2
        counted = varies[: self.predicted] if isinstance(varies, Tensor) else varies
        return self.process.weight(sigma) * reduce(weights(counted) * error, "b t d -> b", "mean")
