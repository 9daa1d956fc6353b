"""Value functions of one learner: twin Q(s, a) as one vectorised pair, and V(s)."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pgd_lightning.networks.mlp import EnsembleMLP, mlp, uniform_fan_out_


class TwinQ(nn.Module):
    """Two independent action values: ``[..., O], [..., A] -> [2, ...]``."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.pair = EnsembleMLP(2, obs_dim + action_dim, hidden, norm)

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.pair(torch.cat([obs, action], dim=-1))

    def first_frozen(self, obs: Tensor, action: Tensor) -> Tensor:
        """Q_1(s, a) ``[...]`` with fixed weights: what a deterministic actor climbs, without training the critic."""
        return self.pair.frozen(torch.cat([obs, action], dim=-1), 0)

    def least_frozen(self, obs: Tensor, action: Tensor) -> Tensor:
        """min_j Q_j(s, a) ``[...]`` with fixed weights."""
        joint = torch.cat([obs, action], dim=-1)
        return torch.minimum(self.pair.frozen(joint, 0), self.pair.frozen(joint, 1))


class EnsembleQ(nn.Module):
    """``members`` independent action values: ``[..., O], [..., A] -> [members, ...]``, initially far apart."""

    def __init__(self, members: int, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.members = uniform_fan_out_(EnsembleMLP(members, obs_dim + action_dim, hidden))

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        return self.members(torch.cat([obs, action], dim=-1))


class StateValue(nn.Module):
    """V(s): ``[..., O] -> [...]``."""

    def __init__(self, obs_dim: int, hidden: Sequence[int], layer_norm: bool = False) -> None:
        super().__init__()
        self.body = mlp(obs_dim, hidden, 1, layer_norm)

    def forward(self, obs: Tensor) -> Tensor:
        return self.body(obs).squeeze(-1)
