"""The data summary: what there is to know of a recording before anybody trains on it."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.data.recording import Recording
from pgd_lightning.environment import EnvSpec

ROWS_AT_ONCE = 100_000


def examine(recording: Recording, env: EnvSpec) -> dict[str, Any]:
    """Counts, returns, ranges and inconsistencies of ``recording``; JSON-ready, returns undiscounted, score in percent.

    ``duplicate_rows``: rows equal to an earlier one in observation, action and reward; ``duplicate_episodes``: those
    equal to an earlier one row by row; ``successors_inside_differ``: rows inside episodes whose recorded successor is
    not the following row's observation, ``largest_difference`` between the two.
    """
    marks = row_marks(recording)
    return {
        **recording.summary(),
        "score_mean": env.score(float(recording.returns().mean())),
        "returns": _spread(recording.returns().numpy()),
        "lengths": _spread((recording.ends - recording.starts + 1).numpy()),
        "obs": _ranges(recording.obs.numpy()),
        "action": _ranges(recording.action.numpy()),
        "reward": _ranges(recording.reward.numpy()[:, None]),
        "actions_at_the_box": int((recording.action.abs() == 1).sum()),
        "duplicate_rows": len(marks) - len(np.unique(marks)),
        "duplicate_episodes": duplicate_episodes(recording, marks),
        "rows_without_successor": int((~recording.has_successor).sum()),
        **successor_agreement(recording),
        "notes": list(recording.notes),
    }


def _spread(values: NDArray[Any]) -> dict[str, float]:
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    named = dict(zip(("min", "quarter", "median", "three_quarters", "max"), quantiles.tolist(), strict=True))
    return named | {"mean": float(values.mean()), "std": float(values.std())}


def _ranges(values: NDArray[Any]) -> dict[str, list[float]]:
    """Min, max, mean and standard deviation of each dimension of ``values [L, D]``."""
    count, total, squares = len(values), 0.0, 0.0
    shift = values[0].astype(np.float64)  # keeps the one-pass variance exact for values far from 0
    for start in range(0, count, ROWS_AT_ONCE):
        piece = values[start : start + ROWS_AT_ONCE] - shift
        total, squares = total + piece.sum(0), squares + (piece**2).sum(0)
    mean = total / count
    std = np.sqrt(np.clip(squares / count - mean**2, 0, None))
    low, high = values.min(0), values.max(0)
    columns = {"min": low, "max": high, "mean": mean + shift, "std": np.where(low == high, 0.0, std)}
    return {name: np.asarray(column, dtype=np.float64).tolist() for name, column in columns.items()}


def row_marks(recording: Recording) -> NDArray[np.uint64]:
    """A 64-bit mark of each row's bits ``[L]``: two rows share it if they are equal, or by a chance of 5e-20."""
    columns = [recording.obs.numpy(), recording.action.numpy(), recording.reward.numpy()[:, None]]
    weights = np.random.default_rng(0).integers(0, 2**64, sum(c.shape[1] for c in columns), dtype=np.uint64)
    marks = np.zeros(len(recording), dtype=np.uint64)
    place = 0
    for column in columns:
        for dim in range(column.shape[1]):
            bits = (column[:, dim] + np.float32(0)).view(np.uint32).astype(np.uint64)  # + 0: -0 is 0
            marks += _mixed(bits ^ weights[place]) * (weights[place] | np.uint64(1))
            place += 1
    return marks


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Spread every bit over all 64, so that equal sums do not come from small differences that cancel."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = (bits ^ (bits >> np.uint64(shift))) * np.uint64(factor)
    return bits ^ (bits >> np.uint64(31))


def duplicate_episodes(recording: Recording, marks: NDArray[np.uint64]) -> int:
    """Episodes that repeat an earlier one row by row."""
    pairs = zip(recording.starts.tolist(), recording.ends.tolist(), strict=True)
    seen = [marks[start : end + 1].tobytes() for start, end in pairs]
    return len(seen) - len(set(seen))


def successor_agreement(recording: Recording) -> dict[str, Any]:
    """Rows inside episodes whose own successor is not the row after, and the largest difference of the two."""
    is_end = recording.terminated | recording.truncated
    inside = ~is_end[recording.successor_rows]
    rows = recording.successor_rows[inside]
    differ = (recording.successor_values[inside] - recording.obs[rows + 1]).abs() if len(rows) else torch.zeros(1)
    return {
        "successors_recorded": bool(recording.has_successor[is_end].any()),
        "successors_inside_differ": len(rows),
        "largest_difference": float(differ.max()),
    }
