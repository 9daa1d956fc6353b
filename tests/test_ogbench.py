"""OGBench's single-task datasets. What needs its environments is skipped where the ``ogbench`` package is missing."""

import json
import sys
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.commands import pgd

from pgd_lightning.artifacts.dataset import open_dataset, read_recording
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import ogbench, sources
from pgd_lightning.data.d4rl import Reading
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import episodes, mean_outcome
from pgd_lightning.evaluation.rollout import Episodes, rollout
from pgd_lightning.simulators import make, one_step

MAZE = "pointmaze-medium-navigate-singletask-v0"
TASK = "gym:ogbench:pointmaze-medium-singletask-v0"
needs_ogbench = pytest.mark.skipif(find_spec("ogbench") is None, reason="OGBench is missing: pip install ogbench")
SPEC = EnvSpec(
    name=MAZE, d4rl_id=None, task=TASK, dataset="recorded", obs_dim=2, action_dim=1, max_episode_steps=10,
    ref_min_score=None, ref_max_score=None, file=None, physics="today", success=True,
)  # fmt: skip
SMALL = [
    "scale=smoke", "logger.wandb=disabled", "network.features=16", "network.num_blocks=2", "data.horizon=8",
    "prior.steps=20", "prior.batch_size=16", "updates=20", "seeds=2", "synthetic.lifetime=20", "compare=[none]",
    "synthetic.num_windows=8", "evaluation.every=10", "evaluation.episodes=1", "evaluation.final_episodes=2",
    "sampler.num_steps=2", "behaviour.updates=5", "health.rows=20", "report.windows=8", "prior.verdict.windows=8",
    "prior.verdict.rows=20", "trainer.accelerator=cpu", "plan.seconds=0", "data.cache=null", "env.max_episode_steps=20", "agent.log_every=10",
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "found"),
    [
        (MAZE, ("pointmaze-medium-singletask-v0", "pointmaze-medium-navigate-v0")),
        ("cube-single-play-singletask-task2-v0", ("cube-single-singletask-task2-v0", "cube-single-play-v0")),
        ("puzzle-3x3-play-singletask-v0", ("puzzle-3x3-singletask-v0", "puzzle-3x3-play-v0")),
        ("antmaze-large-navigate-v0", None),
        ("hopper-medium", None),
    ],
)
def test_a_name_is_an_environment_and_a_recording(name, found):
    assert sources.single_task(name) == found


def test_a_missing_package_is_a_sentence(monkeypatch):
    monkeypatch.setitem(sys.modules, "ogbench", None)
    with pytest.raises(UserError, match="a package that is not installed .*: pip install ogbench"):
        compose_config("train", [f"env={MAZE}"])


def test_other_environments_are_refused(tmp_path):
    path = written(tmp_path / "x.npz", [3])
    for env in ("none", "hopper-medium"):
        with pytest.raises(
            UserError, match="x.npz is in OGBench's layout, which has no rewards: name one of its tasks"
        ):
            config = compose_config("train", [f"env={env}", f"data.source={path}"])
            read_recording(config, build(config.env))


def written(path: Path, lengths: list[int], **other: np.ndarray) -> Path:
    """Trajectories of so many steps, whose observations count the rows of the file."""
    rows = sum(lengths) + len(lengths)
    count, last = np.arange(rows, dtype=np.float32), np.zeros(rows, dtype=bool)
    last[np.cumsum(np.array(lengths) + 1) - 1] = True
    columns = {
        "observations": np.stack([count, -count], 1), "actions": count[:, None] / rows, "terminals": last,
        "qpos": count[:, None].astype(np.float64),
    }  # fmt: skip
    np.savez(path, **columns | other)
    return path


def load(path: Path, done: tuple[int, ...] = ()):
    def relabel(states):
        success = np.isin(states["qpos"][:, 0], done)
        return success.astype(np.float32) - 1, success

    return ogbench.load(path, SPEC, Reading("clip"), relabel)


class TestLayout:
    def test_a_trajectory_has_a_row_more_than_steps(self, tmp_path):
        recording = load(written(tmp_path / "x.npz", [3, 2]))  # rows 0 to 3 and 4 to 6
        assert recording.obs[:, 0].tolist() == [0, 1, 2, 4, 5]
        assert recording.next_obs[:, 0].tolist() == [1, 2, 3, 5, 6]
        assert recording.truncated.tolist() == [False, False, True, False, True]
        assert not recording.terminated.any()
        assert recording.has_successor.all()

    def test_success_ends_an_episode_and_its_step_is_terminal(self, tmp_path):
        recording = load(written(tmp_path / "x.npz", [3, 2]), done=(1, 5, 6))  # 6 is a last observation: no step
        assert recording.terminated.tolist() == [False, True, False, False, True]
        assert recording.truncated.tolist() == [False, False, True, False, False]
        assert recording.reward.tolist() == [-1, 0, -1, -1, 0]
        assert recording.next_obs[:, 0].tolist() == [1, 2, 3, 5, 6]
        assert recording.returns().tolist() == [-1, -1, -1]

    def test_states_are_those_of_the_steps(self, tmp_path):
        path = written(tmp_path / "x.npz", [3, 2])
        assert ogbench.infos(path, "qpos", (1,), np.array([0, 3, 4])).tolist() == [[0], [4], [5]]
        assert ogbench.infos(path, "qpos", (2,), np.array([0])) is None
        assert ogbench.infos(path, "qvel", (1,), np.array([0])) is None

    def test_a_last_trajectory_without_an_end(self, tmp_path):
        path = written(tmp_path / "x.npz", [3, 2])
        whole = dict(np.load(path))
        np.savez(path, **{key: values[:6] for key, values in whole.items()})
        recording = load(path)
        assert recording.obs[:, 0].tolist() == [0, 1, 2, 4]
        assert recording.notes[0].startswith("the last trajectory has no end")

    @pytest.mark.parametrize(
        ("other", "said"),
        [
            ({"actions": np.zeros((6, 1))}, "'actions' in .* has 6 rows where observations have 7"),
            ({"observations": np.zeros((7, 3))}, "is this the right env="),
            ({"observations": np.full((7, 2), np.nan)}, "'observations' in .* has NaN or infinity"),
            ({"terminals": np.full(7, 3)}, "'terminals' in .* holds other numbers than 0 and 1"),
        ],
    )
    def test_what_does_not_fit_is_a_sentence(self, tmp_path, other, said):
        with pytest.raises(UserError, match=said):
            load(written(tmp_path / "x.npz", [3, 2], **other))

    def test_damage_is_a_sentence(self, tmp_path):
        path = written(tmp_path / "x.npz", [3, 2])
        content = path.read_bytes()
        for damaged in (b"", b"no npz", content[:200], content[:-30]):
            path.write_bytes(damaged)
            with pytest.raises(UserError, match=r"x.npz is not a readable npz file"):
                load(path)
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("other.txt", "text")
        with pytest.raises(UserError, match="has no 'observations': OGBench's files have"):
            load(path)

    def test_held_out_trajectories_count_in_the_hash(self, tmp_path):
        path = written(tmp_path / "x.npz", [3, 2])
        alone = ogbench.provenance(path, SPEC)
        written(tmp_path / "x-val.npz", [2])
        assert ogbench.held_out(path) == tmp_path / "x-val.npz"
        assert ogbench.provenance(path, SPEC)["sha256"] != alone["sha256"]
        assert (alone["kind"], alone["label"][:7]) == ("own environment", "x.npz, ")


def test_success_is_what_tables_show():
    ended = np.array([[True, False], [True, True]])
    found = Episodes(np.full((2, 2), -3.0), np.full((2, 2), 4), range(2), "a simulator", ended)
    rows = found.ledger(SPEC, 0, "final")
    assert [row["score"] for row in rows] == [100, 0, 100, 100]
    assert mean_outcome(episodes(rows, SPEC), SPEC) == {"success": 75}
    assert SPEC.score(-3.0) is None  # a return does not tell


@pytest.fixture(scope="module")
def recorded(tmp_path_factory):
    """A few paths to the first task's goal and beyond it, in the default folder of OGBench."""
    home = tmp_path_factory.mktemp("home")
    folder = home / ".ogbench" / "data"
    folder.mkdir(parents=True)
    for part, trajectories in (("", 6), ("-val", 2)):
        record(folder / f"pointmaze-medium-navigate-v0{part}.npz", trajectories)
    return home


def maze(**arguments):
    import gymnasium

    return gymnasium.make("ogbench:pointmaze-medium-v0", -1, disable_env_checker=True, **arguments)


def towards(env, place: np.ndarray) -> np.ndarray:
    """The action that goes to the goal from ``place [2]``."""
    subgoal, _ = env.unwrapped.get_oracle_subgoal(place, env.unwrapped.cur_goal_xy)
    return np.clip((subgoal - place) / 0.2, -1, 1)


def record(path: Path, trajectories: int, steps: int = 200) -> None:
    env, rng = maze(terminate_at_goal=False), np.random.default_rng(trajectories)
    np.random.seed(trajectories)
    rows: dict[str, list] = {key: [] for key in ("observations", "actions", "terminals", "qpos", "qvel")}
    for _ in range(trajectories):
        obs, _ = env.reset(options={"task_id": 1})
        for step in range(steps + 1):
            state = env.unwrapped.data
            action = np.clip(towards(env, obs) + rng.normal(size=2) / 2, -1, 1).astype(np.float32)
            row = (obs.astype(np.float32), action, step == steps, state.qpos.copy(), state.qvel.copy())
            for column, value in zip(rows.values(), row, strict=True):
                column.append(value)
            obs = env.step(action)[0]
    np.savez_compressed(path, **{key: np.asarray(values) for key, values in rows.items()})


@pytest.fixture
def at_home(recorded, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(recorded))
    monkeypatch.chdir(tmp_path)
    return recorded / ".ogbench" / "data"


def config_of(name: str, *overrides: str):
    return compose_config("train", [f"env={name}", "scale=smoke", "data.cache=null", *overrides])


@needs_ogbench
class TestEnvironment:
    def test_facts(self, at_home):
        config = config_of(MAZE)
        env = build(config.env)
        assert (env.name, env.task, env.measure) == (MAZE, TASK, "success")
        assert (env.obs_dim, env.action_dim, env.max_episode_steps, env.box) == (2, 2, 1000, None)
        assert config.data.source == "ogbench:pointmaze-medium-navigate-v0"
        assert config_of(MAZE, "data.source=x.npz").data.source == "x.npz"

    def test_unknown_and_visual_ones(self):
        with pytest.raises(UserError, match="OGBench has no environment pointmaze-odd-singletask-v0"):
            config_of("pointmaze-odd-navigate-singletask-v0")
        with pytest.raises(UserError, match="datasets of images are not supported"):
            config_of("visual-antmaze-large-navigate-singletask-v0")

    def test_a_seed_decides_the_start(self):
        simulator, draw = make(TASK, "today"), np.random.get_state()[1].copy()
        first = simulator.reset(3)
        np.random.uniform()
        assert (simulator.reset(3) == first).all()
        assert (simulator.reset(4) != first).any()
        assert (np.random.get_state()[1] == draw).all()  # the caller's own draws go on as they were

    def test_one_step_from_an_observation_is_exact(self):
        simulator, rng = make(TASK, "today"), np.random.default_rng(0)
        assert simulator.unresettable is None
        obs, rows = simulator.reset(0), []
        for _ in range(50):
            action = rng.uniform(-1, 1, 2)
            after, reward, ended = simulator.step(action)
            rows.append((obs, action, after, reward, ended))
            obs = after
        obs, action, after, reward, ended = (np.array(column) for column in zip(*rows, strict=True))
        found, paid, over, exact, _ = one_step(simulator, obs, action)
        assert exact.all()
        assert found == pytest.approx(after, abs=1e-12)
        assert (paid == reward).all()
        assert (over == ended).all()

    def test_a_random_step_has_no_one_step_error(self):
        reason = make("gym:ogbench:pointmaze-teleport-singletask-v0", "today").unresettable
        assert reason == "ogbench:pointmaze-teleport-singletask-v0 moves who enters a teleport to a random place"

    @pytest.mark.parametrize(("wise", "share"), [(True, 1.0), (False, 0.0)])
    def test_success_is_the_environments(self, at_home, wise, share):
        env, guide = build(config_of(MAZE, "env.max_episode_steps=300").env), maze()
        guide.reset(options={"task_id": 1})

        class Walker:
            device = torch.device("cpu")

            def act(self, obs):
                if not wise:
                    return torch.zeros_like(obs)
                return torch.from_numpy(np.apply_along_axis(lambda place: towards(guide, place), -1, obs.numpy()))

        found = rollout(env, Walker(), 2, 3, seed=0)
        assert found.ended.mean() == share
        # -1 for each step that does not begin at the goal, 0 for the one that does and ends the episode
        assert (found.returns == -(found.lengths - found.ended)).all()


@needs_ogbench
class TestRecording:
    @pytest.mark.parametrize("task", ["", "-task2"])
    def test_it_is_what_ogbench_itself_makes_of_the_file(self, at_home, task):
        from ogbench import make_env_and_datasets

        name = MAZE.replace("-v0", f"{task}-v0")
        _, train, val = make_env_and_datasets(name, dataset_dir=str(at_home))
        dataset = open_dataset(config_of(name))
        for recording, theirs in ((dataset.recording, train), (dataset.validation.recording, val)):
            ours = recording.transitions()
            for key, values in (
                ("observations", ours.obs), ("actions", ours.action), ("next_observations", ours.next_obs),
                ("rewards", ours.reward), ("masks", (~ours.terminated).float()),
            ):  # fmt: skip
                assert (theirs[key] == values.numpy()).all(), key
        assert dataset.recording.terminated.any() == (task == "")

    def test_held_out_windows_are_those_of_the_other_file(self, at_home):
        dataset = open_dataset(config_of(MAZE, "data.horizon=8"))
        assert dataset.train.recording is dataset.recording
        assert len(dataset.validation.recording.obs) == 2 * 200
        whole = open_dataset(config_of(MAZE, "data.horizon=8", "data.validation=0"))
        assert whole.validation is None
        assert (whole.train.starts == dataset.train.starts).all()

    def test_it_is_not_downloaded_unasked(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path))
        with pytest.raises(UserError, match="There is no .*/pointmaze-medium-navigate-v0.npz: data.download=true lets"):
            sources.require(config_of(MAZE).data.source)

    def test_a_download_is_ogbenchs_own(self, recorded, tmp_path, monkeypatch):
        monkeypatch.setattr("ogbench.utils.DATASET_URL", (recorded / ".ogbench" / "data").as_uri())
        monkeypatch.setenv("HOME", str(tmp_path))
        config = config_of(MAZE, "data.download=true")
        recording, provenance, path = read_recording(config, build(config.env))
        assert len(recording) == 6 * 200
        assert path == tmp_path / ".ogbench" / "data" / "pointmaze-medium-navigate-v0.npz"
        assert provenance["kind"] == "unverified"
        monkeypatch.setattr("ogbench.utils.DATASET_URL", (tmp_path / "nowhere").as_uri())
        with pytest.raises(UserError, match="pointmaze-large-navigate-v0 cannot be downloaded to"):
            ogbench.fetch("pointmaze-large-navigate-v0", print)

    def test_recordings_of_another_maze_are_refused(self, at_home):
        config = config_of("antmaze-medium-navigate-singletask-v0", f"data.source={next(at_home.glob('*v0.npz'))}")
        with pytest.raises(UserError, match=r"has shape \(1200, 2\), but antmaze-medium.* is this the right env="):
            read_recording(config, build(config.env))

    def test_check_and_convert(self, at_home, monkeypatch, capsys):
        assert pgd(monkeypatch, ["check", f"env={MAZE}", "data.cache=null"]) == 0
        said = capsys.readouterr().out
        assert f"{MAZE} (OGBench by name, unverified, sha256" in said
        assert f"{MAZE} reproduces it" in said
        assert "rows from infos" in said
        assert pgd(monkeypatch, ["convert", f"env={MAZE}", "data.cache=null", "out=maze.hdf5"]) == 0
        assert pgd(monkeypatch, ["check", f"env={TASK[4:]}", "data.source=maze.hdf5", "data.cache=null"]) == 0
        assert "pointmaze-medium-singletask-v0 reproduces it" in capsys.readouterr().out

    def test_train_and_evaluate(self, at_home, monkeypatch, capsys):
        assert pgd(monkeypatch, ["train", f"env={MAZE}", *SMALL]) == 0
        (run,) = Path(f"runs/agent/{MAZE}").glob("iql-pgd-*/0")
        rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
        assert {row["score"] for row in rows} <= {0, 100}
        assert all(row["success"] == (row["score"] == 100) for row in rows)
        table = (run / "report" / "table.txt").read_text()
        assert "success rate [95 % interval]" in table
        assert "a success rate is the share of episodes" in table
        assert any("eval/success" in file.read_text() for file in run.rglob("metrics.csv"))
        assert json.loads((run / "run.json").read_text())["success"] == np.mean(
            [r["score"] for r in rows if r["purpose"] == "final"]
        )
        capsys.readouterr()
        assert pgd(monkeypatch, ["evaluate", f"run={run}", "episodes=1"]) == 0
        assert "success " in capsys.readouterr().out
        assert pgd(monkeypatch, ["report", "runs=runs"]) == 0
        assert "success rate [95 %]" in capsys.readouterr().out
        assert pgd(monkeypatch, ["ls"]) == 0
        assert "  success rate " in capsys.readouterr().out
