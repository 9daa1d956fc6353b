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

import json
import os
import platform
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pgd_lightning.errors import Stopped, UserError
from pgd_lightning.locks import taken
from pgd_lightning.runs import folder as run_folder
from pgd_lightning.runs import ranks
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import RunFolder, require_run
from pgd_lightning.runs.identity import digest
from pgd_lightning.runs.provenance import start_record

LOOK_EVERY = 2.0  # seconds between two looks at what another process does


@dataclass(frozen=True)
class Run(RunFolder):
    """One run folder, which this process may write."""

    @classmethod
    def named(cls, root: str, stage: str, env: str, method: str, identity: dict[str, Any], seed: int) -> Run:
        """The run of this identity, there or not."""
        return cls(Path(root) / stage / env / f"{method}-{digest(identity)}" / str(seed))

    @classmethod
    def at(cls, root: str, stage: str, env: str, method: str, identity: dict[str, Any], seed: int) -> Run:
        """The run of this identity, see :meth:`named`, created if it is new."""
        run = cls.named(root, stage, env, method, identity, seed)
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

    def note(self, name: str, entry: str) -> None:
        """Add ``entry`` to the list ``name`` of run.json, whatever other commands add meanwhile."""
        with self._changing():
            self._write(**{name: sorted({*self.record.get(name, []), entry})})

    def _write(self, **entries: Any) -> None:
        if ranks.rank() == 0:
            write_atomic(self.folder / "run.json", json.dumps(self.record | entries, indent=2, default=str))

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Alone with run.json: two commands that share a run both write down that they do."""
        with self._opened(".record.lock") as lock:
            taken(lock, wait=True)
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
    def started(self, settings: str, provenance: Mapping[str, object], shared: bool = False) -> Iterator[None]:
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
        while not ranks.decided(lambda: self._alone(lock)):
            if not shared:
                raise UserError(f"{self._other()} is working in {self.folder}; wait for it, or choose another seed=.")
            if not waiting:
                print(f"waiting for another process that trains {self.folder}", flush=True)
            waiting = True
            time.sleep(LOOK_EVERY)

    def _alone(self, lock: IO[str]) -> bool:
        """Whether no other process is known to work here; it cannot be known without locks, which is said."""
        held = taken(lock)
        if held is None:
            say(f"warning: the file system of {self.folder} has no locks: work in it with one command at a time.", True)
        return held is not False

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

    def append(self, name: str, rows: Iterable[Mapping[str, object]]) -> None:
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


def readable(records: Iterable[Path]) -> Iterator[Run]:
    """As :func:`pgd_lightning.runs.folder.readable`, of runs that may be changed."""
    return (Run(found.folder) for found in run_folder.readable(records))


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
