"""The recipes that record stand-ins: D4RL's controller, layout, determinism, and the level of the shipped policy."""

import json
from pathlib import Path

import numpy as np
import pytest

from pgd_lightning.simulators import BODIES, make
from pgd_lightning.simulators.maze import MAZES, free_cells
from pgd_lightning.simulators.substitutes import recipes
from pgd_lightning.simulators.substitutes.navigation import Navigator, nearest_cell, plan, waypoints
from pgd_lightning.simulators.substitutes.policies import Ladder
from pgd_lightning.simulators.substitutes.recipes import RECIPES, record_policies, uniform_policy


def recorded(name, num_steps, seed=0):
    return joined([chunk for chunk, _ in RECIPES[name].record(num_steps, seed, {})])


def joined(chunks):
    return {key: np.concatenate([chunk[key] for chunk in chunks]) for key in chunks[0]}


@pytest.mark.parametrize("name", ["hopper-medium", "walker2d-medium-replay", "maze2d-medium"])
def test_recording_goes_on_from_the_place_of_any_chunk(name, monkeypatch):
    """The place survives JSON, and what follows it is bit for bit what would have come."""
    monkeypatch.setattr(recipes, "ROWS_A_CHUNK", 300)
    whole = list(RECIPES[name].record(1500, 5, {}))
    assert len(whole) > 2
    for cut in range(1, len(whole)):
        place = json.loads(json.dumps(whole[cut - 1][1]))
        rest = joined([chunk for chunk, _ in RECIPES[name].record(1500, 5, place)])
        for key, column in joined([chunk for chunk, _ in whole[cut:]]).items():
            np.testing.assert_array_equal(rest[key], column, err_msg=key)


def test_replay_sets_climb_the_ladder():
    """Each stage has its share of the rows; a share that ends inside an episode ends it with a timeout."""
    data = recorded("hopper-medium-replay", 6000)
    ladder = Ladder.load("hopper")
    stages = ladder.medium + 1
    borders = [6000 * (i + 1) // stages - 1 for i in range(stages - 1)]
    assert (data["timeouts"] | data["terminals"])[borders].all()
    starts = np.concatenate([[0], np.flatnonzero(data["timeouts"] | data["terminals"])[:-1] + 1])
    lengths = np.diff([*starts, 6000])
    assert lengths[starts < borders[0]].mean() < 0.5 * lengths[starts > borders[-1]].mean()


@pytest.mark.parametrize("name", sorted(BODIES))
def test_shipped_ladders_say_where_they_come_from_and_are_what_they_say(name, monkeypatch):
    ladder = Ladder.load(name)
    assert f"--task {name} " in ladder.command
    steps = [stage["steps"] for stage in ladder.stages]
    assert steps == sorted(set(steps))
    assert 0 < ladder.medium < ladder.expert == len(ladder.policies) - 1
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "experiments" / "behaviour")
    from train import evaluate

    level = evaluate(name, ladder.policies[ladder.medium], limit=200, episodes=6, seed=9)
    assert level > 2 * abs(evaluate(name, ladder.policies[0], limit=200, episodes=6, seed=9))


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_recipes_are_deterministic_and_in_layout(name):
    first, again, other = recorded(name, 150, 3), recorded(name, 150, 3), recorded(name, 150, 4)
    simulator = make(RECIPES[name].task, "today")
    assert first["observations"].shape == (150, simulator.obs_dim)
    assert first["actions"].shape == (150, simulator.action_dim)
    assert first["infos/qpos"].shape == (150, simulator.model.nq)
    for key in ("observations", "actions", "rewards", "terminals", "timeouts", "infos/qpos", "infos/qvel"):
        np.testing.assert_array_equal(first[key], again[key])
        assert first[key].dtype == (bool if key in ("terminals", "timeouts") else np.float32)
    assert (first["observations"] != other["observations"]).any()
    assert not (first["terminals"] & first["timeouts"]).any()
    assert np.abs(first["actions"]).max() <= 1


@pytest.mark.parametrize("name", ["hopper-random", "maze2d-umaze"])
def test_chunks_only_cut_the_run(name, monkeypatch):
    """A run of more rows begins with the rows of a shorter one, across the border of a chunk too."""
    monkeypatch.setattr(recipes, "ROWS_A_CHUNK", 300)
    longer, shorter = recorded(name, 350), recorded(name, 320)
    assert len(longer["rewards"]) == 350
    for key, column in shorter.items():
        np.testing.assert_array_equal(longer[key][:320], column)


def test_time_limit_is_a_timeout_and_no_terminal():
    ((data, _),) = record_policies("halfcheetah", 40, lambda: uniform_policy("halfcheetah"), 100, 0, {})
    assert data["timeouts"].nonzero()[0].tolist() == [39, 79]
    assert not data["terminals"].any()
    inside = ~data["timeouts"][:-1]
    np.testing.assert_array_equal(data["next_observations"][:-1][inside], data["observations"][1:][inside])
    assert (data["next_observations"][39] != data["observations"][40]).any()


def test_random_return_of_hopper():
    """D4RL's uniform policy earns 19.9 +- 21.6 in 23 steps (100 episodes)."""
    data = recorded("hopper-random", 3000)
    episodes = (data["terminals"] | data["timeouts"]).sum()
    assert data["rewards"].sum() / episodes == pytest.approx(19.9, abs=5)
    assert 3000 / episodes == pytest.approx(23, abs=4)


def test_shipped_policy_is_at_the_medium_level():
    """D4RL's hopper-medium-v2 averages about 1,420; episodes end by falling. Standard error here about 60."""
    data = recorded("hopper-medium", 12_000)
    ends = (data["terminals"] | data["timeouts"]).nonzero()[0]
    returns = [piece.sum() for piece in np.split(data["rewards"], ends + 1)[: len(ends)]]
    assert np.mean(returns) == pytest.approx(1420, abs=240)
    assert data["terminals"].sum() > 15


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


def test_waypoints_are_scattered_cells_and_the_target():
    points = waypoints("umaze", (1, 1), (3, 1), np.random.default_rng(0))
    assert points[-1] == (3, 1)
    cells = np.array([(1, 2), (1, 3), (2, 3), (3, 3), (3, 2)])
    below = cells - np.array(points[:-1])
    assert (below >= 0).all()
    assert (below <= 0.2).all()


def test_waypoints_without_a_path_go_straight():
    assert waypoints("umaze", (0, 0), (3, 1), np.random.default_rng(0)) == [(3, 1)]


def test_an_action_aims_at_the_waypoint_that_it_passes():
    """D4RL passes at most one way-point a step, after the action; a plan changes only with the target's cell."""
    navigator, still = Navigator("umaze", np.random.default_rng(0)), np.zeros(2)
    goal = np.array([2.95, 1.05])
    first, done = navigator.act(np.array([1.0, 1.0]), still, goal)
    assert not done
    points = list(navigator.points)
    aimed = np.clip(10 * (np.array(points[0]) - 1.0), -1, 1)
    np.testing.assert_allclose(first, aimed)
    near = np.array(points[0]) - 0.02
    navigator.before = tuple(near)
    np.testing.assert_allclose(navigator.act(near, still, goal)[0], 0.2)
    np.testing.assert_allclose(
        navigator.act(near, still, goal + 0.1)[0], np.clip(10 * (np.array(points[1]) - near), -1, 1)
    )
    assert navigator.points == points


def test_controller_earns_what_d4rl_published():
    """161.86 in maze2d-umaze: the reference script never plans again, although every episode starts elsewhere."""
    navigator, simulator = Navigator("umaze", np.random.default_rng(0)), make("maze2d-umaze", "today")
    returns = []
    for episode in range(200):
        obs, total = simulator.reset(episode), 0.0
        for _ in range(300):
            action, _ = navigator.act(obs[:2], obs[2:], simulator.goal)
            obs, reward, _ = simulator.step(np.array(action))
            total += reward
        returns.append(total)
    assert np.mean(returns) == pytest.approx(161.86, abs=40)  # standard error 9 here, 13 in theirs


def test_maze_recipe_reaches_its_goals_and_walks_through_no_wall():
    data = recorded("maze2d-large", 6000)
    position, ends = data["observations"][:, :2], data["timeouts"].nonzero()[0]
    cells = {tuple(c) for c in free_cells("large")}
    assert {tuple(c) for c in np.round(position + 0.2).astype(int)} <= cells
    assert len(ends) > 10
    for end in ends:
        assert np.hypot(*(position[end] - nearest_cell(data["infos/goal"][end]))) < 0.1
    assert np.abs(data["observations"][:, 2:]).max() < 6


def test_maze_rewards_belong_to_their_own_observation():
    data = recorded("maze2d-umaze", 3000)
    inside = np.hypot(*(data["observations"][:, :2] - 1.0).T) <= 0.5
    np.testing.assert_array_equal(data["rewards"], inside.astype(np.float32))
    assert 0 < inside.mean() < 1
    dense = recorded("maze2d-umaze-dense", 3000)
    np.testing.assert_array_equal(dense["observations"], data["observations"])
    np.testing.assert_allclose(dense["rewards"], np.exp(-np.hypot(*(data["observations"][:, :2] - 1.0).T)), atol=1e-6)
