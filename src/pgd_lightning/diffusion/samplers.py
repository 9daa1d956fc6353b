"""From noise to data: plain functions of ``(denoise, x, sigmas)``.

``sigmas`` descends, to 0 in most processes. It stays on the CPU, where it is read without waiting for a GPU.
``x`` starts as ``process.start_scale(sigmas[0])`` times standard normal noise. A ``guide`` may move x before each step;
``noise`` draws a standard normal tensor like its argument. Samplers know of neither policy nor network.

Differences from the reference (Policy-Guided Diffusion): its Heun predictor starts from the un-churned sample, which
over-disperses (3 % at 256 steps, 34 % at 32); ``Churn.literal`` keeps that, otherwise the predictor starts from the
churned one as in Karras et al. The denoiser is not evaluated at sigma 0.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoise

Guide = Callable[[Tensor, int, Tensor, Denoise], Tensor]  # (x, step, sigmas, denoise) -> x
Noise = Callable[[Tensor], Tensor]
Sampler = Callable[..., Tensor]


@dataclass(frozen=True)
class Step:
    """One step of :func:`euler_ancestral` before its noise, as a correction sees it."""

    number: int
    sigma: Tensor  # that it steps from, above the schedule's where churn added noise
    sigma_next: Tensor
    x: Tensor  # where it began
    denoised: Tensor
    mean: Tensor  # where it leads
    noise: Noise
    levels: Sequence[float]  # the schedule as numbers

    @property
    def last(self) -> bool:
        """Whether it ends the schedule."""
        return self.number == len(self.levels) - 2

    @property
    def posterior_std(self) -> Tensor:
        """Deviation of the noise to come, of a state scaled to unit variance (DDPM's posterior)."""
        return ancestral(self.sigma, self.sigma_next)[1] * (1 + self.sigma_next**2).rsqrt()


Correct = Callable[[Step], Tensor]  # what takes the place of ``mean``


def normal_noise(generator: torch.Generator | None = None) -> Noise:
    """Standard normal noise like its argument, from ``generator``."""
    return lambda x: torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


@dataclass(frozen=True)
class Churn:
    """Noise added back before a step (Karras et al., algorithm 2)."""

    amount: float  # S_churn
    noise_scale: float  # S_noise
    sigma_min: float  # S_tmin
    sigma_max: float  # S_tmax
    literal: bool  # predictor from the un-churned sample, as PGD's code has it

    def gamma(self, level: float, num_steps: int) -> float:
        """Relative increase of the noise ``level`` at this step; 0 outside [sigma_min, sigma_max]."""
        active = self.sigma_min <= level <= self.sigma_max
        return min(self.amount / num_steps, 2**0.5 - 1) if active else 0.0


def placed(sigmas: Tensor, x: Tensor) -> tuple[Tensor, list[float]]:
    """``sigmas`` where ``x`` is, and as numbers, which decide what a step does."""
    return sigmas.to(x.device, non_blocking=True), sigmas.tolist()


def churned(
    x: Tensor, sigma: Tensor, level: float, churn: Churn | None, num_steps: int, noise: Noise
) -> tuple[Tensor, Tensor]:
    """``(x, sigma)`` with noise added back, unchanged where churn is off; ``level`` is sigma as a number."""
    gamma = churn.gamma(level, num_steps) if churn else 0.0
    if churn is None or gamma == 0:
        return x, sigma
    sigma_hat = sigma * (1 + gamma)
    return x + (sigma_hat**2 - sigma**2).sqrt() * churn.noise_scale * noise(x), sigma_hat


def euler(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    guide: Guide | None = None,
    churn: Churn | None = None,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """First-order steps along the probability-flow ODE: one evaluation a step."""
    sigmas, levels = placed(sigmas, x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = guide(x, step, sigmas, denoise) if guide else x
        x_hat, sigma_hat = churned(x, sigma, levels[step], churn, len(sigmas) - 1, noise)
        slope = (x_hat - denoise(x_hat, sigma_hat)) / sigma_hat
        x = (x if churn and churn.literal else x_hat) + (sigma_next - sigma_hat) * slope
    return x


def heun(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    guide: Guide | None = None,
    churn: Churn | None = None,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """Second-order steps (Karras et al., algorithm 2): two evaluations a step, one at the last."""
    sigmas, levels = placed(sigmas, x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = guide(x, step, sigmas, denoise) if guide else x
        x_hat, sigma_hat = churned(x, sigma, levels[step], churn, len(sigmas) - 1, noise)
        slope = (x_hat - denoise(x_hat, sigma_hat)) / sigma_hat
        predicted = (x if churn and churn.literal else x_hat) + (sigma_next - sigma_hat) * slope
        if levels[step + 1] == 0:
            return predicted
        slope_next = (predicted - denoise(predicted, sigma_next)) / sigma_next
        x = x_hat + (sigma_next - sigma_hat) * (slope + slope_next) / 2
    return x


def ancestral(sigma: Tensor, sigma_next: Tensor) -> tuple[Tensor, Tensor]:
    """``(down, up)``: the level to step down to, and the noise that leads from there up to ``sigma_next``."""
    return sigma_next**2 / sigma, sigma_next * (1 - (sigma_next / sigma) ** 2).sqrt()


def stepped(x: Tensor, denoised: Tensor, sigma: Tensor, sigma_to: Tensor) -> Tensor:
    """``x`` moved from ``sigma`` to ``sigma_to`` on the straight line through ``denoised``."""
    return x + (sigma_to - sigma) / sigma * (x - denoised)


def euler_ancestral(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    guide: Guide | None = None,
    churn: Churn | None = None,
    noise: Noise = torch.randn_like,
    correct: Correct | None = None,
) -> Tensor:
    """Steps down to less noise than asked for, then noise up to it: one step is the DDPM posterior in sigma.

    ``correct`` may replace where a step leads, knowing what was denoised, before its noise is added.
    """
    sigmas, levels = placed(sigmas, x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = guide(x, step, sigmas, denoise) if guide else x
        x, sigma = churned(x, sigma, levels[step], churn, len(sigmas) - 1, noise)
        sigma_down, sigma_up = ancestral(sigma, sigma_next)
        denoised = denoise(x, sigma)
        mean = stepped(x, denoised, sigma, sigma_down)
        mean = correct(Step(step, sigma, sigma_next, x, denoised, mean, noise, levels)) if correct else mean
        x = mean + sigma_up * noise(mean) if levels[step + 1] > 0 else mean
    return x


def dpmpp_2m(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    guide: Guide | None = None,
    churn: Churn | None = None,
    noise: Noise = torch.randn_like,
    stochastic: bool = False,
) -> Tensor:
    """DPM-Solver++(2M) of Lu et al. 2022 (2211.01095) in sigma: second order from one evaluation a step.

    The first step and the last are of first order, as in the paper for few steps. With churn the history is that of
    the churned points. ``stochastic``: their SDE-DPM-Solver++(2M), which is :func:`euler_ancestral` in second order:
    steps of first order hold the denoised x still, which loses variance.
    """
    previous: tuple[Tensor, Tensor] | None = None  # (denoised, h) of the step before
    sigmas, levels = placed(sigmas, x)
    for step, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        x = guide(x, step, sigmas, denoise) if guide else x
        x, sigma = churned(x, sigma, levels[step], churn, len(sigmas) - 1, noise)
        denoised = denoise(x, sigma)
        if levels[step + 1] == 0:
            return denoised
        h = (sigma / sigma_next).log()
        estimate = denoised
        if previous is not None:
            ratio = previous[1] / h
            estimate = denoised + (denoised - previous[0]) / (2 * ratio)
        if stochastic:
            sigma_down, sigma_up = ancestral(sigma, sigma_next)
            x = stepped(x, estimate, sigma, sigma_down) + sigma_up * noise(x)
        else:
            x = sigma_next / sigma * x - torch.expm1(-h) * estimate
        previous = denoised, h
    return x


def dpmpp_2s(
    denoise: Denoise,
    x: Tensor,
    sigmas: Tensor,
    guide: Guide | None = None,
    churn: Churn | None = None,
    noise: Noise = torch.randn_like,
) -> Tensor:
    """DPM-Solver++(2S) of Lu et al. 2022 (2211.01095) in sigma: one evaluation for each interval of the schedule.

    Each second-order step spans two intervals and takes the level between them as its midpoint; of an odd number the
    last is one of first order. A guide moves x, and churn adds noise, before each step.
    """
    sigmas, levels = placed(sigmas, x)
    for start in range(0, len(levels) - 1, 2):
        a, *middle, b = sigmas[start : start + 3]
        x = guide(x, start, sigmas, denoise) if guide else x
        x, a = churned(x, a, levels[start], churn, len(levels) - 1, noise)
        estimate = denoise(x, a)
        for c in middle:
            at_c = denoise(estimate + c / a * (x - estimate), c)
            # At the end of a schedule that ends in 0 the log-distance is infinite, and D at the midpoint the answer.
            share = 0.5 * (a / b).log() / (a / c).log() if levels[start + len(middle) + 1] > 0 else 1.0
            estimate = estimate + share * (at_c - estimate)
        x = estimate + b / a * (x - estimate)
    return x
