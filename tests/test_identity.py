"""What makes two runs the same: what trains does, what only measures does not, and a finished run is measured again."""

import json
import re
from pathlib import Path

import pytest
from helpers.commands import command, pgd, run_of, weights
from omegaconf import OmegaConf

from pgd_lightning.config.compose import CONF, compose_config
from pgd_lightning.data.environments import environment
from pgd_lightning.evaluation.ledgers import episodes
from pgd_lightning.runs import identity
from pgd_lightning.runs.points import AgentOfPoint, Point

pytestmark = pytest.mark.usefixtures("drawn_by_nobody")


FILE = "0" * 64
# Settings of `pgd train agent=iql generator=pgd` that its agent does not see: patterns of dotted keys.
UNSEEN = re.compile(
    r"(score_coefs|learning\.large_batch|evaluation|health|analysis|report|plan|behaviour|ranks|logger|checkpoint_every|pretraining|dice|seed$|env\.(ref_|file)"
    r"|ensemble|synther|vae|autoregressive|world|step_world|transformer|rssm|data\.(timeout|retries|local_)|trainer\."
    r"|sampler\.churn|agent\.(seed|log_every|value_alarm)|prior\.(auto|verdict|(log|validate|checkpoint)_every))"
)


def leaves(node, prefix=""):
    if isinstance(node, dict):
        return {k: v for key, child in node.items() for k, v in leaves(child, f"{prefix}{key}.").items()}
    return {prefix[:-1]: node}


def composed(verb, *overrides):
    return compose_config(verb, ["env=hopper-medium", "scale=smoke", *overrides])


def of(config):
    return identity.digest(identity.agent(config, FILE))


def test_every_number_of_an_agent_counts_unless_it_is_known_to_train_nothing():
    config = composed("train")
    before, numbers = of(config), leaves(OmegaConf.to_container(config, resolve=True))
    numbers = {k: v for k, v in numbers.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    wrong = []
    for key, value in numbers.items():
        changed = config
        if key.split(".")[0] in ("sampler", "guidance", "learning"):  # references to them are resolved: name the user's
            changed = composed("train", f"{key}={value / 2 if isinstance(value, float) else value + 1}")
        else:
            OmegaConf.update(config, key, value + 1)
        differs = of(changed) != before
        OmegaConf.update(config, key, value)
        if differs == bool(UNSEEN.match(key) or key == "seeds"):  # counted as agent.num_seeds
            wrong.append(key)
    assert not wrong
    assert len(numbers) > 150


@pytest.mark.parametrize(
    "change",
    ["updates=401", "seeds=3", "agent=td3_bc", "agent.learner.expectile=0.8", "agent.matmul_precision=medium", "physics=d4rl", "data.out_of_box=error",
     "synthetic.lifetime=100", "sampler=heun", "guidance.coef=2", "prior.steps=601", "network.features=64",
     "data.stride=4", "env.max_episode_steps=500", "trainer.precision=bf16-mixed", "+trainer.gradient_clip_val=1.0"],
)  # fmt: skip
def test_what_trains_makes_another_run(change):
    assert of(composed("train", change)) != of(composed("train"))


@pytest.mark.parametrize(
    "change",
    ["evaluation.final_episodes=100", "evaluation.every=100", "evaluation.episodes=9", "agent.log_every=7",
     "agent.value_alarm=warn", "agent.value_alarm_factor=9", "agent.value_alarm_floor=9", "env.ref_max_score=1",
     "env.ref_min_score=0", "seed=3",
     "health.rows=7", "report.windows=9", "logger.wandb=disabled", "data.dir=elsewhere", "data.cache=null", "data.download=true",
     "trainer.devices=2", "checkpoint_every=9", "prior.log_every=1", "compare=[]", "behaviour.updates=7"],
)  # fmt: skip
def test_what_only_measures_makes_no_other_run(change):
    assert of(composed("train", change)) == of(composed("train"))


def test_runs_from_before_a_setting_are_those_of_its_default():
    older = composed("train")
    OmegaConf.set_struct(older, False)
    del older.agent["matmul_precision"]
    assert of(older) == of(composed("train"))


def test_polygrads_guidance_counts_as_it_did_under_its_earlier_name():
    now = {"_target_": "pgd_lightning.generators.guidance.OnPolicy", "coef": 0.005, "clip": 3.0, "noise": 1.0}
    before = {
        "_target_": "Rule", "before": False, "point": "denoised", "current_action": True, "coef": 0.005, "cosine": None,
        "raw": True, "normalise": False, "clip": 3, "noise": 1, "kind": "grad", "move_states": False,
    }  # fmt: skip
    assert identity.kept(now, "generator.build.guidance") == before


def test_recorded_windows_count_how_they_are_cut_and_no_model():
    recorded = "generator=recorded"
    for change in ("data.horizon=16", "data.stride=4", "data.validation=0.2", "synthetic.lifetime=100"):
        assert of(composed("train", recorded, change)) != of(composed("train", recorded))
    for change in ("prior.steps=601", "guidance.coef=2"):
        assert of(composed("train", recorded, change)) == of(composed("train", recorded))


def test_a_number_counts_by_its_value():
    assert of(composed("train", "learning.temperature=3")) == of(composed("train", "learning.temperature=3.0"))


def test_an_agent_on_real_data_counts_its_batches_but_no_synthetic_data():
    alone = "generator=none"
    assert of(composed("train", alone, "synthetic.batch_size=512")) != of(composed("train", alone))
    for change in ("synthetic.lifetime=100", "prior.steps=601", "guidance.coef=2"):
        assert of(composed("train", alone, change)) == of(composed("train", alone))


def test_conditions_of_a_comparison_have_all_but_the_generator_in_common():
    free = {
        identity.digest(identity.condition_free(composed("train", f"generator={name}"), FILE))
        for name in ("none", "unguided", "pgd", "pets")
    }
    assert len(free) == 1


@pytest.mark.parametrize(
    "change",
    ["updates=401", "seeds=3", "agent.learner.temperature=2", "ensemble.steps=9", "analysis.windows=7",
     "guidance.coef=2", "analysis.factors=[1]", "world.sampling.num_steps=3", "behaviour.updates=7"],
)  # fmt: skip
def test_analyses_of_other_settings_are_others(change):
    def analysed(*changes):
        return identity.digest(identity.analysis(composed("analyse", *changes), FILE))

    assert analysed(change) != analysed()
    assert analysed("logger.wandb=disabled", "data.cache=null", "runs_dir=x", "env.ref_max_score=1") == analysed()


def test_a_file_that_moves_is_no_identity_and_each_class_counts_by_its_own_name():
    here, there = ({"_target_": f"pgd_lightning.{place}.IQL", "a": 1} for place in ("agents.iql", "elsewhere"))
    assert identity.kept(here, "x") == identity.kept(there, "x") == {"_target_": "IQL", "a": 1}
    targets = {
        target
        for path in Path(str(CONF)).rglob("*.yaml")
        for target in re.findall(r"_target_: (\S+)", path.read_text())
    }
    assert len({target.rpartition(".")[2] for target in targets}) == len(targets)


def test_sweeps_know_runs_by_all_that_was_asked():
    asked = identity.asked(composed("train"))
    for change in ("evaluation.final_episodes=100", "env.ref_max_score=1", "data.source=x.hdf5", "seed=1"):
        assert identity.asked(composed("train", change)) != asked
    assert identity.asked(composed("train", "logger.wandb=disabled", "runs_dir=x", "agent.log_every=3")) == asked


def finals(run):
    return [row for row in run.rows("ledger.jsonl") if row["purpose"] == "final"]


def test_more_episodes_of_a_finished_run_are_added(copied, recording, monkeypatch, capsys):
    run = run_of(copied, "pgd")
    before, trained, record = finals(run), weights(run), run.record
    again = command(recording, copied, "compare=[]", "report.frames=1")
    assert pgd(monkeypatch, [*again, "evaluation.final_episodes=5"]) == 0
    assert "each learner has 2 final episodes; running 3 more" in capsys.readouterr().out
    assert len(list((copied / "agent" / "maze2d-umaze").glob("iql-pgd-*"))) == 1
    assert run.record["starts"] == record["starts"]
    assert all((weights(run)[key] == tensor).all() for key, tensor in trained.items())
    rows = finals(run)
    assert rows[: len(before)] == before
    assert sorted((row["seed"], row["index"]) for row in rows) == [(s, e) for s in (0, 1) for e in range(5)]
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert summary["scores"]["pgd"]["num_episodes"] == 5
    assert run.record["score"] == pytest.approx(sum(row["score"] for row in rows) / 10)
    assert pgd(monkeypatch, again) == 0  # the two that were asked for at first
    assert json.loads((run.folder / "report" / "summary.json").read_text())["scores"]["pgd"]["num_episodes"] == 2
    assert finals(run) == rows


def test_episodes_that_were_added_are_those_that_would_have_been_run(copied, recording, monkeypatch):
    """The agent acts by its mean, so that three episodes now and two before are five of one evaluation."""
    again = command(recording, copied, "compare=[]", "report.frames=1", "evaluation.final_episodes=5")
    assert pgd(monkeypatch, again) == 0
    rows = finals(run_of(copied, "pgd"))
    run = run_of(copied, "pgd")
    kept = [row for row in run.rows("ledger.jsonl") if row["purpose"] != "final"]
    (run.folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept))
    assert pgd(monkeypatch, [*again, "evaluation.every=20"]) == 0
    now, then = (sorted(some, key=lambda row: (row["seed"], row["index"])) for some in (finals(run), rows))
    said = [[row.pop("expected") for row in some] for some in (now, then)]  # in batches of other sizes: to rounding
    assert said[0] == pytest.approx(said[1], abs=1e-5)
    assert now == then


def test_episodes_of_another_simulator_are_run_again_with_those_that_are_added(copied, recording, monkeypatch, capsys):
    """MuJoCo was updated meanwhile: no score is half of one and half of the other."""
    run = run_of(copied, "pgd")
    rows = [{**row, "simulator": "mujoco 1.0.0"} for row in run.rows("ledger.jsonl")]
    (run.folder / "ledger.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    again = command(recording, copied, "compare=[]", "report.frames=1", "evaluation.final_episodes=5")
    assert pgd(monkeypatch, again) == 0
    assert "the final episodes were of mujoco 1.0.0; running all 5 in mujoco" in capsys.readouterr().out
    counted = [
        row
        for row in episodes(run.rows("ledger.jsonl"), environment("maze2d-umaze", "today"))
        if row["purpose"] == "final"
    ]
    assert len(counted) == 10 and "mujoco 1.0.0" not in {row["simulator"] for row in counted}


def test_a_behaviour_clone_is_evaluated_where_it_is_asked_for_as_an_agent(tmp_path, recording, monkeypatch):
    """With equal settings it is the same run, trained to measure likelihoods alone."""
    same = ["agent=bc", "seeds=1", "behaviour.updates=60", "report.frames=1"]
    words = command(recording, tmp_path, *same, "generator=unguided", "compare=[]", "prior.steps=20")
    point = compose_config("train", [*words[1:], "generator=none"])
    sought = Point(0, [], "", tmp_path, [AgentOfPoint("maze2d-umaze", 0, identity.asked(point))])
    assert pgd(monkeypatch, words) == 0
    clone = run_of(tmp_path, "none", "bc")
    assert clone.finished and not finals(clone) and not sought.finished
    summary = json.loads((run_of(tmp_path, "unguided", "bc").folder / "report" / "summary.json").read_text())
    assert list(summary["scores"]) == ["unguided"]
    assert pgd(monkeypatch, [*words, "generator=none"]) == 0
    assert len(finals(clone)) == 2 and sought.finished
    summary = json.loads((clone.folder / "report" / "summary.json").read_text())
    assert summary["scores"]["none"]["num_episodes"] == 2


def test_scores_follow_the_constants_in_use(copied, recording, monkeypatch, capsys):
    run = run_of(copied, "pgd")
    low, high = 0.0, 10.0
    constants = [f"env.ref_min_score={low}", f"env.ref_max_score={high}"]
    assert pgd(monkeypatch, command(recording, copied, "compare=[]", "report.frames=1", *constants)) == 0
    assert "trained already" in capsys.readouterr().out
    mean = sum(row["return"] for row in finals(run)) / len(finals(run))
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert summary["scores"]["pgd"]["mean"] == pytest.approx(100 * mean / high)
    assert run.record["score"] == pytest.approx(100 * mean / high)
