"""The ablations of PolyGRAD's guidance in its paper, arXiv 2312.08533 (``conf/guidance/on_policy_ablated.yaml``)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.diffusion.samplers import Step, ancestral, stepped
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.guidance import Guided, OnPolicy, along, climbed, clipped, with_actions, with_noise
from pgd_lightning.trajectory import Policy


@dataclass(frozen=True)
class Ablated(OnPolicy):
    """:class:`OnPolicy` with one of its choices changed."""

    kind: str  # grad, or sample (actions drawn from the policy at each step), or none (actions keep their first noise)
    point: str  # states at which the policy is evaluated: denoised, or posterior_mean (of DDPM's step)
    move_states: bool  # denoised states climb the policy's log density as well

    def __call__(self, denoise: Denoise, policy: Policy, codec: TrajectoryCodec) -> Guided:
        def correct(step: Step) -> Tensor:
            if self.kind == "none" and not step.last:
                return step.mean
            states = codec.decode_obs(step.denoised if self.point == "denoised" else posterior_mean(step, codec))
            if self.kind == "sample" and not step.last:
                mean, std = policy.normal(states)
                return with_actions(step.mean, codec.encode_action(mean + std * step.noise(mean)), codec)
            x = clipped(step.mean, states, policy, codec, self.clip)
            if step.last:
                return x
            x = climbed(x, states, policy, codec, self.coef)
            x = with_moved_states(x, step, policy, codec, self.coef) if self.move_states else x
            return with_noise(x, step, codec, self.noise)

        return Guided(denoise, after=correct)


def posterior_mean(step: Step, codec: TrajectoryCodec) -> Tensor:
    """c1 x0 + c2 x, the mean of DDPM's posterior, to which ``step`` leads, as the authors ask the policy at it.

    DDPM's x is x / sqrt(1 + sigma^2) here. The first state is given and noiseless, in DDPM's coordinates too: there
    the mean is (c1 + c2) s0.
    """
    scale, kept = (1 + step.sigma_next**2).rsqrt(), (step.sigma_next / step.sigma) ** 2
    mean = scale * step.mean
    given = scale * ((1 - kept) + kept * (1 + step.sigma**2).sqrt())
    mean[..., 0, : codec.obs_dim] = given * step.denoised[..., 0, : codec.obs_dim]
    return mean


def with_moved_states(x: Tensor, step: Step, policy: Policy, codec: TrajectoryCodec, coef: float | Tensor) -> Tensor:
    """``x`` with the states to which ``step`` leads from denoised ones that climbed log pi(a | s).

    The first state is given and stays. The step is taken again, so that no limit on its size holds for it.
    """
    action, size = codec.decode_action(x), codec.obs_dim
    with torch.enable_grad():
        states = step.denoised[..., :size].detach().requires_grad_()
        mean, std = policy.normal(codec.decode_obs(states))
        log_prob = -0.5 * ((action - mean) / std) ** 2
        (gradient,) = torch.autograd.grad(log_prob.sum(), states)
    gradient[..., 0, :] = 0
    denoised = step.denoised.clone()
    denoised[..., :size] += along(coef, gradient) * gradient
    led = stepped(step.x, denoised, step.sigma, ancestral(step.sigma, step.sigma_next)[0])
    return with_actions(led, x[..., codec.action_channels], codec)
