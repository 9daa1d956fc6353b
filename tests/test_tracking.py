"""W&B mirrors a run and cannot hurt it."""

import csv
import gzip
import json
import os
import subprocess
import sys
from collections import defaultdict
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import wandb
from helpers.commands import pgd

from pgd_lightning.artifacts.training_settings import mirror_settings
from pgd_lightning.commands import dashboard
from pgd_lightning.config.compose import compose_config
from pgd_lightning.generators.baselines.pets import Ensemble
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.report.how_to_repeat import wandb_note
from pgd_lightning.runs.names import MEASURES
from pgd_lightning.runs.run import Run
from pgd_lightning.training import loggers as tracking
from pgd_lightning.training.loggers import loggers, wandb_mode


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setattr(tracking, "failed", False)  # each test is a command
    return compose_config("train", ["env=maze2d-umaze", "logger.wandb=offline", f"runs_dir={tmp_path}"])


@pytest.fixture
def run(tmp_path):
    return Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)


def test_offline_mirror_needs_no_account(config, run):
    csv, mirror = loggers(mirror_settings(config, {"label": "x"}), run)
    for logger in (csv, mirror):
        logger.log_metrics({"loss": 1.5}, 3)
        logger.save()
    mirror.close()
    wandb.teardown()  # its service may still be writing when a run has finished
    (stored,) = (run.folder / "wandb").glob("offline-run-*/*.wandb")
    assert b"loss" in stored.read_bytes()
    (table,) = (run.folder / "metrics").rglob("metrics.csv")
    assert "1.5" in table.read_text()


def test_a_mirror_that_a_stop_left_open_is_not_written_into(config, run, tmp_path):
    """W&B would hand the open run to the next command of the process, with all that this one logs."""
    loggers(mirror_settings(config, {}), run)
    other = Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 1)
    _, mirror = loggers(mirror_settings(config, {}), other)
    assert mirror.wandb.experiment.id.endswith("-1") and Path(mirror.wandb.experiment.dir).is_relative_to(other.folder)
    mirror.close()


@pytest.mark.parametrize(
    ("folders", "said"),
    [
        (["run-20261201_100000-a", "offline-run-20261130_235959-b"], "is online"),
        (["run-20261130_235959-a", "offline-run-20261201_100000-b"], "is offline; upload it with"),
        (["offline-run-20261130_235959-a", "run-20261201_100000-b"], "is online"),
        (["logs"], "There is no W&B run"),
    ],
)
def test_the_page_speaks_of_the_last_mirror(run, folders, said):
    for folder in folders:
        (run.folder / "wandb" / folder).mkdir(parents=True)
    assert said in wandb_note(run)


@pytest.mark.parametrize("where", ["start", "middle"])
def test_a_failing_mirror_costs_one_warning(config, run, monkeypatch, capsys, where):
    def fail(*args, **kwargs):
        raise ConnectionError("no route")

    if where == "start":
        monkeypatch.setattr(wandb, "init", fail)
    csv, mirror = loggers(mirror_settings(config, {}), run)
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


def test_dashboard_shows_what_runs_log(finished, online):
    """By the columns and the pictures of real runs. Models of windows log alike, each under its name."""
    logged = {
        name
        for runs in (finished, online)
        for file in runs.rglob("metrics.csv")
        for name in next(csv.reader(file.open()))
    }
    logged |= {name.replace("prior/", f"{model.name}/") for name in logged for model in (Ensemble, WorldModel)}
    logged |= {f"eval/{measure}" for measure in MEASURES}  # a run logs that of its environment
    shown = {metric for panels in dashboard.SECTIONS.values() for metrics in panels.values() for metric in metrics}
    assert shown <= logged
    drawn = {path.stem for runs in (finished, online) for path in runs.rglob("report/*.png")}
    assert drawn == set(dashboard.FIGURES) - {"rollout"}  # where there is OpenGL


def test_dashboard_is_one_that_wandbs_package_takes():
    spec = dashboard.workspace("somebody", "pgd-lightning")._to_model().model_dump_json()
    shown = [metric for panels in dashboard.SECTIONS.values() for metrics in panels.values() for metric in metrics]
    assert all(f'"{name}"' in spec for name in [*shown, *dashboard.FIGURES])


def test_a_dashboard_that_wandb_does_not_take_is_a_sentence(monkeypatch, capsys):
    def refuse(self):
        raise ConnectionError("no route")

    monkeypatch.setattr(type(dashboard.workspace("somebody", "pgd-lightning")), "save", refuse)
    assert pgd(monkeypatch, ["dashboard", "entity=somebody"]) == 1
    assert "W&B did not take the workspace (no route)" in capsys.readouterr().err


class WandbServer:
    """As much of W&B's server, on loopback, as `wandb sync` asks for: it keeps runs and lines of history."""

    def __init__(self) -> None:
        self.runs: dict[str, dict] = {}
        self.history: dict[str, dict[int, dict]] = defaultdict(dict)
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def body(self):
                data = self.rfile.read(int(self.headers.get("content-length") or 0))
                return gzip.decompress(data) if self.headers.get("content-encoding") == "gzip" else data

            def reply(self, answer):
                data = json.dumps(answer).encode()
                self.send_response(200)
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def do_PUT(self):
                self.body()
                self.reply({})

            def do_POST(self):
                asked = json.loads(self.body())
                self.reply(server.graphql(asked) if self.path.endswith("graphql") else server.lines(self.path, asked))

            def log_message(self, *args):
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def graphql(self, asked):
        given = asked.get("variables") or {}
        if asked.get("operationName") == "UpsertBucket" and given.get("name"):
            self.runs[given["name"]] = self.runs.get(given["name"], {}) | {k: v for k, v in given.items() if v}
        files = [{"name": name, "uploadUrl": f"{self.url}/{name}"} for name in given.get("files") or []]
        name = given.get("name") or next(iter(self.runs), "")
        return {
            "data": {
                "upsertBucket": {"bucket": self.bucket(name), "inserted": True},
                "createRunFiles": {"runID": name, "uploadHeaders": [], "files": files},
                "model": {"id": "p", "name": "p", "bucket": self.bucket(name) if self.history[name] else None},
            }
        }

    def bucket(self, name):
        lines = self.history[name]
        tail = json.dumps([json.dumps(lines[max(lines)])]) if lines else "[]"
        counts = {"historyLineCount": len(lines), "eventsLineCount": 0, "logLineCount": 0}
        project = {"id": "p", "name": "pgd-lightning", "entity": {"id": "e", "name": "me"}}
        texts = {"summaryMetrics": "{}", "config": "{}", "historyTail": tail, "eventsTail": "[]", "tags": []}
        return {"id": name, "name": name, "displayName": name, "project": project} | counts | texts

    def lines(self, path, asked):
        sent = (asked.get("files") or {}).get("wandb-history.jsonl", {"offset": 0, "content": []})
        for number, line in enumerate(sent["content"], sent["offset"]):
            self.history[path.split("/")[-2]][number] = json.loads(line)
        return {}


def test_the_official_client_syncs_an_offline_run_and_its_resumed_part(config, run, tmp_path):
    """Name, group, job type and config arrive; lines of the second attempt follow those of the first."""
    for attempt in range(2):
        _, mirror = loggers(mirror_settings(config, {"label": "some recording"}), run)
        for step in range(3):
            mirror.log_metrics({"train/critic_loss": 1.0}, 3 * attempt + step)
        mirror.close()
    wandb.teardown()
    parts = sorted(str(part) for part in (run.folder / "wandb").glob("offline-run-*"))
    assert len(parts) == 2
    server = WandbServer()
    environment = os.environ | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "HOME": str(tmp_path)}
    command = [sys.executable, "-m", "wandb", "sync", *parts]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, cwd=tmp_path)
    server.http.shutdown()
    assert done.returncode == 0, done.stderr
    assert len(list((run.folder / "wandb").rglob("*.synced"))) == 2
    ((name, sent),) = server.runs.items()
    assert name.startswith("agent-iql-none-")
    assert (sent["displayName"], sent["groupName"], sent["jobType"]) == (
        "maze2d-umaze/iql-none/0",
        "maze2d-umaze",
        "agent",
    )
    assert "some recording" in sent["config"]
    lines = server.history[name]
    assert [lines[number]["trainer/global_step"] for number in range(len(lines))] == [0, 1, 2, 3, 4, 5]
