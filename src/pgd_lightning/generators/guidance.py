"""Policy guidance: how a policy moves the actions of a window while the window is denoised.

Three published forms, each a function:

* :func:`pgd_guide`, Policy-Guided Diffusion (arXiv 2404.06356) as its authors run it: before each denoising step the
  noisy actions move along the policy's score. The weights sum to 177 over 256 steps and to 11 over 16, so the strength
  depends on the number of steps.
* :func:`score_guided` adds the policy's score to the model's, inside the denoiser. Its strength does not depend on the
  schedule, and it is exact for standard normal data and a Gaussian policy.
* :func:`on_policy_correction`, PolyGRAD (arXiv 2312.08533): after each denoising step the actions move along the score
  in environment units, at the denoised states. Its strength is tuned until actions are as spread as the policy says
  (:mod:`.matching`).

States follow the actions through the denoiser. :class:`Literal`, :class:`Score` and :class:`OnPolicy` hold the settings
of ``conf/guidance``.

Difference from the reference: PGD's norm is guarded, g / (|g| + 1e-8). There the 1e-8 stands outside the division,
and saturated actions give NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.diffusion.samplers import Correct, Guide, Step
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.trajectory import Policy


class Guided(NamedTuple):
    """Where a policy enters a sampler."""

    denoise: Denoise
    before: Guide | None = None  # of each step
    after: Correct | None = None  # which only an ancestral sampler has a place for


Guidance = Callable[[Denoise, Policy, TrajectoryCodec], Guided]


def policy_score(x: Tensor, policy: Policy, codec: TrajectoryCodec, noise_variance: Tensor | float = 0.0) -> Tensor:
    """Gradient ``[..., T, A]`` of sum log pi(a | s) in the standardised, pre-tanh actions of ``x [..., T, D]``.

    g = score(s, a) (1 - a^2) std_action with s and the policy held fixed and no tanh log-determinant (PGD).
    ``noise_variance`` is the variance of x around its clean value: the policy then counts as blurred by
    it, linearised through the tanh.
    """
    action = codec.decode_action(x)
    slope = (1 - action**2) * codec.std[codec.action_channels]
    return slope * policy.score(codec.decode_obs(x), action, slope**2 * noise_variance)


def pgd_guide(
    policy: Policy,
    codec: TrajectoryCodec,
    coef: float | Tensor,  # lambda; a tensor [S] has one for each seed
    cosine: float,  # height of the sine bump on the linear decay
    denoised: bool,  # evaluate g at D(x; sigma) instead of at x
    normalise: bool,  # scale g to unit Frobenius norm over the window's T x A actions
) -> Guide:
    """x[action] <- x[action] + lambda_i g before step i (PGD, section 4 and appendix)."""

    def guide(x: Tensor, step: int, sigmas: Tensor, denoise: Denoise) -> Tensor:
        weight = guidance_weight(step, len(sigmas) - 1, coef, cosine)
        if not isinstance(weight, Tensor) and weight == 0:
            return x
        gradient = policy_score(denoise(x, sigmas[step]) if denoised else x, policy, codec)
        if normalise:
            gradient = gradient / (torch.linalg.matrix_norm(gradient, keepdim=True) + 1e-8)
        return add_to_actions(x, along(weight, x) * gradient, codec)

    return guide


def guidance_weight(step: int, num_steps: int, coef: Any, cosine: float) -> Any:
    """lambda_i = coef [(1 - i/N) + cosine sin(pi (i+1)/N)], and 0 at the last step."""
    if step >= num_steps - 1:
        return 0.0
    return coef * ((1 - step / num_steps) + cosine * math.sin(math.pi * (step + 1) / num_steps))


def score_guided(denoise: Denoise, policy: Policy, codec: TrajectoryCodec, coef: float | Tensor) -> Denoise:
    """The denoiser of p(x) prod pi(a | s)^coef: D + coef sigma^2 times the score of the blurred policy.

    Given x, the clean window lies around D with variance r^2 = sigma^2 / (1 + sigma^2) and D moves with x at the rate
    1 / (1 + sigma^2), both exact for standard normal data, so sigma^2 grad_x log pi = r^2 g(D; v r^2), v = r^2.
    """

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        variance = sigma**2 / (1 + sigma**2)
        strength = along(coef, denoised) * variance
        return add_to_actions(denoised, strength * policy_score(denoised, policy, codec, variance), codec)

    return guided


def on_policy_correction(
    policy: Policy,
    codec: TrajectoryCodec,
    coef: float | Tensor,  # delta
    clip: float | None,  # keep actions within this many standard deviations of the policy's mean
    noise: float,  # times the standard deviation of DDPM's posterior
) -> Correct:
    """a <- a + delta score(s, a) + noise in environment units, s the denoised states (PolyGRAD, algorithm 1).

    The last step only clips.
    """

    def correct(step: Step) -> Tensor:
        states = codec.decode_obs(step.denoised)
        x = clipped(step.mean, states, policy, codec, clip)
        return x if step.last else with_noise(climbed(x, states, policy, codec, coef), step, codec, noise)

    return correct


def climbed(x: Tensor, states: Tensor, policy: Policy, codec: TrajectoryCodec, coef: float | Tensor) -> Tensor:
    """``x [..., T, D]`` after a step of its actions along the policy's score at ``states``, in environment units."""
    action = codec.decode_action(x)
    return with_actions(x, codec.encode_action(action + along(coef, x) * policy.score(states, action)), codec)


def clipped(x: Tensor, states: Tensor, policy: Policy, codec: TrajectoryCodec, clip: float | None) -> Tensor:
    """``x [..., T, D]`` with its actions within ``clip`` standard deviations of the policy's mean at ``states``."""
    if clip is None:
        return x
    mean, std = policy.normal(states)
    action = torch.clamp(codec.decode_action(x), mean - clip * std, mean + clip * std)
    return with_actions(x, codec.encode_action(action), codec)


def with_noise(x: Tensor, step: Step, codec: TrajectoryCodec, scale: float) -> Tensor:
    """``x [..., T, D]`` with ``scale`` times the noise of DDPM's posterior added to its actions."""
    return add_to_actions(x, scale * step.posterior_std * step.noise(x[..., codec.action_channels]), codec)


def along(weight: float | Tensor, x: Tensor) -> float | Tensor:
    """A weight for each seed ``[S]`` with the axes of ``x [S, ...]``; a number as it is."""
    return weight.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(weight, Tensor) else weight


def add_to_actions(x: Tensor, step: Tensor, codec: TrajectoryCodec) -> Tensor:
    """``x [..., T, D]`` with ``step [..., T, A]`` added to its action channels."""
    moved = x.clone()
    moved[..., codec.action_channels] += step
    return moved


def with_actions(x: Tensor, action: Tensor, codec: TrajectoryCodec) -> Tensor:
    """``x [..., T, D]`` with its action channels replaced by ``action [..., T, A]``, standardised."""
    replaced = x.clone()
    replaced[..., codec.action_channels] = action
    return replaced


@dataclass(frozen=True)
class Literal:
    """Settings of :func:`pgd_guide` (``conf/guidance/literal.yaml``)."""

    coef: float | Tensor
    cosine: float
    denoised: bool
    normalise: bool

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> Guided:
        guide = pgd_guide(policy, codec, self.coef, self.cosine, self.denoised, self.normalise)
        return Guided(denoise, before=guide)


@dataclass(frozen=True)
class Score:
    """Settings of :func:`score_guided` (``conf/guidance/score.yaml``)."""

    coef: float | Tensor

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> Guided:
        return Guided(score_guided(denoise, policy, codec, self.coef))


@dataclass(frozen=True)
class OnPolicy:
    """Settings of :func:`on_policy_correction` (``conf/guidance/on_policy.yaml``)."""

    coef: float | Tensor
    clip: float | None
    noise: float

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> Guided:
        return Guided(denoise, after=on_policy_correction(policy, codec, self.coef, self.clip, self.noise))
