"""W&B mirrors a run and cannot hurt it."""

from pathlib import Path

import pytest
import wandb
from test_pipeline import pgd

from pgd_lightning import dashboard
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


def test_dashboard_has_a_panel_for_every_metric_and_is_said_where_it_fails(monkeypatch, capsys):
    """Built by W&B's own package as far as it goes without a server; its panels read what modules log."""
    made = dashboard.workspace("somebody", "pgd-lightning")
    spec = made._to_model().model_dump_json()
    source = "".join(path.read_text() for path in (Path(dashboard.__file__).parent).rglob("*.py"))
    for lines in dashboard.SECTIONS.values():
        for metric in (m for metrics in lines.values() for m in metrics):
            assert metric in spec
            room, _, name = metric.partition("/")
            assert f'"{name}"' in source or f"{name}" in source
            assert room in source
    for figure in ("fidelity", "actions"):
        assert figure in spec

    def refuse(self):
        raise ConnectionError("no route")

    monkeypatch.setattr(type(made), "save", refuse)
    assert pgd(monkeypatch, ["dashboard", "entity=somebody"]) == 1
    assert "W&B did not take the workspace (no route)" in capsys.readouterr().err
