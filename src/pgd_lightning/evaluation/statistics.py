"""Intervals: what the ledgers allow one to say, and no more."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Interval:
    """A mean with a 95 % bootstrap interval, ``None`` where there are too few runs for one."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int
    num_episodes: int  # per seed

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.1f} (n = {self.num_seeds}, no interval)"
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"


def bootstrap_interval(values: NDArray[np.float64], resamples: int, seed: int) -> Interval:
    """Mean of ``values [S, E]`` and its hierarchical bootstrap interval: resample seeds, then their episodes.

    Fewer than three seeds give no interval: they say nothing about the next seed.
    """
    num_seeds, num_episodes = values.shape
    if num_seeds < 3:
        return Interval(float(values.mean()), None, None, num_seeds, num_episodes)
    low, high = np.quantile(_resampled_means(values, resamples, seed), [0.025, 0.975])
    return Interval(float(values.mean()), float(low), float(high), num_seeds, num_episodes)


def paired_interval(a: NDArray[np.float64], b: NDArray[np.float64], resamples: int, seed: int) -> Interval:
    """Interval of mean(a) - mean(b) where row s of ``a`` and ``b``, both ``[S, E]``, is the same seed."""
    return bootstrap_interval(a - b, resamples, seed)


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    num_seeds, num_episodes = values.shape
    rng = np.random.default_rng(seed)
    rows = rng.integers(num_seeds, size=(resamples, num_seeds, 1))
    columns = rng.integers(num_episodes, size=(resamples, num_seeds, num_episodes))
    means: NDArray[np.float64] = values[rows, columns].mean(axis=(1, 2))
    return means
