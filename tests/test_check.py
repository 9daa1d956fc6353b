"""``pgd check``: what the summary counts, what it says about physics, and how it ends for files that are not usable."""

import json
import subprocess
import sys
from dataclasses import replace

import h5py
import numpy as np
import pytest

from pgd_lightning.commands import check
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl
from pgd_lightning.data.summary import examine
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation import recorded_steps as recorded
from pgd_lightning.evaluation.recorded_steps import Replay
from pgd_lightning.simulators import make

SPEC = EnvSpec("toy-x", "toy-x-v0", "toy", "x", 3, 2, 10, -10.0, 10.0, DataFile("toy.hdf5", None, None), "today")


def columns(number=40, width=3, actions=2):
    rng = np.random.default_rng(0)
    ends = np.arange(number) % 10 == 9
    made = {
        "observations": rng.normal(size=(number, width)).astype(np.float32),
        "actions": rng.uniform(-0.9, 0.9, (number, actions)).astype(np.float32),
        "rewards": rng.normal(size=number).astype(np.float32),
        "terminals": ends & (np.arange(number) < 20),
        "timeouts": ends & (np.arange(number) >= 20),
    }
    after = np.concatenate([made["observations"][1:], made["observations"][:1]])
    after[ends] += 5
    return made | {"next_observations": after}


def save(path, data):
    with h5py.File(path, "w") as file:
        for key, values in data.items():
            file[key] = values
    return path


def summary_of(tmp_path, data):
    return examine(d4rl.load(save(tmp_path / "toy.hdf5", data), SPEC, "clip"), SPEC)


class TestCard:
    def test_counts_and_ranges(self, tmp_path):
        raw = columns()
        raw["observations"][:, 2] = 4
        raw["next_observations"][:, 2] = 4
        raw["actions"][3] = [1, -1.5]
        summary = summary_of(tmp_path, raw)
        returns = raw["rewards"].astype(np.float64).reshape(4, 10).sum(1)
        assert summary["episodes"] == 4
        assert summary["returns"]["mean"] == pytest.approx(returns.mean())
        assert summary["returns"]["max"] == pytest.approx(returns.max())
        assert summary["score_mean"] == pytest.approx(100 * (returns.mean() + 10) / 20)
        assert summary["lengths"] == {
            "min": 10, "quarter": 10, "median": 10, "three_quarters": 10, "max": 10, "mean": 10, "std": 0,
        }  # fmt: skip
        np.testing.assert_allclose(summary["obs"]["mean"], raw["observations"].mean(0), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(summary["obs"]["std"], raw["observations"].std(0), rtol=1e-5)
        assert summary["obs"]["min"][2] == summary["obs"]["max"][2] == 4
        assert (summary["terminals"], summary["timeouts"]) == (2, 2)
        assert (summary["clipped_actions"], summary["actions_at_the_box"]) == (1, 2)
        assert (summary["duplicate_rows"], summary["duplicate_episodes"], summary["rows_without_successor"]) == (
            0,
            0,
            0,
        )
        json.dumps(summary)

    def test_duplicates(self, tmp_path):
        raw = columns()
        for values in raw.values():
            values[30:40] = values[20:30]
        summary = summary_of(tmp_path, raw)
        assert (summary["duplicate_rows"], summary["duplicate_episodes"]) == (10, 1)
        raw["rewards"][35] += 1e-3  # one number is enough
        summary = summary_of(tmp_path, raw)
        assert (summary["duplicate_rows"], summary["duplicate_episodes"]) == (9, 0)

    def test_rows_whose_numbers_change_places_are_no_duplicates(self, tmp_path):
        raw = columns()
        raw["observations"][1] = raw["observations"][0][[1, 0, 2]]
        raw["actions"][1], raw["rewards"][1] = raw["actions"][0], raw["rewards"][0]
        assert summary_of(tmp_path, raw)["duplicate_rows"] == 0

    def test_successors_against_the_following_row(self, tmp_path):
        raw = columns()
        summary = summary_of(tmp_path, raw)
        assert (summary["successors_inside_differ"], summary["largest_difference"]) == (0, 0)
        raw["next_observations"][4, 1] += 0.25
        summary = summary_of(tmp_path, raw)
        assert summary["successors_inside_differ"] == 1
        assert summary["largest_difference"] == pytest.approx(0.25, rel=1e-5)
        del raw["next_observations"]
        summary = summary_of(tmp_path, raw)
        assert not summary["successors_recorded"]
        assert summary["rows_without_successor"] == 4


def replay_with(median):
    return Replay(100, "infos", median, median, median, 0.0, 0.0, 0, 0, 0)


@pytest.mark.parametrize(
    ("medians", "sentence"),
    [
        ({"today": 2e-7, "d4rl": 5e-3}, "recorded under physics=today: only that one"),
        ({"today": 5e-3, "d4rl": 2e-7}, "recorded under physics=d4rl: only that one"),
        ({"today": 2e-7, "d4rl": 2e-7}, "both physics reproduce it"),
        ({"today": 0.1, "d4rl": 0.02}, "recorded in neither physics: the nearer is d4rl, with a median error of 2.0e-02"),
        ({"today": None, "d4rl": None}, "nothing can be said"),
        ({}, "nothing can be said"),
    ],
)  # fmt: skip
def test_verdict(medians, sentence):
    replays = {name: None if median is None else replay_with(median) for name, median in medians.items()}
    assert sentence in check.conclusion(replays, exact=1e-5)


class Pendulum:
    """A simulator of two numbers whose next observation is ``drift`` times the state plus the action."""

    obs_dim, action_dim = 11, 3

    def __init__(self, drift):
        self.drift = drift

    def state(self):
        return {"qpos": np.zeros(6), "qvel": np.zeros(5)}


def fake_replay(simulator, states, action):
    state = np.concatenate([states["qpos"], states["qvel"]], axis=1)
    return simulator.drift * state + action.sum(1, keepdims=True), action[:, 0], np.zeros(len(action), dtype=bool)


@pytest.fixture
def fake_physics(monkeypatch):
    monkeypatch.setattr(check, "make", lambda task, physics: Pendulum({"today": 1.0, "d4rl": 0.9}[physics]))
    monkeypatch.setattr(recorded, "replay", fake_replay)


def pendulum_columns(drift):
    raw = columns(200, 11, 3)
    raw["rewards"] = raw["actions"][:, 0].copy()
    raw["terminals"] = np.zeros(200, dtype=bool)
    raw["timeouts"] = np.arange(200) % 10 == 9
    state = raw["observations"].astype(np.float64)
    raw |= {"infos/qpos": state[:, :6], "infos/qvel": state[:, 6:]}
    raw["next_observations"] = (drift * state + raw["actions"].sum(1, keepdims=True)).astype(np.float32)
    return raw


def settings(path, tmp_path, *more):
    chosen = ["env=hopper-medium", f'data.source="{path}"', f'checks_dir="{tmp_path / "checks"}"']
    return compose_config("check", [*chosen, *more])


@pytest.mark.parametrize(("drift", "physics"), [(1.0, "today"), (0.9, "d4rl")])
def test_says_which_physics_it_was(tmp_path, fake_physics, capsys, drift, physics):
    path = save(tmp_path / "toy.hdf5", pendulum_columns(drift))
    check.main(settings(path, tmp_path, "rows=50"), [])
    printed = capsys.readouterr().out
    assert f"recorded under physics={physics}" in printed
    (folder,) = (tmp_path / "checks" / "hopper-medium").iterdir()
    assert {p.name for p in folder.iterdir()} == {"check.json", "check.png", "check.svg"}
    assert str(folder / "check.json") in printed
    content = json.loads((folder / "check.json").read_text())
    assert content["one_step"][physics]["rows"] == 50
    assert content["one_step"][physics]["state"] == "infos"
    assert content["one_step"][physics]["max"] < 1e-6
    assert "not_finite" not in content["summary"]
    assert "no recorded terminal among these rows" in printed
    assert "agree" not in printed.replace("agree with the following row", "")
    assert folder.name.startswith(content["provenance"]["sha256"][:8] + "-")
    assert (folder / "check.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.usefixtures("drawn_by_nobody")
def test_a_check_with_other_settings_is_another(tmp_path, fake_physics):
    """Terminals that were read otherwise and fewer rows give other numbers: they replace none."""
    path = save(tmp_path / "toy.hdf5", pendulum_columns(1.0))
    for more in ([], [], ["data.terminals=recorded"], ["rows=20"], ["env.ref_max_score=50"]):
        check.main(settings(path, tmp_path, *more), [])
    assert len(list((tmp_path / "checks" / "hopper-medium").iterdir())) == 4
    out = f'out="{tmp_path / "mine"}"'
    check.main(settings(path, tmp_path, out), [])
    with pytest.raises(UserError, match="is about something else"):
        check.main(settings(path, tmp_path, out, "data.terminals=timeouts"), [])


def test_rows_without_successors_are_not_stepped(tmp_path, fake_physics):
    raw = pendulum_columns(1.0)
    del raw["next_observations"]
    data = d4rl.load(save(tmp_path / "toy.hdf5", raw), replace(SPEC, obs_dim=11, action_dim=3), "clip")
    rows = check.sampled_rows(data, 1000, 0)
    assert len(rows) == 180
    assert (rows % 10 != 9).all()


@pytest.mark.parametrize(
    ("ends", "simulated", "sentence"),
    [((), (), "no recorded terminal among these rows"),
     ((9, 19, 29), (9, 19, 29), "3 of 3 recorded terminals end in the simulator too"),
     ((9, 19, 29), (9, 14, 29), "2 of 3 recorded terminals end in the simulator too; 1 other rows end there")],
)  # fmt: skip
@pytest.mark.parametrize("successors", [True, False])
def test_terminals_are_counted_not_averaged(tmp_path, monkeypatch, ends, simulated, sentence, successors):
    """The simulator ends where the first number is 9; a terminal is stepped whether or not its successor is known."""
    raw = pendulum_columns(1.0)
    raw["terminals"][[*ends]] = True
    raw["timeouts"] &= ~raw["terminals"]
    raw["infos/qpos"][:, 0] = 0
    raw["infos/qpos"][[*simulated], 0] = 9
    if not successors:
        del raw["next_observations"]
    env = replace(SPEC, obs_dim=11, action_dim=3)
    path = save(tmp_path / "toy.hdf5", raw)
    data = d4rl.load(path, env, "clip")

    def ending(simulator, states, action):
        return *fake_replay(simulator, states, action)[:2], states["qpos"][:, 0] == 9

    monkeypatch.setattr(recorded, "replay", ending)
    rows = check.sampled_rows(data, 1000, 0)
    replay = check.replay_rows(settings(path, tmp_path), env, Pendulum(1.0), data, path, rows)
    assert sentence in check.replay_line(replay)
    assert np.isfinite([replay.median, replay.max, replay.reward_max]).all()


def test_some_of_the_stepped_rows_are_terminal(tmp_path):
    raw = pendulum_columns(1.0)
    raw["terminals"][9], raw["timeouts"][9] = True, False
    data = d4rl.load(save(tmp_path / "toy.hdf5", raw), replace(SPEC, obs_dim=11, action_dim=3), "clip")
    assert all(9 in check.sampled_rows(data, 20, seed) for seed in range(5))


@pytest.mark.usefixtures("drawn_by_nobody")
def test_rows_in_no_window_are_said(tmp_path, fake_physics, capsys):
    raw = pendulum_columns(1.0)  # episodes of ten
    raw["terminals"][raw["timeouts"]], raw["timeouts"][:] = True, False
    path = save(tmp_path / "toy.hdf5", raw)
    check.main(settings(path, tmp_path, "rows=50", "data.horizon=12"), [])
    assert (
        "100% of the steps and 20 of 20 terminals are in no window of 12 steps: data.horizon=10"
        in capsys.readouterr().out
    )


def test_infos_of_another_shape_are_not_taken(tmp_path):
    raw = pendulum_columns(1.0)
    path = save(tmp_path / "toy.hdf5", raw)
    rows = np.array([3, 77, 199])
    np.testing.assert_array_equal(d4rl.infos(path, "qpos", (6,), rows), raw["infos/qpos"][rows])
    assert d4rl.infos(path, "qpos", (7,), rows) is None
    assert d4rl.infos(path, "door_body_pos", (3,), rows) is None


def test_relocate_is_reset_to_where_its_object_was_at_first(tmp_path):
    raw = pendulum_columns(1.0)
    raw["infos/obj_pos"] = np.arange(600.0).reshape(200, 3)
    path = save(tmp_path / "toy.hdf5", raw)
    data = d4rl.load(path, replace(SPEC, obs_dim=11, action_dim=3), "clip")
    simulator = Pendulum(1.0)
    simulator.state = lambda: {"qpos": np.zeros(6), "obj_body_pos": np.zeros(3)}
    states = check.recorded_states(path, simulator, data, np.array([3, 17, 19]))
    np.testing.assert_array_equal(states["qpos"], raw["infos/qpos"][[3, 17, 19]])
    np.testing.assert_array_equal(states["obj_body_pos"], raw["infos/obj_pos"][[0, 10, 10]])


def test_unusable_file_is_one_sentence_and_an_exit_code(tmp_path):
    raw = columns(40, 11, 3)
    raw["observations"][7, 2] = np.nan
    path = save(tmp_path / "toy.hdf5", raw)
    command = [sys.executable, "-m", "pgd_lightning", "check", "env=hopper-medium", f"data.source={path}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("has NaN or infinity, first at row 7: mend or remove that episode.")
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("physics", ["today", "d4rl"])
@pytest.mark.parametrize("with_infos", [True, False])
def test_hopper_recorded_in_either_physics(tmp_path, capsys, physics, with_infos):
    """With infos the state is set exactly; without, most observations determine it too."""
    simulator, rng = make("hopper", physics), np.random.default_rng(0)
    kept, seed, obs = [], 0, simulator.reset(0)
    while len(kept) < 300:
        state, action = simulator.state(), rng.uniform(-1, 1, 3)
        after, reward, terminal = simulator.step(action)
        kept.append((obs, action, reward, after, terminal, state["qpos"], state["qvel"]))
        seed += terminal
        obs = simulator.reset(seed) if terminal else after
    names = "observations", "actions", "rewards", "next_observations", "terminals", "infos/qpos", "infos/qvel"
    raw = {k: np.array(v) for k, v in zip(names, zip(*kept, strict=True), strict=True)}
    raw = {k: v.astype(np.float32) if v.dtype != bool else v for k, v in raw.items() if with_infos or "infos" not in k}
    path = save(tmp_path / "toy.hdf5", raw | {"timeouts": np.zeros(300, dtype=bool)})
    check.main(settings(path, tmp_path, "rows=200"), [])
    printed = capsys.readouterr().out
    assert f"recorded under physics={physics}" in printed
    assert f"rows from {'infos' if with_infos else 'observations'}" in printed


def test_antmaze_is_stepped_from_its_observations(tmp_path, capsys):
    """D4RL's script wrote the infos of a row after its step; the observations are the whole state of that row."""
    simulator, rng = make("antmaze-umaze", "d4rl"), np.random.default_rng(0)
    kept, obs = [], simulator.reset(0)
    for _ in range(60):
        action = rng.uniform(-1, 1, 8)
        after, *_ = simulator.step(action)
        state = simulator.state()
        kept.append((obs, action, state["qpos"], state["qvel"]))
        obs = after
    names = "observations", "actions", "infos/qpos", "infos/qvel"
    raw = {k: np.array(v, dtype=np.float32) for k, v in zip(names, zip(*kept, strict=True), strict=True)}
    raw |= {"rewards": np.zeros(60, dtype=np.float32), "terminals": np.zeros(60, dtype=bool)}
    path = save(tmp_path / "toy.hdf5", raw | {"timeouts": np.arange(60) == 59})
    chosen = ["env=antmaze-umaze", f'data.source="{path}"', f'out="{tmp_path / "check"}"', "rows=40"]
    check.main(compose_config("check", chosen), [])
    assert "recorded under physics=d4rl" in capsys.readouterr().out
    content = json.loads((tmp_path / "check" / "check.json").read_text())["one_step"]["d4rl"]
    assert content["state"] == "observations"
    assert content["max"] < 1e-5
