"""Many states stepped at once are what one simulator makes of them, bit for bit, in any number of threads."""

from functools import cache

import numpy as np
import pytest

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import make, one_step, replay
from pgd_lightning.simulators.simulator import one_step_by_row, replay_by_row

CASES = [(task, physics) for task in ("hopper", "halfcheetah", "walker2d", "ant") for physics in ("today", "d4rl")]
CASES += [(f"maze2d-{maze}", "today") for maze in ("umaze", "large", "medium-dense")]


@cache
def visited(task, physics, number=400):
    """States on the way of random actions, half of them pushed off it by noise."""
    simulator, rng, states = make(task, physics), np.random.default_rng(0), []
    while len(states) < number:
        simulator.reset(len(states))
        for step in range(200):
            _, _, ended = simulator.step(rng.uniform(-1, 1, simulator.action_dim))
            if step % 5 == 4:
                states.append(simulator.state())
            if ended:
                states.append(simulator.state())
                break
    columns = {name: np.stack([state[name] for state in states[:number]]) for name in ("qpos", "qvel")}
    for name, spread in (("qpos", 0.1), ("qvel", 3.0)):
        columns[name][::2] += spread * rng.normal(size=columns[name][::2].shape)
    return columns, rng.uniform(-1.2, 1.2, (number, simulator.action_dim))


def same(ours, theirs):
    return all(a.dtype == b.dtype and np.array_equal(a, b, equal_nan=True) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("task, physics", CASES)
def test_recorded_states_take_the_same_step(task, physics):
    simulator, (states, action) = make(task, physics), visited(task, physics)
    expected = replay_by_row(simulator, states, action)
    assert task.startswith(("maze2d", "halfcheetah")) or 0.02 < expected[2].mean() < 0.9
    for threads in (1, 2, 3):
        assert same(replay(simulator, states, action, threads), expected)
    narrow = action.astype(np.float32)
    assert same(replay(simulator, states, narrow), replay_by_row(simulator, states, narrow))


@pytest.mark.parametrize("task, physics", CASES)
def test_observations_take_the_same_step(task, physics, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    simulator, (states, action) = make(task, physics), visited(task, physics)
    obs = simulator.seen(**states)
    obs[3, 0], obs[7], obs[8, 1] = np.nan, 1e11, 1e5
    action = action.copy()
    action[11, 0] = np.inf
    expected = one_step_by_row(simulator, obs, action)
    assert np.isnan(expected[1]).sum() >= 3
    for threads in (1, 2, 3):
        assert same(one_step(simulator, obs, action, threads), expected)
    assert same(one_step(simulator, obs[3:4], action[3:4]), one_step_by_row(simulator, obs[3:4], action[3:4]))
    assert same(one_step(simulator, obs[:0], action[:0]), one_step_by_row(simulator, obs[:0], action[:0]))


def test_more_rows_than_a_block(monkeypatch):
    simulator, (states, action) = make("hopper", "today"), visited("hopper", "today")
    monkeypatch.setattr("pgd_lightning.simulators.batch.BLOCK", 150)
    assert same(replay(simulator, states, action), replay_by_row(simulator, states, action))


def test_a_recorded_state_beyond_the_physics_is_what_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    simulator, (states, action) = make("hopper", "today"), visited("hopper", "today")
    states = {name: rows.copy() for name, rows in states.items()}
    states["qvel"][5] = 1e12
    assert same(replay(simulator, states, action), replay_by_row(simulator, states, action))


def test_a_non_finite_action_is_a_failure():
    simulator, (states, action) = make("hopper", "today"), visited("hopper", "today")
    with pytest.raises(UserError, match="given the action"):
        replay(simulator, states, np.where(np.arange(len(action))[:, None] == 4, np.nan, action))
