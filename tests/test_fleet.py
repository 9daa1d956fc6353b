"""Simulators stepped together, at once or in threads, do what each does."""

import numpy as np
import pytest
import torch

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import BODIES, make
from pgd_lightning.simulators.fleet import Each, Together, fleet
from pgd_lightning.simulators.substitutes.policies import Ladder

SEEDS = [5, 6, 5, 2**62 + 1, 8]


@pytest.mark.parametrize("task", ["pen", "antmaze-umaze", "kitchen"])
def test_threads_equal_new_simulators_one_after_the_other_bit_for_bit(task):
    threads = Each(task, "today", threads=3)
    for _ in range(2):  # again after a first evaluation
        here = Each(task, "today", threads=1)
        assert np.array_equal(threads.reset(SEEDS), here.reset(SEEDS))
        rng, size = np.random.default_rng(0), make(task, "today").action_dim
        for numbers in ([0, 1, 2, 3, 4], [0, 2, 3, 4], [4, 1], [3], np.array([0, 3])):
            actions = rng.uniform(-1, 1, (len(numbers), size)).astype(np.float32)
            for ours, theirs in zip(threads.step(numbers, actions), here.step(numbers, actions), strict=True):
                assert ours.dtype == theirs.dtype
                assert np.array_equal(ours, theirs)


def test_a_step_that_fails_in_a_thread_is_said():
    threads = Each("pen", "today", threads=2)
    threads.reset(SEEDS)
    with pytest.raises(UserError, match="given the action"):
        threads.step([0, 1], np.full((2, 24), np.nan))
    assert threads.step([0, 1], np.zeros((2, 24)))[0].shape == (2, 45)  # and it goes on


@torch.no_grad()
def episodes(fleet, policy, seeds, limit):
    """Whole episodes of a noisy policy, ended ones dropping out: all that a fleet says of them."""
    rng, obs = np.random.default_rng(0), fleet.reset(seeds)
    said, going = [obs.copy()], np.arange(len(seeds))
    for _ in range(limit):
        if len(going):
            mean = policy(torch.as_tensor(obs, dtype=torch.float32))[0].tanh().numpy()
            action = mean + rng.normal(0, 0.3, mean.shape).astype(np.float32)
            obs[going], reward, terminated = fleet.step(going, action[going])
            said += [obs.copy(), reward, terminated]
            going = going[~terminated]
    return said


@pytest.mark.parametrize("physics", ["today", "d4rl"])
@pytest.mark.parametrize("task", sorted(BODIES))
def test_bodies_stepped_together_equal_single_ones_bit_for_bit(task, physics):
    ladder = Ladder.load(task)
    together, here = Together(make(task, physics)), Each(task, physics)
    assert isinstance(fleet(task, physics), Together)
    for seeds, limit in ((SEEDS, 1000), (SEEDS[2:], 50)):  # again after a first evaluation
        policy = ladder.policies[ladder.medium]
        ours, theirs = (episodes(each, policy, seeds, limit) for each in (together, here))
        assert len(ours) == len(theirs) > 3 * min(limit, 90)
        for one, other in zip(ours, theirs, strict=True):
            assert one.dtype == other.dtype
            assert np.array_equal(one, other)


def test_a_ball_pushed_beyond_its_speed_is_held_to_it_together_too():
    together, here = Together(make("maze2d-large-dense", "today")), Each("maze2d-large-dense", "today")
    for each in (together, here):
        each.reset([0, 1, 2])
    fastest = 0.0
    for step in range(300):
        actions = np.full((3, 2), 1.0 if step % 100 < 50 else -1.0)
        ours, theirs = together.step([0, 1, 2], actions), here.step([0, 1, 2], actions)
        assert all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))
        fastest = max(fastest, np.abs(ours[0][:, 2:]).max())
    assert fastest > 5  # before the next step


def test_equal_seeds_start_equally_and_a_fleet_is_made_once():
    obs = fleet("maze2d-umaze", "today").reset([3, 4, 3])
    assert np.array_equal(obs[0], obs[2])
    assert not np.array_equal(obs[0], obs[1])
    assert np.array_equal(obs[1], make("maze2d-umaze", "today").reset(4))
    assert fleet("maze2d-umaze", "today") is fleet("maze2d-umaze", "today")
