"""PolyGRAD (arXiv 2312.08533): windows whose states are imagined while their actions come to follow the policy.

A window starts as noise, actions included. Each denoising step predicts the states that its current actions lead to,
then the actions take a step along the policy's score at those states. The first state is a real one and never moves.

Differences from the reference: sampling may take fewer steps than the model has levels, and the limit on how far the
last steps may move a state grows in proportion (there it is an absolute index, which covers most of a short chain).
Without a policy actions stay the normal noise they begin as, in the mean and standard deviation of the data's.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pgd_lightning.diffusion.conditional import WorldDenoiser
from pgd_lightning.diffusion.samplers import Noise, Step, euler_ancestral, normal_noise
from pgd_lightning.errors import UserError
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.guidance import OnPolicy, with_actions
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Policy, Trajectory


@dataclass(frozen=True)
class StepLimit:
    """How far a step near the end may move a state, in standardised units: outliers are cut, nothing else."""

    size: float  # for each level that the step descends
    levels: int  # the last ones, t <= levels

    def __call__(self, step: Step, denoiser: WorldDenoiser) -> Tensor:
        """``step.mean`` with the free entries of the state, sqrt(alphabar) x, moved by no more than the limit."""
        here, there = denoiser.process.level(torch.tensor(step.levels[step.number :][:2]))  # type: ignore[attr-defined]
        if here > self.levels:
            return step.mean
        far = float(self.size * (here - (-1 if step.last else there)))
        before, scale = step.x * (1 + step.sigma**2).rsqrt(), (1 + step.sigma_next**2).rsqrt()
        limited = (before + (step.mean * scale - before).clamp(-far, far)) / scale
        return step.mean + denoiser.free(limited - step.mean)


def imagine(
    denoise: Callable[[Tensor, Tensor], Tensor],
    denoiser: WorldDenoiser,
    codec: TrajectoryCodec,
    policy: Policy | None,
    guidance: OnPolicy,
    limit: StepLimit | None,
    starts: Tensor,
    rows: int,
    num_steps: int,
    noise: Noise,
    action: Tensor | None = None,
) -> Tensor:
    """Standardised windows ``[..., N, rows, D]`` from the standardised states ``starts [..., N, O]``.

    Without a policy the actions are ``action [..., N, rows, A]``, standardised, or else the noise they begin as.
    Raises UserError where a step gives NaN or infinity, naming the step and what was not finite.
    """
    sigmas = denoiser.process.schedule(num_steps)
    correction = guidance(denoise, policy, codec).after if policy is not None else None
    finite: list[Tensor] = []  # of each step

    def correct(step: Step) -> Tensor:
        mean = limit(step, denoiser) if limit else step.mean
        mean = correction(replace(step, mean=mean, noise=noise)) if correction else mean
        finite.append(_finite(step, mean, codec))
        return mean

    def free_noise(x: Tensor) -> Tensor:
        drawn = torch.zeros_like(x)
        drawn[..., : denoiser.predicted] = noise(x[..., : denoiser.predicted])
        return denoiser.free(drawn)

    x = starts.new_zeros(*starts.shape[:-1], rows, codec.channels)
    x = denoiser.process.start_scale(sigmas[0]) * free_noise(x)
    x = with_actions(x, noise(x[..., codec.action_channels]) if action is None else action, codec)
    x[..., 0, : codec.obs_dim] = starts
    x = euler_ancestral(denoise, x, sigmas, noise=free_noise, correct=correct)
    _check(finite, guidance)
    return x


def with_resets(windows: Trajectory) -> Trajectory:
    """``[..., N, T]`` in which the rows after an end are the window's first ones again, as often as they fit.

    So every step is one to learn from, as in the windows of models of single rows.
    """
    rows = windows.batch_size[-1]
    ended = windows.terminated
    length = torch.where(ended.any(-1), ended.int().argmax(-1) + 1, rows)
    index = torch.arange(rows, device=ended.device) % length.unsqueeze(-1)
    return windows.gather(-1, index)


def _finite(step: Step, mean: Tensor, codec: TrajectoryCodec) -> Tensor:
    """Whether all is finite, what was denoised is, the actions are: ``[3]``, not read before the last step."""
    parts = (mean, step.denoised, mean[..., codec.action_channels])
    return torch.stack([part.isfinite().all() for part in parts])


def _check(finite: list[Tensor], guidance: OnPolicy) -> None:
    for number, (everything, denoised, actions) in enumerate(torch.stack(finite).tolist()):
        if everything:
            continue
        cause = "the states overflowed."
        if not denoised:
            cause = "the world model predicted it: was it trained, and on states like these?"
        elif not actions:
            cause = f"the action step or the policy made it: strength {guidance.coef}."
        raise UserError(f"Imagination is not finite at denoising step {number + 1} of {len(finite)}: {cause}")


class PolyGRAD:
    """A trained world model and PolyGRAD's guidance make a generator."""

    def __init__(
        self,
        model: WorldModel,
        guidance: OnPolicy,
        limit: StepLimit | None,
        num_steps: int,
        rows: int,
        batch_size: int,  # windows imagined at once, over all seeds
        anew: bool = True,  # whether a window begins anew after an end, or stays there; older runs do not say
    ) -> None:
        if not isinstance(guidance, OnPolicy):
            raise UserError("PolyGRAD moves actions after each denoising step: guidance=on_policy.")
        self.model, self.guidance, self.limit = model, guidance, limit
        self.num_steps, self.rows, self.batch_size, self.anew = num_steps, rows, batch_size, anew

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]`` that begin at ``starts [..., N, O]``."""
        self.model.to(starts.device)
        per_call = max(self.batch_size // starts.shape[:-2].numel(), 1)
        parts = [
            self._imagined(policy, part, normal_noise(stream(seed, "polygrad", number, device=starts.device)))
            for number, part in enumerate(starts.split(per_call, dim=-2))
        ]
        windows = self.model.codec.decode(torch.cat(parts, dim=-3))
        windows.obs[..., 0, :] = starts
        return with_resets(windows) if self.anew else windows

    def _imagined(self, policy: Policy | None, starts: Tensor, noise: Noise) -> Tensor:
        codec = self.model.codec
        return imagine(
            self.model.denoise, self.model.ema, codec, policy, self.guidance, self.limit, codec.encode_obs(starts),
            self.rows, self.num_steps, noise,
        )  # fmt: skip
