"""Budgeted selection: how good a policy does one find among K trained ones, given so many online episodes?

Source: the evaluation of Jackson et al. (2025), "A clean slate for offline reinforcement learning" (unifloral): a UCB
bandit over the trained policies, fed from stored episodes. Ours differs in the unit: the index is UCB1's, made for
rewards in [0, 1], so scores enter it as fractions.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.evaluation.statistics import TAILS

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Selection:
    """The true mean score of the policy one would choose after 0, 1, …, P episodes, each ``[P + 1]``.

    At 0 episodes a policy of the set at random. The band is a 95 % bootstrap of the mean over repeats: how exactly
    this curve is known for these K policies, not how K others would do.
    """

    mean: Array
    low: Array
    high: Array
    num_policies: int  # K
    num_candidates: int  # of them among which each repeat chooses


def budgeted_selection(
    scores: Array, candidates: int, pulls: int, repeats: int, alpha: float, resamples: int, seed: int
) -> Selection:
    """Selection among the K policies whose stored episodes scored ``scores [K, E]``, in percent.

    Each of ``repeats`` draws ``candidates`` policies without replacement and spends ``pulls`` episodes by
    :func:`bandit`; a policy's true mean is that of its stored episodes.
    """
    rng = np.random.default_rng(seed)
    candidates = min(candidates, len(scores))
    arms = rng.permuted(np.tile(np.arange(len(scores)), (repeats, 1)), axis=1)[:, :candidates]
    true = scores.mean(1)[arms]  # [R, k]
    chosen = bandit(scores[arms], pulls, alpha, rng)  # [R, P]
    curves = np.concatenate([true.mean(1, keepdims=True), np.take_along_axis(true, chosen, axis=1)], axis=1)
    weights = rng.multinomial(repeats, np.full(repeats, 1 / repeats), size=resamples) / repeats
    low, high = np.quantile(weights @ curves, TAILS, axis=0)
    return Selection(curves.mean(0), low, high, len(scores), candidates)


def bandit(scores: Array, pulls: int, alpha: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """The arm with the highest estimated mean after each of ``pulls`` pulls, ``[R, pulls]``.

    ``scores [R, k, E]``: a pull of an arm draws one of its E episodes. Pulled is the arm of the highest
    mean + sqrt(alpha ln t / n), an arm never pulled before all others; ties are broken at random.
    """
    repeats, num_arms, num_episodes = scores.shape
    every = np.arange(repeats)
    total, count = np.zeros((repeats, num_arms)), np.zeros((repeats, num_arms))
    best = np.empty((repeats, pulls), dtype=np.int64)
    for pull in range(pulls):
        mean = np.divide(total, count, out=np.full_like(total, np.inf), where=count > 0)
        bonus = np.sqrt(np.divide(alpha * np.log(pull or 1), count, out=np.zeros_like(count), where=count > 0))
        arm = first_of_ties(mean + bonus, rng)
        total[every, arm] += scores[every, arm, rng.integers(num_episodes, size=repeats)] / 100
        count[every, arm] += 1
        mean = np.divide(total, count, out=np.full_like(total, -np.inf), where=count > 0)
        best[:, pull] = first_of_ties(mean, rng)
    return best


def first_of_ties(values: Array, rng: np.random.Generator) -> NDArray[np.int64]:
    """Index of the largest of ``values [R, k]`` in each row, one of the largest at random: ``[R]``."""
    tied = values == values.max(1, keepdims=True)
    return np.where(tied, rng.random(values.shape), -1).argmax(1)
