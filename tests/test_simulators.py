"""D4RL's environments: facts, and exact resets against recordings."""

from pathlib import Path

import gymnasium
import numpy as np
import pytest

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import BODIES, make, one_step, replay, reset_from_obs
from pgd_lightning.simulators.maze import GOALS, MAZES, free_cells
from pgd_lightning.simulators.recipes import RECIPES

EXCERPTS = Path(__file__).parent / "excerpts"
TASKS = [*BODIES, *(f"maze2d-{m}{d}" for m in MAZES for d in ("", "-dense"))]


def excerpt(name):
    return dict(np.load(EXCERPTS / f"{name}.npz"))


@pytest.mark.parametrize("task", TASKS)
def test_reset_and_step(task):
    simulator = make(task)
    obs = simulator.reset(7)
    assert (make(task).reset(7) == obs).all()
    assert (simulator.reset(8) != obs).any()
    next_obs, reward, terminated = simulator.step(np.zeros(simulator.model.nu))
    assert next_obs.shape == obs.shape == (simulator.obs_dim,)
    assert simulator.action_dim == simulator.model.nu
    assert np.isfinite(reward)
    assert not terminated


@pytest.mark.parametrize("task", TASKS)
def test_state_round_trip(task):
    simulator = make(task)
    simulator.reset(0)
    action = np.full(simulator.model.nu, 0.3)
    simulator.step(action)
    qpos, qvel = simulator.state()
    first = simulator.step(action)
    simulator.step(-action)
    simulator.set_state(qpos, qvel)
    again = simulator.step(action)
    np.testing.assert_allclose(again[0], first[0], atol=1e-9)
    assert again[1] == pytest.approx(first[1], abs=2e-3 if task == "ant" else 1e-9)  # ant's reward lags a sub-step


@pytest.mark.parametrize("name", ["hopper-medium", "maze2d-umaze", "walker2d-random"])
def test_recorded_steps_are_reproduced(name):
    data, simulator = excerpt(name), make(RECIPES[name].task)
    next_obs, reward, terminated = replay(simulator, data["infos_qpos"], data["infos_qvel"], data["actions"])
    inside = ~(data["terminals"] | data["timeouts"])
    inside[-1] = False
    successor = np.roll(data["observations"], -1, axis=0)[inside]
    error = np.abs(next_obs[inside] - successor).max(-1)
    assert np.median(error) < 1e-6
    assert error.max() < 2e-4
    assert (terminated == data["terminals"]).all()
    if name.startswith("maze2d"):  # a recorded reward belongs to its own observation
        np.testing.assert_array_equal(reward[inside], np.roll(data["rewards"], -1)[inside])
    else:
        np.testing.assert_allclose(reward, data["rewards"], atol=1e-3)
        np.testing.assert_allclose(next_obs, data["next_observations"], atol=2e-4)


@pytest.mark.parametrize("name", ["hopper-medium", "maze2d-umaze"])
def test_reset_from_observations(name):
    data, simulator = excerpt(name), make(RECIPES[name].task)
    actual, _, terminated, exact = one_step(simulator, data["observations"], data["actions"])
    expected = replay(simulator, data["infos_qpos"], data["infos_qvel"], data["actions"])[0]
    assert exact.mean() > 0.5
    np.testing.assert_allclose(actual[exact], expected[exact], atol=2e-4)
    assert (terminated == data["terminals"]).all()
    if name == "hopper-medium":
        assert (exact == (np.abs(data["observations"][:, 5:]).max(-1) < 10)).all()


def test_non_finite_rows_are_not_exact():
    simulator = make("hopper")
    obs = np.stack([simulator.reset(0)] * 2)
    obs[1, 0] = np.nan
    assert one_step(simulator, obs, np.zeros((2, 3)))[3].tolist() == [True, False]


@pytest.mark.parametrize("task", ["hopper", "walker2d", "halfcheetah", "maze2d-umaze"])
def test_rows_beyond_the_physics_have_no_successor(task, tmp_path, monkeypatch):
    """MuJoCo answers a state that it cannot integrate by starting over: that is not a step from the row."""
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    simulator = make(task)
    obs = np.stack([simulator.reset(0)] * 3)
    obs[1] = 1e11
    next_obs, reward, _, exact = one_step(simulator, obs, np.zeros((3, simulator.action_dim)))
    assert exact.tolist() == [True, False, True]
    assert np.isnan(next_obs[1]).all()
    assert np.isnan(reward[1])
    assert (next_obs[0] == next_obs[2]).all()


@pytest.mark.parametrize("task", TASKS)
def test_one_step_does_not_depend_on_the_step_before(task):
    simulator, rng = make(task), np.random.default_rng(0)
    obs = np.stack([simulator.reset(seed) for seed in range(8)])
    action = rng.uniform(-1, 1, (8, simulator.action_dim))
    forwards, backwards = one_step(simulator, obs, action), one_step(simulator, obs[::-1], action[::-1])
    assert (forwards[0] == backwards[0][::-1]).all()
    assert (forwards[1] == backwards[1][::-1]).all()


def test_velocity_at_the_clip_is_not_exact():
    simulator = make("walker2d")
    obs = simulator.reset(0)
    assert reset_from_obs(simulator, obs)
    obs[-1] = 10.0
    assert not reset_from_obs(simulator, obs)
    assert simulator.state()[1][-1] == 10.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task, env_id", [("hopper", "Hopper-v4"), ("walker2d", "Walker2d-v4"), ("ant", "Ant-v4")])
def test_equal_to_the_fourth_version(task, env_id):
    """Whole episodes, the terminal step and its reward included."""
    theirs, ours, rng = gymnasium.make(env_id).unwrapped, make(task), np.random.default_rng(0)
    for episode in range(10):
        known = len(theirs.reset(seed=episode)[0])
        ours.reset(episode)
        for _ in range(200):
            action = rng.uniform(-1, 1, ours.action_dim)
            obs, reward, terminated, *_ = theirs.step(action)
            next_obs, earned, ended = ours.step(action)
            assert (next_obs[:known] == obs).all()
            assert not next_obs[known:].any()
            assert earned == pytest.approx(reward, abs=1e-12)
            assert ended == terminated
            if ended:
                break


def test_mass_of_hopper():
    assert make("hopper").model.body_mass.sum() == pytest.approx(15.820, abs=1e-3)


def test_terminal_step_pays_the_healthy_reward():
    """Gymnasium's v5 withholds 1 there; v4 and D4RL pay it."""
    simulator = make("hopper")
    simulator.reset(0)
    qpos, qvel = simulator.state()
    qpos[1] = 0.71  # just above the height at which it counts as fallen
    qvel[1] = -8.0
    simulator.set_state(qpos, qvel)
    _, reward, terminated = simulator.step(np.zeros(3))
    assert terminated
    simulator.set_state(qpos, qvel)
    _, bare, *_ = simulator.env.step(np.zeros(3))
    assert reward - bare == pytest.approx(1.0)


def test_actions_are_clipped_before_they_cost():
    simulator = make("halfcheetah")
    qpos, qvel = np.zeros(9), np.zeros(9)
    simulator.set_state(qpos, qvel)
    far = simulator.step(np.full(6, 5.0))
    simulator.set_state(qpos, qvel)
    edge = simulator.step(np.ones(6))
    assert far[1] == edge[1]
    assert (far[0] == edge[0]).all()


def test_non_finite_action_is_a_failure():
    simulator = make("maze2d-umaze")
    simulator.reset(0)
    with pytest.raises(UserError, match="failed"):
        simulator.step(np.array([np.nan, 0.0]))


def test_unknown_task():
    with pytest.raises(UserError, match="There is no simulator for 'hoper'"):
        make("hoper")


@pytest.mark.parametrize("name", MAZES)
def test_goal_lies_in_a_free_cell(name):
    assert tuple(int(x) for x in GOALS[name]) in {tuple(cell) for cell in free_cells(name)}
