"""Several processes that write down what they do with one run, and with which code."""

import errno
import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest
from helpers.processes import forked

from pgd_lightning.errors import UserError
from pgd_lightning.runs import provenance
from pgd_lightning.runs.console import stopping_on_signals
from pgd_lightning.runs.provenance import code_version
from pgd_lightning.runs.run import Run


def write(folder, name):
    run = Run.at(str(folder), "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
    for k in range(40):
        run.update(**{f"{name}{k}": k})


def test_no_entry_of_a_run_is_lost_when_several_processes_write_it(tmp_path):
    names = ("one", "two", "three")
    writers = [forked(write, tmp_path, name) for name in names]
    for writer in writers:
        writer.join(120)
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    (path,) = tmp_path.rglob("run.json")
    record = json.loads(path.read_text())
    assert {f"{name}{k}" for name in names for k in range(40)} <= record.keys()
    assert record["state"] == "new"
    assert not list(tmp_path.rglob("*.part"))


def test_a_second_process_does_not_make_a_running_run_new(tmp_path):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
    run.update(state="running")
    assert Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0).record["state"] == "running"


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_run_on_a_file_system_without_locks_is_trained_with_a_warning(tmp_path, monkeypatch, capsys, number):
    monkeypatch.setattr("fcntl.flock", refusing(number))
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
    with stopping_on_signals(), run.started("", {}):  # as a command
        run.update(score=1.0)
    assert run.record["score"] == 1.0
    assert capsys.readouterr().out.count(f"the file system of {run.folder} has no locks") == 1


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EACCES])
def test_a_lock_that_another_process_holds_is_a_sentence(tmp_path, monkeypatch, number):
    run = Run.at(str(tmp_path), "agent", "maze2d-umaze", "bc", {"a": 1}, 0)
    monkeypatch.setattr("fcntl.flock", refusing(number))
    with pytest.raises(UserError, match=f"^Another process is working in {run.folder}"), run.started("", {}):
        pass


def refusing(number):
    def flock(*_):
        raise OSError(number, os.strerror(number))

    return flock


def repository(root: Path, *tracked: str) -> str:
    """A repository with these files; its commit."""
    git = ["git", "-C", str(root), "-c", "user.name=a", "-c", "user.email=a@b"]
    for name in tracked:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("x = 1\n")
    for command in (["init", "-q"], ["add", "-f", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *command], check=True)
    done = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


OURS = "src/pgd_lightning/runs/provenance.py"


@pytest.mark.parametrize("inside", [
    ".venv/lib/python3.11/site-packages/pgd_lightning/runs/provenance.py", "vendored/src/pgd_lightning/runs/provenance.py", OURS,
])  # fmt: skip
@pytest.mark.parametrize("committed", [True, False])
def test_only_the_commit_of_our_own_repository_is_recorded(tmp_path, monkeypatch, inside, committed):
    """Not that of one in which somebody installed, copied or unpacked this package."""
    commit = repository(tmp_path, "their.py", *([inside] if committed else []))
    (tmp_path / inside).parent.mkdir(parents=True, exist_ok=True)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / inside))
    ours = inside == OURS and committed
    assert code_version() == version("pgd-lightning") + (f"+{commit}" if ours else "")
    if ours:
        (tmp_path / inside).write_text("x = 2\n")
        assert code_version().endswith(f"+{commit}-modified")


def test_a_hook_of_another_repository_does_not_lend_its_commit(tmp_path, monkeypatch):
    ours, theirs = tmp_path / "ours", tmp_path / "theirs"
    commit = repository(ours, OURS)
    repository(theirs, OURS, "more.py")
    monkeypatch.setattr(provenance, "__file__", str(ours / OURS))
    monkeypatch.setitem(os.environ, "GIT_DIR", str(theirs / ".git"))
    monkeypatch.setitem(os.environ, "GIT_WORK_TREE", str(theirs))
    assert code_version() == f"{version('pgd-lightning')}+{commit}"
