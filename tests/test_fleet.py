"""Simulators in worker processes do what they do here, and a lost worker gets a sentence."""

import os
import signal

import numpy as np
import pytest

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import make
from pgd_lightning.simulators.fleet import Here, Workers, fleet

SEEDS = [5, 6, 5, 2**62 + 1, 8]


@pytest.fixture(scope="module")
def workers():
    return Workers("hopper", "today", 2)


def test_workers_equal_this_process_bit_for_bit(workers):
    here = Here("hopper", "today")
    assert workers.physics == here.physics
    for _ in range(2):  # again after a first evaluation
        assert np.array_equal(workers.reset(SEEDS), here.reset(SEEDS))
        rng = np.random.default_rng(0)
        for numbers in ([0, 1, 2, 3, 4], [0, 2, 3, 4], [4, 1], [3], np.array([0, 3])):
            actions = rng.uniform(-1, 1, (len(numbers), 3)).astype(np.float32)
            for ours, theirs in zip(workers.step(numbers, actions), here.step(numbers, actions), strict=True):
                assert ours.dtype == theirs.dtype
                assert np.array_equal(ours, theirs)


def test_equal_seeds_start_equally_and_a_fleet_is_made_once():
    obs = fleet("maze2d-umaze", "today", 0).reset([3, 4, 3])
    assert np.array_equal(obs[0], obs[2])
    assert not np.array_equal(obs[0], obs[1])
    assert np.array_equal(obs[1], make("maze2d-umaze", "today").reset(4))
    assert fleet("maze2d-umaze", "today", 0) is fleet("maze2d-umaze", "today", 0)


def test_what_a_worker_dies_of_is_said(workers):
    workers.reset(SEEDS)
    with pytest.raises(UserError, match="given the action"):
        workers.step([1], np.full((1, 3), np.nan))
    assert workers.step([1], np.zeros((1, 3)))[0].shape == (1, 11)  # and it goes on
    with pytest.raises(UserError, match="There is no simulator for 'hoper'"):
        Workers("hoper", "today", 1)


def test_signals_are_for_the_process_that_saves_and_a_lost_worker_gets_a_sentence():
    own = Workers("maze2d-umaze", "today", 1)
    (child,) = own.processes
    own.reset([0])
    os.kill(child.pid, signal.SIGUSR1)
    own.step([0], np.zeros((1, 2)))
    os.kill(child.pid, signal.SIGKILL)
    child.join()
    with pytest.raises(UserError, match="was lost"):
        own.step([0], np.zeros((1, 2)))
