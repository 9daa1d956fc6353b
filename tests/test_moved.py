"""A finished run is complete: renamed, moved, or away from its data, it is evaluated, generated from and reported."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from helpers.commands import command, pgd, run_of
from omegaconf import OmegaConf

from pgd_lightning.config.saved import as_text, settings_of
from pgd_lightning.errors import UserError
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.run import Run

pytestmark = pytest.mark.usefixtures("drawn_by_nobody")


@pytest.fixture
def moved(finished, tmp_path) -> Run:
    """A run whose runs folder has another name, and whose settings name a folder and a file that are gone."""
    run = run_of(Path(shutil.copytree(finished, tmp_path / "renamed")), "pgd")
    config = settings_of(run)
    config.runs_dir, config.data.source = str(tmp_path / "before"), "gone/maze.hdf5"
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    return run


def trained(run: Run) -> list[Path]:
    return sorted(path for path in run.folder.parents[3].rglob("*.ckpt"))


def test_an_evaluation_needs_no_data(moved, monkeypatch):
    moved.update(recording="/gone/maze.hdf5")
    assert pgd(monkeypatch, ["evaluate", f"run={moved.folder}", "episodes=2"]) == 0
    assert len(json.loads((moved.folder / "evaluation-1-2.json").read_text())) == 4


def test_an_evaluation_is_written_elsewhere_where_the_run_is_read_only(moved, tmp_path, monkeypatch, capsys):
    out = tmp_path / "of mine" / "episodes.json"
    arguments = ["evaluate", f"run={moved.folder}", "episodes=1", f"out={out}"]
    assert pgd(monkeypatch, arguments) == 0
    assert len(json.loads(out.read_text())) == 2
    assert not list(moved.folder.glob("evaluation-*"))
    assert pgd(monkeypatch, arguments) == 1
    assert "is there already" in capsys.readouterr().err


def test_a_read_only_runs_folder_is_a_sentence(moved, monkeypatch):
    opened = Path.open

    def refused(path, mode="r", *more, **named):
        if mode != "r":
            raise PermissionError(errno.EACCES, "Permission denied")
        return opened(path, mode, *more, **named)

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(UserError, match=r"Permission denied; set runs_dir=<a folder you may write to>"):
        moved.update(score=1)
    with pytest.raises(UserError, match=r"Permission denied\. Choose a folder"):
        write_atomic(moved.folder / "anything", "")


def test_a_folder_where_a_file_is_to_be_is_a_sentence_and_leaves_nothing_behind(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="there: Is a directory. Name a file, not a folder"):
        write_atomic(tmp_path / "there", "x")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


def test_a_moved_run_generates_from_the_model_beside_it(moved, tmp_path, monkeypatch):
    before = trained(moved)
    monkeypatch.chdir(tmp_path)
    assert pgd(monkeypatch, ["generate", f"run={os.path.relpath(moved.folder)}", "windows=2", "out=made.hdf5"]) == 0
    assert (tmp_path / "made.hdf5").exists()
    assert trained(moved) == before
    assert not (tmp_path / "before").exists()


def test_data_that_moved_are_named(moved, recording, tmp_path, monkeypatch, capsys):
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


@pytest.mark.parametrize("text", ["", '{"state": ', "[1, 2]", "\xff", "{}", '{"state": "finished"}'])
def test_a_damaged_record_is_named_and_passed_over(moved, tmp_path, monkeypatch, capsys, text):
    path, runs = moved.folder / "run.json", moved.folder.parents[3]
    path.write_bytes(text.encode("latin-1"))
    for arguments in (["evaluate"], ["generate", f"out={tmp_path}/made.hdf5"], ["report"]):
        assert pgd(monkeypatch, [*arguments, f"run={moved.folder}"]) == 1
        said = capsys.readouterr().err
        assert f"{path} is damaged" in said or (text == "{}" and "There is no run in" in said)
    for arguments in (["ls", f"runs_dir={runs}"], ["report", f"runs={runs}", f"out={tmp_path}/page"]):
        assert pgd(monkeypatch, arguments) == 0
        assert text == "{}" or capsys.readouterr().out.count(f"{path} is damaged") == 1
    assert path.read_bytes() == text.encode("latin-1")


@pytest.mark.parametrize("row", ["{", "[]", '{"purpose": "final"}'])
def test_a_damaged_ledger_is_named_and_its_run_stays_finished(moved, recording, monkeypatch, capsys, row):
    path, runs = moved.folder / "ledger.jsonl", moved.folder.parents[3]
    whole = path.read_text()
    path.write_text(f"{row}\n{whole}")
    assert pgd(monkeypatch, command(recording, runs, "compare=[]", "evaluation.final_episodes=3")) == 1
    assert f"{path} is damaged" in capsys.readouterr().err
    assert moved.finished
    assert pgd(monkeypatch, ["report", f"runs={runs}"]) == 0
    assert f"{path} is damaged" in capsys.readouterr().out
    path.write_text(whole)
    (moved.folder / "config.yaml").write_text("a: [")
    assert pgd(monkeypatch, ["evaluate", f"run={moved.folder}"]) == 1
    assert f"{moved.folder / 'config.yaml'} is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"x"), Path.unlink])
def test_an_earlier_checkpoint_is_not_the_result_of_a_finished_run(moved, tmp_path, monkeypatch, capsys, damage):
    """Its agent is that of another update: nothing is measured of it, or made with it."""
    damage(max(moved.checkpoints.glob("*.ckpt")))
    assert list(moved.checkpoints.glob("*.ckpt"))
    for arguments in (["evaluate", "episodes=1"], ["generate", f"out={tmp_path}/made.hdf5"]):
        assert pgd(monkeypatch, [*arguments, f"run={moved.folder}"]) == 1
        assert f"The last checkpoint of the finished {moved.folder} is missing" in capsys.readouterr().err


def test_a_measurement_that_fails_leaves_a_run_finished(moved):
    with pytest.raises(ZeroDivisionError), moved.started(as_text(settings_of(moved)), moved.record["provenance"]):
        raise ZeroDivisionError
    assert moved.finished
    with pytest.raises(KeyboardInterrupt), moved.started(as_text(settings_of(moved)), moved.record["provenance"]):
        raise KeyboardInterrupt
    assert moved.finished


def test_settings_that_came_later_are_as_before_in_older_runs(moved):
    config = settings_of(moved)
    for section, key in (("prior", "muon"), ("prior", "ema_ramp"), ("data", "terminals")):
        del config[section][key]
    (moved.folder / "config.yaml").write_text(OmegaConf.to_yaml(config))
    read = settings_of(moved)
    assert (read.prior.muon, read.prior.ema_ramp, read.data.terminals) == (False, None, "recorded")
