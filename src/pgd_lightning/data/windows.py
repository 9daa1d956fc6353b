"""Overlapping windows that never cross an episode boundary."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pgd_lightning.data.recording import Recording, Steps
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Trajectory, Transition

TOLERATED = 0.05  # share of rows or terminals that need not lie in any window


def window_starts(terminated: Tensor, truncated: Tensor, horizon: int, stride: int) -> Tensor:
    """First rows ``[N]`` of the windows of ``horizon`` rows in ``terminated, truncated [L]``.

    Valid is a start whose window has no episode end before its last row. Kept are every ``stride``-th valid start in
    order, each episode's first, and each that ends exactly in a terminal; dropped is each that ends in a timeout.
    """
    done = terminated | truncated
    num = len(done) - horizon + 1
    if num <= 0:
        return torch.empty(0, dtype=torch.long)
    count = torch.cat([torch.zeros(1, dtype=torch.long), done.long().cumsum(0)])
    inside = count[horizon - 1 : horizon - 1 + num] - count[:num]  # ends on the rows before the last
    valid = inside == 0
    kept = torch.zeros_like(valid)
    kept[valid.nonzero().squeeze(-1)[::stride]] = True
    first = torch.cat([torch.ones(1, dtype=torch.bool), done[:-1]])[:num]
    kept |= valid & (first | terminated[horizon - 1 :])
    return (kept & ~truncated[horizon - 1 :]).nonzero().squeeze(-1)


@dataclass(frozen=True)
class Windows:
    """N windows as indices into the recording's rows: nothing is copied until a batch is gathered.

    Difference from the reference: a file's last row is kept. There the raw array loses it because successors come
    from shifting; here it may still be the last row of a window.
    """

    recording: Recording
    starts: Tensor  # [N]
    horizon: int
    lack: str = ""  # why there is none

    def __len__(self) -> int:
        return len(self.starts)

    def required(self) -> "Windows":
        """These windows. Raises UserError if there is none."""
        if self.lack:
            raise UserError(self.lack)
        return self

    def __getitem__(self, index: Tensor) -> Trajectory:
        """``[B] -> [B, T]``."""
        rows = self.starts[index].unsqueeze(-1) + torch.arange(self.horizon)
        data = self.recording
        return Trajectory(
            obs=data.obs[rows],
            action=data.action[rows],
            reward=data.reward[rows],
            terminated=data.terminated[rows],
            batch_size=rows.shape,
        )

    def batches(self, size: int) -> Iterator[Trajectory]:
        """All windows in order, ``size`` at a time."""
        return (self[index] for index in torch.arange(len(self)).split(size))


@dataclass(frozen=True)
class PaddedWindows:
    """N windows that may run past a terminal: the last row is repeated there, with reward 0, terminated.

    So a model learns to predict terminals, and that nothing comes after them (PolyGRAD, arXiv 2312.08533).
    """

    recording: Recording
    starts: Tensor  # [N]
    last: Tensor  # [N] the last row of each one's episode
    kept: Tensor  # [R] all rows of these episodes
    horizon: int

    @property
    def rows(self) -> Windows:
        """The recorded rows, each once, as windows of one."""
        return Windows(self.recording, self.kept, 1)

    def __len__(self) -> int:
        return len(self.starts)

    def __getitem__(self, index: Tensor) -> Trajectory:
        """``[B] -> [B, T]``."""
        last = self.last[index].unsqueeze(-1)
        rows = self.starts[index].unsqueeze(-1) + torch.arange(self.horizon)
        beyond, rows = rows > last, torch.minimum(rows, last)
        data = self.recording
        return Trajectory(
            obs=data.obs[rows],
            action=data.action[rows],
            reward=data.reward[rows].masked_fill(beyond, 0.0),
            terminated=data.terminated[rows] | beyond,
            batch_size=rows.shape,
        )

    def batches(self, size: int) -> Iterator[Trajectory]:
        """All windows in order, ``size`` at a time."""
        return (self[index] for index in torch.arange(len(self)).split(size))


@dataclass(frozen=True)
class StepWindows:
    """Chosen steps as windows of two rows, the form in which a model of single transitions takes and gives them."""

    steps: Transition | Steps
    rows: Tensor  # [N] numbers of steps

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Tensor) -> Trajectory:
        """``[B] -> [B, 2]``."""
        return self.steps[self.rows[index]].as_windows()

    def batches(self, size: int) -> Iterator[Trajectory]:
        """All windows in order, ``size`` at a time."""
        return (self[index] for index in torch.arange(len(self)).split(size))


def split_steps(steps: Transition | Steps, held_out: float, seed: int) -> tuple[StepWindows, StepWindows | None]:
    """Steps to train on, and a share ``held_out`` of them, drawn at random, that is not (None if that is none)."""
    order = torch.randperm(len(steps), generator=stream(seed, "held-out steps"))
    number = int(held_out * len(steps))
    return StepWindows(steps, order[number:]), StepWindows(steps, order[:number]) if number else None


def split_windows(
    recording: Recording, horizon: int, stride: int, validation: float, seed: int
) -> tuple[Windows, Windows | None]:
    """Windows to train on, and those of a share of whole episodes held out (None with fewer than two episodes).

    At least one episode is held out, so that fewer than 20 are enough. Where no window fits, those to train on say why
    as soon as they are required.
    """
    starts, ends = recording.starts, recording.ends
    lengths = ends - starts + 1
    held_out = held_out_episodes(recording, validation, seed)
    if validation > 0 and not held_out.any():
        print("warning: there is one episode alone, so none is held out to validate the prior")
    row_held_out = held_out.repeat_interleave(lengths)
    train, val = (_windows_of(recording, rows, horizon, stride) for rows in (~row_held_out, row_held_out))
    if len(train) == 0:
        longest = int(lengths[~held_out].max())
        way_out = f"set data.horizon to {longest - 1} or less" if longest > 2 else "take a file with longer episodes"
        if int(lengths.max()) > longest:
            way_out += f", or data.validation=0 to train on the one with {int(lengths.max())} rows too"
        train = replace(
            train,
            lack=f"No window of {horizon} rows fits: the longest episode to train on has {longest} (and windows that "
            f"end in a time limit are not used); {way_out}.",
        )
    return train, val if len(val) else None


def left_out(recording: Recording, horizon: int, windows: Iterable[Windows]) -> str | None:
    """The sentence on rows and terminals that lie in none of ``windows``, and on the horizon that fits their episodes.

    None where they are at most a share of ``TOLERATED`` of the rows and of the terminals.
    """
    covers = torch.zeros(len(recording) + 1, dtype=torch.long)  # changes of how many windows hold a row
    for part in windows:
        covers += torch.bincount(part.starts, minlength=len(covers))
        covers -= torch.bincount(part.starts + part.horizon, minlength=len(covers))
    outside = covers[:-1].cumsum(0) == 0
    rows, terminals = float(outside.double().mean()), int(recording.terminated.sum())
    lost = int((outside & recording.terminated).sum())
    if rows <= TOLERATED and lost <= TOLERATED * terminals:
        return None
    lengths, ended = recording.ends - recording.starts + 1, recording.terminated[recording.ends]
    fits = lengths - (~ended).long()  # no window ends in a time limit
    longest = min([_fitting(fits, lengths), *([_fitting(fits[ended], ended[ended])] if terminals else [])])
    of, and_of = (f" and {lost} of {terminals} terminals", " and of the terminals") if terminals else ("", "")
    way_out = f"data.horizon={longest} fits the episodes with {1 - TOLERATED:.0%} of the steps{and_of}"
    if longest >= horizon:
        way_out = "a smaller data.stride includes more of them"
    elif longest < 2:
        way_out = "their episodes have a single step, which no horizon fits"
    return f"{rows:.0%} of the steps{of} are in no window of {horizon} steps: {way_out}"


def _fitting(fits: Tensor, weight: Tensor) -> int:
    """The longest horizon that fits episodes ``[E]`` with all but ``TOLERATED`` of the ``weight [E]``."""
    fits, order = fits.sort()
    kept = weight[order].double().cumsum(0) > TOLERATED * float(weight.sum())
    return int(fits[kept.nonzero()[0]])


def held_out_episodes(recording: Recording, validation: float, seed: int) -> Tensor:
    """Which episodes ``[E]`` are held out: a share, at least one, chosen by ``seed``."""
    num = len(recording.ends)
    num_val = min(max(int(validation * num), 1), num - 1) if validation > 0 else 0
    held_out = torch.zeros(num, dtype=torch.bool)
    held_out[torch.randperm(num, generator=stream(seed, "validation"))[:num_val]] = True
    return held_out


def split_padded(
    recording: Recording, horizon: int, validation: float, seed: int
) -> tuple[PaddedWindows, PaddedWindows | None]:
    """Padded windows from every start of the episodes of :func:`split_windows`, held out or not.

    An episode that ends in a terminal has starts up to its last row but one, one that was cut up to where a window
    still fits. Raises UserError if there is none.
    """
    lengths = recording.ends - recording.starts + 1
    fits = torch.where(recording.terminated[recording.ends], lengths - 1, lengths - horizon + 1).clamp(min=0)
    held_out = held_out_episodes(recording, validation, seed)
    parts = []
    for chosen in (~held_out, held_out):
        count, first, last = fits[chosen], recording.starts[chosen], recording.ends[chosen]
        within = torch.arange(int(count.sum())) - (count.cumsum(0) - count).repeat_interleave(count)
        starts, kept = first.repeat_interleave(count) + within, chosen.repeat_interleave(lengths).nonzero().squeeze(-1)
        parts.append(PaddedWindows(recording, starts, last.repeat_interleave(count), kept, horizon))
    train, val = parts
    if len(train) == 0:
        raise UserError(f"No window of {horizon} rows fits the {len(lengths)} episodes: lower data.horizon.")
    return train, val if len(val) else None


def _windows_of(recording: Recording, rows: Tensor, horizon: int, stride: int) -> Windows:
    """Windows over the episodes that ``rows [L]`` marks, in the order of the file, one after the other."""
    kept = rows.nonzero().squeeze(-1)
    starts = window_starts(recording.terminated[kept], recording.truncated[kept], horizon, stride)
    return Windows(recording, kept[starts], horizon)
