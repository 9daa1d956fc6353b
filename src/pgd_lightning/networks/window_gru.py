"""A recurrent model of windows, row by row: first the action, then what it leads to.

The factorisation is that of a behaviour policy and a world model with memory: p(a_t | h_t, s_t), then
p(s_t+1 - s_t, r_t | h_t+1) and P(d_t | h_t+1), where h_t+1 has read (s_t, a_t). Densities are Gaussian mixtures, as in
the MDN-RNN of Ha and Schmidhuber (arXiv 1803.10122).
"""

import torch
from torch import Tensor, nn

from pgd_lightning.networks.mixture import MixtureLayer


class WindowGRU(nn.Module):
    """All tensors are standardised; ``h [..., H]`` starts at 0."""

    def __init__(self, obs_dim: int, action_dim: int, hidden: int, components: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.cell = nn.GRU(obs_dim + action_dim, hidden, batch_first=True)
        self.act_body = nn.Sequential(nn.Linear(hidden + obs_dim, hidden), nn.ReLU())
        self.action = MixtureLayer(hidden, action_dim, components)
        self.outcome_body = nn.Sequential(nn.Linear(hidden + obs_dim + action_dim, hidden), nn.ReLU())
        self.outcome = MixtureLayer(hidden, obs_dim + 1, components)
        self.terminal = nn.Linear(hidden, 1)

    def read(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Memory before and after each row of ``obs [B, T, O], action [B, T, A]``: ``[B, T, H]`` each."""
        after, _ = self.cell(torch.cat([obs, action], dim=-1))
        before = torch.cat([torch.zeros_like(after[:, :1]), after[:, :-1]], dim=1)
        return before, after

    def remember(self, memory: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """The memory ``[..., H]`` after one more row."""
        row = torch.cat([obs, action], dim=-1).flatten(0, -2).unsqueeze(1)
        return self.cell(row, memory.flatten(0, -2).unsqueeze(0))[0].view_as(memory)

    def before_action(self, memory: Tensor, obs: Tensor) -> Tensor:
        """Features for :attr:`action`."""
        return self.act_body(torch.cat([memory, obs], dim=-1))

    def after_action(self, memory: Tensor, obs: Tensor, action: Tensor) -> Tensor:
        """Features for :attr:`outcome` and :attr:`terminal`, of the memory that has read the row."""
        return self.outcome_body(torch.cat([memory, obs, action], dim=-1))
