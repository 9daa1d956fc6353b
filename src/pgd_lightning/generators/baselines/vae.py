"""A conditional variational autoencoder of windows, given their first state: would a simpler model than diffusion do?

Kingma and Welling (arXiv 1312.6114) with the condition of Sohn et al. (2015) and a learned standard deviation for each
channel (sigma-VAE, arXiv 2006.13202), so that no weight between reconstruction and divergence has to be chosen.
"""

import math

import torch
from torch import Tensor

from pgd_lightning.generators.window_model import EncodedWindowModel
from pgd_lightning.networks.window_vae import WindowVAE
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Policy, Trajectory


class VAEModel(EncodedWindowModel):
    """Trains ``network`` on the evidence lower bound."""

    name = "vae"
    network: WindowVAE

    def loss(self, batch: Trajectory) -> Tensor:
        """- ELBO of ``[B, T]``, mean over windows, divided by their T D numbers; constants have no part."""
        x = self.codec.encode(batch)
        first = x[:, 0, : self.codec.obs_dim]
        mean, log_std = self.network.encode(x, first)
        z = mean + log_std.exp() * torch.randn_like(mean)
        std = self.network.std
        standard = (x - self.network.decode(z, first)) / std
        each = 0.5 * standard**2 + std.log() + 0.5 * math.log(2 * math.pi)
        misfit = (self.codec.varies * each).sum((-2, -1))
        divergence = normal_divergence(mean, log_std)
        return (misfit + divergence).mean() / x[0].numel()


def normal_divergence(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(mean, std^2) | N(0, 1)), summed over the last axis: ``[..., L] -> [...]``."""
    return 0.5 * (mean**2 + torch.exp(2 * log_std) - 1 - 2 * log_std).sum(-1)


class VAE:
    """Windows of a trained :class:`VAEModel`: the decoder's mean for latents from the standard normal.

    The decoder's noise is left out: it is independent from row to row, which no dynamics is.
    """

    def __init__(self, model: VAEModel) -> None:
        self.model = model

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, T]`` whose first state is that of ``starts [..., N, O]``.

        All actions are the behaviour's: the window is one draw, so that a policy has no place to act in.
        """
        model = self.model.to(starts.device)
        random = stream(seed, "vae", device=starts.device)
        z = torch.randn(*starts.shape[:-1], model.network.latent, generator=random, device=starts.device)
        windows = model.codec.decode(model.network.decode(z, model.codec.encode_obs(starts)))
        windows.obs[..., 0, :] = starts
        return windows
