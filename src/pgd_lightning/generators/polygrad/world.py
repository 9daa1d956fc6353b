"""PolyGRAD's world model: the diffusion prior with another process, conditioning and mask (arXiv 2312.08533).

The network sees
[obs, reward, terminated] noised, the actions clean and the first state as it is (``diffusion.conditional``); the
process is discrete and predicts the clean window (``diffusion.cosine``); the loss leaves the actions out. Training,
averaging of weights, logs and resume are :class:`DiffusionPrior`'s; only the schedules of the learning rate and of the
weight average are its own. A test on golden values holds this.

Differences from the reference: float32 instead of 16-bit floats; with ``clip_actions`` the model sees actions as the
simulator does, which clips them to [-1, 1].
"""

from typing import Any

import torch
from torch import Tensor

from pgd_lightning.channels import divisor
from pgd_lightning.diffusion.conditional import WorldDenoiser
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.trajectory import Trajectory

MIN_STD = 1e-6


class WorldCodec(TrajectoryCodec):
    """x = [obs, reward, terminated, action], each channel (value - mean) / (std + 1e-6); actions without arctanh."""

    def __init__(self, obs_dim: int, action_dim: int, clip_actions: bool) -> None:
        super().__init__(obs_dim, action_dim, action_clip=1.0 if clip_actions else float("inf"))

    @property
    def action_channels(self) -> slice:
        return slice(self.obs_dim + 2, self.channels)

    @property
    def reward_channel(self) -> int:
        return self.obs_dim

    @property
    def terminal_channel(self) -> int:
        return self.obs_dim + 1

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        super().set_statistics(mean, std)
        self.std += MIN_STD * self.varies

    def mark_constants(self) -> None:
        self.std.masked_fill_(self.std == MIN_STD, 0)

    def rows(self, trajectory: Trajectory) -> Tensor:
        """Un-standardised channels ``[..., T, D]``."""
        action = self.unbounded(trajectory.action)
        scalars = torch.stack([trajectory.reward, trajectory.terminated.to(action.dtype)], dim=-1)
        return torch.cat([trajectory.obs, scalars, action], dim=-1)

    def unbounded(self, action: Tensor) -> Tensor:
        """``action`` as the model sees it."""
        return action.clamp(-self.action_clip, self.action_clip)

    def encode_action(self, action: Tensor) -> Tensor:
        """``[..., A]``, standardised."""
        return (action - self.mean[self.action_channels]) / divisor(self.std[self.action_channels])

    def decode(self, x: Tensor) -> Trajectory:
        """``x [..., T, D] -> [..., T]``; terminated where its channel is above one half. Nothing is clipped."""
        rows = x * self.std + self.mean
        obs, reward, terminated, action = rows.split([self.obs_dim, 1, 1, self.action_dim], dim=-1)
        return Trajectory(
            obs=obs,
            action=action,
            reward=reward.squeeze(-1),
            terminated=terminated.squeeze(-1) > 0.5,
            batch_size=x.shape[:-1],
        )

    def decode_action(self, x: Tensor) -> Tensor:
        """Actions ``[..., T, A]``."""
        where = self.action_channels
        return x[..., where] * self.std[where] + self.mean[where]


class WorldModel(DiffusionPrior):
    """Trains a :class:`WorldDenoiser` on windows at a constant rate; the average is a copy at first."""

    name = "world"
    codec: WorldCodec
    ema: WorldDenoiser  # type: ignore[assignment]

    def __init__(self, *, ema_after: int, **settings: Any) -> None:
        super().__init__(warmup_start=1.0, muon=False, ema_ramp=None, **settings)
        self.ema_after = ema_after  # updates until which the average is a copy

    @property
    def method(self) -> str:
        return f"polygrad-{type(self.denoiser.network).__name__.lower()}"

    def rate(self, step: int) -> float:
        """Constant."""
        return 1.0

    def decay(self, step: int) -> float:
        return self.ema_decay if step >= self.ema_after else 0.0

    def denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The average's ``D(x [..., T, D]; sigma)``, which sees actions as the codec makes them in training."""
        where = self.codec.action_channels
        seen = x.clone()
        seen[..., where] = self.codec.encode_action(self.codec.unbounded(self.codec.decode_action(x)))
        denoised = self.codec.varies * self.ema(self.codec.varies * seen, sigma)
        denoised[..., where] = x[..., where]
        return denoised
