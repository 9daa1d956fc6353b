"""The page over many runs: its numbers, what it refuses and names, and that it needs no network."""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from helpers.finished_runs import make_run, measured_by
from omegaconf import OmegaConf

from pgd_lightning.__main__ import main
from pgd_lightning.config.compose import compose_config
from pgd_lightning.evaluation.statistics import Interval
from pgd_lightning.report.run_report import siblings
from pgd_lightning.runs.console import stopping_on_signals
from pgd_lightning.runs.run import Run


@pytest.fixture
def runs(tmp_path) -> Path:
    root = tmp_path / "runs"
    for env, level in (("hopper-medium", 40.0), ("walker2d-medium", 60.0)):
        luck = np.array([-4.0, -2.0, 0.0, 2.0, 4.0])
        for generator, gain in (("none", 0.0), ("unguided", 0.1), ("pgd", 5.0)):
            make_run(root, env, generator, level + luck + gain + 0.01 * luck**2)
    return root


def pgd(monkeypatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["pgd", "report", *arguments])
    return main()


class Texts(HTMLParser):
    """Every text and every address of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.cells: list[str] = []
        self.addresses: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("src", "href") or name.endswith(":href")]

    def handle_data(self, data):
        self.cells.append(data.strip())


@pytest.mark.usefixtures("drawn_by_nobody")
def test_the_page_says_what_the_ledgers_say(runs, monkeypatch, capsys):
    assert pgd(monkeypatch, f"runs={runs}") == 0
    page = (runs / "report" / "index.html").read_text()
    content = json.loads((runs / "report" / "report.json").read_text())
    texts = Texts(page)
    first = content["tables"][0]
    assert [row["method"] for row in first["rows"]] == ["real data only", "real + unguided", "real + policy-guided"]
    guided = first["rows"][2]
    assert guided["score"]["mean"] == pytest.approx(40 + 5 + 0.5 + 0.01 * 8)  # gain, second episode, mean of luck^2
    assert guided["against"]["none"]["mean"] == pytest.approx(5)
    assert guided["bold"]
    assert not content["tables"][0]["rows"][0]["bold"]
    for table in content["tables"]:
        for row in table["rows"]:
            assert str(Interval(**row["score"])) in texts.cells
    (both,) = content["aggregates"]
    assert both["datasets"] == ["hopper-medium", "walker2d-medium"]
    assert both["rows"][2]["improvement"]["mean"] > 0.8
    assert re.findall(r"<h[23]>(.*? (?:on|over) .*?)<", page) == [
        "IQL on hopper-medium", "IQL on walker2d-medium", "IQL over 2 datasets"
    ]  # fmt: skip
    assert "real + policy-guided *" in capsys.readouterr().out


def test_the_page_needs_nothing_from_elsewhere(runs, monkeypatch):
    assert pgd(monkeypatch, f"runs={runs}") == 0
    page = (runs / "report" / "index.html").read_text()
    assert all(address.startswith(("data:", "#")) for address in Texts(page).addresses)
    assert not re.findall(r"@import|url\((?!#)", page)
    assert "<stand-in>" not in page  # what a run says is text, not markup
    assert "a substitute recorded by this project" in page
    assert set((runs / "report").glob("*.svg"))


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize(
    ("kind", "said"), [("official", None), ("local recipe", "a substitute"), ("user file", "The data are not D4RL")]
)
def test_only_data_that_are_not_d4rls_are_called_so(tmp_path, monkeypatch, kind, said):
    run = make_run(tmp_path, "hopper-medium", "none", np.zeros(5))
    run.update(provenance={"label": "some data", "kind": kind})
    assert pgd(monkeypatch, f"runs={tmp_path}") == 0
    notes = list(json.loads((tmp_path / "report" / "report.json").read_text())["notices"])
    assert len(notes) == (1 if said else 0)
    assert said is None or said in notes[0]


@pytest.mark.usefixtures("drawn_by_nobody")
def test_the_page_of_a_single_run_stays(runs, monkeypatch):
    (run, *_) = runs.glob("agent/hopper-medium/iql-none-*/0")
    (run / "report").mkdir()
    (run / "report" / "index.html").write_text("its own")
    assert pgd(monkeypatch, f"runs={run}") == 0
    assert (run / "report" / "index.html").read_text() == "its own"
    assert (run / "comparison" / "index.html").exists()


@pytest.mark.usefixtures("drawn_by_nobody")
def test_what_did_not_end_is_named(runs, monkeypatch):
    make_run(runs, "hopper-medium", "pgd", np.zeros(5), seed=7).update(state="failed", reason="value alarm")
    assert pgd(monkeypatch, f"runs={runs}") == 0
    content = json.loads((runs / "report" / "report.json").read_text())
    assert [(part["state"], part["reason"]) for part in content["unfinished"]] == [("failed", "value alarm")]
    assert "value alarm" in (runs / "report" / "index.html").read_text()
    assert len(content["runs"]) == 6


def without(name: str):
    """Damage to a run: its run.json or config.yaml is no longer there, or lacks a part."""

    def damage(run):
        file, _, part = name.partition(":")
        path = run.folder / file
        if not part:
            path.unlink()
        elif file == "run.json":
            path.write_text(json.dumps({key: value for key, value in run.record.items() if key != part}))
        else:
            OmegaConf.save({key: value for key, value in OmegaConf.load(path).items() if key != part}, path)

    return damage


DAMAGES = {
    "run.json": lambda run: (run.folder / "run.json").write_text("{"),
    "run.json, a folder": lambda run: (without("run.json")(run), (run.folder / "run.json").mkdir()),
    "run.json:starts": without("run.json:starts"),
    "run.json:provenance": without("run.json:provenance"),
    "config.yaml": without("config.yaml"),
    "config.yaml:env": without("config.yaml:env"),
    "config.yaml:updates": without("config.yaml:updates"),
    "ledger.jsonl": without("ledger.jsonl"),
}


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_run_is_named_once_and_the_others_are_reported(runs, monkeypatch, capsys, damage):
    run = make_run(runs, "hopper-medium", "pgd", np.zeros(5), seed=7, score=0.5)
    sweep = runs / "sweep" / "0"
    sweep.mkdir(parents=True)
    agents = [[{"env": "hopper-medium", "seed": 7, "settings": str(number)}] for number in range(2)]
    points = {"points": [["seed=7"]] * 2, "labels": ["a", "b"], "agents": agents}  # two more that look at the run
    (sweep / "sweep.json").write_text(json.dumps(points))
    DAMAGES[damage](run)
    assert pgd(monkeypatch, f"runs={runs}") == 0
    (said,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("warning: ")]
    assert said.startswith(f"warning: {run.folder / damage.split(':')[0].split(',')[0]} is damaged (")
    assert said.endswith("It is left out.")
    assert len(json.loads((runs / "report" / "report.json").read_text())["runs"]) == 6


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_sibling_is_named_and_the_others_stand_beside_the_run(tmp_path, capsys, damage):
    all_equal = {"comparison": "0", "score": 0.5}
    first, _, other = (
        make_run(tmp_path, "hopper-medium", g, np.zeros(5), **all_equal) for g in ("pgd", "none", "pets")
    )
    assert [run.record["generator"] for run in siblings(first)] == ["pgd", "none", "pets"]
    DAMAGES[damage](other)
    with stopping_on_signals():  # as a command
        found = [run.record["generator"] for run in siblings(first)]
    # A page of a run reads the settings of that run alone.
    spared = damage.startswith("config.yaml")
    assert found == (["pgd", "none", "pets"] if spared else ["pgd", "none"])
    assert capsys.readouterr().out.count("It is left out.") == (not spared)


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize("text", [None, "["])
def test_a_damaged_analysis_is_named_and_left_out(runs, monkeypatch, capsys, text):
    for seed, rows in enumerate(["[]", text]):
        run = Run.at(str(runs), "analysis", "hopper-medium", "fidelity-iql", {}, seed)
        run.update(state="finished", provenance={"label": "some data"})
        if rows:
            (run.folder / "analysis.json").write_text(rows)
    assert pgd(monkeypatch, f"runs={runs}") == 0
    assert capsys.readouterr().out.count(f"{run.folder / 'analysis.json'} is damaged") == 1
    (kept,) = json.loads((runs / "report" / "report.json").read_text())["analyses"]
    assert kept["folder"] == str(run.folder.with_name("0"))


@pytest.mark.usefixtures("drawn_by_nobody")
def test_a_run_whose_process_is_gone_is_not_called_running(runs, monkeypatch):
    gone = subprocess.Popen(["true"])
    gone.wait()
    pids = {"running": os.getpid(), "killed": gone.pid}
    for seed, pid in enumerate(pids.values(), 7):
        run = make_run(runs, "hopper-medium", "pgd", np.zeros(5), seed=seed)
        run.update(state="running")
        beat = {"host": platform.node(), "pid": pid, "time": time.time()}
        (run.folder / "heartbeat.json").write_text(json.dumps(beat))
    assert pgd(monkeypatch, f"runs={runs}") == 0
    content = json.loads((runs / "report" / "report.json").read_text())
    assert [part["state"] for part in content["unfinished"]] == list(pids)
    assert compose_config("ls", []).stale_after == compose_config("report", []).stale_after, (
        "pgd ls would say otherwise"
    )


@pytest.mark.usefixtures("drawn_by_nobody")
def test_unlike_runs_are_refused_and_all_others_reported(runs, monkeypatch, capsys):
    make_run(runs, "hopper-medium", "pets", np.zeros(5), label="the official file")
    assert pgd(monkeypatch, f"runs={runs}") == 0
    content = json.loads((runs / "report" / "report.json").read_text())
    assert "hopper-medium" not in {table["dataset"] for table in content["tables"]}
    (part,) = [part for part in content["unfinished"] if part["state"] == "refused"]
    assert part["what"] == "hopper-medium" and "two kinds of data" in part["reason"]
    assert "REFUSED: hopper-medium" in capsys.readouterr().out
    assert "two kinds of data" in (runs / "report" / "index.html").read_text()
    assert pgd(monkeypatch, f"runs={runs}/agent/hopper-medium") == 1
    assert "two kinds of data" in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_by_nobody")
def test_runs_of_another_step_limit_are_refused(runs, monkeypatch, capsys):
    """Episodes that were cut earlier are no episodes of the same task, whatever their seed."""
    other = make_run(runs, "hopper-medium", "pgd", np.zeros(5), seed=3)
    config = OmegaConf.load(other.folder / "config.yaml")
    config.env.max_episode_steps = 50
    OmegaConf.save(config, other.folder / "config.yaml")
    assert pgd(monkeypatch, f"runs={runs}") == 0
    assert "two kinds of step limit, '1000'" in capsys.readouterr().out


@pytest.mark.parametrize("setting", ["out=elsewhere", "where={updates:5000}"])
def test_settings_of_the_page_are_not_ignored_for_one_run(runs, monkeypatch, capsys, setting):
    run = next((runs / "agent" / "hopper-medium").glob("iql-pgd-*/0"))
    assert pgd(monkeypatch, f"run={run}", setting) == 1
    assert "is for a page over many runs" in capsys.readouterr().err


@pytest.mark.usefixtures("drawn_by_nobody")
def test_datasets_without_a_common_seed_are_not_pooled(tmp_path, monkeypatch):
    make_run(tmp_path, "hopper-medium", "none", np.arange(5.0), seed=0)
    make_run(tmp_path, "walker2d-medium", "none", np.arange(5.0), seed=7)
    assert pgd(monkeypatch, f"runs={tmp_path}") == 0
    (both,) = json.loads((tmp_path / "report" / "report.json").read_text())["aggregates"]
    assert both["refused"].startswith("No seed of a method ran on all of hopper-medium, walker2d-medium")


@pytest.mark.usefixtures("drawn_by_nobody")
def test_selection_is_by_the_episodes_that_every_policy_has(runs, monkeypatch):
    longer = make_run(runs, "hopper-medium", "none", np.full(5, 44.0), identity={"agent": {"name": "bc"}}, seed=1)
    longer.update(agent="bc")
    rows = [{**row, "index": row["index"] + 2} for row in longer.rows("ledger.jsonl") if row["purpose"] == "final"]
    longer.append("ledger.jsonl", rows)
    assert pgd(monkeypatch, f"runs={runs}") == 0
    made = json.loads((runs / "report" / "report.json").read_text())["selections"]
    assert [part["policies"] for part in made] == [20, 15]


@pytest.mark.usefixtures("drawn_by_nobody")
def test_settings_that_differ_make_methods(runs, monkeypatch):
    make_run(runs, "hopper-medium", "pgd", np.full(5, 50.0), identity={"build": {"guidance": {"coef": 2.0}}})
    assert pgd(monkeypatch, f"runs={runs}") == 0
    content = json.loads((runs / "report" / "report.json").read_text())
    assert "real + policy-guided · coef=2.0" in [row["method"] for row in content["tables"][0]["rows"]]


@pytest.mark.usefixtures("drawn_by_nobody")
@pytest.mark.parametrize(
    ("facts", "name", "head", "full", "meaning"),
    [
        ({}, "score", "Scores", "Normalised score [%]", "scores 0 and 100 are returns of 0 and 100"),
        ({"success": True}, "success rate", "Success rates", "Success rate [%]", "a success rate is the share of"),
        ({"ref_min_score": None}, "return", "Returns", "Return", "returns are not normalised"),
    ],
)
def test_the_page_names_what_it_shows(tmp_path, monkeypatch, capsys, facts, name, head, full, meaning):
    for generator in ("none", "pgd"):
        run = make_run(tmp_path, "some-env", generator, np.arange(5.0))
        measured_by(run, **facts).update(provenance={"label": "some data", "kind": "own environment"})
    assert pgd(monkeypatch, f"runs={tmp_path}") == 0
    assert f"{name} [95 %]" in capsys.readouterr().out
    page = (tmp_path / "report" / "index.html").read_text()
    assert f"<h2>{head}</h2>" in page
    assert f"{full} of the last checkpoint" in page
    assert f"<th>{name}</th>" in page
    assert meaning in page
    (curve,) = (tmp_path / "report").glob("learning-*.svg")
    assert full.lower() in curve.read_text().lower()
    said = re.sub(r"env\.ref_\w+", "", re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)).lower()
    assert {word for word in ("score", "success") if word in said} == {name.split()[0]} - {"return"}
    (table,) = json.loads((tmp_path / "report" / "report.json").read_text())["tables"]
    assert table["rows"][0]["score"]["mean"] == pytest.approx(50 if facts.get("success") else 2.5)


@pytest.mark.usefixtures("drawn_by_nobody")
def test_a_page_of_several_measures_names_each(runs, monkeypatch):
    measured_by(make_run(runs, "some-maze", "none", np.zeros(5)), success=True)
    assert pgd(monkeypatch, f"runs={runs}") == 0
    page = (runs / "report" / "index.html").read_text()
    assert "<h2>Scores, success rates</h2>" in page
    assert "Normalised score [%] or success rate [%] of the last checkpoint" in page


@pytest.mark.usefixtures("drawn_by_nobody")
def test_runs_measured_otherwise_are_refused(runs, monkeypatch, capsys):
    measured_by(make_run(runs, "hopper-medium", "pgd", np.zeros(5), seed=3), success=True)
    assert pgd(monkeypatch, f"runs={runs}") == 0
    assert "two kinds of measure, 'score'" in capsys.readouterr().out


def test_nothing_to_report(tmp_path, monkeypatch, capsys):
    assert pgd(monkeypatch, f"runs={tmp_path}") == 1
    assert "There is no finished agent run in" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
@pytest.mark.parametrize("width", [400, 1280])
def test_a_browser_shows_it_without_overflow(runs, monkeypatch, tmp_path, width):
    """The page is no wider than the screen: tables scroll within themselves."""
    assert pgd(monkeypatch, f"runs={runs}") == 0
    page = runs / "report" / "index.html"
    probe = tmp_path / "probe.html"
    probe.write_text(
        page.read_text().replace(
            "</body>",
            "<script>document.title = 'over ' + (document.documentElement.scrollWidth - innerWidth)</script></body>",
        )
    )
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={max(width, 500)},900", "--dump-dom"]
    shown = subprocess.run(["chromium", *arguments, probe.as_uri()], capture_output=True, text=True, timeout=60).stdout
    (over,) = re.findall(r"<title>over (-?\d+)</title>", shown)
    assert int(over) <= 0
