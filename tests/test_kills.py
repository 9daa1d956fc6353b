"""Commands in processes of their own: killed anywhere, told to stop, without room on the disk, two at once."""

import re
import signal

import h5py
import numpy as np
import pytest
from helpers.commands import command, equal, pgd, run_of
from helpers.processes import Spawned, forked

from pgd_lightning.errors import UserError
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators.substitutes import recipes

KILLS = {
    "in the prior": "prior/*/*/0/checkpoints/step=*20.ckpt",
    "in the agent": "agent/*/iql-pgd-*/0/checkpoints/step=*30.ckpt",
    "before the report": "agent/*/iql-pgd-*/0/checkpoints/step=*60.ckpt",
}


def test_killed_anywhere_ends_with_the_same_bits(finished, recording, tmp_path):
    """kill -9 in each stage, and the same command again each time."""
    arguments = command(recording, tmp_path / "runs")
    for glob in KILLS.values():
        process = Spawned(arguments, tmp_path / "said")
        process.wait_for(tmp_path / "runs", glob)
        process.send_signal(signal.SIGKILL)
        assert process.ended()[0] == -signal.SIGKILL
    code, output = Spawned(arguments, tmp_path / "said").ended()
    assert code == 0, output
    for name in ("pgd", "none", "unguided"):
        assert equal(run_of(tmp_path / "runs", name), run_of(finished, name))
        assert run_of(tmp_path / "runs", name).rows("ledger.jsonl") == run_of(finished, name).rows("ledger.jsonl")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_signal_saves_and_says_so(recording, tmp_path, number):
    runs, long = tmp_path / "runs", ["prior.steps=100000", "prior.checkpoint_every=50000", "compare=[]"]
    process = Spawned(command(recording, runs, *long), tmp_path / "said")
    process.wait_for(runs, "prior/*/*/0/metrics/*/metrics.csv")  # its steps have begun
    process.send_signal(number)
    code, output = process.ended()
    assert code == 75
    assert f"Stopped by {number.name} at step" in output
    assert "Traceback" not in output
    assert list(runs.glob("prior/*/*/0/checkpoints/*.ckpt"))


def test_full_disk_keeps_what_there_is_and_the_command_goes_on(recording, tmp_path):
    """No file may grow beyond 100 kB, as if the disk were full at the first checkpoint."""
    arguments = command(recording, tmp_path / "runs", "compare=[]")
    code, output = Spawned(arguments, tmp_path / "said", largest=100_000).ended()
    assert code == 1
    assert "Cannot save the checkpoint" in output
    assert "Traceback" not in output
    assert not list(tmp_path.rglob("*.part"))
    code, output = Spawned(arguments, tmp_path / "said").ended()
    assert code == 0, output


def test_second_process_in_one_run_refuses(tmp_path):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)
    with run.started("", {}):
        forked(begin, run.folder, tmp_path / "said").join(60)
    assert re.search(r"Another process \(process \d+ on .*\) is working in", (tmp_path / "said").read_text())


def test_what_two_processes_note_of_a_run_is_all_kept(tmp_path):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "iql-none", {}, 0)
    writers = [forked(notes, run.folder, first) for first in (0, 1)]
    for writer in writers:
        writer.join(60)
    assert run.record["settings"] == sorted(f"{number:03d}" for number in range(100))


def notes(folder, first):
    for number in range(first, 100, 2):
        Run(folder).note("settings", f"{number:03d}")


def begin(folder, said):
    try:
        with Run(folder).started("", {}):
            pass
    except UserError as error:
        said.write_text(str(error))


@pytest.mark.parametrize(
    ("interrupted", "then", "chunks"),
    [("maze2d-umaze", "maze2d-umaze", 2), ("hopper-medium", "hopper-expert", 3)],
    ids=["the same", "another policy of the body"],
)
def test_interrupted_recording_goes_on(tmp_path, monkeypatch, interrupted, then, chunks):
    """Interrupted after two chunks: the same command makes the others, that of another environment all of its own.

    The file equals an uninterrupted one, row by row.
    """
    monkeypatch.setattr(recipes, "ROWS_A_CHUNK", 500)
    first, second = (["collect", f"env={env}", "steps=1750"] for env in (interrupted, then))
    assert pgd(monkeypatch, [*second, f"out={tmp_path}/whole.hdf5"]) == 0
    save, calls = np.savez, []

    def twice(*args, **columns):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        save(*args, **columns)

    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", twice)
        assert pgd(patch, [*first, f"out={tmp_path}/again.hdf5"]) != 0
    assert not (tmp_path / "again.hdf5").exists()
    with monkeypatch.context() as patch:
        patch.setattr(np, "savez", lambda *args, **columns: (calls.append(1), save(*args, **columns)))
        assert pgd(patch, [*second, f"out={tmp_path}/again.hdf5"]) == 0
    assert len(calls) == 3 + chunks
    with h5py.File(tmp_path / "whole.hdf5") as whole, h5py.File(tmp_path / "again.hdf5") as again:
        assert dict(whole.attrs) == dict(again.attrs)
        for key in ("observations", "actions", "timeouts", *(f"infos/{name}" for name in whole["infos"])):
            np.testing.assert_array_equal(whole[key][:], again[key][:])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.hdf5", "whole.hdf5"]
