"""Recorded experience in memory: flat arrays, cut into episodes by their flags."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.trajectory import Transition


@dataclass(frozen=True)
class Recording:
    """L rows of recorded experience, cut into episodes; row t holds (s_t, a_t), r_t and d_t."""

    obs: Tensor  # [L, O]
    action: Tensor  # [L, A]
    reward: Tensor  # [L]
    next_obs: Tensor  # [L, O]; a row without a known successor repeats its own observation
    terminated: Tensor  # [L] bool
    truncated: Tensor  # [L] bool: the episode was cut here, by a time limit or the end of the file
    has_successor: Tensor  # [L] bool
    clipped_actions: int  # entries that lay outside [-1, 1]

    def __len__(self) -> int:
        return len(self.reward)

    @property
    def ends(self) -> Tensor:
        """Index of the last row of each episode, ``[episodes]``."""
        return (self.terminated | self.truncated).nonzero().squeeze(-1)

    @property
    def starts(self) -> Tensor:
        """Index of the first row of each episode, ``[episodes]``."""
        return torch.cat([torch.zeros(1, dtype=torch.long), self.ends[:-1] + 1])

    def transitions(self) -> Transition:
        """Every step an agent may learn from, ``[B]``: a successor is known, or the target does not read it."""
        usable = self.has_successor | self.terminated
        return Transition(
            obs=self.obs[usable],
            action=self.action[usable],
            reward=self.reward[usable],
            next_obs=self.next_obs[usable],
            terminated=self.terminated[usable],
            batch_size=[int(usable.sum())],
        )

    def card(self) -> dict[str, Any]:
        """What a reader wants to know of a file before trusting it; returns are undiscounted sums."""
        lengths = self.ends - self.starts + 1
        total = torch.cat([torch.zeros(1, dtype=torch.float64), self.reward.double().cumsum(0)])
        returns = total[self.ends + 1] - total[self.starts]
        return {
            "episodes": len(lengths),
            "steps": len(self),
            "length_min": int(lengths.min()),
            "length_max": int(lengths.max()),
            "return_mean": float(returns.mean()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
            "terminals": int(self.terminated.sum()),
            "timeouts": int(self.truncated.sum()),
            "reward_min": float(self.reward.min()),
            "reward_max": float(self.reward.max()),
            "clipped_actions": self.clipped_actions,
        }
