"""What a formulation of diffusion decides, in one place: a column of Table 1 of Karras et al. 2022 (2206.00364)."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class EDM:
    """The formulation of Karras et al.; x_sigma = x0 + sigma * noise."""

    sigma_data: float  # standard deviation of the data; 1 for standardised windows
    sigma_min: float
    sigma_max: float
    rho: float  # curvature of the schedule
    p_mean: float  # ln sigma ~ N(p_mean, p_std^2) in training
    p_std: float

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``c_skip, c_out, c_in, c_noise`` of D(x) = c_skip x + c_out F(c_in x, c_noise), each shaped as sigma."""
        total = sigma**2 + self.sigma_data**2
        return (
            self.sigma_data**2 / total,
            sigma * self.sigma_data * total.rsqrt(),
            total.rsqrt(),
            sigma.log() / 4,
        )

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight (sigma^2 + sigma_data^2) / (sigma sigma_data)^2, which makes weight * c_out^2 = 1."""
        return (sigma**2 + self.sigma_data**2) / (sigma * self.sigma_data) ** 2

    def sample_sigma(self, num: int, device: torch.device | str) -> Tensor:
        """Noise levels for training, ``[num]``."""
        return (self.p_mean + self.p_std * torch.randn(num, device=device)).exp()

    def schedule(self, num_steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending noise levels ``[num_steps + 1]`` that end in 0 (Karras et al., equation 5)."""
        ramp = torch.arange(num_steps, dtype=torch.float64) / max(num_steps - 1, 1)
        low, high = self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)
        sigmas = (high + ramp * (low - high)) ** self.rho
        return torch.cat([sigmas, sigmas.new_zeros(1)]).to(device, torch.get_default_dtype())
