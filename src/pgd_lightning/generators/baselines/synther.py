"""SynthER (arXiv 2303.06614): diffusion of single transitions, PGD's unguided ancestor.

The denoiser, the process and the sampler are those of PGD's prior; the network, the units, the optimiser and the
average of weights are SynthER's.

Differences from the reference: standard deviations are of the population, where 1e-5 is added there; sampled actions
are clipped to the box; the weights are averaged after updates 10, 20, ..., there after 1, 11, ...; no set of millions
is kept, each set is generated when it is due, as for every generator here.
"""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.diffusion.samplers import Churn, Sampler
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.trajectory import Policy, Trajectory, Transition


class TransitionCodec(TrajectoryCodec):
    """x = [obs, action, reward, next_obs, terminated] of windows of two rows, as a window of one.

    All but the last channel are standardised; actions stay as they are, without arctanh.
    """

    def __init__(self, obs_dim: int, action_dim: int) -> None:
        super().__init__(obs_dim, action_dim, action_clip=1.0)

    @property
    def channels(self) -> int:
        return 2 * self.obs_dim + self.action_dim + 2

    def fit(self, batches: Iterable[Trajectory]) -> None:
        super().fit(batches)
        if self.std[-1] > 0:
            self.mean[-1], self.std[-1] = 0, 1

    def mark_constants(self) -> None:
        varies, self.std[-1] = self.std[-1].clone(), 0
        super().mark_constants()
        self.std[-1] = varies

    def rows(self, trajectory: Trajectory) -> Tensor:
        """Un-standardised channels: ``[..., 2] -> [..., 1, 2 O + A + 2]``."""
        first, second = trajectory[..., :1], trajectory[..., 1:]
        scalars = (first.reward.unsqueeze(-1), first.terminated.unsqueeze(-1).to(first.reward.dtype))
        return torch.cat([first.obs, first.action, scalars[0], second.obs, scalars[1]], dim=-1)

    def decode(self, x: Tensor) -> Trajectory:
        """``x [..., 1, 2 O + A + 2] -> [..., 2]``; terminated where the last channel is above one half."""
        values = (x * self.std + self.mean).squeeze(-2)
        obs, action, reward, next_obs, terminated = values.split(
            [self.obs_dim, self.action_dim, 1, self.obs_dim, 1], dim=-1
        )
        steps = Transition(
            obs=obs,
            action=action.clamp(-1, 1),
            reward=reward.squeeze(-1),
            next_obs=next_obs,
            terminated=terminated.squeeze(-1) > 0.5,
            batch_size=values.shape[:-1],
        )
        return steps.as_windows()


class TransitionPrior(DiffusionPrior):
    """A diffusion prior of windows of two rows, trained as SynthER trains: AdamW, cosine, clipped, ramped average."""

    name = "synther"

    def __init__(
        self,
        *,
        betas: tuple[float, float],
        weight_decay: float,
        gradient_norm: float,
        ema_after: int,  # updates until which the average is a copy
        ema_power: float,  # decay 1 - (1 + updates since then)^-power, up to ema_decay
        **settings: Any,
    ) -> None:
        super().__init__(muon=False, ema_ramp=None, **settings)
        self.betas, self.weight_decay, self.gradient_norm = betas, weight_decay, gradient_norm
        self.ema_after, self.ema_power = ema_after, ema_power

    def decay(self, step: int) -> float:
        """0 until ``ema_after``, then rising to ``ema_decay``."""
        since = step - self.ema_after
        return min(1 - (1 + since) ** -self.ema_power, self.ema_decay) if since > 0 else 0.0

    def rate(self, step: int) -> float:
        """Cosine from the first step on."""
        return 0.5 * (1 + math.cos(math.pi * min(step / self.total_steps, 1)))

    def optimizer(self) -> torch.optim.Optimizer:
        first, second = self.betas
        return torch.optim.AdamW(
            self.denoiser.parameters(), lr=self.learning_rate, betas=(first, second), weight_decay=self.weight_decay
        )

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        torch.nn.utils.clip_grad_norm_(self.denoiser.parameters(), self.gradient_norm)


class SynthER:
    """Single transitions as windows of two rows (:meth:`Transition.as_windows`).

    There are ``rows - 1`` of them for each start state, so that a set holds as many steps as one of whole windows.
    """

    def __init__(
        self,
        model: TransitionPrior,
        sampler: Sampler,
        num_steps: int,
        churn: Churn | None,
        rows: int,  # of the windows that the set stands for
        batch_size: int,  # transitions denoised at once, over all seeds
        precision: str,  # of the network: float32 or bfloat16
    ) -> None:
        self.windows = PGD(model, sampler, num_steps, churn, None, 1, batch_size, precision)
        self.per_start = rows - 1

    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """``[..., N * (rows - 1), 2]``. Of ``starts [..., N, O]`` only the shape counts, and the policy has no part."""
        return self.windows.generate(None, starts.repeat_interleave(self.per_start, dim=-2), seed)
