"""Episodes that are still being collected, and windows of those that have ended (PolyGRAD, arXiv 2312.08533).

Differences from the reference: windows come from the live buffer and not from a copy that a loader's workers made
earlier; the standardisation is kept by running sums.
"""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import Trajectory

COLUMNS = ("obs", "action", "reward", "terminated")


class EpisodeBuffer:
    """Rows (s_t, a_t, r_t, d_t) of whole episodes, and the rows of the one that is going on."""

    def __init__(self, obs_dim: int, action_dim: int, limit: int) -> None:
        self.limit = limit  # rows at which an episode is cut
        self.rows = {
            "obs": torch.zeros(1024, obs_dim),
            "action": torch.zeros(1024, action_dim),
            "reward": torch.zeros(1024),
            "terminated": torch.zeros(1024, dtype=torch.bool),
        }
        self.size = 0
        self.ends: list[int] = []  # one past the last row of each episode
        self.sums = torch.zeros(3, obs_dim + action_dim + 2, dtype=torch.float64)  # count, total, squares

    def add(self, obs: Tensor, action: Tensor, reward: float, terminated: bool) -> None:
        """One step."""
        if self.size == len(self.rows["reward"]):
            self.rows = {name: torch.cat([old, torch.zeros_like(old)]) for name, old in self.rows.items()}
        self.rows["obs"][self.size] = obs
        self.rows["action"][self.size] = action
        self.rows["reward"][self.size] = reward
        self.rows["terminated"][self.size] = terminated
        self.size += 1

    def end(self) -> None:
        """The episode is over: windows may be cut from it."""
        first = self.ends[-1] if self.ends else 0
        self.ends.append(self.size)
        channels = self._channels(slice(first, self.size)).double()
        ones = torch.ones_like(channels)
        self.sums += torch.stack([ones.sum(0), channels.sum(0), channels.square().sum(0)])

    @property
    def current(self) -> dict[str, Tensor]:
        """The rows of the episode that is going on."""
        first = self.ends[-1] if self.ends else 0
        return {name: values[first : self.size] for name, values in self.rows.items()}

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and population std of [obs, reward, terminated, action] ``[D]``, over all ended episodes."""
        count, total, squares = self.sums
        mean = total / count
        return mean.float(), (squares / count - mean**2).clamp(min=0).sqrt().float()

    def _channels(self, where: slice) -> Tensor:
        columns = {name: self.rows[name][where] for name in COLUMNS}
        scalars = torch.stack([columns["reward"], columns["terminated"].float()], dim=-1)
        return torch.cat([columns["obs"], scalars, columns["action"]], dim=-1)

    def starts(self, rows: int) -> Tensor:
        """Number of windows of ``rows`` rows in each ended episode.

        They may run past a terminal, into padding, but not past a cut; the last row of an episode starts none.
        """
        ends = torch.tensor(self.ends, dtype=torch.long)
        lengths = torch.diff(ends, prepend=ends.new_zeros(1))
        return torch.minimum(lengths - 1, torch.full_like(lengths, self.limit - rows)).clamp(min=0)

    def windows(self, num: int, rows: int, generator: torch.Generator) -> Trajectory:
        """``[num, rows]``, uniform over all starts, with replacement.

        Beyond a terminal the last observation and action are repeated, with reward 0, terminated.
        Raises UserError where there is none.
        """
        before = self.starts(rows).cumsum(0)
        if not len(before) or before[-1] == 0:
            longest = max((b - a for a, b in pairwise([0, *self.ends])), default=0)
            raise UserError(
                f"No window of {rows} rows fits the collected episodes, of which the longest has {longest} rows "
                f"and the limit is {self.limit}: lower data.horizon, or collect more (online.prefill)."
            )
        drawn = torch.randint(int(before[-1]), (num,), generator=generator)
        episode = torch.searchsorted(before, drawn, right=True)
        ends = torch.tensor(self.ends, dtype=torch.long)
        within = drawn - torch.where(episode > 0, before[episode - 1], 0)
        first = torch.where(episode > 0, ends[episode - 1], 0) + within
        index = first[:, None] + torch.arange(rows)
        last = ends[episode][:, None] - 1
        beyond = index > last
        index = torch.minimum(index, last)
        found = {name: values[index] for name, values in self.rows.items()}
        found["reward"] = found["reward"].masked_fill(beyond, 0.0)
        found["terminated"] = found["terminated"] | beyond
        return Trajectory(**found, batch_size=index.shape)

    def state_dict(self) -> dict[str, Any]:
        """Everything, in tensors and plain containers."""
        rows = {name: values[: self.size].clone() for name, values in self.rows.items()}
        return {"rows": rows, "ends": list(self.ends), "sums": self.sums}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.rows = {name: values.clone() for name, values in state["rows"].items()}
        self.size, self.ends, self.sums = len(self.rows["reward"]), list(state["ends"]), state["sums"]
