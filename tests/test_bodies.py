"""A recording is not read as another body, maze or kitchen: what it says, and what one simulated step of its rows says."""

from dataclasses import replace
from functools import cache

import gymnasium
import numpy as np
import pytest
from omegaconf import OmegaConf

from pgd_lightning.artifacts.dataset import open_dataset, read_recording
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, minari_writer, origin
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.bodies import Rows, doubt
from pgd_lightning.simulators import make
from pgd_lightning.simulators.kitchen import goal_of

SEEN_CELLS = ((1, 1), (1, 2), (2, 3), (3, 3), (3, 1))  # of umaze; (2, 3) and (3, 1) are walls elsewhere


def steps_of(task: str, physics: str = "today", number: int = 300) -> Rows:
    """Random actions; a maze's episodes start in ``SEEN_CELLS``."""
    simulator, rng = make(task, physics), np.random.default_rng(0)
    kept, obs = [], simulator.reset(0)
    for step in range(number):
        action = rng.uniform(-1, 1, simulator.action_dim)
        after, reward, terminated = simulator.step(action)
        kept.append((obs, action, after, reward))
        obs = after
        if terminated or step % 20 == 19:
            obs = simulator.reset(step)
            if "umaze" in task:
                row, column = SEEN_CELLS[step // 20 % len(SEEN_CELLS)]
                state = simulator.state()
                state["qpos"][:2] = (row, column) if task[0] == "m" else (4 * (column - 1), 4 * (row - 1))
                obs = simulator.set_state(state)
    return Rows(*(np.array(column, dtype=np.float32).astype(float) for column in zip(*kept, strict=True)))


def columns_of(rows: Rows) -> dict[str, np.ndarray]:
    ends = np.arange(len(rows.obs)) == len(rows.obs) - 1
    return {
        "observations": rows.obs, "actions": rows.action, "next_observations": rows.next_obs, "rewards": rows.reward,
        "terminals": ends & False, "timeouts": ends,
    }  # fmt: skip


def save(path, rows: Rows, **attributes):
    d4rl.write(path, [columns_of(rows)], attributes, len(rows.obs))
    return path


@cache
def composed():
    return compose_config("prior", ["env=hopper-medium", "data.cache=null", "data.horizon=4"])


def config(path):
    return OmegaConf.merge(composed(), {"data": {"source": str(path)}})


def read(path, env: str):
    return read_recording(config(path), origin.known()[env])


NAMES = {
    "Walker2d-v4": "walker2d", "walker2d-medium-v2": "walker2d", "HalfCheetah-v5": "halfcheetah",
    "half_cheetah": "halfcheetah", "Ant-v5": "ant", "mujoco/hopper/expert-v0": "hopper",
    "AdroitHandDoor-v1 (D4RL reward recomputed)": "door", "D4RL/pen/human-v2": "pen",
    "PointMaze_UMaze-v3": "maze2d-umaze", "PointMaze_LargeDense-v3": "maze2d-large-dense",
    "AntMaze_Large_Diverse_GR-v4": "antmaze-large", "D4RL/antmaze/medium-play-v1": "antmaze-medium",
    "D4RL/kitchen/mixed-v2": "kitchen-mixed", "D4RL/kitchen/partial-v2": "kitchen",
    "FrankaKitchen-v1": None, "PointMaze_Open-v3": None, "antmaze-giant-navigate-v0": None, "Giant-v0": None,
    "hopper, not walker2d": None, "Pendulum-v1": None, "": None,
}  # fmt: skip


class TestWhatAFileSays:
    @pytest.mark.parametrize("name", NAMES)
    def test_names_of_environments(self, name):
        assert origin.task_named(name) == NAMES[name]

    @pytest.mark.parametrize("env", origin.known().values(), ids=lambda env: env.name)
    def test_our_own_names_mean_their_task(self, env: EnvSpec):
        assert origin.task_named(env.name) == origin.task_named(env.d4rl_id) == env.task
        assert (
            origin.compared(env, {"path": "x", "kind": "user file", "sha256": "", "says": {"its name": env.name}}) == []
        )

    @pytest.mark.parametrize("attribute", ["recipe", "env", "env_id", "task"])
    def test_another_body_is_refused_by_name(self, tmp_path, attribute):
        path = save(tmp_path / "x.hdf5", steps_of("maze2d-umaze", number=60), **{attribute: "walker2d-medium"})
        says = f"was recorded in walker2d, not in maze2d-umaze: its attribute '{attribute}' says 'walker2d-medium'. "
        with pytest.raises(UserError, match=says + "Set env=walker2d-medium.$"):
            read(path, "maze2d-umaze")

    def test_another_data_set_of_the_body_is_said(self, tmp_path):
        path = save(tmp_path / "x.hdf5", steps_of("hopper", number=60), env="hopper-expert", env_id="Hopper-v5")
        assert "this is hopper-expert, read as hopper-medium" in read(path, "hopper-medium")[0].notes
        assert read(path, "hopper-expert")[0].notes == ()

    def test_published_files_are_known_by_their_hash(self, tmp_path, monkeypatch):
        path = save(tmp_path / "x.hdf5", steps_of("hopper", number=60))
        known = origin.known()
        expert = known["hopper-expert"]
        published = replace(expert, file=replace(expert.file, sha256=d4rl.file_hash(path)))
        monkeypatch.setattr(origin, "known", lambda: known | {"hopper-expert": published})
        recording, provenance, _ = read(path, "hopper-medium")
        assert recording.notes == ("this is hopper-expert-v2, read as hopper-medium",)
        assert provenance["label"].startswith("hopper-expert-v2 (D4RL) as hopper-medium, not D4RL")
        with pytest.raises(UserError, match="in hopper, not in walker2d: it is the published hopper-expert-v2"):
            read(path, "walker2d-medium")

    def test_hostile_descriptions_say_nothing(self):
        for spec in ("{", "[1]", '{"id": 3}', 7, "x" * 200_000, "[" * 90_000):
            assert origin.minari_facts({"env_spec": spec, "ref_min_score": "0", "ref_max_score": float("nan")}) == {}


class TestMinari:
    @pytest.fixture
    def folder(self, tmp_path):
        pytest.importorskip("minari", reason="minari is not installed: pip install 'minari[hdf5]'")
        from minari.data_collector import EpisodeBuffer
        from minari.dataset.minari_storage import MinariStorage

        made, rng = tmp_path / "other" / "hopper-v0", np.random.default_rng(0)
        made.mkdir(parents=True)
        box = lambda n: gymnasium.spaces.Box(-np.inf, np.inf, (n,), np.float32)  # noqa: E731
        storage = MinariStorage.new(made / "data", box(11), box(3), gymnasium.spec("Hopper-v5"))
        obs, reward = rng.normal(size=(31, 11)).astype(np.float32), rng.normal(size=30)
        flags = np.arange(30) == 29
        storage.update_episodes([EpisodeBuffer(
            observations=obs, actions=np.zeros((30, 3), np.float32), rewards=reward, terminations=flags & False,
            truncations=flags,
        )])  # fmt: skip
        storage.update_metadata({"dataset_id": "x/hopper-v0", "ref_min_score": 5.0, "ref_max_score": 500})
        return made

    def test_its_facts_and_those_used_are_said(self, folder, capsys):
        dataset = open_dataset(config(f"minari:{folder}"))
        said = capsys.readouterr().out
        assert "environment Hopper-v5, at most 1000 steps an episode, scores 0 and 100 at returns 5 and 500" in said
        assert (
            "used instead: hopper as D4RL has it, at most 1000 steps an episode, scores 0 and 100 at returns -20.2"
            in said
        )
        assert dataset.provenance["minari"]["ref_max_score"] == 500
        constants = origin.score_constants(dataset.env, dataset.provenance)
        assert constants == "-20.2723 and 3234.3 (D4RL's for hopper; scores by the Minari set's own stand apart)"

    def test_constants_of_the_user_are_not_called_d4rls(self, folder, capsys):
        changed = ["env.ref_min_score=0", "env.ref_max_score=100", "env.max_episode_steps=50"]
        env = compose_config("prior", ["env=hopper-medium", *changed]).env
        dataset = open_dataset(OmegaConf.merge(config(f"minari:{folder}"), {"env": env}))
        said = capsys.readouterr().out
        assert (
            "used instead: hopper with env.max_episode_steps as set, at most 50 steps an episode, scores 0 and" in said
        )
        constants = origin.score_constants(dataset.env, dataset.provenance)
        assert constants == "0 and 100 (as set by env.*; scores by the Minari set's own stand apart)"

    def test_another_environment_is_refused_by_name(self, folder):
        with pytest.raises(
            UserError, match="x/hopper-v0 was recorded in hopper, not in walker2d: its environment says 'Ho"
        ):
            read(f"minari:{folder}", "walker2d-medium")

    def test_what_we_write_says_what_it_is(self, folder, tmp_path):
        env = origin.known()["maze2d-large"]
        recording = d4rl.load(save(tmp_path / "x.hdf5", steps_of("maze2d-umaze", number=15)), env, "clip")
        written = minari_writer.write(f"minari:{tmp_path}/toy-v0", recording, env, "a test", lambda a, b: {})
        with pytest.raises(UserError, match="was recorded in maze2d-large, not in maze2d-medium"):
            read(f"minari:{written}", "maze2d-medium")


@pytest.mark.parametrize("physics", ["today", "d4rl"])
@pytest.mark.parametrize("task", ["hopper", "halfcheetah", "walker2d", "ant", "antmaze-umaze", "maze2d-umaze"])
def test_no_task_doubts_its_own_rows_in_either_physics(task, physics):
    assert doubt(task, steps_of(task, physics)) is None


@pytest.mark.parametrize(
    ("recorded", "read_as"),
    [
        ("halfcheetah", "walker2d"), ("walker2d", "halfcheetah"), ("antmaze-umaze", "antmaze-medium"),
        ("antmaze-umaze", "antmaze-large"), ("maze2d-umaze", "maze2d-medium"), ("maze2d-umaze", "maze2d-large"),
        ("maze2d-umaze", "maze2d-umaze-dense"), ("maze2d-umaze-dense", "maze2d-umaze"),
    ],
)  # fmt: skip
def test_one_step_names_the_task_that_recorded_the_rows(recorded, read_as, tmp_path):
    rows = steps_of(recorded, "d4rl")
    assert doubt(read_as, rows).tasks == (recorded,)
    env = next(env for env in origin.known().values() if env.task == read_as)
    with pytest.raises(UserError, match=f"was recorded in {recorded}, not in {read_as}"):
        read(save(tmp_path / "x.hdf5", rows), env.name)


def test_a_body_that_falls_is_no_cheetah_with_time_limits(tmp_path):
    """Such terminals would be refused as time limits; but the advice would be wrong."""
    rows = steps_of("walker2d")
    path = tmp_path / "x.hdf5"
    d4rl.write(path, [columns_of(rows) | {"terminals": np.arange(300) % 37 == 36}], {}, 300)
    with pytest.raises(UserError, match="was recorded in walker2d, not in halfcheetah"):
        read(path, "halfcheetah-medium")


def test_goals_inside_walls_tell_the_maze_of_a_short_walk():
    rows = replace(steps_of("antmaze-medium", number=40), goal=np.tile([0.0, 8.0], (40, 1)))  # umaze's
    assert doubt("antmaze-umaze", rows) is None
    assert doubt("antmaze-medium", rows).tasks == ("antmaze-umaze", "antmaze-large")


def test_kitchens_differ_in_the_goal_that_they_show():
    rng = np.random.default_rng(0)

    def rows(goal):
        obs = np.concatenate([rng.normal(size=(20, 30)), np.tile(goal, (20, 1))], axis=1)
        return Rows(obs, rng.normal(size=(20, 9)), obs, np.zeros(20))

    assert doubt("kitchen", rows(goal_of("kitchen"))) is None
    assert doubt("kitchen", rows(np.zeros(30))) is None  # a file without goals says nothing
    assert doubt("kitchen", rows(goal_of("kitchen-mixed"))).tasks == ("kitchen-mixed",)
    assert doubt("kitchen-mixed", rows(np.ones(30))).tasks == ()


def test_rows_that_no_body_explains_are_read_with_a_sentence(tmp_path):
    rng = np.random.default_rng(0)
    rows = Rows(rng.normal(size=(80, 17)), rng.uniform(-1, 1, (80, 6)), rng.normal(size=(80, 17)), np.zeros(80))
    notes = read(save(tmp_path / "x.hdf5", rows), "walker2d-medium")[0].notes
    assert any(note.startswith("is this walker2d? one simulated step from its rows misses by ") for note in notes)


@pytest.mark.parametrize(("physics", "said"), [("today", True), ("d4rl", False)])
def test_a_file_of_d4rls_in_todays_simulator_is_said(tmp_path, capsys, physics, said):
    path = save(tmp_path / "x.hdf5", steps_of("hopper", number=200))
    opened = config(path)
    opened.env.physics = physics
    opened.env.file = {"path": "x.hdf5", "bytes": None, "sha256": d4rl.file_hash(path)}
    open_dataset(opened)
    assert ("need physics=d4rl" in capsys.readouterr().out) == said
