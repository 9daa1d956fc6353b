"""What a learner sees of rewards: scale * r + shift, the two found once in the recording.

The weights of DICE depend on rewards divided by a temperature, so their scale is a part of the method.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from pgd_lightning.errors import UserError

RewardScale = Callable[[Tensor, Tensor, Tensor], tuple[float, float]]  # (reward, terminated, truncated [L])


@dataclass(frozen=True)
class Shift:
    """r + amount: AntMaze's 1 at the goal becomes 0, its 0 elsewhere -1."""

    amount: float

    def __call__(self, reward: Tensor, terminated: Tensor, truncated: Tensor) -> tuple[float, float]:
        return 1.0, self.amount


@dataclass(frozen=True)
class ReturnRange:
    """r span / (largest return - smallest): the rule of D4RL's locomotion tasks.

    ``literal`` takes the returns that published code takes, of segments of the rows that are left when each time
    limit's own row and the file's last are dropped: a segment ends in a terminal or when it has ``max_rows``, so it
    may reach into the next episode, and the last open one does not count. Otherwise they are those of episodes.
    """

    span: float
    literal: bool
    max_rows: int

    def __call__(self, reward: Tensor, terminated: Tensor, truncated: Tensor) -> tuple[float, float]:
        """Raises UserError where all returns are equal."""
        returns = (
            self.segments(reward, terminated, truncated) if self.literal else _returns(reward, terminated | truncated)
        )
        spread = float(returns.max() - returns.min()) if len(returns) else 0.0
        if spread == 0:
            raise UserError(
                f"The recording has {len(returns)} episodes without a spread of returns, so agent.rewards cannot scale "
                "by it: set agent.rewards=null."
            )
        return self.span / spread, 0.0

    def segments(self, reward: Tensor, terminated: Tensor, truncated: Tensor) -> Tensor:
        """The literal returns."""
        kept = ~truncated | terminated
        kept[-1] = False
        reward, terminated = reward[kept], terminated[kept]
        ends, rows = torch.zeros_like(terminated), 0
        for row, terminal in enumerate(terminated.tolist()):
            rows += 1
            if terminal or rows == self.max_rows:
                ends[row], rows = True, 0
        return _returns(reward, ends)


def _returns(reward: Tensor, ends: Tensor) -> Tensor:
    """Sum of ``reward [L]`` in each stretch that closes with one of ``ends [L]``; what stays open is left out."""
    closed = reward.double().cumsum(0)[ends]
    return torch.diff(closed, prepend=closed.new_zeros(1))
