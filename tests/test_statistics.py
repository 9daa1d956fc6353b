"""Intervals, aggregates, ledgers and budgeted selection: hand-computed cases, definitions, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from pgd_lightning.data.environments import environment
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import Ledger, collected, common_seeds, episodes, oracle, require_alike
from pgd_lightning.evaluation.selection import bandit, budgeted_selection
from pgd_lightning.evaluation.statistics import (
    aggregate,
    average,
    iqm,
    optimality_gap,
    paired_interval,
    probability_of_improvement,
    profile,
    profile_band,
    seed_interval,
)
from pgd_lightning.randomness import learner_seeds

# Ten runs on two datasets. rliable's metrics give IQM 65, mean 65, optimality gap 38 (gamma 100), and a probability of
# improvement of 0.55 for SCORES + (5, 0) over SCORES: the values that test_aggregates_by_hand finds by hand.
SCORES = np.array([[10.0, 80.0], [20.0, 90.0], [30.0, 100.0], [40.0, 110.0], [50.0, 120.0]])


def test_interval_of_seeds_is_students():
    """Means 1, 2, 3, 4, 5: half width t(0.975, 4) * 1.5811 / sqrt 5 = 2.7764 * 0.7071."""
    values = np.arange(1.0, 6)[:, None] + np.array([-1.0, 1.0])
    interval = seed_interval(values)
    assert interval.mean == 3
    assert interval.high - interval.mean == pytest.approx(2.776445 * math.sqrt(0.5), rel=1e-6)
    assert interval.mean - interval.low == pytest.approx(interval.high - interval.mean)
    assert (interval.num_seeds, interval.num_episodes) == (5, 2)


def test_two_seeds_have_no_interval():
    interval = seed_interval(np.array([[1.0], [9.0]]))
    assert (interval.low, interval.high) == (None, None)
    assert str(interval) == "5.0 (n = 2, no interval)"
    assert not interval.excludes_zero


def test_five_seeds_are_covered_as_often_as_promised():
    """95 % of t intervals hold the mean; of percentile bootstraps of five means only some 84 %."""
    rng = np.random.default_rng(0)
    means = rng.normal(size=(4000, 5))
    half = stats.t.ppf(0.975, 4) * means.std(1, ddof=1) / 5**0.5
    ours = np.mean([seed_interval(m[:, None]).low < 0 < seed_interval(m[:, None]).high for m in means[:1000]])
    assert ours == np.mean(np.abs(means[:1000].mean(1)) < half[:1000])
    assert np.mean(np.abs(means.mean(1)) < half) == pytest.approx(0.95, abs=0.012)
    draws = means[:, rng.integers(5, size=(500, 5))].mean(-1)
    low, high = np.quantile(draws, [0.025, 0.975], axis=1)
    assert np.mean((low < 0) & (high > 0)) < 0.88


def test_pairs_remove_what_seeds_share():
    luck = np.array([-30.0, -10.0, 0.0, 10.0, 30.0])[:, None]
    better = luck + 2.0 + np.array([[0.1], [-0.1], [0.0], [0.1], [-0.1]])
    assert paired_interval(better, luck).excludes_zero
    assert not seed_interval(better).excludes_zero


def test_aggregates_by_hand():
    """Sorted: 10 20 30 40 50 80 90 100 110 120; a quarter of ten, cut to 2, is left out at each end."""
    assert iqm(SCORES) == pytest.approx((30 + 40 + 50 + 80 + 90 + 100) / 6)
    assert average(SCORES) == 65
    assert optimality_gap(SCORES) == pytest.approx(100 - (150 + 80 + 90 + 300) / 10)
    np.testing.assert_allclose(profile(SCORES, np.array([0.0, 50.0, 115.0, 120.0])), [1, 0.5, 0.1, 0])
    better = SCORES + np.array([5.0, 0.0])
    # column 1: 15 of 25 pairs above; column 2: 10 above, 5 equal
    assert probability_of_improvement(better, SCORES) == pytest.approx((15 / 25 + (10 + 2.5) / 25) / 2)


def test_bootstrap_is_stratified():
    """Seeds are resampled within a dataset, so two datasets without spread give no width, however far apart."""
    constant = np.tile([[0.0, 100.0]], (5, 1))
    interval = aggregate(average, constant, resamples=200, seed=0)
    assert (interval.low, interval.mean, interval.high) == (50, 50, 50)
    spread = aggregate(average, SCORES, resamples=20000, seed=0)
    assert (spread.high - spread.low) / (2 * 1.96) == pytest.approx(math.sqrt(200 / 5 * 2) / 2, rel=0.03)
    low, high = profile_band(constant, np.array([50.0]), 50, 0)
    assert low == high == 0.5


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.floats(-50, 150), min_size=2, max_size=2), min_size=3, max_size=6))
def test_aggregates_keep_order(rows):
    scores = np.array(rows)
    assert scores.min() - 1e-9 <= iqm(scores) <= scores.max() + 1e-9
    assert probability_of_improvement(scores, scores) == pytest.approx(0.5)
    assert probability_of_improvement(scores + 1, scores - 1) >= 0.5
    interval = aggregate(iqm, scores, resamples=100, seed=1)
    assert interval.low <= interval.high


# --- ledgers ---

CONDITIONS = {
    "data": "a", "kind of data": "d4rl", "simulator": "mujoco 3.4.0, Hopper-v5", "MuJoCo": "mujoco 3.4.0",
    "physics": "today", "step limit": "1000", "measure": "score", "score constants": "-20 and 3234", "updates": "5000",
    "episodes": "2",
}  # fmt: skip


def ledger(seed: int, scores: dict[int, list[float]], purpose: str = "final", **conditions: str) -> Ledger:
    rows = [
        {"purpose": purpose, "step": step, "seed": 0, "index": i, "score": s, "return": 10 * s}
        for step, values in scores.items()
        for i, s in enumerate(values)
    ]
    return Ledger(f"runs/{seed}", seed, CONDITIONS | conditions, rows)


def test_collected_takes_the_last_step_of_a_purpose():
    scores = collected([ledger(1, {10: [9.0, 9.0], 20: [1.0, 2.0]}), ledger(0, {20: [3.0, 4.0]})], "final")
    assert scores.keys == ((0, 0), (1, 1))  # the run's seed, and the learner's own
    np.testing.assert_array_equal(scores.score, [[3, 4], [1, 2]])


@pytest.mark.parametrize("name", ["data", "simulator", "step limit", "measure", "score constants", "updates"])
def test_unlike_runs_do_not_share_a_row(name):
    with pytest.raises(UserError, match=f"two kinds of {name}, .*runs/0.*runs/1"):
        require_alike([ledger(0, {1: [1.0]}), ledger(1, {1: [1.0]}, **{name: "other"})])


def test_a_run_counts_once():
    with pytest.raises(UserError, match="have seed 3"):
        collected([ledger(3, {1: [1.0]}), ledger(3, {1: [1.0]})], "final")


def learners(seed, numbers, episodes=2, own=()):
    """The ledger of a run of several learners."""
    rows = [
        {"purpose": "final", "step": 1, "seed": n, "index": e, "return": 0.0, "score": float(10 * n + e)}
        for n in numbers
        for e in range(episodes)
    ]
    return Ledger(f"runs/{seed}", seed, CONDITIONS, rows, own)


def test_runs_of_before_that_share_learners_are_refused():
    """Learner s of seed k was once learner 0 of seed k + s: ten learners of which only six exist."""
    with pytest.raises(UserError, match="runs/0 and runs/1 share learners"):
        collected([learners(0, range(5)), learners(1, range(5))], "final")
    own = [learners(seed, range(5), own=learner_seeds(seed, range(5))) for seed in (0, 1)]
    assert len(collected(own, "final").keys) == 10
    assert len(collected([learners(0, range(5)), learners(5, range(5))], "final").keys) == 10


def test_learners_of_before_are_no_pair_of_learners_of_today():
    before, now = learners(0, range(3)), learners(0, range(3), own=learner_seeds(0, range(3)))
    ours, theirs = common_seeds(collected([before], "final"), collected([now], "final"))
    assert len(ours) == len(theirs) == 1  # the first, whose seed is the run's


def test_episodes_that_all_have_are_compared():
    scores = collected([learners(0, [0], 5), learners(7, [0], 3)], "final")
    np.testing.assert_array_equal(scores.score, [[0, 1, 2], [0, 1, 2]])
    more = collected([learners(7, [0], 5)], "final")
    ours, theirs = common_seeds(scores, more)
    np.testing.assert_array_equal(ours, theirs)
    assert ours.shape == (1, 3)


def test_an_episode_counts_once_with_the_constants_in_use():
    env = environment("hopper-medium", physics="today")
    rows = learners(0, [0, 1], 2).rows
    rows = [{**row, "return": 100.0 * row["index"], "simulator": "x"} for row in rows]
    found = episodes([*rows, {**rows[0], "return": 50.0}], replace(env, ref_min_score=0.0, ref_max_score=200.0))
    assert [row["score"] for row in found] == [25.0, 50.0, 0.0, 50.0]


def test_pairs_are_formed_of_common_seeds():
    a = collected([ledger(s, {1: [float(s)] * 2}) for s in (0, 1, 2)], "final")
    b = collected([ledger(s, {1: [10.0 + s] * 2}) for s in (2, 1, 5)], "final")
    ours, theirs = common_seeds(a, b)
    np.testing.assert_array_equal(theirs - ours, [[10, 10], [10, 10]])


def test_oracle_takes_the_best_look_of_each_seed():
    looks = [ledger(s, {1: [0.0, 2.0], 2: [s, s]}, purpose="monitor") for s in (0, 4, 8)]
    best, episodes = oracle(looks)
    assert (best.mean, episodes) == ((1 + 4 + 8) / 3, 4)
    assert oracle([ledger(0, {1: [1.0]})]) is None


# --- budgeted selection ---


def test_bandit_without_noise_finds_the_best_after_one_look_at_each():
    scores = np.tile(np.array([[10.0], [90.0], [50.0]]), (400, 1, 1))  # 400 repeats, 3 policies, 1 episode
    chosen = bandit(scores, 12, 2.0, np.random.default_rng(0))
    assert (chosen[:, 2:] == 1).all()
    assert (chosen[:, 0] == 1).mean() == pytest.approx(1 / 3, abs=0.08)


def test_selection_begins_at_chance_and_is_exact_without_noise():
    policies = np.tile(np.array([[0.0], [40.0], [80.0]]), (1, 5))
    curve = budgeted_selection(policies, 8, 10, 300, 2.0, 200, 0)
    assert curve.num_candidates == 3
    assert curve.mean[0] == pytest.approx(40)
    assert curve.mean[3:] == pytest.approx(80)
    few = budgeted_selection(policies, 2, 10, 2000, 2.0, 200, 0)
    assert few.mean[-1] == pytest.approx((80 + 80 + 40) / 3, abs=2)  # the better of two that were drawn


def test_noise_makes_choosing_dearer():
    rng = np.random.default_rng(0)
    noisy = rng.normal(np.linspace(0, 60, 8)[:, None], 40, (8, 1000))
    curve = budgeted_selection(noisy, 8, 200, 300, 2.0, 200, 0)
    assert 25 < curve.mean[0] < 35
    assert curve.mean[10] < curve.mean[200]
    assert (curve.low <= curve.mean + 1e-9).all()
    assert (curve.mean <= curve.high + 1e-9).all()
