"""The whole story on a small real recording: what a finished run has, and what its commands make of it."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from helpers.commands import command, equal, pgd, run_of

from pgd_lightning.artifacts.dataset import dataset_of
from pgd_lightning.commands import generate
from pgd_lightning.config.saved import settings_of
from pgd_lightning.data import d4rl, minari
from pgd_lightning.data.d4rl.reader import Reading
from pgd_lightning.data.environments import environment
from pgd_lightning.data.sources import minari_folder
from pgd_lightning.report import run_page, run_report
from pgd_lightning.runs.checkpoints import newest_checkpoint
from pgd_lightning.runs.run import Run


def test_the_whole_story(finished):
    guided = run_of(finished, "pgd")
    summary = json.loads((guided.folder / "report" / "summary.json").read_text())
    assert set(summary["scores"]) == {"pgd", "none", "unguided"}
    assert "not D4RL" in summary["provenance"]["label"]
    assert summary["scores"]["pgd"]["low"] is None  # two seeds give no interval
    assert (guided.folder / "report" / "index.html").exists()
    assert guided.record["starts"][0]["packages"]["torch"]
    (prior,) = (finished / "prior" / "maze2d-umaze").glob("edm-temporalresnet-*/0")
    (judged,) = Run(prior).record["verdicts"].values()
    assert judged["error"] > judged["floor"]


def test_report_draws_and_says_what_the_run_has(copied, monkeypatch, capsys):
    run = run_of(copied, "pgd")
    report = run.folder / "report"
    assert pgd(monkeypatch, ["report", f"run={run.folder}"]) == 0
    printed = capsys.readouterr().out
    assert "real + policy-guided" in printed
    assert printed.splitlines()[-1] == f"page: {report / 'index.html'}"
    table = (report / "table.txt").read_text()
    assert "not D4RL" in table
    assert "n = 2, no interval" in table
    assert "scores 0 and 100 are returns of 23.85 and 161.86 (D4RL's for maze2d-umaze)" in table
    for figure in ("learning_curves", "fidelity", "trajectories"):
        assert (report / f"{figure}.png").stat().st_size > 5000
        assert "not D4RL" in (report / f"{figure}.svg").read_text()
    page = (report / "index.html").read_text()
    assert "2 seeds are too few to compare guided data with real data alone" in page
    assert "one-step error" in page  # the verdict on the prior
    assert "ball velocity x [m/s]" in page


def test_a_comparison_that_grows_is_written_again_without_drawing_its_windows_again(copied, monkeypatch):
    run = run_of(copied, "pgd")
    dataset = dataset_of(run, settings_of(run), None)
    windows = run_report.measure_windows(run, dataset)
    drawn = run_report.write([run], dataset, windows)
    for room, name in ((run_report, "window_figures"), (run_report, "rollout_strip"), (run_page, "channel_figure")):
        monkeypatch.setattr(room, name, None)
    assert run_report.write(run_report.siblings(run), dataset, windows) == drawn
    page = (run.folder / "report" / "index.html").read_text()
    assert all(text in page for text in ("ball velocity x [m/s]", "real data alone"))


def test_ledger_and_health_summaries(finished):
    ledger = run_of(finished, "pgd").rows("ledger.jsonl")
    monitored = [(row["step"], row["seed"], row["index"]) for row in ledger if row["purpose"] == "monitor"]
    assert monitored == [(step, seed, 0) for step in (30, 60) for seed in (0, 1)]
    assert len([row for row in ledger if row["purpose"] == "final"]) == 4
    assert all(row["length"] == 300 and row["simulator"].startswith("mujoco 3") for row in ledger)
    cards = run_of(finished, "pgd").rows("health.jsonl")
    assert [summary["step"] for summary in cards] == [0, 20, 40]
    assert all(summary["finite"] == 1 and summary["dynamics_error"] > 0 for summary in cards)


def test_the_three_agents_differ(finished):
    runs = [run_of(finished, name) for name in ("pgd", "none", "unguided")]
    assert not equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])
    assert len({run.record["comparison"] for run in runs}) == 1


@pytest.mark.usefixtures("drawn_by_nobody")
def test_finished_run_is_found_and_not_trained_again(copied, recording, monkeypatch, capsys):
    before = run_of(copied, "pgd").record
    assert pgd(monkeypatch, command(recording, copied)) == 0
    assert "trained already" in capsys.readouterr().out
    assert run_of(copied, "pgd").record["starts"] == before["starts"]


def test_metrics_have_a_row_for_each_look_and_no_more(finished):
    """Lightning repeats at every step what was logged last, unless it is told when modules log."""
    (file,) = run_of(finished, "pgd").folder.glob("metrics/*/metrics.csv")
    steps = [int(row["step"]) for row in csv.DictReader(file.open())]
    assert steps == [49]  # of 60, at every fiftieth


def test_checkpoints_hold_tensors_alone(finished):
    paths = list(finished.rglob("*.ckpt"))
    assert len({path.parents[4].name for path in paths}) == 2  # of agents and of the prior
    for path in paths:
        torch.load(path, weights_only=True)


def test_corrupted_last_checkpoint_falls_back(finished, tmp_path, capsys):
    source = run_of(finished, "pgd").checkpoints
    for path in source.glob("*.ckpt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    last = max(tmp_path.glob("*.ckpt"))
    last.write_bytes(last.read_bytes()[:1000])
    assert newest_checkpoint(tmp_path) == min(tmp_path.glob("*.ckpt"))
    assert "cannot be read" in capsys.readouterr().out


def test_evaluate_says_the_score(copied, monkeypatch, capsys):
    assert pgd(monkeypatch, ["evaluate", f"run={run_of(copied, 'pgd').folder}", "episodes=2"]) == 0
    assert "score" in capsys.readouterr().out


def test_generate_writes_whole_windows_of_each_seed_to_either_format(copied, monkeypatch, tmp_path):
    run, env, out = run_of(copied, "pgd"), environment("maze2d-umaze", "today"), tmp_path / "made.hdf5"
    assert pgd(monkeypatch, ["generate", f"run={run.folder}", "windows=6", f"out={out}"]) == 0
    data = d4rl.load(out, env, "error")
    assert data.summary()["episodes"] >= 12
    assert len(data) == 2 * 6 * 32
    target = f"minari:{tmp_path / 'made-v0'}"
    assert pgd(monkeypatch, ["generate", f"run={run.folder}", "windows=6", f"out='{target}'"]) == 0
    again = minari.load(minari_folder(target), env, Reading("error", "recorded", "error"))
    ours, theirs = data.steps()[torch.arange(len(data.steps()))], again.steps()[torch.arange(len(again.steps()))]
    no_successor = ~data.terminated[31::32]  # a window's last row
    assert len(ours) == 2 * 6 * 32 - int(no_successor.sum())
    assert (ours == theirs).all()


def test_generate_never_replaces_the_recording(finished, recording, monkeypatch, capsys):
    real = recording.read_bytes()
    run = run_of(finished, "pgd").folder
    assert pgd(monkeypatch, ["generate", f"run={run}", "windows=6", f"out={recording}", "overwrite=true"]) == 1
    assert "is what is read" in capsys.readouterr().err
    assert recording.read_bytes() == real


def test_generated_windows_stream_in_parts(monkeypatch):
    """Every window once, whatever is in memory at a time; the start states come from all of the data."""
    monkeypatch.setattr(generate, "WINDOWS_AT_ONCE", 4)
    seen = []

    class Echo:
        def generate(self, policy, starts, seed):
            seen.append((starts, seed))
            return starts

    parts = list(
        generate.generated(Echo(), SimpleNamespace(device="cpu"), torch.arange(1000.0).unsqueeze(-1), 2, 10, seed=3)
    )
    assert [tuple(part.shape) for part in parts] == [(2, 4, 1), (2, 4, 1), (2, 2, 1)]
    assert len({seed for _, seed in seen}) == 3
    assert torch.cat([starts.flatten() for starts, _ in seen]).max() > 500


@pytest.mark.usefixtures("drawn_by_nobody")
def test_analyse(copied, recording, monkeypatch, capsys):
    """Both targets, real, unguided and guided windows; the real ones are at the simulator's floor."""
    arguments = [
        "analyse",
        *command(recording, copied)[1:],
        "analysis.windows=8",
        "analysis.rows=40",
        "analysis.generators=[pgd]",
    ]
    assert pgd(monkeypatch, arguments) == 0
    (folder,) = (copied / "analysis" / "maze2d-umaze").glob("fidelity-iql-*/0")
    rows = json.loads((folder / "analysis.json").read_text())
    assert [(row["target"], row["label"]) for row in rows] == [
        (target, label)
        for target in ("behaviour", "agent")
        for label in ("real", "unguided", "pgd x 1", "pgd x 2", "pgd")
    ]
    assert all(row["dynamics_error_median"] < 1e-9 for row in rows if row["label"] == "real")
    assert all(row["dynamics_error_median"] > 1e-6 for row in rows if row["label"] != "real")
    assert all(row["windows"] == 8 for row in rows)
    assert (folder / "analysis.png").read_bytes()[:4] == b"\x89PNG"
    assert "not D4RL" in (folder / "table.txt").read_text()
    assert "IQL, real data only: trained already" in capsys.readouterr().out
