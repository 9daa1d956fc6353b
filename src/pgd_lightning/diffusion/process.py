"""What a formulation of diffusion decides, in one place: a column of Table 1 of Karras et al. 2022 (2206.00364)."""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor


class Process(Protocol):
    """What denoisers and samplers ask of a formulation; all tensors are shaped as ``sigma``."""

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``c_skip, c_out, c_in, c_noise`` of D(x) = c_skip x + c_out F(c_in x, c_noise)."""

    def weight(self, sigma: Tensor) -> Tensor:
        """Loss weight."""

    def sample_sigma(self, num: int, device: torch.device | str) -> Tensor:
        """Noise levels for training, ``[num]``."""

    def schedule(self, num_steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending noise levels ``[num_steps + 1]``."""

    def start_scale(self, sigma: Tensor) -> Tensor:
        """Standard standard deviation of the noise that sampling starts from at level ``sigma``."""


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
        return self.sigma_data**2 / total, sigma * self.sigma_data * total.rsqrt(), total.rsqrt(), sigma.log() / 4

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

    def start_scale(self, sigma: Tensor) -> Tensor:
        """sigma: the data's own standard deviation is left out (Karras et al., algorithm 1)."""
        return sigma


@dataclass(frozen=True)
class VP:
    """The variance-preserving SDE (Song et al. 2021, 2011.13456) with beta linear in time t in (0, 1].

    Its state is m(t) x_sigma: alpha-bar is m^2, sigma = sqrt(1 - m^2) / m, and x_sigma = x0 + sigma * noise as in
    :class:`EDM`. The network predicts the noise: its weighted loss is the plain squared error of that prediction.
    """

    beta_min: float
    beta_max: float
    time_min: float  # smallest time that is trained and sampled
    time_max: float  # where sampling starts; below 1 it saves the steps at which x still says next to nothing
    label: Literal["time", "log_sigma"]  # what the network is told: t, or ln(sigma) / 4 as in EDM
    noise_law: Literal["time", "log_sigma"]  # uniform in t over [time_min, 1], or in ln sigma over the same range
    spacing: Literal["time", "log_sigma"]  # of the schedule
    to_zero: bool  # whether the schedule ends in 0 (a last denoising) or in sigma(time_min)

    def log_mean(self, time: Tensor) -> Tensor:
        """ln m(t) = -(beta_max - beta_min) t^2 / 4 - beta_min t / 2."""
        return -(self.beta_max - self.beta_min) * time**2 / 4 - self.beta_min * time / 2

    def sigma(self, time: Tensor) -> Tensor:
        """Noise level at ``time``."""
        return torch.expm1(-2 * self.log_mean(time)).sqrt()

    def time(self, sigma: Tensor) -> Tensor:
        """The inverse of :meth:`sigma`."""
        slope = self.beta_max - self.beta_min
        return ((self.beta_min**2 + 2 * slope * torch.log1p(sigma**2)).sqrt() - self.beta_min) / slope

    def scalings(self, sigma: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``1, -sigma, m, label``: D = x - sigma F, F the predicted noise (Karras et al., table 1)."""
        label = self.time(sigma) if self.label == "time" else sigma.log() / 4
        return torch.ones_like(sigma), -sigma, (1 + sigma**2).rsqrt(), label

    def weight(self, sigma: Tensor) -> Tensor:
        """1 / sigma^2."""
        return 1 / sigma**2

    def sample_sigma(self, num: int, device: torch.device | str) -> Tensor:
        """Noise levels for training, ``[num]``."""
        uniform = torch.rand(num, device=device)
        if self.noise_law == "time":
            return self.sigma(self.time_min + (1 - self.time_min) * uniform)
        low, high = self._log_range(1.0)
        return (low + (high - low) * uniform).exp()

    def schedule(self, num_steps: int, device: torch.device | str = "cpu") -> Tensor:
        """Descending noise levels ``[num_steps + 1]`` from sigma(time_max)."""
        points = num_steps + (not self.to_zero)
        if self.spacing == "time":
            sigmas = self.sigma(torch.linspace(self.time_max, self.time_min, points, dtype=torch.float64))
        else:
            low, high = self._log_range(self.time_max)
            sigmas = torch.linspace(high, low, points, dtype=torch.float64).exp()
        if self.to_zero:
            sigmas = torch.cat([sigmas, sigmas.new_zeros(1)])
        return sigmas.to(device, torch.get_default_dtype())

    def start_scale(self, sigma: Tensor) -> Tensor:
        """sqrt(1 + sigma^2): the state m x starts as a standard normal."""
        return (1 + sigma**2).sqrt()

    def _log_range(self, time_max: float) -> tuple[float, float]:
        """ln sigma at ``time_min`` and ``time_max``."""
        low, high = (math.log(self.sigma(torch.tensor(t, dtype=torch.float64))) for t in (self.time_min, time_max))
        return low, high
