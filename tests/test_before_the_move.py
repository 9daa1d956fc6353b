"""Runs of the layout before the rooms of today: recorded by commit 84eaa9b, still loaded, evaluated and reported."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers.commands import pgd
from hydra.utils import get_object

from pgd_lightning.config.build import build, place
from pgd_lightning.generators.guidance import OnPolicy
from pgd_lightning.generators.polygrad.ablations import Ablated

KEPT = Path(__file__).parent / "before_the_move"


DEFAULTS_THEN = ["guidance=literal", "guidance.coef=0.5"]


@pytest.fixture
def runs(tmp_path, monkeypatch) -> Path:
    """The kept runs at a place where they may be changed, beside their recording."""
    monkeypatch.chdir(shutil.copytree(KEPT, tmp_path / "kept"))
    return Path("found")


def agent(runs: Path, generator: str) -> Path:
    (run,) = runs.glob(f"agent/maze2d-umaze/iql-{generator}-*/0")
    return run


def test_an_agent_is_evaluated(runs, monkeypatch):
    assert pgd(monkeypatch, ["evaluate", f"run={agent(runs, 'pgd')}", "episodes=2", "out=episodes.json"]) == 0
    assert len(json.loads(Path("episodes.json").read_text())) == 2


def test_every_class_that_its_settings_name_is_found(runs):
    def targets(node):
        if isinstance(node, dict):
            yield from ([node["_target_"]] if "_target_" in node else [])
            node = list(node.values())
        for child in node if isinstance(node, list) else ():
            yield from targets(child)

    named = set(targets(yaml.safe_load((agent(runs, "pgd") / "config.yaml").read_text())))
    assert "pgd_lightning.generators.world.WorldCodec" in named  # which is elsewhere now
    assert all(callable(get_object(place(target))) for target in named)


@pytest.mark.parametrize("room", ["agents", "imagination"])
@pytest.mark.parametrize("name", ["A2C", "StepControl", "PPO"])
def test_the_learners_of_polygrad_are_found_where_they_were(room, name):
    assert get_object(place(f"pgd_lightning.{room}.actor_critic.{name}")).__name__ == name


@pytest.mark.parametrize("module", ["ensemble", "baselines.ensemble"])
@pytest.mark.parametrize("name", ["PETS", "Ensemble"])
def test_pets_is_found_where_it_was(module, name):
    assert get_object(place(f"pgd_lightning.generators.{module}.{name}")).__name__ == name


@pytest.mark.parametrize("kind", ["grad", "sample"])
def test_polygrads_guidance_of_before_is_built(kind):
    """Its settings had another name and seven more entries, of which an ablation changed one."""
    before = {
        "_target_": "pgd_lightning.generators.guidance.Rule", "before": False, "point": "denoised",
        "current_action": True, "coef": 0.005, "cosine": None, "raw": True, "normalise": False, "clip": 3.0,
        "noise": 1.0, "kind": kind, "move_states": False,
    }  # fmt: skip
    built = build(before)
    assert type(built) is (OnPolicy if kind == "grad" else Ablated)
    assert (built.coef, built.clip, built.noise, getattr(built, "kind", "grad")) == (0.005, 3.0, 1.0, kind)


def test_its_windows_are_generated(runs, monkeypatch):
    assert pgd(monkeypatch, ["generate", f"run={agent(runs, 'pgd')}", "out=windows.hdf5", "windows=8"]) == 0
    assert Path("windows.hdf5").stat().st_size > 1000


def test_it_is_reported(runs, monkeypatch):
    run = agent(runs, "pgd")
    assert pgd(monkeypatch, ["report", f"run={run}"]) == 0
    assert "policy-guided" in (run / "report" / "table.txt").read_text()


def test_the_same_command_trains_nothing_again(runs, monkeypatch):
    """What makes two runs the same has not changed: the one run that was not kept is the only one that is new.

    The default of guidance has, and is named here.
    """
    kept = {path.parents[1].name for path in runs.glob("*/*/*/0/run.json")}
    command = json.loads((agent(runs, "pgd") / "run.json").read_text())["starts"][0]["command"]
    assert pgd(monkeypatch, [*command.replace("'", "").split()[1:], *DEFAULTS_THEN, "runs_dir=found"]) == 0
    (new,) = {path.parents[1].name for path in runs.glob("*/*/*/0/run.json")} - kept
    assert new.startswith("bc-none-")
    assert all(len(json.loads(path.read_text())["starts"]) == 1 for path in runs.glob("*/*/*/0/run.json"))


def test_a_run_of_a_verb_that_is_gone_is_listed_and_evaluated_no_more(tmp_path, monkeypatch, capsys):
    """``pgd imagine`` trained PolyGRAD's learner on a recording until commit 933488b, each learner in a run of its own."""
    run = tmp_path / "imagination" / "hopper-medium" / "polygrad-a2c-0123abcd" / "0.1"
    run.mkdir(parents=True)
    named = {"stage": "imagination", "env": "hopper-medium", "method": "polygrad-a2c", "seed": 0, "identity": {}}
    (run / "run.json").write_text(json.dumps(named | {"state": "finished", "score": 33.2}))
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path}"]) == 0
    assert "33.2" in capsys.readouterr().out
    for verb in ("report", "evaluate"):
        assert pgd(monkeypatch, [verb, f"run={run}"]) == 1
        assert "is not a finished agent run: it is imagination, finished." in capsys.readouterr().err
    assert pgd(monkeypatch, ["report", f"runs={tmp_path}"]) == 1
    assert "There is no finished agent run" in capsys.readouterr().err
