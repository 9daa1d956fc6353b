"""Policy guidance: how the score of a policy moves the actions of a window while it is denoised.

:class:`ActionGuide` is one thing: the actions of x take a step along the policy's score. When, how far, at which point
the policy is asked, in which units the step is taken and what bounds it are a :class:`Rule`, and the published forms
are choices of it:

* :class:`Literal` is Policy-Guided Diffusion (arXiv 2404.06356) as its authors run it: a plain addition to the noisy
  action before each step. Its strength grows with the number of steps (the weights sum to 177 at 256 steps, 11 at 16).
* ``conf/guidance/on_policy.yaml`` is PolyGRAD (arXiv 2312.08533): a step of constant size in environment units after
  each denoising, at the current action and the denoised states, kept within 3 standard deviations of the policy, and
  noise after it. Its strength is tuned until actions are as spread as the policy says (:mod:`.matching`).

:func:`score_guided` stands apart: it adds the policy's score to the model's inside the denoiser, so that the strength
does not depend on the schedule. It is exact for standard normal data and a Gaussian policy.

States follow the actions through the denoiser; only PolyGRAD's ablation ``move_states`` moves them by the policy.

Differences from the references: PGD's norm is guarded (g / (|g| + 1e-8)); there the 1e-8 stands outside the division
and saturated actions give NaN.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.diffusion.samplers import Step, ancestral, stepped
from pgd_lightning.errors import UserError
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.trajectory import Policy

KINDS = ("grad", "sample", "none")
POINTS = {True: ("noised", "denoised"), False: ("denoised", "mean")}


def policy_gradient(x: Tensor, policy: Policy, codec: TrajectoryCodec, spread: Tensor | float = 0.0) -> Tensor:
    """Gradient ``[..., T, A]`` of sum log pi(a | s) in the standardised, pre-tanh actions of ``x [..., T, D]``.

    g = score(s, a) (1 - a^2) std_action with s and the policy held fixed and no tanh log-determinant (PGD).
    ``spread`` is the variance of x around its clean value: the policy then counts as blurred by
    it, linearised through the tanh.
    """
    action = codec.decode_action(x)
    slope = (1 - action**2) * codec.std[codec.action_channels]
    return slope * policy.score(codec.decode_obs(x), action, slope**2 * spread)


def guidance_weight(step: int, num_steps: int, coef: Any, cosine: float) -> Any:
    """lambda_i = coef [(1 - i/N) + cosine sin(pi (i+1)/N)], and 0 at the last step."""
    if step >= num_steps - 1:
        return 0.0
    return coef * ((1 - step / num_steps) + cosine * math.sin(math.pi * (step + 1) / num_steps))


@dataclass(frozen=True)
class Rule:
    """When, where and how far a policy moves actions."""

    before: bool  # the denoising step, or after it
    point: str  # at which states the policy is asked: noised, denoised, or (after the step) mean, where it leads
    current_action: bool  # its score is taken at the current action, or at the point's too
    coef: float | Tensor  # strength: PGD's lambda, PolyGRAD's delta; a tensor [S] has one for each seed
    cosine: float | None  # height of the sine bump on a linear decay; None: a constant strength
    raw: bool  # step in the environment's units, or along the gradient in the model's, pre-tanh and standardised
    normalise: bool  # scale the gradient to unit Frobenius norm over the window's T x A actions
    clip: float | None  # keep actions within so many standard deviations of the policy, before each step and at the end
    noise: float  # added after a step that is not the last, times DDPM's posterior deviation
    kind: str  # grad; ablations: sample (actions drawn anew at each step), none (actions left as they began)
    move_states: bool  # ablation: denoised states climb the policy's log density as well

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UserError(f"guidance.kind={self.kind} is none of {', '.join(KINDS)}.")
        if self.point not in POINTS[self.before]:
            when = "before" if self.before else "after"
            raise UserError(f"guidance.point={self.point}: {when} a step there are {', '.join(POINTS[self.before])}.")

    def weight(self, step: int, num_steps: int) -> float | Tensor:
        """Strength of a step; the last is never guided."""
        if step >= num_steps - 1:
            return 0.0
        return self.coef if self.cosine is None else guidance_weight(step, num_steps, self.coef, self.cosine)

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> "tuple[Denoise, ActionGuide]":
        return denoise, ActionGuide(policy, codec, self)


@dataclass(frozen=True)
class ActionGuide:
    """A sampler's guide (called before a step) or correction (:meth:`correct`, after it), as its rule says."""

    policy: Policy
    codec: TrajectoryCodec
    rule: Rule

    def __call__(self, x: Tensor, step: int, sigmas: Tensor, denoise: Denoise) -> Tensor:
        """``x [..., T, D]`` with its actions moved, where the rule acts before a step."""
        weight = self.rule.weight(step, len(sigmas) - 1)
        if not self.rule.before or (not isinstance(weight, Tensor) and weight == 0):
            return x
        point = denoise(x, sigmas[step]) if self.rule.point == "denoised" else x
        return self._climbed(x, point, weight)

    def correct(self, step: Step) -> Tensor:
        """Where ``step`` leads, with its actions moved, where the rule acts after a step."""
        if self.rule.before or (self.rule.kind == "none" and not step.last):
            return step.mean
        point = step.denoised if self.rule.point == "denoised" else step.mean
        if step.last:
            return self._within(step.mean, point)
        if self.rule.kind == "sample":
            mean, std = self.policy.normal(self.codec.decode_obs(point))
            return with_actions(step.mean, self.codec.encode_action(mean + std * step.noise(mean)), self.codec)
        weight = self.rule.weight(step.number, len(step.sigmas) - 1)
        moved = self._climbed(self._within(step.mean, point), point, weight)
        moved = self._with_states(moved, step, weight) if self.rule.move_states else moved
        noise = step.noise(moved[..., self.codec.action_channels])
        return add_to_actions(moved, self.rule.noise * step.posterior_std * noise, self.codec)

    def _climbed(self, x: Tensor, point: Tensor, weight: float | Tensor) -> Tensor:
        """One step of the actions of ``x`` along the policy's score."""
        weight = along(weight, x)
        point = (
            with_actions(point, x[..., self.codec.action_channels], self.codec) if self.rule.current_action else point
        )
        if not self.rule.raw:
            gradient = self._scaled(policy_gradient(point, self.policy, self.codec))
            return add_to_actions(x, weight * gradient, self.codec)
        score = self.policy.score(self.codec.decode_obs(point), self.codec.decode_action(point))
        action = self.codec.decode_action(x) + weight * self._scaled(score)
        return with_actions(x, self.codec.encode_action(action), self.codec)

    def _scaled(self, gradient: Tensor) -> Tensor:
        if not self.rule.normalise:
            return gradient
        return gradient / (torch.linalg.matrix_norm(gradient, keepdim=True) + 1e-8)

    def _within(self, x: Tensor, point: Tensor) -> Tensor:
        """``x`` with its actions within ``clip`` standard deviations of the policy's mean at ``point``."""
        if self.rule.clip is None:
            return x
        mean, std = self.policy.normal(self.codec.decode_obs(point))
        far = self.rule.clip * std
        action = torch.clamp(self.codec.decode_action(x), mean - far, mean + far)
        return with_actions(x, self.codec.encode_action(action), self.codec)

    def _with_states(self, x: Tensor, step: Step, weight: float | Tensor) -> Tensor:
        """``x`` with the states to which the step leads from denoised ones that climbed log pi(a | s).

        The first state is given and stays. The step is taken anew, so that no limit on its size holds for it.
        """
        action, size = self.codec.decode_action(x), self.codec.obs_dim
        with torch.enable_grad():
            states = step.denoised[..., :size].detach().requires_grad_()
            mean, std = self.policy.normal(self.codec.decode_obs(states))
            log_prob = -0.5 * ((action - mean) / std) ** 2
            (gradient,) = torch.autograd.grad(log_prob.sum(), states)
        gradient[..., 0, :] = 0
        denoised = step.denoised.clone()
        denoised[..., :size] += along(weight, gradient) * gradient
        sigma, sigma_next = step.sigmas[step.number], step.sigmas[step.number + 1]
        led = stepped(step.x, denoised, sigma, ancestral(sigma, sigma_next)[0])
        return with_actions(led, x[..., self.codec.action_channels], self.codec)


def along(weight: float | Tensor, x: Tensor) -> float | Tensor:
    """A weight for each seed ``[S]`` with the axes of ``x [S, ...]``; a number as it is."""
    return weight.reshape(-1, *[1] * (x.dim() - 1)) if isinstance(weight, Tensor) else weight


class LiteralGuide(ActionGuide):
    """x[action] <- x[action] + lambda_i g, before churn and before denoising."""

    def __init__(
        self,
        policy: Policy,
        codec: TrajectoryCodec,
        coef: float | Tensor,  # lambda
        cosine: float,  # height of the sine bump on the linear decay
        denoised: bool,  # evaluate g at D(x; sigma) instead of at x
        normalise: bool,  # scale g to unit Frobenius norm over the window's T x A actions
    ) -> None:
        rule = Rule(
            before=True, point="denoised" if denoised else "noised", current_action=False, coef=coef, cosine=cosine,
            raw=False, normalise=normalise, clip=None, noise=0.0, kind="grad", move_states=False,
        )  # fmt: skip
        super().__init__(policy, codec, rule)


def score_guided(denoise: Denoise, policy: Policy, codec: TrajectoryCodec, coef: float | Tensor) -> Denoise:
    """The denoiser of p(x) prod pi(a | s)^coef: D + coef sigma^2 times the score of the blurred policy.

    Given x, the clean window lies around D with variance r^2 = sigma^2 / (1 + sigma^2) and D moves with x at the rate
    1 / (1 + sigma^2), both exact for standard normal data, so sigma^2 grad_x log pi = r^2 g(D; spread r^2).
    """

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        denoised = denoise(x, sigma)
        spread = sigma**2 / (1 + sigma**2)
        strength = along(coef, denoised) * spread
        return add_to_actions(denoised, strength * policy_gradient(denoised, policy, codec, spread), codec)

    return guided


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


Guidance = Callable[[Denoise, Policy, TrajectoryCodec], tuple[Denoise, ActionGuide | None]]


@dataclass(frozen=True)
class Literal:
    """Settings of :class:`LiteralGuide` (``conf/guidance/literal.yaml``)."""

    coef: float | Tensor
    cosine: float
    denoised: bool
    normalise: bool

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> tuple[Denoise, ActionGuide | None]:
        return denoise, LiteralGuide(policy, codec, self.coef, self.cosine, self.denoised, self.normalise)


@dataclass(frozen=True)
class Score:
    """Settings of :func:`score_guided` (``conf/guidance/score.yaml``)."""

    coef: float | Tensor

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> tuple[Denoise, ActionGuide | None]:
        return score_guided(denoise, policy, codec, self.coef), None
