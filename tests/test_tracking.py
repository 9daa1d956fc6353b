"""W&B mirrors a run and cannot hurt it."""

import pytest
import wandb

from pgd_lightning.configuration import compose_config
from pgd_lightning.runs import Run
from pgd_lightning.tracking import loggers, wandb_mode


@pytest.fixture
def config(tmp_path):
    return compose_config("train", ["env=maze2d-umaze", "logger.wandb=offline", f"runs_dir={tmp_path}"])


@pytest.fixture
def run(tmp_path):
    return Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)


def test_offline_mirror_needs_no_account(config, run):
    csv, mirror = loggers(config, run, {"label": "x"})
    for logger in (csv, mirror):
        logger.log_metrics({"loss": 1.5}, 3)
        logger.save()
    mirror.close()
    (stored,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"loss" in stored.read_bytes()
    (table,) = (run.folder / "metrics").rglob("metrics.csv")
    assert "1.5" in table.read_text()


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_failing_mirror_costs_one_warning(config, run, monkeypatch, capsys, where):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    if where == "start":
        monkeypatch.setattr(wandb, "init", fail)
    csv, mirror = loggers(config, run, {})
    if where == "middle":
        monkeypatch.setattr(mirror.wandb.experiment, "log", fail)
    for step in range(3):
        mirror.log_metrics({"loss": 1.0}, step)
        csv.log_metrics({"loss": 1.0}, step)
    mirror.close()
    assert capsys.readouterr().out.count("warning: W&B failed (ConnectionError: no route)") == 1
    csv.save()
    (table,) = (run.folder / "metrics").rglob("metrics.csv")
    assert table.read_text().count("1.0") == 3


def test_online_only_for_who_is_logged_in(monkeypatch, tmp_path):
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    assert wandb_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    assert wandb_mode("auto") == "online"
    assert wandb_mode("disabled") == "disabled"
