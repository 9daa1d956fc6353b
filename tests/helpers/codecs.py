"""Codecs of known units, and windows to fit one to."""

import torch
from torch import Tensor

from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.trajectory import Trajectory


def codec(obs_dim: int, mean: Tensor, std: Tensor) -> TrajectoryCodec:
    """A codec whose action channels have ``mean`` and ``std``."""
    built = TrajectoryCodec(obs_dim, len(mean), 0.999)
    built.mean[built.action_channels], built.std[built.action_channels] = mean, std
    return built


def unit_codec(obs_dim: int, action_dim: int) -> TrajectoryCodec:
    return codec(obs_dim, torch.zeros(action_dim), torch.ones(action_dim))


def windows(obs, action, reward, terminated) -> Trajectory:
    return Trajectory(
        obs=torch.as_tensor(obs), action=torch.as_tensor(action), reward=torch.as_tensor(reward),
        terminated=torch.as_tensor(terminated), batch_size=torch.as_tensor(reward).shape,
    )  # fmt: skip


def random_windows(num: int, rows: int, obs_dim: int = 3, action_dim: int = 2) -> Trajectory:
    generator = torch.Generator().manual_seed(0)
    return windows(
        torch.randn(num, rows, obs_dim, generator=generator) * 3 + 10,
        torch.rand(num, rows, action_dim, generator=generator) * 2 - 1,
        torch.randn(num, rows, generator=generator) - 50,
        torch.rand(num, rows, generator=generator) < 0.1,
    )
