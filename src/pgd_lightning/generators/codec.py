"""Windows of experience to and from the standardised tensor that is diffused."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pgd_lightning.channels import divisor, varying
from pgd_lightning.trajectory import Trajectory


class TrajectoryCodec(nn.Module):
    """x = [obs, arctanh action, reward, terminated], each channel standardised (PGD).

    The statistics are buffers, so they travel with every checkpoint. A terminal, 0 or 1, is standardised like a real
    variable: at a rate of 1e-3 its positive class lies at 32 standard deviations.

    A channel that is constant in the data has standard deviation 0: it is encoded as 0, whatever it holds, and every
    value is decoded to the constant.
    """

    mean: Tensor
    std: Tensor  # 0: constant
    _version = 2  # of the checkpoint; before, constants had standard deviation 1

    def __init__(self, obs_dim: int, action_dim: int, action_clip: float) -> None:
        super().__init__()
        self.obs_dim, self.action_dim, self.action_clip = obs_dim, action_dim, action_clip
        self.register_buffer("mean", torch.zeros(self.channels))
        self.register_buffer("std", torch.ones(self.channels))

    @property
    def channels(self) -> int:
        """D."""
        return self.obs_dim + self.action_dim + 2

    @property
    def action_channels(self) -> slice:
        """Where the action lies in the D channels."""
        return slice(self.obs_dim, self.obs_dim + self.action_dim)

    @property
    def reward_channel(self) -> int:
        """Where the reward lies in the D channels."""
        return self.obs_dim + self.action_dim

    @property
    def terminal_channel(self) -> int:
        """Where the terminal lies in the D channels."""
        return self.channels - 1

    @property
    def varies(self) -> Tensor:
        """``[D]``: 1, and 0 for each channel that is constant in the data."""
        return (self.std > 0).to(self.std.dtype)

    def fit(self, batches: Iterable[Trajectory]) -> None:
        """Mean and population standard deviation of every channel over all rows of all windows."""
        count, total, squares = 0, torch.zeros(self.channels).double(), torch.zeros(self.channels).double()
        shift: Tensor | None = None  # keeps the one-pass variance exact for channels far from 0
        for batch in batches:
            rows = self.rows(batch).flatten(0, -2).double().cpu()
            shift = rows[0] if shift is None else shift
            count += len(rows)
            total += (rows - shift).sum(0)
            squares += ((rows - shift) ** 2).sum(0)
        assert shift is not None, "no windows to fit the codec on"
        variance = (squares / count - (total / count) ** 2).clamp(min=0)
        self.set_statistics(total / count + shift, variance.sqrt())

    def set_statistics(self, mean: Tensor, std: Tensor) -> None:
        """Mean and population standard deviation ``[D]``; rewards may be as small as they like and still vary."""
        smallest = torch.ones_like(mean)
        smallest[self.reward_channel] = 0
        self.mean.copy_(mean)
        self.std.copy_(varying(mean, std, smallest))

    def rows(self, trajectory: Trajectory) -> Tensor:
        """Un-standardised channels ``[..., T, D]``, actions through arctanh after clipping to +-action_clip."""
        action = self.unbounded(trajectory.action)
        terminated = trajectory.terminated.to(action.dtype).unsqueeze(-1)
        return torch.cat([trajectory.obs, action, trajectory.reward.unsqueeze(-1), terminated], dim=-1)

    def encode(self, trajectory: Trajectory) -> Tensor:
        """``[..., T] -> x [..., T, D]``."""
        return (self.rows(trajectory) - self.mean) / divisor(self.std)

    def encode_obs(self, obs: Tensor) -> Tensor:
        """``[..., O]``, standardised."""
        return (obs - self.mean[: self.obs_dim]) / divisor(self.std[: self.obs_dim])

    def encode_action(self, action: Tensor) -> Tensor:
        """``[..., A]``, through arctanh and standardised."""
        where = self.action_channels
        return (self.unbounded(action) - self.mean[where]) / divisor(self.std[where])

    def unbounded(self, action: Tensor) -> Tensor:
        """arctanh of ``action`` after clipping to +-action_clip."""
        return action.clamp(-self.action_clip, self.action_clip).arctanh()

    def decode(self, x: Tensor) -> Trajectory:
        """``x [..., T, D] -> [..., T]``; terminated where the channel is above one half. Nothing else is clipped."""
        rows = x * self.std + self.mean
        obs, action, reward, terminated = rows.split([self.obs_dim, self.action_dim, 1, 1], dim=-1)
        return Trajectory(
            obs=obs,
            action=action.tanh(),
            reward=reward.squeeze(-1),
            terminated=terminated.squeeze(-1) > 0.5,
            batch_size=x.shape[:-1],
        )

    def decode_obs(self, x: Tensor) -> Tensor:
        """Observations ``[..., T, O]`` in environment units."""
        return x[..., : self.obs_dim] * self.std[: self.obs_dim] + self.mean[: self.obs_dim]

    def decode_action(self, x: Tensor) -> Tensor:
        """Actions ``[..., T, A]`` in [-1, 1]."""
        where = self.action_channels
        return (x[..., where] * self.std[where] + self.mean[where]).tanh()

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if (local_metadata.get("version") or 1) < 2:
            with torch.no_grad():
                self.mark_constants()

    def mark_constants(self) -> None:
        """Mark constants in old checkpoints: the channels with a standard deviation of exactly 1."""
        self.std.masked_fill_(self.std == 1, 0)
