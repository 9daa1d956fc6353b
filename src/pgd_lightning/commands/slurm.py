"""``pgd slurm``: the missing points of a sweep as one job array, from a snapshot of the source.

The file that sbatch gets is written from ``conf/launcher/slurm.yaml`` and ``trainer``. A task that is told that its
time is up saves and ends with exit code 75, and its script puts it back into the queue; so does SLURM itself after a
preemption or a lost node. Requeued, it continues in the same run folder and the same W&B run.
"""

from __future__ import annotations

import re
import shlex
import shutil
import signal
import subprocess
import sys
from hashlib import blake2b
from importlib.resources import files
from pathlib import Path

import torch
from omegaconf import DictConfig

import pgd_lightning
from pgd_lightning.commands.launch import nodes, per_node
from pgd_lightning.commands.sweep import all_points, sweep_folder
from pgd_lightning.errors import Stopped, UserError
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.identity import digest
from pgd_lightning.runs.points import Point
from pgd_lightning.runs.provenance import SNAPSHOT, code_version

SCRIPT = """#!/bin/bash
{options}
# Written by: {command}
{tasks}
echo "--- job ${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID on $SLURM_JOB_NODELIST, $(date '+%F %T')"
{setup}
export PYTHONPATH={source} OMP_NUM_THREADS="$SLURM_CPUS_PER_TASK" PYTHONUNBUFFERED=1
# The settings of this task, a line each
mapfile -t settings < {folder}/points/"$SLURM_ARRAY_TASK_ID"
srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" {python} -m pgd_lightning train "${{settings[@]}}"
code=$?
# One task: the number of the last one is also that of the whole array.
# {unready}: told to stop (USR1) before it could listen.
[ $code -eq {stopped} ] || [ $code -eq {unready} ] && scontrol requeue "${{SLURM_ARRAY_JOB_ID}}_$SLURM_ARRAY_TASK_ID"
exit $code
"""


def main(config: DictConfig, overrides: list[str]) -> None:
    """Write and submit the array of the points that are neither trained nor in the queue.

    Raises UserError where the time limit leaves no time to work.
    """
    limit = seconds(config.launcher.time)
    if 0 < limit <= config.launcher.lead:
        raise UserError(
            f"launcher.time={config.launcher.time} ({limit} seconds) is not longer than launcher.lead="
            f"{config.launcher.lead}, the seconds before its end at which a job is told to save."
        )
    if config.launcher.gpus_per_node and torch.version.cuda is None:
        say(
            f"warning: jobs with GPUs will refuse to run with torch {torch.__version__}, a CPU build: install where "
            "nvidia-smi works, or with TORCH_INDEX= (docs/slurm.md)"
        )
    points = all_points(with_scale(config, overrides))
    folder = sweep_folder(config, points).absolute()
    name = f"pgd-{digest(str(folder))}"
    waiting = queued(name)
    missing = [point for point in points if point.number not in waiting and not point.finished]
    say(f"slurm: {len(points)} points, {len(waiting)} in the queue, {len(missing)} to submit, in {folder}")
    for task, state in waiting.items():
        say(f"  in the queue: task {task}, {state}")
    if waiting:
        say("  with the resources they were submitted with: scancel them first to change those")
    if missing:
        if limit:
            say(f"slurm: each may take {limit / 60:.0f} minutes, then it is put back into the queue")
        file = write(config, folder, name, missing)
        say(f"slurm: {submit(file) if config.launcher.submit else f'written; submit it with: sbatch {file}'}")
    say(f"logs:   {folder}/logs/<task>.log\nstates: pgd ls runs_dir={config.runs_dir}")
    say("again:  the same command submits what is missing then")


def with_scale(config: DictConfig, overrides: list[str]) -> list[str]:
    """The scale said aloud: it goes by the GPUs of the job, not by those of the machine that submits."""
    if any(o.startswith("scale=") for o in overrides):
        return overrides
    return [f"scale={'paper' if config.launcher.gpus_per_node else 'laptop'}", *overrides]


def seconds(time: str | int) -> int:
    """SLURM's notations of a time limit: minutes, mm:ss, hh:mm:ss, d-hh, d-hh:mm, d-hh:mm:ss; 0 is none.

    Raises UserError for any other.
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", str(time))
    if not found:
        raise UserError(f"launcher.time={time} is no time: write hh:mm:ss, for example '08:00:00', or d-hh:mm:ss.")
    days, *parts = found.groups()
    one, two, three = (int(part) if part else 0 for part in parts)
    if days is not None:
        return ((int(days) * 24 + one) * 60 + two) * 60 + three
    return one * 60 + two if parts[2] is None else (one * 60 + two) * 60 + three


def queued(name: str) -> dict[int, str]:
    """The tasks of this user's jobs called ``name`` that wait or run: their job, state and SLURM's reason.

    Raises UserError where SLURM does not answer: what it holds would be submitted twice.
    """
    if shutil.which("squeue") is None:
        return {}
    command = ["squeue", "--me", "-h", "-r", "-n", name, "-o", "%K job %i, %T %R"]
    asked = subprocess.run(command, capture_output=True, text=True)
    if asked.returncode:
        raise UserError(f"The queue cannot be read ({asked.stderr.strip()}), so nothing is submitted: try again later.")
    lines = (line.partition(" ") for line in asked.stdout.splitlines())
    return {int(task): state for task, _, state in lines if task.isdigit()}


def write(config: DictConfig, folder: Path, name: str, points: list[Point]) -> Path:
    """The sbatch file for ``points``, with their settings (a line each) and the source beside it."""
    (folder / "points").mkdir(exist_ok=True)
    (folder / "logs").mkdir(exist_ok=True)
    for point in points:
        write_atomic(folder / "points" / str(point.number), "\n".join(point.overrides) + "\n")
    script = SCRIPT.format(
        options="\n".join(f"#SBATCH {option}" for option in sbatch_options(config, folder, name, points)),
        command=shlex.join(["pgd", *sys.argv[1:]]),
        tasks="\n".join(f"# Task {point.number}: {point.label}" for point in points),
        setup="\n".join(config.launcher.setup),
        source=shlex.quote(str(snapshot(folder))),
        folder=shlex.quote(str(folder)),
        python=shlex.quote(sys.executable),
        stopped=Stopped.exit_code,
        unready=128 + signal.SIGUSR1,
    )
    write_atomic(folder / "array.sbatch", script)
    return folder / "array.sbatch"


def sbatch_options(config: DictConfig, folder: Path, name: str, points: list[Point]) -> list[str]:
    """What the job asks for. ``--signal`` reaches the steps, so srun's tasks and not the script."""
    launcher = config.launcher
    at_once = f"%{launcher.at_once}" if launcher.at_once else ""
    options = {
        "job-name": name,
        "array": ",".join(str(point.number) for point in points) + at_once,
        "output": f"{folder}/logs/%a.log",
        "open-mode": "append",
        "chdir": Path.cwd(),
        "signal": f"USR1@{launcher.lead}",
        "nodes": nodes(config),
        "ntasks-per-node": per_node(config),
        "cpus-per-task": launcher.cpus_per_task,
        "gpus-per-node": launcher.gpus_per_node or None,
        **{key: launcher[key] for key in ("time", "partition", "account", "qos", "mem")},
    }
    given = [f"--{key}={value}" for key, value in options.items() if value is not None]
    return [*given, "--requeue", *launcher.options]


def snapshot(folder: Path) -> Path:
    """A copy of the package and its configs in ``folder``, named by its content; jobs run this, whatever is edited."""
    package, conf = Path(pgd_lightning.__file__).parent, Path(str(files("pgd_lightning.conf")))
    content = blake2b(digest_size=4)
    for root in (package, conf):
        for path in sorted(p for p in root.rglob("*") if p.suffix in (".py", ".yaml", ".html", ".safetensors")):
            content.update(str(path.relative_to(root)).encode() + path.read_bytes())
    place = folder / f"source-{content.hexdigest()}"
    if not place.exists():
        part = place.with_suffix(".part")
        unwanted = shutil.ignore_patterns("__pycache__", "conf")
        shutil.copytree(package, part / "pgd_lightning", ignore=unwanted, dirs_exist_ok=True)
        shutil.copytree(conf, part / "pgd_lightning" / "conf", dirs_exist_ok=True)
        write_atomic(part / "pgd_lightning" / SNAPSHOT, code_version())
        part.rename(place)
    return place


def submit(file: Path) -> str:
    """Hand ``file`` to sbatch; what to say about it. Raises UserError where there is no sbatch or it refuses."""
    if shutil.which("sbatch") is None:
        raise UserError(f"There is no sbatch here: run 'sbatch {file}' on a login node, or set launcher.submit=false.")
    done = subprocess.run(["sbatch", "--parsable", str(file)], capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"sbatch refused {file}: {done.stderr.strip()}")
    return f"submitted as job {done.stdout.strip()}"
