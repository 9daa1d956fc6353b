"""Two processes of one command on a CPU: they train what one does, and a lost one ends the group with a sentence."""

import csv
import os
import signal
from pathlib import Path

import pytest
import torch
from helpers.commands import command, run_of, weights
from helpers.processes import Spawned
from torch.distributed.elastic.multiprocessing.errors import ProcessFailure

from pgd_lightning.commands.launch import cause_of, report

TWO = ["trainer=ddp", "trainer.devices=2"]


def train(recording: Path, runs: Path, *more: str) -> Spawned:
    return Spawned(command(recording, runs, *more), runs.with_name(f"{runs.name} said"))


def logged(runs: Path, name: str) -> list[float]:
    """The values of a metric of the prior, in the order of steps."""
    (file,) = (runs / "prior" / "maze2d-umaze").glob("*/0/metrics/*/metrics.csv")
    return [float(row[name]) for row in csv.DictReader(file.open()) if row[name]]


def test_two_ranks_train_what_one_does(recording, tmp_path):
    """The prior by halves of each batch, the agents a seed a rank.

    The prior's training is chaotic: in one process, too, a weight moved by 1e-14 changes the loss by 1e-2 after five
    steps of Adam. Two updates in float64 leave room for a comparison.
    """
    for name, extra in (("one", []), ("two", TWO)):
        process = train(
            recording,
            tmp_path / name,
            "compare=[none]",
            "prior.log_every=1",
            "trainer.precision=64-true",
            *extra,
        )
        code, output = process.ended()
        assert code == 0, output
        assert output.count("page:") == 1  # one of them speaks
    assert logged(tmp_path / "one", "prior/loss")[:3] == pytest.approx(
        logged(tmp_path / "two", "prior/loss")[:3], rel=1e-9
    )
    one, two = run_of(tmp_path / "one", "none"), run_of(tmp_path / "two", "none")
    ours, theirs = weights(one), weights(two)
    assert ours.keys() == theirs.keys()
    for key in ours:  # a checkpoint holds all seeds, whoever trained them
        far = (ours[key] - theirs[key]).abs() > 1e-4 + 1e-3 * theirs[key].abs()
        assert far.float().mean() < 1e-3, key  # Adam takes whole steps along gradients that are nothing but rounding
        torch.testing.assert_close(ours[key], theirs[key], rtol=0, atol=0.01)
    for generator in ("none", "pgd"):
        rows, again = (run_of(tmp_path / name, generator).rows("ledger.jsonl") for name in ("one", "two"))
        assert keys(rows) == keys(again)  # each episode once
    assert one.rows("ledger.jsonl")[0]["return"] == pytest.approx(two.rows("ledger.jsonl")[0]["return"], abs=1e-3)
    assert len(list(two.folder.glob("metrics/*/metrics.csv"))) == 1


def test_two_ranks_share_the_batches_of_one_learner(recording, tmp_path):
    """TD3+BC has two optimiser steps an update and a mean over the batch that is not a loss's."""
    settings = [
        "agent=td3_bc", "agent.learner.policy_noise=0", "seeds=1", "ranks.agents=rows", "generator=none", "compare=[]",
        "updates=30", "evaluation.every=30", "evaluation.episodes=3", "evaluation.final_episodes=3",
    ]  # fmt: skip
    for name, extra in (("one", []), ("two", TWO)):
        code, output = train(recording, tmp_path / name, *settings, *extra).ended()
        assert code == 0, output
    one, two = (run_of(tmp_path / name, "none", "td3_bc") for name in ("one", "two"))
    ours, theirs = weights(one), weights(two)
    for key in ours:
        torch.testing.assert_close(ours[key], theirs[key], rtol=1e-3, atol=1e-4)
    rows, again = one.rows("ledger.jsonl"), two.rows("ledger.jsonl")
    assert keys(rows) == keys(again)
    assert len(rows) == 6
    assert [row["return"] for row in rows] == pytest.approx([row["return"] for row in again], abs=1.0)


def test_first_error_of_a_rank_is_the_commands(recording, tmp_path):
    """The others are ended by the launcher, which is not why the command failed."""
    more = ("data.horizon=32", "seeds=2", "ranks.agents=rows", "prior.steps=1")
    code, output = train(recording, tmp_path / "runs", *TWO, *more).ended()
    assert code == 1
    assert output.count("error: ranks.agents=rows shares the batches of one learner: set seeds=1 (now 2).") == 1
    assert "Traceback" not in output


OWN, MISSED = "UserError: set seeds=1", "Unreachable: Rank 0 cannot reach the others any more"


@pytest.mark.parametrize(
    ("ends", "cause"),
    [
        ([(1, OWN), (-signal.SIGABRT, None)], "set seeds=1"),
        ([(1, "Stopped: by the launcher"), (1, OWN)], "set seeds=1"),
        ([(1, MISSED), (-signal.SIGKILL, None)], "Rank 1 was lost (SIGKILL)"),
        ([(-signal.SIGTERM, None), (-signal.SIGSEGV, None)], "Rank 1 was lost (SIGSEGV)"),
        ([(-signal.SIGTERM, None), (1, "Stopped: by the system")], "by the system"),
        ([(-signal.SIGABRT, None), (1, "ValueError: no such thing")], "Rank 1 failed with ValueError: no such thing"),
        ([(1, MISSED), (-signal.SIGTERM, None)], "Rank 0 cannot reach the others"),
        ([(3, None), (-signal.SIGTERM, None)], "Rank 0 was lost (exit code 3)"),
    ],
)
def test_group_reports_the_rank_that_took_the_others_along(tmp_path, monkeypatch, ends, cause):
    failures = {}
    for rank, (code, said) in enumerate(ends):
        file = tmp_path / f"{rank}.json"
        monkeypatch.setenv("TORCHELASTIC_ERROR_FILE", str(file))
        if said is not None:
            kind, _, text = said.partition(": ")
            report(type(kind, (Exception,), {})(text))
        failures[rank] = ProcessFailure(local_rank=rank, pid=1, exitcode=code, error_file=str(file))
    assert str(cause_of(failures)).startswith(cause)


def keys(rows: list[dict]) -> list[tuple[int, int, int]]:
    return sorted((row["step"], row["seed"], row["index"]) for row in rows)


def test_lost_rank_ends_the_group_and_the_command_goes_on(recording, tmp_path):
    settings = [*TWO, "compare=[]", "generator=none", "updates=400", "evaluation.every=400", "checkpoint_every=20"]
    process = train(recording, tmp_path / "runs", *settings)
    process.wait_for(tmp_path / "runs", "agent/maze2d-umaze/iql-none-*/0/checkpoints/*.ckpt")
    os.kill(rank_of(process.pid, 1), signal.SIGKILL)
    code, output = process.ended()
    assert code == 1, output
    assert "Rank 1 was lost (SIGKILL)" in output
    alone = (o for o in settings if o not in TWO)  # a machine with fewer devices
    code, output = train(recording, tmp_path / "runs", *alone).ended()
    assert code == 0, output
    assert "continues from step=" in output


def rank_of(launcher: int, rank: int) -> int:
    """The process that ``launcher`` started as ``rank``."""
    children = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    wanted = f"RANK={rank}".encode()
    return next(int(c) for c in children if wanted in Path(f"/proc/{c}/environ").read_bytes().split(b"\0"))


def test_a_single_seed_is_trained_by_the_first_of_two_ranks(recording, tmp_path):
    """The other waits, and is not waited for by the evaluations meanwhile; nor does it make synthetic sets."""
    settings = ["seeds=1", "compare=[]", "ranks.timeout=60"]
    code, output = train(recording, tmp_path / "two", *TWO, *settings).ended()
    assert code == 0, output
    rows = run_of(tmp_path / "two", "pgd").rows("ledger.jsonl")
    assert keys(rows) == [(30, 0, 0), (60, 0, 0), (60, 0, 0), (60, 0, 1)]
