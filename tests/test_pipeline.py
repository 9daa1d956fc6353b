"""The commands themselves: the whole story on a small real recording, killed anywhere, and given bad input."""

import csv
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from pgd_lightning.__main__ import main
from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.artifacts.models import training_set
from pgd_lightning.commands import generate
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data import d4rl, minari
from pgd_lightning.data.d4rl.reader import Reading
from pgd_lightning.data.sources import minari_folder
from pgd_lightning.errors import UserError
from pgd_lightning.runs.run import Run, newest_checkpoint
from pgd_lightning.simulators.substitutes.recipes import RECIPES

SMALL = [
    "env=maze2d-umaze", "scale=smoke", "logger.wandb=disabled", "network.features=16", "prior.steps=60",
    "prior.batch_size=16", "prior.validate_every=30", "prior.checkpoint_every=20", "updates=60", "checkpoint_every=15",
    "synthetic.lifetime=20", "synthetic.num_windows=8", "evaluation.every=30", "evaluation.episodes=1",
    "evaluation.final_episodes=2", "sampler.num_steps=4", "behaviour.updates=20", "health.rows=50", "report.windows=8",
    "trainer.accelerator=cpu", "plan.seconds=0",
]  # fmt: skip


@pytest.fixture(scope="session")
def recording(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("data") / "maze.hdf5"
    d4rl.write(path, (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(4000, 0, {})), {}, 4000)
    return path


def command(recording: Path, runs: Path, *more: str, small=SMALL) -> list[str]:
    return ["train", f"data.source={recording}", f"runs_dir={runs}", *small, *more]


def pgd(monkeypatch, arguments: list[str]) -> int:
    monkeypatch.setattr(sys, "argv", ["pgd", *arguments])
    return main()


@pytest.fixture(scope="session")
def finished(recording, tmp_path_factory) -> Path:
    """The runs folder of an uninterrupted small run of IQL with all three sources of experience."""
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        assert pgd(patch, command(recording, runs)) == 0
    return runs


def test_interrupted_recording_goes_on(tmp_path, monkeypatch):
    """Interrupted after two of four chunks, then the same command: the file equals an uninterrupted one, row by row."""
    arguments = ["collect", "env=maze2d-umaze", "steps=35000"]
    assert pgd(monkeypatch, [*arguments, f"out={tmp_path}/whole.hdf5"]) == 0
    save, calls = np.savez, []

    def interrupted(*args, **columns):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(*args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", interrupted)
        assert pgd(patch, [*arguments, f"out={tmp_path}/again.hdf5"]) != 0
    assert not (tmp_path / "again.hdf5").exists()
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda *args, **columns: (calls.append(1), save(*args, **columns)))
        assert pgd(patch, [*arguments, f"out={tmp_path}/again.hdf5"]) == 0
    assert len(calls) == 3 + 2
    with h5py.File(tmp_path / "whole.hdf5") as whole, h5py.File(tmp_path / "again.hdf5") as again:
        assert dict(whole.attrs) == dict(again.attrs)
        for key in ("observations", "actions", "timeouts", "infos/goal"):
            np.testing.assert_array_equal(whole[key][:], again[key][:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.hdf5", "whole.hdf5"]


def run_of(runs: Path, generator: str, agent: str = "iql") -> Run:
    (path,) = (runs / "agent" / "maze2d-umaze").glob(f"{agent}-{generator}-*/0")
    return Run(path)


def weights(run: Run) -> dict[str, torch.Tensor]:
    path = newest_checkpoint(run.checkpoints)
    assert path is not None
    return torch.load(path, weights_only=True)["state_dict"]


def equal(ours: Run, theirs: Run) -> bool:
    a, b = weights(ours), weights(theirs)
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_the_whole_story(finished):
    guided = run_of(finished, "pgd")
    report = guided.folder / "report"
    summary = json.loads((report / "summary.json").read_text())
    assert set(summary["scores"]) == {"pgd", "none", "unguided"}
    assert "not D4RL" in summary["provenance"]["label"]
    assert summary["scores"]["pgd"]["low"] is None  # two seeds give no interval
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
    assert guided.record["starts"][0]["packages"]["torch"]
    (prior,) = (finished / "prior" / "maze2d-umaze").glob("edm-temporalresnet-*/0")
    (judged,) = Run(prior).record["verdicts"].values()
    assert judged["error"] > judged["floor"]


def test_ledger_and_health_cards(finished):
    ledger = run_of(finished, "pgd").rows("ledger.jsonl")
    monitored = [(row["step"], row["seed"], row["index"]) for row in ledger if row["purpose"] == "monitor"]
    assert monitored == [(step, seed, 0) for step in (30, 60) for seed in (0, 1)]
    assert len([row for row in ledger if row["purpose"] == "final"]) == 4
    assert all(row["length"] == 300 and row["simulator"].startswith("mujoco 3") for row in ledger)
    cards = run_of(finished, "pgd").rows("health.jsonl")
    assert [card["step"] for card in cards] == [0, 20, 40]
    assert all(card["finite"] == 1 and card["dynamics_error"] > 0 for card in cards)


def test_the_three_agents_differ(finished):
    runs = [run_of(finished, name) for name in ("pgd", "none", "unguided")]
    assert not equal(runs[0], runs[1])
    assert not equal(runs[0], runs[2])
    assert len({run.record["comparison"] for run in runs}) == 1


def test_finished_run_is_found_and_not_trained_again(finished, recording, monkeypatch, capsys):
    before = run_of(finished, "pgd").record
    assert pgd(monkeypatch, command(recording, finished)) == 0
    assert "trained already" in capsys.readouterr().out
    assert run_of(finished, "pgd").record["starts"] == before["starts"]


def test_metrics_have_a_row_for_each_look_and_no_more(finished):
    """Lightning repeats at every step what was logged last, unless it is told when modules log."""
    (file,) = run_of(finished, "pgd").folder.glob("metrics/*/metrics.csv")
    steps = [int(row["step"]) for row in csv.DictReader(file.open())]
    assert steps == [49]  # of 60, at every fiftieth


def test_checkpoints_hold_tensors_alone(finished):
    for path in finished.rglob("*.ckpt"):
        torch.load(path, weights_only=True)


def test_evaluate_report_and_generate(finished, recording, monkeypatch, capsys, tmp_path):
    run = run_of(finished, "pgd")
    assert pgd(monkeypatch, ["evaluate", f"run={run.folder}", "episodes=2"]) == 0
    assert "score" in capsys.readouterr().out
    assert pgd(monkeypatch, ["report", f"run={run.folder}"]) == 0
    printed = capsys.readouterr().out
    assert "real + policy-guided" in printed
    assert printed.splitlines()[-1] == f"page: {run.folder / 'report' / 'index.html'}"
    out = tmp_path / "made.hdf5"
    assert pgd(monkeypatch, ["generate", f"run={run.folder}", "windows=6", f"out={out}"]) == 0
    data = d4rl.load(out, run_spec(), "error")
    assert data.card()["episodes"] >= 12
    assert len(data) == 2 * 6 * 32
    target = f"minari:{tmp_path / 'made-v0'}"
    assert pgd(monkeypatch, ["generate", f"run={run.folder}", "windows=6", f"out='{target}'"]) == 0
    again = minari.load(minari_folder(target), run_spec(), Reading("error", "recorded", "error"))
    ours, theirs = data.steps()[torch.arange(len(data.steps()))], again.steps()[torch.arange(len(again.steps()))]
    no_successor = ~data.terminated[31::32]  # a window's last row
    assert len(ours) == 2 * 6 * 32 - int(no_successor.sum())
    assert (ours == theirs).all()
    real = recording.read_bytes()
    assert pgd(monkeypatch, ["generate", f"run={run.folder}", "windows=6", f"out={recording}", "overwrite=true"]) == 1
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

    parts = list(generate.generated(Echo(), None, torch.arange(1000.0).unsqueeze(-1), 2, 10, seed=3))
    assert [tuple(part.shape) for part in parts] == [(2, 4, 1), (2, 4, 1), (2, 2, 1)]
    assert len({seed for _, seed in seen}) == 3
    assert torch.cat([starts.flatten() for starts, _ in seen]).max() > 500


def run_spec():
    from pgd_lightning.config.build import build
    from pgd_lightning.config.compose import compose_config

    return build(compose_config("train", ["env=maze2d-umaze"]).env)


def test_analyse(finished, recording, monkeypatch, capsys):
    """Both targets, real, unguided and guided windows; the real ones are at the simulator's floor."""
    arguments = [
        "analyse",
        *command(recording, finished)[1:],
        "analysis.windows=8",
        "analysis.rows=40",
        "analysis.generators=[]",
    ]
    assert pgd(monkeypatch, arguments) == 0
    (folder,) = (finished / "analysis" / "maze2d-umaze").glob("fidelity-iql-*/0")
    rows = json.loads((folder / "analysis.json").read_text())
    assert [(row["target"], row["label"]) for row in rows] == [
        (target, label) for target in ("behaviour", "agent") for label in ("real", "unguided", "pgd x 0.5", "pgd x 1")
    ]
    assert all(row["dynamics_error_median"] < 1e-9 for row in rows if row["label"] == "real")
    assert all(row["dynamics_error_median"] > 1e-6 for row in rows if row["label"] != "real")
    assert all(row["windows"] == 8 for row in rows)
    assert (folder / "analysis.png").read_bytes()[:4] == b"\x89PNG"
    assert "not D4RL" in (folder / "table.txt").read_text()
    assert "IQL, real data only: trained already" in capsys.readouterr().out


def test_pets_trains_an_agent_and_is_analysed(finished, recording, monkeypatch, capsys):
    more = ["generator=pets", "compare=[]", "ensemble.steps=30", "ensemble.checkpoint_every=10"]
    assert pgd(monkeypatch, command(recording, finished, *more)) == 0
    assert run_of(finished, "pets").finished
    first = weights(run_of(finished, "pets"))
    (ensemble,) = (finished / "ensemble" / "maze2d-umaze").glob("pets-*/0")
    last = torch.load(newest_checkpoint(ensemble / "checkpoints"), weights_only=True)["state_dict"]
    shutil.rmtree(run_of(finished, "pets").folder)
    for path in (ensemble / "checkpoints").glob("*=000000030.ckpt"):
        path.unlink()
    record = json.loads((ensemble / "run.json").read_text()) | {"state": "killed"}
    (ensemble / "run.json").write_text(json.dumps(record))
    assert pgd(monkeypatch, command(recording, finished, *more)) == 0
    assert "continues from step=000000020.ckpt" in capsys.readouterr().out
    resumed = torch.load(newest_checkpoint(ensemble / "checkpoints"), weights_only=True)["state_dict"]
    assert all(torch.equal(last[key], resumed[key]) for key in last)
    again = weights(run_of(finished, "pets"))
    assert all(torch.equal(first[key], again[key]) for key in first)


SMALL_BASELINES = [
    "synther.steps=30", "synther.batch_size=64", "vae.steps=30", "autoregressive.steps=30", "ensemble.steps=30",
    "transformer.steps=20", "rssm.steps=10", "updates=20", "synthetic.lifetime=10", "evaluation.every=20",
]  # fmt: skip


@pytest.mark.parametrize("name", ["synther", "vae", "autoregressive", "transformer", "rssm"])
def test_each_baseline_trains_an_agent(finished, recording, monkeypatch, name):
    """Also beside settings of the chosen generator, which no other arm of the comparison may inherit."""
    more = [f"generator={name}", "compare=[]", *SMALL_BASELINES]
    assert pgd(monkeypatch, command(recording, finished, *more)) == 0
    run = run_of(finished, name)
    assert run.finished
    assert [card["step"] for card in run.rows("health.jsonl")] == [0, 10]
    assert all(card["finite"] == 1 for card in run.rows("health.jsonl"))


@pytest.mark.parametrize("synthetic", ["blend", "alternate"])
def test_td3_bc_and_score_guidance(recording, tmp_path, monkeypatch, synthetic):
    more = ("agent=td3_bc", "guidance=score", "compare=[]", f"synthetic={synthetic}", "synthetic.keep_terminal=true")
    assert pgd(monkeypatch, command(recording, tmp_path, *more)) == 0
    assert run_of(tmp_path, "pgd", "td3_bc").finished


def spawn(arguments: list[str], **more) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "pgd_lightning", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        **more,
    )  # fmt: skip


def wait_for(process: subprocess.Popen, pattern: Path, glob: str, seconds: float = 90) -> None:
    """Until a file that matches appears, or the process ends."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None and not list(pattern.glob(glob)):
        time.sleep(0.02)


KILLS = {
    "in the prior": "prior/*/*/0/checkpoints/step=*20.ckpt",
    "in the agent": "agent/*/iql-pgd-*/0/checkpoints/step=*30.ckpt",
    "before the report": "agent/*/iql-pgd-*/0/checkpoints/step=*60.ckpt",
}


def test_killed_anywhere_ends_with_the_same_bits(finished, recording, tmp_path):
    """kill -9 in each stage, and the same command again each time."""
    arguments = command(recording, tmp_path)
    for glob in KILLS.values():
        process = spawn(arguments)
        wait_for(process, tmp_path, glob)
        process.send_signal(signal.SIGKILL)
        process.wait()
    process = spawn(arguments)
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 0, output
    for name in ("pgd", "none", "unguided"):
        assert equal(run_of(tmp_path, name), run_of(finished, name))
        assert run_of(tmp_path, name).rows("ledger.jsonl") == run_of(finished, name).rows("ledger.jsonl")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_says_so(recording, tmp_path, number):
    process = spawn(command(recording, tmp_path, "prior.steps=100000", "prior.checkpoint_every=50000", "compare=[]"))
    wait_for(process, tmp_path, "prior/*/*/0/metrics/*/metrics.csv")  # its steps have begun
    process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75
    assert f"Stopped by {number.name} at step" in output
    assert "Traceback" not in output
    assert list(tmp_path.glob("prior/*/*/0/checkpoints/*.ckpt"))


def test_full_disk_keeps_what_there_is_and_the_command_goes_on(recording, tmp_path):
    """No file may grow beyond 100 kB, as if the disk were full at the first checkpoint."""
    arguments = command(recording, tmp_path, "compare=[]")
    limit = (100_000, 100_000)
    process = spawn(arguments, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, limit))
    output, _ = process.communicate(timeout=240)
    assert process.returncode == 1
    assert "Cannot save the checkpoint" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.part"))
    again = spawn(arguments)
    output, _ = again.communicate(timeout=240)
    assert again.returncode == 0, output


def test_second_process_in_one_run_refuses(recording, tmp_path, monkeypatch, capsys):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)

    with run.started("", {}):
        process = subprocess.run(
            [sys.executable, "-c", SECOND.format(folder=run.folder)], capture_output=True, text=True, env=os.environ
        )
    assert re.search(r"Another process \(process \d+ on .*\) is working in", process.stdout)


SECOND = """
from pathlib import Path
from omegaconf import OmegaConf
from pgd_lightning.errors import UserError
from pgd_lightning.runs.run import Run
try:
    with Run(Path("{folder}")).started("", {{}}):
        pass
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["train", "env=hoper-medium"], "did you mean hopper-medium"),
        (["train", "guidance.coeff=2"], "did you mean guidance.coef"),
        (["train", "agnt=iql"], "did you mean agent"),
        (["train", "scale=tiny"], "there are laptop, paper, smoke"),
        (["train", "prior.steps=many"], "prior.steps=many does not fit"),
        (["train", "seeds=0"], "1 to 10000"),
        (["train", "seeds=-3"], "does not fit"),
        (["train", "data.horizon=1"], "data.horizon=1 does not fit: it is a whole number, 2 to 100000"),
        (["trian"], "did you mean train"),
        (["train", "foo"], "write key=value"),
        (["train", "--fast"], "Unknown option --fast"),
        (["train", "data.source=/nowhere.hdf5"], "There is no file /nowhere.hdf5"),
        (["evaluate"], "needs run="),
        (["evaluate", "run=nowhere"], "There is no run in 'nowhere'"),
        (["collect", "env=pen-human"], "There is no recipe for 'pen-human'"),
        (["train", "env=pen-expert", "data.timeout=1", "data.retries=0", "data.base_url=http://127.0.0.1:9/"],
         "to use it, put pen-expert-v1.hdf5 into"),
    ],
)  # fmt: skip
def test_bad_input_gets_one_sentence(monkeypatch, capsys, tmp_path, arguments, sentence):
    monkeypatch.chdir(tmp_path)
    assert pgd(monkeypatch, arguments) == 1
    error = capsys.readouterr().err
    assert sentence in error
    assert "Traceback" not in error
    assert len(error.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_help_shows_an_example(monkeypatch, capsys):
    assert pgd(monkeypatch, ["--help"]) == 0
    assert "example: pgd train" in capsys.readouterr().out


def test_corrupted_last_checkpoint_falls_back(finished, tmp_path, capsys):
    source = run_of(finished, "pgd").checkpoints
    for path in source.glob("*.ckpt"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    last = max(tmp_path.glob("*.ckpt"))
    last.write_bytes(last.read_bytes()[:1000])
    assert newest_checkpoint(tmp_path) == min(tmp_path.glob("*.ckpt"))
    assert "cannot be read" in capsys.readouterr().out


def test_prior_of_another_file_is_another_run(finished, tmp_path_factory, monkeypatch):
    other = tmp_path_factory.mktemp("other") / "maze.hdf5"
    d4rl.write(other, (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(4000, 1, {})), {}, 4000)
    before = set((finished / "prior" / "maze2d-umaze").iterdir())
    assert pgd(monkeypatch, ["prior", f"data.source={other}", f"runs_dir={finished}", *SMALL]) == 0
    assert len(set((finished / "prior" / "maze2d-umaze").iterdir()) - before) == 1


def test_real_data_alone_need_no_window(recording, tmp_path, monkeypatch, capsys):
    """Nor do models of single steps; what does need one says so."""
    more = ("data.horizon=5000", "compare=[]", "agent=td3_bc", "seeds=1", "updates=20", "generator=none")
    assert pgd(monkeypatch, command(recording, tmp_path, *more)) == 0
    run = run_of(tmp_path, "none", "td3_bc")
    assert run.finished
    summary = json.loads((run.folder / "report" / "summary.json").read_text())
    assert "episodes_that_chose_something" not in summary  # nothing is chosen by episodes
    assert "0 training windows of 5000" in capsys.readouterr().out
    assert pgd(monkeypatch, command(recording, tmp_path, *more[:-1], "generator=pgd")) == 1
    assert "No window of 5000 rows fits" in capsys.readouterr().err
    dataset = open_dataset(compose_config("train", command(recording, tmp_path, *more)[1:]))
    assert len(training_set(compose_config("train", ["env=maze2d-umaze"]), "ensemble", dataset)[0]) > 1000
    with pytest.raises(UserError, match="No window of 5000 rows"):
        training_set(compose_config("train", ["env=maze2d-umaze"]), "vae", dataset)
