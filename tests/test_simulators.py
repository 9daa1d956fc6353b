"""D4RL's environments: facts, and exact resets against recordings."""

from pathlib import Path

import gymnasium
import mujoco
import numpy as np
import pytest

from pgd_lightning.errors import UserError
from pgd_lightning.simulators import TASKS, make, one_step, replay, reset_from_obs
from pgd_lightning.simulators.maze import GOALS, MAZES, free_cells
from pgd_lightning.simulators.substitutes.recipes import RECIPES

EXCERPTS = Path(__file__).parent / "excerpts"
HANDS = ["pen", "door", "hammer", "relocate"]
NOISY = {"kitchen", "kitchen-mixed"}  # their observations carry noise, their controller a memory
EXACT = [task for task in TASKS if task not in NOISY]


def excerpt(name):
    return dict(np.load(EXCERPTS / f"{name}.npz"))


def infos(data):
    return {"qpos": data["infos_qpos"], "qvel": data["infos_qvel"]}


@pytest.mark.parametrize("task", TASKS)
def test_reset_and_step(task):
    simulator = make(task, "today")
    obs = simulator.reset(7)
    assert (make(task, "today").reset(7) == obs).all()
    assert (simulator.reset(8) != obs).any()
    next_obs, reward, terminated = simulator.step(np.zeros(simulator.model.nu))
    assert next_obs.shape == obs.shape == (simulator.obs_dim,)
    assert simulator.action_dim == simulator.model.nu
    assert np.isfinite(reward)
    assert not terminated


@pytest.mark.parametrize("task", EXACT)
def test_state_round_trip(task):
    simulator = make(task, "today")
    simulator.reset(0)
    action = np.full(simulator.model.nu, 0.3)
    simulator.step(action)
    state = simulator.state()
    first = simulator.step(action)
    simulator.step(-action)
    simulator.set_state(state)
    again = simulator.step(action)
    np.testing.assert_allclose(again[0], first[0], atol=1e-9)
    assert again[1] == pytest.approx(first[1], abs=2e-3 if task == "ant" else 1e-9)  # ant's reward lags a sub-step


@pytest.mark.parametrize("name", ["hopper-medium", "maze2d-umaze", "walker2d-random"])
def test_recorded_steps_are_reproduced(name):
    data, simulator = excerpt(name), make(RECIPES[name].task, "today")
    next_obs, reward, terminated = replay(simulator, infos(data), data["actions"])
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
    data, simulator = excerpt(name), make(RECIPES[name].task, "today")
    actual, _, terminated, exact, _ = one_step(simulator, data["observations"], data["actions"])
    expected = replay(simulator, infos(data), data["actions"])[0]
    assert exact.mean() > 0.5
    np.testing.assert_allclose(actual[exact], expected[exact], atol=2e-4)
    assert (terminated == data["terminals"]).all()
    if name == "hopper-medium":
        assert (exact == (np.abs(data["observations"][:, 5:]).max(-1) < 10)).all()


def test_non_finite_rows_are_not_exact():
    simulator = make("hopper", "today")
    obs = np.stack([simulator.reset(0)] * 2)
    obs[1, 0] = np.nan
    assert one_step(simulator, obs, np.zeros((2, 3)))[3].tolist() == [True, False]


@pytest.mark.parametrize("task", ["hopper", "walker2d", "halfcheetah", "maze2d-umaze"])
def test_rows_beyond_the_physics_have_no_successor(task, tmp_path, monkeypatch):
    """MuJoCo answers a state that it cannot integrate by starting over: that is not a step from the row."""
    monkeypatch.chdir(tmp_path)  # where MuJoCo writes its log
    simulator = make(task, "today")
    obs = np.stack([simulator.reset(0)] * 3)
    obs[1] = 1e11
    next_obs, reward, _, exact, _ = one_step(simulator, obs, np.zeros((3, simulator.action_dim)))
    assert exact.tolist() == [True, False, True]
    assert np.isnan(next_obs[1]).all()
    assert np.isnan(reward[1])
    assert (next_obs[0] == next_obs[2]).all()


@pytest.mark.parametrize("task", [task for task in EXACT if task not in HANDS])
def test_one_step_does_not_depend_on_the_step_before(task):
    simulator, rng = make(task, "today"), np.random.default_rng(0)
    obs = np.stack([simulator.reset(seed) for seed in range(8)])
    action = rng.uniform(-1, 1, (8, simulator.action_dim))
    forwards, backwards = one_step(simulator, obs, action), one_step(simulator, obs[::-1], action[::-1])
    assert (forwards[0] == backwards[0][::-1]).all()
    assert (forwards[1] == backwards[1][::-1]).all()


def test_velocity_at_the_clip_is_not_exact():
    simulator = make("walker2d", "today")
    obs = simulator.reset(0)
    assert reset_from_obs(simulator, obs)
    obs[-1] = 10.0
    assert not reset_from_obs(simulator, obs)
    assert simulator.state()["qvel"][-1] == 10.0


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task, env_id", [("hopper", "Hopper-v4"), ("walker2d", "Walker2d-v4"), ("ant", "Ant-v4")])
def test_equal_to_the_fourth_version(task, env_id):
    """Whole episodes, the terminal step and its reward included."""
    theirs, ours, rng = gymnasium.make(env_id).unwrapped, make(task, "today"), np.random.default_rng(0)
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


@pytest.mark.parametrize(
    "task, today, d4rl",
    [("hopper", 15.820, 15.265), ("halfcheetah", 14, 14), ("walker2d", 23.677, 22.698), ("ant", 0.911, 0.879)],
)
def test_mass_under_both_physics(task, today, d4rl):
    """Published body masses; the cheetah's total is fixed by its model."""
    assert make(task, "today").model.body_mass.sum() == pytest.approx(today, abs=6e-4)
    assert make(task, "d4rl").model.body_mass.sum() == pytest.approx(d4rl, abs=6e-4)


def test_old_capsule_is_a_longer_cylinder():
    """Hopper's thigh alone: density 1000, radius 0.05, half-length 0.225; a cylinder of half-length 0.25."""
    model = make("hopper", "d4rl").model
    thigh, radius, half = model.body("thigh").id, 0.05, 0.225 + 0.025
    mass = 1000 * np.pi * radius**2 * 2 * half
    across, along = mass * (3 * radius**2 + (2 * half) ** 2) / 12, mass * radius**2 / 2
    assert model.body_mass[thigh] == pytest.approx(mass, rel=1e-6)
    np.testing.assert_allclose(np.sort(model.body_inertia[thigh]), [along, across, across], rtol=1e-6)
    assert model.body_subtreemass[0] == pytest.approx(model.body_mass.sum())
    assert (model.geom_type == make("hopper", "today").model.geom_type).all()


@pytest.mark.parametrize("task, mean, error", [("hopper", 18.2, 6), ("walker2d", 1.8, 2), ("halfcheetah", -283, 30)])
def test_random_returns_under_old_physics(task, mean, error):
    """Published returns of uniform actions; here 40 episodes (8 of the cheetah, whose steps are many)."""
    simulator, rng, returns = make(task, "d4rl"), np.random.default_rng(0), []
    for episode in range(8 if task == "halfcheetah" else 40):
        simulator.reset(episode)
        total, terminated, steps = 0.0, False, 0
        while not terminated and steps < 1000:
            _, reward, terminated = simulator.step(rng.uniform(-1, 1, simulator.action_dim))
            total, steps = total + reward, steps + 1
        returns.append(total)
    assert np.mean(returns) == pytest.approx(mean, abs=3 * error if task == "halfcheetah" else error)


def test_the_two_physics_disagree_and_say_so():
    data = excerpt("hopper-medium")
    steps = {p: replay(make("hopper", p), infos(data), data["actions"])[0] for p in ("today", "d4rl")}
    error = np.abs(steps["d4rl"] - steps["today"]).max(-1)
    assert 1e-3 < np.median(error) < 2e-2  # 5.5e-3 on data recorded in the old one
    assert make("hopper", "today").physics != make("hopper", "d4rl").physics
    with pytest.raises(UserError, match="physics=then is neither today nor d4rl"):
        make("hopper", "then")


def test_terminal_step_pays_the_healthy_reward():
    """Gymnasium's v5 withholds 1 there; v4 and D4RL pay it."""
    simulator = make("hopper", "today")
    simulator.reset(0)
    state = simulator.state()
    state["qpos"][1] = 0.71  # just above the height at which it counts as fallen
    state["qvel"][1] = -8.0
    simulator.set_state(state)
    _, reward, terminated = simulator.step(np.zeros(3))
    assert terminated
    simulator.set_state(state)
    _, bare, *_ = simulator.env.step(np.zeros(3))
    assert reward - bare == pytest.approx(1.0)


def test_actions_are_clipped_before_they_cost():
    simulator = make("halfcheetah", "today")
    state = {"qpos": np.zeros(9), "qvel": np.zeros(9)}
    simulator.set_state(state)
    far = simulator.step(np.full(6, 5.0))
    simulator.set_state(state)
    edge = simulator.step(np.ones(6))
    assert far[1] == edge[1]
    assert (far[0] == edge[0]).all()


def test_non_finite_action_is_a_failure():
    simulator = make("maze2d-umaze", "today")
    simulator.reset(0)
    with pytest.raises(UserError, match="failed"):
        simulator.step(np.array([np.nan, 0.0]))


@pytest.mark.parametrize("version, known", [("3.2.7", False), ("3.3.0", True), ("3.4.1", True), ("3.5.0", True),
                                            ("4.0.0", True), ("4.1.0", False), ("5.0", False)])  # fmt: skip
def test_another_mujoco_is_refused(version, known, monkeypatch):
    monkeypatch.setattr(mujoco, "__version__", version)
    if known:
        make("maze2d-umaze", "today")
    else:
        with pytest.raises(UserError, match=rf"MuJoCo {version} is installed.*pip install 'mujoco>=3.3,<4.1'"):
            make("maze2d-umaze", "today")


@pytest.mark.parametrize("task", ["hopper", "ant", "pen", "maze2d-umaze"])
def test_a_newer_mujoco_gets_the_contacts_of_the_recordings(task, monkeypatch):
    """Its margins are sums, and it makes several contacts a pair (experiments/simulators has the errors of a step)."""
    old = make(task, "today")
    monkeypatch.setattr(mujoco, "__version__", "4.0.0")
    monkeypatch.setattr(mujoco.mjtDisableBit, "mjDSBL_MULTICCD", 1 << 19, raising=False)
    new = make(task, "today")
    np.testing.assert_array_equal(new.model.geom_margin, old.model.geom_margin / 2)
    assert new.model.opt.disableflags & (1 << 19)
    assert old.differs is None
    differs = {"ant": "integrates free joints otherwise", "pen": "finds other contacts"}.get(task)
    assert new.differs is None if differs is None else differs in new.differs and "mujoco<" in new.differs


def test_a_state_without_its_target_is_refused():
    simulator = make("pen", "today")
    state = simulator.state()
    del state["desired_orien"]
    with pytest.raises(UserError, match="has no desired_orien"):
        simulator.set_state(state)


def test_unknown_task():
    with pytest.raises(UserError, match="There is no simulator for 'hoper'"):
        make("hoper", "today")


@pytest.mark.parametrize("name", MAZES)
def test_goal_lies_in_a_free_cell(name):
    assert tuple(int(x) for x in GOALS[name]) in {tuple(cell) for cell in free_cells(name)}


@pytest.mark.parametrize("task, hand, thing", [("door", "S_grasp", "S_handle"), ("hammer", "S_grasp", "Object"),
                                               ("relocate", "S_grasp", "Object"), ("pen", None, None)])  # fmt: skip
def test_adroit_rewards_have_the_right_sign(task, hand, thing):
    """The installed environments pay +0.1 for the distance of the hand where D4RL charges it; pen's are right."""
    simulator, rng = make(task, "today"), np.random.default_rng(0)
    simulator.reset(3)
    for _ in range(15):
        action, state = rng.uniform(-1, 1, simulator.action_dim), simulator.state()
        _, reward, _ = simulator.step(action)
        simulator.set_state(state)
        theirs = simulator.env.step(action)[1]
        reach = 0.0
        if hand:
            data = simulator.data
            place = data.site(thing).xpos if task == "door" else data.body(thing).xpos
            reach = np.linalg.norm(data.site(hand).xpos - place)
        assert reward == pytest.approx(float(theirs) - 0.2 * reach, abs=1e-9)


def test_pen_ends_where_it_falls():
    simulator = make("pen", "today")
    simulator.reset(0)
    assert not simulator.step(np.zeros(24))[2]
    state = simulator.state()
    state["qpos"][24] += 0.3  # its slide points down
    simulator.set_state(state)
    assert simulator.step(np.zeros(24))[2]


@pytest.mark.parametrize("task", HANDS)
def test_hands_are_reset_from_what_is_seen(task):
    """What the observation shows is met; that it does not show everything is said."""
    simulator, rng = make(task, "today"), np.random.default_rng(1)
    obs = simulator.reset(5)
    for _ in range(8):
        obs, *_ = simulator.step(rng.uniform(-1, 1, simulator.action_dim))
    state, exact = simulator.state_from_obs(obs)
    assert not exact
    np.testing.assert_allclose(simulator.set_state(state), obs, atol=2e-2)


def test_relocate_takes_the_names_of_its_files():
    simulator = make("relocate", "today")
    simulator.reset(1)
    state = simulator.state()
    obs = simulator.set_state(state)
    renamed = {"obj_pos" if name == "obj_body_pos" else name: value for name, value in state.items()}
    simulator.reset(2)
    np.testing.assert_array_equal(simulator.set_state(renamed), obs)


@pytest.mark.parametrize("maze, cell", [("umaze", (3, 1)), ("medium", (6, 6)), ("large", (7, 9))])
def test_antmaze_pays_at_its_goal_alone(maze, cell):
    simulator = make(f"antmaze-{maze}", "today")
    obs = simulator.reset(0)
    assert np.abs(obs[:2]).max() < 0.2  # starts at the origin
    beyond = simulator.goal - 4.0 * (np.array(cell)[::-1] - 1)  # rows grow along +y
    assert ((beyond >= 0) & (beyond <= 1.5)).all()
    assert simulator.step(np.zeros(8))[1:] == (0.0, False)
    state = simulator.state()
    state["qpos"][:2] = np.add(simulator.goal, [0.3, 0])
    simulator.set_state(state)
    assert simulator.step(np.zeros(8))[1:] == (1.0, True)
    assert simulator.model.opt.timestep * 5 == pytest.approx(0.1)
    first = simulator.goal
    simulator.reset(1)
    assert (simulator.goal != first).any()


def test_ant_in_a_maze_meets_walls():
    """A push toward -x from the start ends at the wall two units away."""
    simulator = make("antmaze-umaze", "today")
    state = {"qpos": simulator.model.qpos0.copy(), "qvel": np.zeros(14)}
    state["qvel"][0] = -8.0
    simulator.set_state(state)
    for _ in range(30):
        obs, *_ = simulator.step(np.zeros(8))
    assert -2.0 < obs[0] < -0.2


@pytest.mark.parametrize("physics, mass", [("today", 0.911), ("d4rl", 0.879)])
def test_ant_in_a_maze_is_d4rls(physics, mass):
    """Facts of D4RL's ``locomotion/assets/ant.xml``: Gymnasium's body (whose mass is published), softer contacts."""
    model, plain = make("antmaze-umaze", physics).model, make("ant", physics).model
    assert model.body_mass.sum() == pytest.approx(mass, abs=6e-4)
    np.testing.assert_array_equal(model.body_inertia, plain.body_inertia)
    np.testing.assert_array_equal(model.jnt_range, plain.jnt_range)
    np.testing.assert_array_equal(model.actuator_trnid, plain.actuator_trnid)
    assert (model.geom_solimp[:, :3] == [0.8, 0.8, 0.01]).all()
    assert (model.geom_solref == [0.02, 1]).all()
    assert (model.geom_margin == 0.01).all()  # the walls' too
    assert (model.geom_friction == [1, 0.5, 0.5]).all()
    assert (model.actuator_ctrlrange == [-30, 30]).all()
    assert (model.actuator_gear[:, 0] == 1).all()


def test_antmaze_starts_and_aims_as_d4rl():
    """The quaternion is a unit's; the goal is the cell's middle (0, 8) plus U(0, 1) plus U(0, 0.5)."""
    simulator, goals = make("antmaze-umaze", "today"), []
    for seed in range(200):
        assert np.linalg.norm(simulator.reset(seed)[3:7]) == pytest.approx(1)
        goals.append(simulator.goal)
    np.testing.assert_allclose(np.mean(goals, axis=0), [0.75, 8.75], atol=0.1)
    np.testing.assert_allclose(np.std(goals, axis=0), np.sqrt((1 + 0.5**2) / 12), atol=0.05)


@pytest.mark.parametrize("task", sorted(NOISY))
def test_kitchen_shows_its_goal_and_pays_each_task_once(task):
    simulator = make(task, "today")
    obs = simulator.reset(0)
    assert obs.shape == (60,)
    np.testing.assert_array_equal(obs[30:], simulator.goal)
    assert np.count_nonzero(simulator.goal) == {"kitchen": 9, "kitchen-mixed": 10}[task]
    state = simulator.state()
    paid = []
    for number, joints in enumerate(simulator.joints.values(), start=1):
        state["qpos"][joints] = simulator.goal[joints]
        simulator.set_state(state)
        paid.append([simulator.step(np.zeros(9))[1:] for _ in range(2)])
        state["open"] = simulator.state()["open"]
        assert state["open"].sum() == 4 - number
    assert paid == [[(1.0, False), (0.0, False)]] * 3 + [[(1.0, True), (0.0, True)]]


def test_kitchen_goes_on_from_a_state():
    """Joints do; what is read of them has D4RL's noise: 0.1 of the amplitudes, up to 0.01 for the robot's joints."""
    simulator, rng = make("kitchen", "today"), np.random.default_rng(0)
    simulator.reset(0)
    for _ in range(5):
        obs, *_ = simulator.step(rng.uniform(-1, 1, 9))
    wrong = np.abs(obs[:30] - simulator.data.qpos)
    assert 0 < wrong[:9].max() <= 0.01
    assert 0 < wrong[9:20].max() <= 0.0005
    state, action = simulator.state(), rng.uniform(-1, 1, 9)
    simulator.step(action)
    expected = simulator.data.qpos.copy()
    simulator.step(-action)
    simulator.set_state(state)
    simulator.step(action)
    np.testing.assert_allclose(simulator.data.qpos, expected, atol=1e-12)


def test_only_what_cannot_be_had_differs():
    unheld = NOISY | {"antmaze-umaze", "antmaze-medium", "antmaze-large"}
    assert {task for task in TASKS if make(task, "today").differs} == unheld


def test_making_a_hand_prints_nothing(capfd):
    make("pen", "today")
    assert capfd.readouterr() == ("", "")
