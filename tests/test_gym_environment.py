"""Environments that are registered with Gymnasium and none of D4RL's, and recordings without any environment."""

import json
import warnings
from pathlib import Path

import gymnasium
import h5py
import numpy as np
import pytest
import torch
from helpers.commands import pgd

from pgd_lightning.artifacts.dataset import read_recording
from pgd_lightning.commands.generate import chunks
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, origin
from pgd_lightning.environment import ActionBox
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.verdict import Verdict
from pgd_lightning.simulators import make, one_step
from pgd_lightning.simulators.channel_names import channels_of
from pgd_lightning.trajectory import Trajectory

OWN = "env.module=helpers.own_environments"
SMALL = [
    "scale=smoke", "logger.wandb=disabled", "network.features=16", "network.num_blocks=2", "data.horizon=8",
    "prior.steps=20", "prior.batch_size=16", "updates=20", "seeds=2", "synthetic.lifetime=20", "compare=[none]",
    "synthetic.num_windows=8", "evaluation.every=10", "evaluation.episodes=1", "evaluation.final_episodes=2",
    "sampler.num_steps=2", "behaviour.updates=5", "health.rows=20", "report.windows=8", "prior.verdict.windows=8",
    "prior.verdict.rows=20", "trainer.accelerator=cpu", "plan.seconds=0", "data.cache=null",
]  # fmt: skip


def recorded(name: str, path: Path, steps: int = 400, **attributes: str) -> Path:
    """Random actions in D4RL's layout, as a user would write it: in the environment's own units."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        env = gymnasium.wrappers.FlattenObservation(gymnasium.make(name))
    env.action_space.seed(0)
    rows: dict[str, list] = {k: [] for k in ("observations", "actions", "rewards", "terminals", "timeouts")}
    obs, _ = env.reset(seed=0)
    for _ in range(steps):
        action = env.action_space.sample()
        after, reward, terminated, truncated, _ = env.step(action)
        for column, value in zip(rows.values(), (obs, action, reward, terminated, truncated), strict=True):
            column.append(value)
        obs = env.reset()[0] if terminated or truncated else after
    with h5py.File(path, "w") as file:
        file.attrs.update({key: np.bytes_(text) for key, text in attributes.items()})  # as d4rl.write does
        for key, values in rows.items():
            file[key] = np.asarray(values, dtype=bool if key in ("terminals", "timeouts") else np.float32)
    return path


def spec(*overrides: str):
    return build(compose_config("train", ["scale=smoke", *overrides]).env)


def read(path: Path, *overrides: str):
    config = compose_config("train", ["scale=smoke", "data.cache=null", f"data.source={path}", *overrides])
    return read_recording(config, build(config.env))[0]


@pytest.fixture(scope="module")
def swinging(tmp_path_factory):
    return recorded("Pendulum-v1", tmp_path_factory.mktemp("pendulum") / "swinging.hdf5", 600)


@pytest.fixture(scope="module")
def balancing(tmp_path_factory):
    return recorded("InvertedPendulum-v5", tmp_path_factory.mktemp("inverted") / "balancing.hdf5")


class TestFacts:
    def test_they_are_the_environments(self):
        env = spec("env=gym", "env.id=Pendulum-v1")
        assert (env.name, env.task, env.file) == ("Pendulum-v1", "gym:Pendulum-v1", None)
        assert (env.obs_dim, env.action_dim, env.max_episode_steps) == (3, 1, 200)
        assert env.box == ActionBox((-2.0,), (2.0,))
        assert (env.scored, env.score(1.0), env.measure) == (False, None, "return")

    def test_a_registered_name_is_enough(self):
        assert spec("env=Pendulum-v1") == spec("env=gym", "env.id=Pendulum-v1")
        assert spec("env=helpers.own_environments:Reach-v0") == spec("env=gym", "env.id=Reach-v0", OWN)

    def test_arguments_are_those_of_make(self):
        env = spec("env=gym", "env.id=Ant-v5", "env.arguments={include_cfrc_ext_in_observation:false}")
        assert env.obs_dim == 27
        assert make(env.task, env.physics).obs_dim == 27
        assert env.option == "Ant-v5"

    def test_usual_bounds_are_none(self):
        assert spec("env=Swimmer-v5").box is None

    def test_reference_returns_make_scores(self):
        env = spec("env=Pendulum-v1", "env.ref_min_score=-1000", "env.ref_max_score=-200")
        assert [env.score(value) for value in (-1000, -200, -600)] == [0, 100, 50]

    def test_channels_have_numbers(self):
        names = channels_of(spec("env=Pendulum-v1"))
        assert names.obs == ("observation 0", "observation 1", "observation 2")
        assert names.action == ("action 0 [-1 to 1]",)

    @pytest.mark.parametrize(
        ("overrides", "said"),
        [
            (["env=gym"], "env=gym needs env.id="),
            (["env=gym", "env.id=Pendulum-v99"], "Pendulum"),
            (["env=gym", "env.id=CartPole-v1"], r"actions of CartPole-v1 are Discrete\(2\)"),
            (["env=gym", "env.id=Unbounded-v0", OWN], "not bounded on all sides"),
            (["env=gym", "env.id=Endless-v0", OWN], "Endless-v0 has no time limit: set env.max_episode_steps="),
            (["env=gym", "env.id=Reach-v0", "env.module=no_such_package"], "env.module=no_such_package cannot be imported"),
            (["env=gym", "env.id=Pendulum-v1", "env.arguments={weight:3}"], "gymnasium.make.*fails: TypeError"),
            (["env=Pendulum-v1", "env.ref_min_score=3"], "env.ref_max_score=null does not fit"),
            (["env=Pendulumm-v1"], "Did you mean: `Pendulum`"),
            (["env=none"], "env=none needs data.source="),
        ],
    )  # fmt: skip
    def test_what_cannot_be_used_gets_a_sentence(self, overrides, said):
        with pytest.raises(UserError, match=said):
            spec(*overrides)

    def test_a_limit_of_ones_own(self):
        assert spec("env=gym", "env.id=Endless-v0", OWN, "env.max_episode_steps=7").max_episode_steps == 7


class TestActions:
    @pytest.mark.parametrize("bounds", [((0.0,), (1.0,)), ((-2.0, 5.0), (2.0, 5.5)), ((-0.4,), (0.4,))])
    def test_a_box_is_mapped_and_back(self, bounds):
        box, (low, high) = ActionBox(*bounds), map(np.array, bounds)
        assert box.normalised(np.stack([low, (low + high) / 2, high])) == pytest.approx(
            np.stack([-np.ones(len(low)), np.zeros(len(low)), np.ones(len(low))])
        )
        inside = np.random.default_rng(0).uniform(-1, 1, (50, len(low)))
        assert box.normalised(box.of_normalised(inside)) == pytest.approx(inside)

    def test_the_simulator_steps_by_the_environments_own(self):
        simulator, env = make("gym:helpers.own_environments:Reach-v0", "today"), gymnasium.make("Reach-v0")
        assert simulator.reset(3) == pytest.approx(np.concatenate([env.reset(seed=3)[0][k] for k in ("goal", "place")]))
        for inside, own in (([-1, -1], [0, -3]), ([1, 1], [1, 1]), ([0, 0], [0.5, -1]), ([7, 0], [1, -1])):
            obs, reward, terminated = simulator.step(np.array(inside, dtype=float))
            theirs, paid, *_ = env.step(np.array(own, dtype=np.float32))
            assert obs == pytest.approx(np.concatenate([theirs["goal"], theirs["place"]]))
            assert (reward, terminated) == (pytest.approx(paid), False)
        assert "flattened by Gymnasium's FlattenObservation (goal, place)" in simulator.physics

    def test_a_broken_policy_is_a_sentence(self):
        with pytest.raises(UserError, match="was given the action"):
            make("gym:Pendulum-v1", "today").step(np.array([np.nan]))

    def test_recorded_actions_are_read_in_the_unit_box(self, swinging):
        recording = read(swinging, "env=Pendulum-v1")
        with h5py.File(swinging) as file:
            assert recording.action.numpy() == pytest.approx(file["actions"][:] / 2)
        assert recording.clipped_actions == 0
        assert "actions were mapped from [-2, 2] to [-1, 1]" in recording.notes

    def test_one_beyond_its_box_is_counted_or_refused(self, tmp_path):
        path = recorded("Pendulum-v1", tmp_path / "wild.hdf5", 50)
        with h5py.File(path, "r+") as file:
            file["actions"][3] = 2.5
        recording = read(path, "env=Pendulum-v1")
        assert (recording.clipped_actions, recording.action[3].item()) == (1, 1.0)
        with pytest.raises(UserError, match=r"leave the action box, first at row 3 \(\[2.5\]\)"):
            read(path, "env=Pendulum-v1", "data.out_of_box=error")


class TestResets:
    @pytest.mark.parametrize("env_id", ["InvertedPendulum-v5", "Swimmer-v5", "Hopper-v5"])
    def test_a_step_from_a_restored_state_is_the_real_one(self, env_id):
        simulator, rng = make(f"gym:{env_id}", "today"), np.random.default_rng(0)
        assert simulator.unresettable is None
        obs, rows = simulator.reset(11), []
        for _ in range(20):
            action = rng.uniform(-1, 1, simulator.action_dim)
            after, reward, terminated = simulator.step(action)
            rows.append((obs, action, after, reward, terminated))
            if terminated:
                break
            obs = after
        seen, action, after, reward, terminated = map(np.array, zip(*rows, strict=True))
        found, paid, ended, exact, _ = one_step(simulator, seen, action)
        assert exact.all()
        assert found == pytest.approx(after, abs=1e-9)
        assert paid == pytest.approx(reward, abs=1e-6)
        assert (ended == terminated).all()

    def test_a_clipped_velocity_is_not_exact(self):
        simulator = make("gym:Hopper-v5", "today")
        obs = simulator.reset(0)
        assert simulator.state_from_obs(obs)[1]
        obs[-1] = 10.0
        assert not simulator.state_from_obs(obs)[1]

    def test_the_state_is_that_of_the_bodies_of_d4rl(self):
        ours, theirs = make("gym:Hopper-v5", "today"), make("hopper", "today")
        obs = theirs.reset(5)
        for name, value in theirs.state_from_obs(obs)[0].items():
            assert ours.state_from_obs(obs)[0][name] == pytest.approx(value)

    @pytest.mark.parametrize(
        ("task", "why"),
        [
            ("Pendulum-v1", "does not run in MuJoCo"),
            ("Pusher-v5", "do not determine its states (a restored state has another observation)"),
            ("helpers.own_environments:Moody-v0", "a step from a restored state has another reward"),
        ],
    )
    def test_where_it_cannot_be_there_is_a_reason_and_no_number(self, task, why):
        simulator = make(f"gym:{task}", "today")
        assert why in simulator.unresettable
        obs = np.stack([simulator.reset(seed) for seed in range(3)])
        found, paid, ended, exact, had_ended = one_step(simulator, obs, np.zeros((3, simulator.action_dim)))
        assert np.isnan(found).all()
        assert np.isnan(paid).all()
        assert np.isnan(had_ended).all()
        assert not ended.any()
        assert not exact.any()
        assert not simulator.end_is_seen

    def test_a_verdict_says_why(self):
        said = Verdict(None, 0.3, None, "there is no environment").sentence(0.01)
        assert said == "one-step error: not available, because there is no environment"


class TestPairs:
    def test_other_dimensions(self, swinging):
        with pytest.raises(UserError, match=r"has shape \(600, 3\), but InvertedPendulum-v5 .* is this the right env="):
            read(swinging, "env=InvertedPendulum-v5")

    def test_steps_that_do_not_follow(self, balancing, tmp_path):
        path = tmp_path / "swapped.hdf5"
        with h5py.File(balancing) as file, h5py.File(path, "w") as other:
            for key in file:
                other[key] = file[key][:][:, [1, 0, 3, 2]] if key == "observations" else file[key][:]
        assert not read(balancing, "env=InvertedPendulum-v5").notes[0].startswith("one step")
        with pytest.raises(UserError, match="one step from recorded states of swapped.hdf5 misses by .* data.mismatch"):
            read(path, "env=InvertedPendulum-v5")
        assert read(path, "env=InvertedPendulum-v5", "data.mismatch=note").notes[0].startswith("one step from")

    def test_episodes_beyond_the_time_limit(self, swinging, tmp_path):
        recording = read(swinging, "env=gym", "env.id=Pendulum-v1", "env.max_episode_steps=100")
        assert "3 episodes are longer than the time limit of 100" in recording.notes
        unflagged = tmp_path / "unflagged.hdf5"
        with h5py.File(swinging) as file, h5py.File(unflagged, "w") as changed:
            for key in file:
                changed[key] = np.zeros(600, dtype=bool) if key == "timeouts" else file[key][()]
        with pytest.raises(UserError, match="The longest episode has 600 rows, more than the time limit of 200"):
            read(unflagged, "env=gym", "env.id=Pendulum-v1")

    def test_what_a_file_says_of_itself(self, tmp_path):
        path = recorded("Hopper-v5", tmp_path / "hops.hdf5", 60, env_id="Hopper-v5")
        assert len(read(path, "env=Hopper-v5")) == 60
        hopper, walker = spec("env=Hopper-v5"), spec("env=Walker2d-v5")
        facts = d4rl.provenance(path, hopper)
        assert facts["kind"] == "own environment"
        assert origin.compared(hopper, facts) == []
        with pytest.raises(UserError, match="recorded in hopper, not in gym:Walker2d-v5"):
            origin.compared(walker, facts)


@pytest.fixture(scope="module")
def trained(swinging, tmp_path_factory):
    """Pendulum-v1 through ``pgd train``."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert pgd(patch, ["train", "env=Pendulum-v1", f"data.source={swinging}", *SMALL]) == 0
    (run,) = folder.glob("runs/agent/Pendulum-v1/iql-pgd-*/0")
    return folder, run


class TestWithoutReferenceReturns:
    def test_tables_show_returns(self, trained):
        _, run = trained
        table = (run / "report" / "table.txt").read_text()
        assert "return [95 % interval]" in table
        assert "returns are not normalised" in table
        assert "score" not in table.replace("env.ref_min_score, env.ref_max_score", "")
        rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
        assert {row["score"] for row in rows} == {None}
        final = [row["return"] for row in rows if row["purpose"] == "final"]
        record = json.loads((run / "run.json").read_text())
        assert record["return"] == pytest.approx(np.mean(final))
        assert "score" not in record
        summary = json.loads((run / "report" / "summary.json").read_text())
        assert summary["measure"] == "return"
        assert summary["scores"]["pgd"]["mean"] == pytest.approx(np.mean(final))

    def test_the_page_says_what_there_is_not(self, trained):
        page = (trained[1] / "report" / "index.html").read_text()
        assert "One-step error: not available, because Pendulum-v1 does not run in MuJoCo" in page
        assert "<th>return</th>" in page
        assert "<th>score" not in page
        assert "Normalised score" not in page
        assert "D4RL's data" not in page

    def test_other_commands(self, trained, monkeypatch, capsys):
        folder, run = trained
        monkeypatch.chdir(folder)
        assert pgd(monkeypatch, ["evaluate", f"run={run}", "episodes=2"]) == 0
        assert "(no score: Pendulum-v1 has no reference returns)" in capsys.readouterr().out
        assert pgd(monkeypatch, ["report", "runs=runs"]) == 0
        assert "return [95 %]" in capsys.readouterr().out
        assert pgd(monkeypatch, ["report", f"run={run}"]) == 0
        capsys.readouterr()
        assert pgd(monkeypatch, ["ls"]) == 0
        assert f"  return {json.loads((run / 'run.json').read_text())['return']:.1f} " in capsys.readouterr().out

    def test_synthetic_data_are_in_the_environments_units(self, trained, monkeypatch):
        folder, run = trained
        monkeypatch.chdir(folder)
        assert pgd(monkeypatch, ["generate", f"run={run}", "out=made.hdf5", "windows=4"]) == 0
        assert len(read(Path("made.hdf5"), "env=Pendulum-v1")) == 2 * 4 * 8
        action = torch.linspace(-1, 1, 10).reshape(1, 2, 5, 1)
        zero = torch.zeros(1, 2, 5)
        windows = Trajectory(torch.zeros(1, 2, 5, 3), action, zero, zero.bool(), batch_size=(1, 2, 5))
        (chunk,) = chunks(iter([windows]), spec("env=Pendulum-v1"))
        assert chunk["actions"] == pytest.approx(2 * action.reshape(-1, 1).numpy())


def test_a_converted_recording_holds_the_actions_of_the_first(swinging, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    convert = ["convert", "env=Pendulum-v1", f"data.source={swinging}", "out=again.hdf5", "data.cache=null"]
    assert pgd(monkeypatch, convert) == 0
    with h5py.File(swinging) as file, h5py.File("again.hdf5") as again:
        assert again["actions"][:] == pytest.approx(file["actions"][:], abs=1e-6)


def test_scores_where_reference_returns_are_given(balancing, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    scores = ["env.ref_min_score=0", "env.ref_max_score=50"]
    arguments = ["env=InvertedPendulum-v5", f"data.source={balancing}", "compare=[]", "generator=none", *scores]
    assert pgd(monkeypatch, ["train", *SMALL, *arguments]) == 0
    (run,) = Path("runs/agent/InvertedPendulum-v5").glob("iql-none-*/0")
    rows = [json.loads(line) for line in (run / "ledger.jsonl").read_text().splitlines()]
    assert all(row["score"] == pytest.approx(2 * row["return"]) for row in rows)
    (fidelity,) = json.loads((run / "report" / "fidelity.json").read_text()).values()
    assert fidelity["dynamics_error_median"] < 1e-10  # real windows, in the environment they come from
    assert "scores 0 and 100 are returns of 0 and 50 (as set by env.*)" in (run / "report" / "table.txt").read_text()


def test_without_an_environment_nothing_is_evaluated(swinging, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    bounds = ["env.action_low=-2", "env.action_high=2"]
    assert pgd(monkeypatch, ["train", "env=none", f"data.source={swinging}", *SMALL, *bounds]) == 0
    said = "Evaluation: not available, because there is no environment (env=none)."
    assert said in capsys.readouterr().out
    (run,) = Path("runs/agent/swinging").glob("iql-pgd-*/0")
    record = json.loads((run / "run.json").read_text())
    assert not {"score", "return"} & set(record)
    assert (run / "ledger.jsonl").read_text() == ""
    assert said in (run / "report" / "index.html").read_text()
    assert json.loads((run / "report" / "fidelity.json").read_text())["guided"]["log_likelihood"] is not None
    assert pgd(monkeypatch, ["generate", f"run={run}", "out=made.hdf5", "windows=4"]) == 0
    assert pgd(monkeypatch, ["evaluate", f"run={run}"]) == 1
    assert "env=none has none" in capsys.readouterr().err


def test_random_actions_can_be_recorded_and_checked(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert pgd(monkeypatch, ["collect", "env=InvertedPendulum-v5", "steps=300", "out=random.hdf5"]) == 0
    with h5py.File("random.hdf5") as file:
        assert 2.5 < np.abs(file["actions"][:]).max() <= 3
    check = ["check", "env=InvertedPendulum-v5", "data.source=random.hdf5", "rows=100", "data.cache=null"]
    assert pgd(monkeypatch, check) == 0
    out = capsys.readouterr().out
    assert "InvertedPendulum-v5 reproduces it" in out
    assert "no score: InvertedPendulum-v5 has no reference returns" in out
