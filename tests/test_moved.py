"""A finished run is complete: renamed, moved, or away from its data, it is evaluated, generated from and reported."""

import json
import os
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from test_pipeline import command, finished, pgd, recording, run_of  # noqa: F401

from pgd_lightning.runs import Run


@pytest.fixture
def moved(finished, tmp_path) -> Run:  # noqa: F811
    """A run whose runs folder has another name, and whose settings name a folder and a file that are gone."""
    run = run_of(Path(shutil.copytree(finished, tmp_path / "renamed")), "pgd")
    config = run.load_config()
    config.runs_dir, config.data.source = str(tmp_path / "before"), "gone/maze.hdf5"
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return run


def trained(run: Run) -> list[Path]:
    return sorted(path for path in run.folder.parents[3].rglob("*.ckpt"))


def test_an_evaluation_needs_no_data(moved, monkeypatch):
    moved.update(recording="/gone/maze.hdf5")
    assert pgd(monkeypatch, ["evaluate", f"run={moved.folder}", "episodes=2"]) == 0
    assert len(json.loads((moved.folder / "evaluation-1-2.json").read_text())) == 4


def test_a_moved_run_generates_from_the_model_beside_it(moved, tmp_path, monkeypatch):
    before = trained(moved)
    monkeypatch.chdir(tmp_path)
    assert pgd(monkeypatch, ["generate", f"run={os.path.relpath(moved.folder)}", "windows=2", "out=made.hdf5"]) == 0
    assert (tmp_path / "made.hdf5").exists()
    assert trained(moved) == before
    assert not (tmp_path / "before").exists()


def test_data_that_moved_are_named(moved, recording, tmp_path, monkeypatch, capsys):  # noqa: F811
    moved.update(recording="/gone/maze.hdf5")
    generate = ["generate", f"run={moved.folder}", "windows=2", f"out={tmp_path}/made.hdf5"]
    assert pgd(monkeypatch, generate) == 1
    assert "data.source=… says where that is now" in capsys.readouterr().err
    assert pgd(monkeypatch, [*generate, f"data.source={recording}"]) == 0


def test_other_data_are_refused(moved, tmp_path, monkeypatch, capsys):
    other = tmp_path / "other.hdf5"
    assert pgd(monkeypatch, ["collect", "env=maze2d-umaze", "steps=2000", f"out={other}"]) == 0
    generate = ["generate", f"run={moved.folder}", f"out={tmp_path}/made.hdf5", f"data.source={other}"]
    assert pgd(monkeypatch, generate) == 1
    assert "data.source=… says where the first is" in capsys.readouterr().err


def test_a_run_without_its_model_says_so_and_trains_none(moved, tmp_path, monkeypatch, capsys):
    shutil.rmtree(moved.folder.parents[3] / "prior")
    assert pgd(monkeypatch, ["generate", f"run={moved.folder}", f"out={tmp_path}/made.hdf5"]) == 1
    assert "The prior that" in capsys.readouterr().err
    assert not (moved.folder.parents[3] / "prior").exists()


def test_settings_that_came_later_are_as_before_in_older_runs(moved):
    config = moved.load_config()
    for section, key in (("prior", "muon"), ("prior", "ema_ramp"), ("data", "terminals")):
        del config[section][key]
    (moved.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    read = moved.load_config()
    assert (read.prior.muon, read.prior.ema_ramp, read.data.terminals) == (False, None, "recorded")
