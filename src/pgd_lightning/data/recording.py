"""Recorded experience: flat arrays, in memory or mapped from the cache, cut into episodes by their flags."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgd_lightning.trajectory import Transition

ARRAYS = (
    "obs", "action", "reward", "terminated", "truncated", "has_successor", "successor_rows", "successor_values",
)  # fmt: skip


@dataclass(frozen=True)
class Recording:
    """L rows of recorded experience, cut into episodes; row t holds (s_t, a_t), r_t and d_t.

    The successor of a row is the observation of the row after it, which is not stored twice: only the E rows of which
    that is not true are kept, with their own successor.
    """

    obs: Tensor  # [L, O]
    action: Tensor  # [L, A]
    reward: Tensor  # [L]
    terminated: Tensor  # [L] bool
    truncated: Tensor  # [L] bool: the episode was cut here, by a time limit or the end of the file
    has_successor: Tensor  # [L] bool; a row without a known successor repeats its own observation
    successor_rows: Tensor  # [E] ascending
    successor_values: Tensor  # [E, O]
    clipped_actions: int  # entries that lay outside [-1, 1]
    notes: tuple[str, ...] = ()  # what is unusual about the file, a sentence each

    def __len__(self) -> int:
        return len(self.reward)

    @classmethod
    def of_arrays(cls, arrays: Mapping[str, NDArray[Any]], clipped_actions: int, notes: tuple[str, ...]) -> "Recording":
        """The recording whose tensors share the memory of ``arrays``, which have the names of ``ARRAYS``."""
        return cls(**{k: torch.from_numpy(arrays[k]) for k in ARRAYS}, clipped_actions=clipped_actions, notes=notes)

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The tensors under their names, as arrays that share their memory."""
        return {k: getattr(self, k).numpy() for k in ARRAYS}

    @property
    def ends(self) -> Tensor:
        """Index of the last row of each episode, ``[episodes]``."""
        return (self.terminated | self.truncated).nonzero().squeeze(-1)

    @property
    def starts(self) -> Tensor:
        """Index of the first row of each episode, ``[episodes]``."""
        return torch.cat([torch.zeros(1, dtype=torch.long), self.ends[:-1] + 1])

    def successors(self, rows: Tensor) -> Tensor:
        """Observations after ``rows``: ``[...] -> [..., O]``."""
        after = self.obs[(rows + 1).clamp(max=len(self) - 1)]
        if len(self.successor_rows):
            place = torch.searchsorted(self.successor_rows, rows).clamp(max=len(self.successor_rows) - 1)
            own = self.successor_rows[place] == rows
            after = torch.where(own.unsqueeze(-1), self.successor_values[place], after)  # a mask would wait for a GPU
        return after

    def next_actions(self, rows: Tensor) -> Tensor:
        """The recorded action after each of ``rows``, NaN where the episode ends: ``[...] -> [..., A]``."""
        after = self.action[(rows + 1).clamp(max=len(self) - 1)]
        return after.masked_fill((self.terminated[rows] | self.truncated[rows]).unsqueeze(-1), torch.nan)

    @property
    def next_obs(self) -> Tensor:
        """Every row's successor ``[L, O]``, made anew at each call."""
        after = torch.cat([self.obs[1:], self.obs[-1:]])
        after[self.successor_rows] = self.successor_values
        return after

    def to(self, device: torch.device) -> "Recording":
        """The same recording on another device."""
        moved = {k: getattr(self, k).to(device) for k in ARRAYS}
        return Recording(**moved, clipped_actions=self.clipped_actions, notes=self.notes)

    def steps(self) -> "Steps":
        """Every step an agent may learn from: a successor is known, or the target does not read it."""
        usable = self.has_successor | self.terminated
        return Steps(self, None if usable.all() else usable.nonzero().squeeze(-1))

    def transitions(self) -> Transition:
        """All :meth:`steps` at once, ``[B]``: copies the data."""
        steps = self.steps()
        return steps[torch.arange(len(steps))]

    def returns(self) -> Tensor:
        """Undiscounted return of each episode, ``[episodes]`` float64."""
        total = torch.cat([torch.zeros(1, dtype=torch.float64), self.reward.double().cumsum(0)])
        return total[self.ends + 1] - total[self.starts]

    def summary(self) -> dict[str, Any]:
        """What a reader wants to know of a file before trusting it; returns are undiscounted sums."""
        lengths, returns = self.ends - self.starts + 1, self.returns()
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


@dataclass(frozen=True)
class Steps:
    """M usable rows of a recording, as indices: nothing is copied until a batch is gathered."""

    recording: Recording
    rows: Tensor | None  # [M]; None: all of them
    next_action: bool = False  # whether batches hold the recorded action after each step

    def __len__(self) -> int:
        return len(self.recording) if self.rows is None else len(self.rows)

    def __getitem__(self, index: Tensor) -> Transition:
        """``[...]`` numbers of steps ``-> [...]``."""
        rows = index if self.rows is None else self.rows[index]
        data = self.recording
        return Transition(
            obs=data.obs[rows],
            action=data.action[rows],
            reward=data.reward[rows],
            next_obs=data.successors(rows),
            terminated=data.terminated[rows],
            next_action=data.next_actions(rows) if self.next_action else None,
            batch_size=rows.shape,
        )

    @property
    def obs(self) -> Tensor:
        """``[M, O]``, a copy only where rows are left out."""
        return self.recording.obs if self.rows is None else self.recording.obs[self.rows]

    @property
    def device(self) -> torch.device:
        """Where the data are."""
        return self.recording.obs.device

    def to(self, device: torch.device) -> "Steps":
        """The same steps on another device."""
        if self.device == device:
            return self
        rows = None if self.rows is None else self.rows.to(device)
        return replace(self, recording=self.recording.to(device), rows=rows)


def sparse_successors(obs: NDArray[Any], successor: NDArray[Any], start: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """Which rows of ``obs [L, O]`` from ``start`` on have a ``successor [n, O]`` that is not the row after: ``[E]``.

    Returns them with their successors ``[E, O]``. The last row of ``obs`` has none after it.
    """
    after = obs[start + 1 : start + 1 + len(successor)]
    own = np.ones(len(successor), dtype=bool)
    own[: len(after)] = (after != successor[: len(after)]).any(-1)
    return np.flatnonzero(own) + start, successor[own]
