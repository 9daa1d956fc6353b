"""Policy guidance: how the score of a policy moves the actions of a window while it is denoised.

Both forms pull x toward actions that the policy makes likely at the window's own states, and never move a state:
states follow through the denoiser.

* :class:`LiteralGuide` is Policy-Guided Diffusion (arXiv 2404.06356) as its authors run it: a plain addition to the
  noisy action before each step. Its strength grows with the number of steps (the weights sum to 177 at 256 steps, 11
  at 16).
* :func:`score_guided` adds the policy's score to the model's score inside the denoiser, so that the strength does not
  depend on the schedule. It is exact for standard normal data and a Gaussian policy.

Differences from the reference: the norm is guarded (g / (|g| + 1e-8)); there the 1e-8 stands outside the division and
saturated actions give NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.trajectory import Policy


def policy_gradient(x: Tensor, policy: Policy, codec: TrajectoryCodec, spread: Tensor | float = 0.0) -> Tensor:
    """Gradient ``[..., T, A]`` of sum log pi(a | s) in the standardised, pre-tanh actions of ``x [..., T, D]``.

    g = score(s, a) (1 - a^2) std_action with s and the policy held fixed and no tanh log-determinant (PGD, section
    5.4 of the notes). ``spread`` is the variance of x around its clean value: the policy then counts as blurred by
    it, linearised through the tanh.
    """
    action = codec.decode_action(x)
    slope = (1 - action**2) * codec.std[codec.action_channels]
    return slope * policy.score(codec.decode_obs(x), action, slope**2 * spread)


def guidance_weight(step: int, num_steps: int, coef: float, cosine: float) -> float:
    """lambda_i = coef [(1 - i/N) + cosine sin(pi (i+1)/N)], and 0 at the last step."""
    if step >= num_steps - 1:
        return 0.0
    return coef * ((1 - step / num_steps) + cosine * math.sin(math.pi * (step + 1) / num_steps))


@dataclass(frozen=True)
class LiteralGuide:
    """A sampler's guide: x[action] <- x[action] + lambda_i g, before churn and before denoising."""

    policy: Policy
    codec: TrajectoryCodec
    coef: float  # lambda
    cosine: float  # height of the sine bump on the linear decay
    denoised: bool  # evaluate g at D(x; sigma) instead of at x
    normalise: bool  # scale g to unit Frobenius norm over the window's T x A actions

    def __call__(self, x: Tensor, step: int, sigmas: Tensor, denoise: Denoise) -> Tensor:
        weight = guidance_weight(step, len(sigmas) - 1, self.coef, self.cosine)
        if weight == 0:
            return x
        gradient = policy_gradient(denoise(x, sigmas[step]) if self.denoised else x, self.policy, self.codec)
        if self.normalise:
            gradient = gradient / (torch.linalg.matrix_norm(gradient, keepdim=True) + 1e-8)
        return add_to_actions(x, weight * gradient, self.codec)


def score_guided(denoise: Denoise, policy: Policy, codec: TrajectoryCodec, coef: float) -> Denoise:
    """The denoiser of p(x) prod pi(a | s)^coef: D + coef sigma^2 times the score of the blurred policy.

    Given x, the clean window lies around D with variance r^2 = sigma^2 / (1 + sigma^2) and D moves with x at the rate
    1 / (1 + sigma^2), both exact for standard normal data, so sigma^2 grad_x log pi = r^2 g(D; spread r^2).
    """

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        spread = sigma**2 / (1 + sigma**2)
        return add_to_actions(denoised, coef * spread * policy_gradient(denoised, policy, codec, spread), codec)

    return guided


def add_to_actions(x: Tensor, step: Tensor, codec: TrajectoryCodec) -> Tensor:
    """``x [..., T, D]`` with ``step [..., T, A]`` added to its action channels."""
    moved = x.clone()
    moved[..., codec.action_channels] += step
    return moved


Guidance = Callable[[Denoise, Policy, TrajectoryCodec], tuple[Denoise, LiteralGuide | None]]


@dataclass(frozen=True)
class Literal:
    """Settings of :class:`LiteralGuide` (``conf/guidance/literal.yaml``)."""

    coef: float
    cosine: float
    denoised: bool
    normalise: bool

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> tuple[Denoise, LiteralGuide | None]:
        return denoise, LiteralGuide(policy, codec, self.coef, self.cosine, self.denoised, self.normalise)


@dataclass(frozen=True)
class Score:
    """Settings of :func:`score_guided` (``conf/guidance/score.yaml``)."""

    coef: float

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> tuple[Denoise, LiteralGuide | None]:
        return score_guided(denoise, policy, codec, self.coef), None
