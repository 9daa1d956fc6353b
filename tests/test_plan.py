"""The plan at the start of ``pgd train``, and its words."""

import re
import subprocess
import sys
from types import SimpleNamespace

import pytest
from helpers.commands import SMALL, command, run_of

from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.commands import plan, train
from pgd_lightning.config.compose import compose_config
from pgd_lightning.runs.console import duration, say, stopping_on_signals

pytestmark = pytest.mark.usefixtures("drawn_by_nobody")


def stages_of(recording, runs, *more):
    overrides = command(recording, runs, "plan.seconds=0.01", *more)[1:]
    config = compose_config("train", overrides)
    conditions, clone = train.conditions(config, overrides), train.clone_config(overrides, config)
    return list(plan.stages(conditions, clone, open_dataset(config)))


def test_the_plan_has_every_training_in_its_order(recording, tmp_path):
    planned = stages_of(recording, tmp_path, "agent=td3_bc")
    assert [stage.title for stage in planned] == [
        "behaviour cloning (for log-likelihoods)", "prior", "TD3+BC, real + policy-guided",
        "TD3+BC, real data only", "TD3+BC, real + unguided",
    ]  # fmt: skip
    assert [stage.steps for stage in planned] == [20, 60, 60, 60, 60]
    assert [", each synthetic step drawn " in stage.work for stage in planned] == [False, False, True, False, True]
    assert all(stage.done == 0 and stage.seconds > 0 for stage in planned)
    assert plan.text(planned, "there").startswith("plan: 5 training runs, about ")
    assert not list(tmp_path.glob("*/*/*"))  # nothing is made by looking


def test_the_plan_says_how_much_is_left(recording, copied):
    planned = stages_of(recording, copied, "compare=[none,unguided,pets]", "ensemble.steps=20")
    assert [stage.finished for stage in planned] == [True, True, True, True, True, False, False]
    text = plan.text(planned, "there")
    assert text.startswith("plan: 7 training runs, at least ") and text.count("trained already") == 5
    assert [stage.at_least for stage in planned] == [False] * 6 + [True]  # of real + PETS, of which nothing is sampled
    assert text.endswith("; sampling is not timed")
    assert "results will be in there" in text
    run_of(copied, "pgd").update(state="stopped")
    (stage,) = [stage for stage in stages_of(recording, copied) if stage.title.endswith("guided")][:1]
    assert (stage.done, stage.seconds) == (60, 0)


@pytest.mark.parametrize("chosen", ["guidance=calibrated", "generator=pgd_matched"])
def test_a_search_for_the_strength_of_guidance_is_not_timed(recording, tmp_path, capsys, chosen):
    """It takes as many windows as it needs, under policies that nobody knows yet."""
    guided, unguided = stages_of(recording, tmp_path, chosen, "compare=[unguided]")[-2:]
    assert guided.at_least and unguided.title == "IQL, real + unguided" and not unguided.at_least
    assert "warning" not in capsys.readouterr().out


def test_pretrained_and_shared_models_stand_in_the_plan_once(recording, tmp_path):
    small = ["pretraining.updates=20", "pretraining.width=16", "agent=diffusion_dice", "compare=[none,unguided,pets]"]
    titles = [stage.title for stage in stages_of(recording, tmp_path, *small, "ensemble.steps=20")]
    assert titles == [
        "behaviour cloning (for log-likelihoods)", "prior", "behaviour model",
        "Diffusion-DICE, real + policy-guided", "Diffusion-DICE, real data only", "Diffusion-DICE, real + unguided",
        "ensemble", "Diffusion-DICE, real + PETS",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "1 s"), (89, "89 s"), (91, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_durations_are_written_as_a_reader_counts_them(seconds, words):
    assert duration(seconds) == words


def test_what_is_said_once_is_said_once_a_command(capsys):
    for _ in range(2):
        with stopping_on_signals():
            say("prior: trained", once=True)
            say("prior: trained", once=True)
            say("again")
            say("again")
    assert capsys.readouterr().out.split("\n") == ["prior: trained", "again", "again"] * 2 + [""]


def test_a_run_says_what_it_does_and_repeats_nothing(finished):
    lines = finished.with_name("said.txt").read_text().split("\n")
    said = [line for line in lines if line.startswith("prior: ")]
    assert len(said) == len(set(said)) == 4  # begins, ends, where it is, what it is worth
    scores = [line for line in lines if re.match(r"IQL, .*: score ", line)]
    assert len(scores) == 3
    assert (
        sum("predicting no change" in line for line in lines) == 1 + 2 * 3
    )  # the verdict, and three sets of two agents
    assert SMALL[0] in "\n".join(lines)  # the command to type again


@pytest.mark.parametrize(("others", "timed"), [(0.1, True), (1.5, False), (None, True)])
def test_times_that_others_disturbed_are_not_told(monkeypatch, others, timed):
    """Of two cores that both torch's threads want, another process took ``others``."""
    moments, used = iter([0.0, 10.0]), iter([5.0, 5.0 + 10 * (others or 0)])
    monkeypatch.setattr(plan, "time", SimpleNamespace(monotonic=lambda: next(moments)))
    monkeypatch.setattr(plan, "others_seconds", lambda: None if others is None else next(used))
    monkeypatch.setattr(plan.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(plan.torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(plan, "run_of_agent", lambda *_: SimpleNamespace(finished=False))
    monkeypatch.setattr(plan, "stages", lambda *_: [plan.Stage("prior", "", 0, 10, 4.0)])
    (stage,) = plan.planned([], None, None)
    assert stage.seconds == (4.0 if timed else None)
    assert ("about 4 s" in plan.text([stage], "there")) == timed


@pytest.mark.parametrize(
    ("other", "total"),
    [
        (plan.Stage("b", "", 0, 10, 5.0), "about 9 s"),
        (plan.Stage("b", "", 0, 10, 5.0, at_least=True), "at least 9 s"),
        (plan.Stage("b", "", 0, 10, None), "at least 4 s"),
        (plan.Stage("b", "", 10, 10, None, at_least=True), "about 4 s"),  # trained already
    ],
)
def test_what_is_not_timed_is_not_counted_as_nothing(other, total):
    assert f"2 training runs, {total} on this machine" in plan.text([plan.Stage("a", "", 0, 10, 4.0), other], "there")


def test_processor_time_of_others_grows_with_theirs_alone():
    began = plan.others_seconds()
    if began is None:
        pytest.skip("no /proc/stat here")
    subprocess.run([sys.executable, "-c", "import time\nwhile time.process_time() < 0.5: pass"], check=True)
    theirs = plan.others_seconds()
    assert theirs - began > 0.4
