"""Intervals: what the scores of several seeds allow one to say, and no more. Scores are in percent.

One dataset: Student's t over the means of seeds, the only interval here that holds its 95 % with five seeds (a
percentile bootstrap of five holds about 84 %). Several datasets: the statistics and the stratified bootstrap of
Agarwal et al. (2021), "Deep reinforcement learning at the edge of the statistical precipice".
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]
Statistic = Callable[..., Array]  # of score matrices [..., S, D]: [...]

LEVEL = 0.95
TAILS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)
FEWEST = 3  # seeds: two say nothing about the next one
TARGET = 100.0  # the score that optimality is measured against: D4RL's reference expert


@dataclass(frozen=True)
class Interval:
    """A mean, or an aggregate of means, with its 95 % interval: ``None`` where there are too few seeds for one."""

    mean: float
    low: float | None
    high: float | None
    num_seeds: int  # on each dataset
    num_episodes: int | None  # of each seed; None for an aggregate over datasets

    def __str__(self) -> str:
        if self.low is None or self.high is None:
            return f"{self.mean:.1f} (n = {self.num_seeds}, no interval)"
        return f"{self.mean:.1f} [{self.low:.1f}, {self.high:.1f}]"

    @property
    def excludes_zero(self) -> bool:
        """Whether a difference is distinguishable from none. Never without an interval."""
        return self.low is not None and self.high is not None and (self.low > 0 or self.high < 0)


def seed_interval(values: Array) -> Interval:
    """Mean of ``values [S, E]`` and the t interval of its S means: another seed's luck, with that of its episodes."""
    num_seeds, num_episodes = values.shape
    means = values.mean(1)
    if num_seeds < FEWEST:
        return Interval(float(means.mean()), None, None, num_seeds, num_episodes)
    half = stats.t.ppf(TAILS[1], num_seeds - 1) * means.std(ddof=1) / num_seeds**0.5
    return Interval(
        float(means.mean()), float(means.mean() - half), float(means.mean() + half), num_seeds, num_episodes
    )


def paired_interval(a: Array, b: Array) -> Interval:
    """Interval of mean(a) - mean(b), where row s of ``a`` and of ``b``, both ``[S, E]``, is the same seed."""
    return seed_interval(a - b)


def average(scores: Array) -> Array:
    """Mean of ``scores [..., S, D]`` over seeds and datasets."""
    return scores.mean((-2, -1))


def iqm(scores: Array) -> Array:
    """Interquartile mean of ``scores [..., S, D]``: of all S * D runs, the lowest and the highest quarter left out."""
    return stats.trim_mean(scores.reshape(*scores.shape[:-2], -1), 0.25, axis=-1)


def optimality_gap(scores: Array) -> Array:
    """How much ``scores [..., S, D]`` miss ``TARGET`` on average, what lies above it counting as reached."""
    return TARGET - np.minimum(scores, TARGET).mean((-2, -1))


def profile(scores: Array, thresholds: Array) -> Array:
    """Share of the runs ``scores [..., S, D]`` above each of ``thresholds [K]``: ``[..., K]``."""
    return (scores[..., None] > thresholds).mean((-3, -2))


def probability_of_improvement(a: Array, b: Array) -> Array:
    """P(a run of ``a [..., S, D]`` scores above one of ``b [..., R, D]``), a tie counting half, mean over datasets."""
    ours, theirs = a[..., :, None, :], b[..., None, :, :]
    return ((ours > theirs) + 0.5 * (ours == theirs)).mean((-3, -2, -1))


def aggregate(statistic: Statistic, *scores: Array, resamples: int, seed: int) -> Interval:
    """``statistic`` of score matrices ``[S, D]`` (seed means, datasets in columns) and its bootstrap interval.

    The seeds of each dataset are resampled on their own: the interval is about other seeds on these datasets.
    """
    num_seeds = min(len(matrix) for matrix in scores)
    value = float(statistic(*scores))
    if num_seeds < FEWEST:
        return Interval(value, None, None, num_seeds, None)
    rng = np.random.default_rng(seed)
    low, high = np.quantile(statistic(*(take(m, resampled(m, resamples, rng)) for m in scores)), TAILS)
    return Interval(value, float(low), float(high), num_seeds, None)


def profile_band(scores: Array, thresholds: Array, resamples: int, seed: int) -> tuple[Array, Array]:
    """Pointwise 95 % bootstrap band ``([K], [K])`` of the profile of ``scores [S, D]``."""
    drawn = resampled(scores, resamples, np.random.default_rng(seed))
    low, high = np.quantile(profile(take(scores, drawn), thresholds), TAILS, axis=0)
    return low, high


def resampled(scores: Array, resamples: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Rows ``[resamples, S, D]``, drawn with replacement within each column of ``scores [S, D]``."""
    return rng.integers(len(scores), size=(resamples, *scores.shape))


def take(scores: Array, rows: NDArray[np.int64]) -> Array:
    """The rows that :func:`resampled` drew, of their columns: ``[resamples, S, D]``."""
    return scores[rows, np.arange(scores.shape[1])]
