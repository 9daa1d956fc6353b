"""A run is a folder: its identity, provenance, ledger of evaluation episodes, checkpoints and state.

``runs/<stage>/<env>/<method>-<config hash>/<seed>`` is never named by time: a second start of the same identity
finds the folder, and continues or says that it is finished. Everything printed or drawn is computed from these files.

    run.json            identity, provenance, state (new | running | stopped | failed | finished), result
    heartbeat.json      who works on it, at which step, how long ago
    ledger.jsonl        every evaluation episode: seed, step, index, return, length, score, purpose, simulator
    health.jsonl        a summary of each synthetic dataset
    checkpoints/        the two newest, each holding all state
    metrics/attempt_k/  Lightning's CSV, one folder a start
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import IO, Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO

from pgd_lightning.errors import Stopped, UserError
from pgd_lightning.runs import folder as run_folder
from pgd_lightning.runs import ranks
from pgd_lightning.runs.folder import RunFolder, require_run
from pgd_lightning.runs.identity import digest

SNAPSHOT = "SNAPSHOT"  # file in a copy of the source that says which version it was
PACKAGES = ("torch", "lightning", "torchrl", "hydra-core", "wandb", "numpy", "gymnasium", "mujoco")


LOOK_EVERY = 2.0  # seconds between two looks at what another process does


def write_atomic(path: Path, text: str) -> None:
    """Replace ``path`` by ``text``: whoever reads it sees the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}. {_way_out(error)}") from error
    part.replace(path)


def _way_out(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Choose a folder you may write to."
    return "Free some space and run the command again."


KEPT = 2  # checkpoints of a run: the newest, and the one before it should that be damaged


class AtomicCheckpointIO(TorchCheckpointIO):
    """Checkpoints appear whole or not at all, and are read as tensors and plain containers only.

    Whoever saves one, of a folder's the newest stay.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{path.name}.part")
        try:
            with part.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
        except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
            part.unlink(missing_ok=True)
            raise UserError(
                f"Cannot save the checkpoint {path}: {error}. The one before it is kept; free some space and run the "
                "same command to continue."
            ) from error
        part.replace(path)
        earlier = [other for other in sorted(path.parent.glob("*.ckpt")) if other.name <= path.name]
        for left in (*earlier[:-KEPT], *path.parent.glob(".*.part")):  # a part is what a killed process left
            left.unlink(missing_ok=True)

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]


def newest_checkpoint(folder: Path) -> Path | None:
    """The newest readable checkpoint of ``folder``; an unreadable one is named and passed over."""
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except Exception as error:
            print(f"warning: {path} cannot be read ({error.__class__.__name__}); trying the one before it")
        else:
            return path
    return None


@dataclass(frozen=True)
class Run(RunFolder):
    """One run folder, which this process may write."""

    @classmethod
    def named(
        cls, root: str, stage: str, env: str, method: str, identity: dict[str, Any], seed: int, learner: int = 0
    ) -> Run:
        """The run of this identity, there or not; of several learners of one seed each may have its own."""
        name = f"{seed}.{learner}" if learner else str(seed)
        return cls(Path(root) / stage / env / f"{method}-{digest(identity)}" / name)

    @classmethod
    def at(
        cls, root: str, stage: str, env: str, method: str, identity: dict[str, Any], seed: int, learner: int = 0
    ) -> Run:
        """The run of this identity, see :meth:`named`, created if it is new."""
        run = cls.named(root, stage, env, method, identity, seed, learner)
        try:
            run.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(
                f"Cannot create the run folder {run.folder}: {error.strerror}; set runs_dir=<a folder you may write "
                "to>."
            ) from error
        with run._changing():
            if not run.record:
                run._write(state="new", stage=stage, env=env, method=method, seed=seed, identity=identity)
        return run

    def update(self, **entries: Any) -> None:
        """Merge ``entries`` into run.json. As everywhere here, the first of several ranks writes."""
        with self._changing():
            self._write(**entries)

    def _write(self, **entries: Any) -> None:
        if ranks.rank() == 0:
            write_atomic(self.folder / "run.json", json.dumps(self.record | entries, indent=2, default=str))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with run.json: two commands that share a run both write down that they do."""
        with self._opened(".record.lock") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _opened(self, name: str) -> IO[str]:
        """A file of the run's, to lock. Raises UserError where the folder is read-only."""
        try:
            return (self.folder / name).open("a")
        except OSError as error:
            raise UserError(
                f"Cannot write to the run folder {self.folder}: {error.strerror}; set runs_dir=<a folder you may write "
                "to>. A finished run is read where it is by pgd evaluate and pgd generate with out=, and pgd report."
            ) from error

    @contextmanager
    def started(self, settings: str, provenance: dict[str, Any], shared: bool = False) -> Iterator[None]:
        """Hold the folder against a second process, and note how this start came about; ranks meet here and at the end.

        ``settings``: the resolved config as YAML.

        Raises UserError if another process works in it. What is ``shared`` by several commands waits for that process
        instead, and may then find the run finished. ``config.yaml`` has the settings of the last start: all starts of a
        run agree in what is trained.
        """
        folders = set(ranks.gathered(str(self.folder)))
        if len(folders) > 1:
            raise UserError(f"The ranks have other settings, or other code, one than another: {' and '.join(folders)}.")
        with self._opened(".lock") as lock:
            self._take(lock, shared)
            if ranks.rank() == 0:
                write_atomic(self.folder / "config.yaml", settings)
            if ranks.rank() == 0 and not self.finished:
                starts = [*self.record.get("starts", []), start_record()]
                self.beat()
                self.update(state="running", reason=None, starts=starts, provenance=provenance)
            with self._ending_noted():
                yield
            ranks.wait()

    def _take(self, lock: IO[str], shared: bool) -> None:
        waiting = False
        while not ranks.decided(lambda: _locked(lock)):
            if not shared:
                raise UserError(f"{self._other()} is working in {self.folder}; wait for it, or choose another seed=.")
            if not waiting:
                print(f"waiting for another process that trains {self.folder}", flush=True)
            waiting = True
            time.sleep(LOOK_EVERY)

    def _other(self) -> str:
        beat = self.heartbeat
        job = f"job {beat['job']}, " if beat.get("job") else ""
        return f"Another process ({job}process {beat['pid']} on {beat['host']})" if "pid" in beat else "Another process"

    @contextmanager
    def _ending_noted(self) -> Iterator[None]:
        """A run that was finished stays so, whatever becomes of a measurement."""
        finished = self.finished
        try:
            yield
        except (Stopped, KeyboardInterrupt) as stop:
            if not finished:
                self.update(state="stopped", reason=str(stop) or "interrupted")
            raise
        except Exception as error:
            if not finished:
                self.update(state="failed", reason=str(error) or type(error).__name__)
            raise

    def beat(self, **progress: int) -> None:
        """Leave a sign of life, with ``step`` and ``total`` where they are known."""
        if ranks.rank() > 0:
            return
        who = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get("SLURM_JOB_ID"), "time": time.time()}
        with suppress(OSError):  # a full disk is the checkpoint's to report
            (self.folder / "heartbeat.json").write_text(json.dumps(self.heartbeat | who | progress))

    def append(self, name: str, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows to a JSONL file of the run; a torn last line of a killed process is cut first."""
        if ranks.rank() > 0:
            return
        path = self.folder / name
        with path.open("ab+") as file:
            size = file.seek(0, os.SEEK_END)
            if size:
                file.seek(size - 1)
                if file.read(1) != b"\n":
                    file.seek(0)
                    file.truncate(file.read().rfind(b"\n") + 1)
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
            file.flush()
            os.fsync(file.fileno())


def readable(records: Iterable[Path], named: bool = True) -> Iterator[Run]:
    """As :func:`pgd_lightning.runs.folder.readable`, of runs that may be changed."""
    return (Run(found.folder) for found in run_folder.readable(records, named))


def last_checkpoint(run: Run) -> Path:
    """What the finished ``run`` ended with. Raises UserError where that is damaged: one before it is not its result."""
    path, total = newest_checkpoint(run.checkpoints), run.heartbeat.get("total")
    ended = max(run.checkpoints.glob("*.ckpt"), default=None) if total is None else _checkpoint(run, total)
    if path is None or path != ended:
        raise UserError(
            f"The last checkpoint of the finished {run.folder} is missing or damaged: restore it from a copy, or "
            "remove the folder to train again."
        )
    return path


def _checkpoint(run: Run, step: int) -> Path:
    return run.checkpoints / f"step={step:09d}.ckpt"


def _locked(file: IO[str]) -> bool:
    """Whether the file could be locked."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def open_run(folder: str | Path) -> Run:
    """The run in ``folder``. Raises UserError if there is none."""
    require_run(folder)
    return Run(Path(folder))


def finished_agent(folder: str) -> Run:
    """The finished agent run in ``folder``. Raises UserError for anything else."""
    run = open_run(folder)
    if run.record.get("stage") != "agent" or not run.finished:
        raise UserError(
            f"'{folder}' is not a finished agent run: it is {run.record.get('stage')}, {run.record['state']}."
        )
    run.provenance  # noqa: B018 (said here, where it is missing)
    return run


def start_record() -> dict[str, Any]:
    """When, where and with which code a process started."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": command_line(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {device_name()}",
        "python": platform.python_version(),
        "packages": {name: installed(name) for name in PACKAGES},
        "code": code_version(),
    }


def installed(package: str) -> str | None:
    """The version of an installed package, or None."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def command_line() -> str:
    """The command that repeats this one."""
    return shlex.join([program(), *sys.argv[1:]])


def program() -> str:
    """How this program was called: ``.venv/bin/pgd`` in a clone, ``pgd`` if it is on the path."""
    called = Path(sys.argv[0])
    return str(called) if called.name == "pgd" and not called.is_absolute() else "pgd"


def device_name() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def code_version() -> str:
    """Package version, and the commit of this project's own checkout, if it runs from one.

    An environment may lie inside anybody's repository, which then says nothing about this package.
    """
    here = Path(__file__).parents[1]
    if (here / SNAPSHOT).exists():
        return (here / SNAPSHOT).read_text()
    root, tracked = _git(here, "rev-parse", "--show-toplevel"), _git(here, "ls-files", "runs/run.py")
    if not tracked or Path(root) / "src" / here.name != here.resolve():
        return version("pgd-lightning")
    modified = "-modified" if _git(here, "status", "--porcelain", "--", ".") else ""
    return f"{version('pgd-lightning')}+{_git(here, 'rev-parse', '--short', 'HEAD')}{modified}"


def _git(folder: Path, *command: str) -> str:
    """What git answers about the repository that ``folder`` lies in; nothing where it has no answer."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}  # as in a hook
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=5, env=environment
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
