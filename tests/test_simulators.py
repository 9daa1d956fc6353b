"""D4RL's environments: facts, exact resets against recordings, and the recipes' promises."""

from pathlib import Path

import numpy as np
import pytest

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import BODIES, make, one_step, replay
from pgd_lightning.simulators.maze import GOALS, MAZES, free_cells
from pgd_lightning.simulators.recipes import RECIPES, plan, waypoints

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
    assert next_obs.shape == obs.shape
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


def test_random_return_of_hopper():
    """D4RL's uniform policy earns 19.9 +- 21.6 in 23 steps (100 episodes)."""
    data = next(iter(RECIPES["hopper-random"].record(3000, 0)))
    episodes = (data["terminals"] | data["timeouts"]).sum()
    assert data["rewards"].sum() / episodes == pytest.approx(19.9, abs=5)
    assert 3000 / episodes == pytest.approx(23, abs=4)


@pytest.mark.parametrize("name", MAZES)
def test_goal_lies_in_a_free_cell(name):
    assert tuple(int(x) for x in GOALS[name]) in {tuple(cell) for cell in free_cells(name)}


@pytest.mark.parametrize("name", MAZES)
def test_plan_reaches_every_goal_from_everywhere(name):
    cells = {tuple(int(i) for i in c) for c in free_cells(name)}
    for target in cells:
        route = plan(name, target)
        for start in cells:
            cell, steps = start, 0
            while cell != target:
                following = tuple(int(i) for i in route[cell])
                assert following in cells
                assert abs(following[0] - cell[0]) + abs(following[1] - cell[1]) == 1
                cell, steps = following, steps + 1
                assert steps < 60


def test_waypoints_end_at_the_target():
    points = waypoints(plan("umaze", (3, 1)), np.array([1.0, 1.0]), (3, 1), np.random.default_rng(0))
    assert points[-1].tolist() == [3, 1]
    cells = np.round(points[:-1])
    assert all(
        (cell - point >= 0).all() and (cell - point <= 0.2).all() for cell, point in zip(cells, points, strict=False)
    )


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_deterministic_and_in_layout(name):
    first, again = (list(RECIPES[name].record(150, 3)) for _ in range(2))
    other = list(RECIPES[name].record(150, 4))
    assert sum(len(c["rewards"]) for c in first) == 150
    for key in ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel"):
        np.testing.assert_array_equal(first[0][key], again[0][key])
    assert (first[0]["observations"] != other[0]["observations"]).any()
    assert not (first[0]["terminals"] & first[0]["timeouts"]).any()
    assert np.abs(first[0]["actions"]).max() <= 1


def test_maze_recipe_walks_through_no_wall():
    data = next(iter(RECIPES["maze2d-large"].record(3000, 0)))
    position = data["observations"][:, :2]
    cells = {tuple(c) for c in free_cells("large")}
    assert {tuple(c) for c in np.round(position + 0.2).astype(int)} <= cells
    assert data["timeouts"].sum() > 3
    assert np.abs(data["observations"][:, 2:]).max() < 6
