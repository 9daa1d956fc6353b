"""``pgd doctor``: is this machine ready for the job? What is not is said with the command that mends it.

:func:`preflight` is the part of it that every job begins with: number of processes and GPUs against the config, before
any of them waits for another.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from omegaconf import DictConfig

from pgd_lightning.artifacts.recordings import has_recipe
from pgd_lightning.commands.launch import nodes, per_node
from pgd_lightning.config.build import build
from pgd_lightning.data import sources
from pgd_lightning.data.outputs import expanded
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say
from pgd_lightning.simulators import make
from pgd_lightning.simulators.rendering import render
from pgd_lightning.training.loggers import wandb_mode

INTERACTIVE = ("bash", "interactive")  # job names under which Lightning takes no notice of SLURM


@dataclass(frozen=True)
class Finding:
    """One line of the table; ``fix`` is empty where nothing is wrong."""

    about: str
    status: str  # ok, warning or error
    text: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.status:<9}{self.about:<11}{self.text}" + (f"\n{'':20}-> {self.fix}" if self.fix else "")


Check = Callable[[DictConfig], Iterator[Finding]]


def main(config: DictConfig, overrides: list[str]) -> None:
    """Print what was found. Raises UserError, and so ends with exit code 1, if something is in the way."""
    findings = []
    for check in (python, packages, cores, gpu, slurm, simulator, opengl, data, disk, tracking):
        for finding in whole(check, config):
            say(str(finding))
            findings.append(finding)
    wrong = [finding.about for finding in findings if finding.status == "error"]
    if wrong:
        raise UserError(f"This job cannot run here: {', '.join(wrong)}; the arrows above say what to do.")


def whole(check: Check, config: DictConfig) -> Iterator[Finding]:
    """What ``check`` finds; where it fails itself, that it did, so that the others are still made."""
    try:
        yield from check(config)
    except Exception as error:
        text = f"could not be looked at: {type(error).__name__}: {error}"
        yield Finding(check.__name__, "error", text, "the other lines hold all the same")


def preflight(config: DictConfig) -> None:
    """Raises UserError if processes or GPUs are not what ``config.trainer`` counts on; says what is odd."""
    for check in (gpu, slurm):
        for finding in check(config):
            if finding.status == "error":
                raise UserError(f"{finding.text}: {finding.fix}.")
            if finding.status == "warning":
                say(f"warning: {finding.text}; {finding.fix}")


def python(config: DictConfig) -> Iterator[Finding]:
    """The interpreter."""
    yield Finding("python", "ok", f"{platform.python_version()}, {sys.executable}")


def packages(config: DictConfig) -> Iterator[Finding]:
    """The packages with code of the machine's own."""
    from importlib.metadata import version

    yield Finding("packages", "ok", ", ".join(f"{name} {version(name)}" for name in ("torch", "lightning", "mujoco")))


def cores(config: DictConfig) -> Iterator[Finding]:
    """The cores that this process may use, against the threads that torch starts."""
    there = os.cpu_count() or 1
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else there
    threads = torch.get_num_threads()
    text = f"{allowed} of {there} allowed, torch computes in {threads} threads"
    more = threads > allowed
    yield Finding("cores", "warning" if more else "ok", text, f"set OMP_NUM_THREADS={allowed}" if more else "")


def gpu(config: DictConfig) -> Iterator[Finding]:
    """GPUs that torch sees, against those the trainer wants."""
    found, wanted = torch.cuda.device_count(), per_node(config)
    names = ", ".join(torch.cuda.get_device_name(number) for number in range(found))
    if config.trainer.accelerator in ("gpu", "cuda") and found == 0:
        yield Finding("gpu", "error", "trainer.accelerator=gpu, but torch finds no GPU", _no_gpu())
    elif config.trainer.accelerator == "mps" and not torch.backends.mps.is_available():
        fix = "leave trainer.accelerator= out"
        yield Finding("gpu", "error", "trainer.accelerator=mps, but torch finds no GPU of Apple's", fix)
    elif 0 < found < wanted and config.trainer.accelerator != "cpu":
        fix = f"set trainer.devices={found}, or ask for {wanted} GPUs a node"
        yield Finding("gpu", "error", f"trainer.devices={wanted}, but there are {found} GPUs ({names})", fix)
    elif found == 0 and os.environ.get("SLURM_GPUS_ON_NODE") and config.trainer.accelerator != "cpu":
        yield Finding("gpu", "error", "this job was given GPUs that torch does not use", _no_gpu())
    elif found == 0 and shutil.which("nvidia-smi"):
        yield Finding("gpu", "warning", f"there is a GPU that torch {torch.__version__} does not use", _no_gpu())
    else:
        yield Finding("gpu", "ok", names or "none: the CPU it is")


def _no_gpu() -> str:
    if torch.version.cuda is None:
        return (
            "this torch is a CPU build: remove .venv and call make again where nvidia-smi works, or with TORCH_INDEX="
        )
    return "look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a job, ask for GPUs (launcher.gpus_per_node=1)"


def slurm(config: DictConfig, env: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """SLURM's count of processes against the trainer's. Where they differ a group of processes waits for ever."""
    per, num = per_node(config), nodes(config)
    wanted = f"{per * num} processes (trainer.devices={per}, trainer.num_nodes={num})"
    if "SLURM_JOB_ID" not in env:
        yield Finding("slurm", "ok", f"not in a job; the trainer counts on {wanted}")
        return
    job = f"job {env['SLURM_JOB_ID']}"
    started = int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1")))
    on = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
    in_step = "SLURM_STEP_NUM_TASKS" in env
    if not in_step:
        if num > 1:
            yield Finding("slurm", "error", f"{job} has {num} nodes, but srun did not start this", "write srun pgd …")
        else:
            yield Finding("slurm", "ok", f"{job}, without srun: this machine's processes are started here")
    elif per * num > 1 and env.get("SLURM_JOB_NAME") in INTERACTIVE:
        fix = "give the job another name: sbatch --job-name=pgd"
        yield Finding("slurm", "error", f"{job} is named '{env['SLURM_JOB_NAME']}', so Lightning ignores SLURM", fix)
    elif (started, on) != (per * num, num):
        fix = (
            f"set trainer.devices={max(started // on, 1)} trainer.num_nodes={on} in the config, or --nodes={num} "
            f"--ntasks-per-node={per} for srun"
        )
        yield Finding("slurm", "error", f"srun started {started} on {on} nodes, but the trainer wants {wanted}", fix)
    else:
        yield Finding("slurm", "ok", f"{job}: {wanted}, as srun started them")


def simulator(config: DictConfig) -> Iterator[Finding]:
    """One episode's first step."""
    env: EnvSpec = build(config.env)
    if not env.simulated:
        return
    try:
        world = make(env.task, env.physics)
        world.reset(0)
    except Exception as error:  # whatever a simulator dies of
        yield Finding("mujoco", "error", f"{env.name} does not start: {error}", "make lock's versions: remove .venv")
    else:
        yield Finding("mujoco", "ok", f"{world.physics}: {env.name} starts")


def opengl(config: DictConfig) -> Iterator[Finding]:
    """Whether a picture can be drawn; without one only the pictures are missing."""
    env: EnvSpec = build(config.env)
    if not env.simulated:
        return
    world = make(env.task, env.physics)
    world.reset(0)
    if "qpos" not in world.state():
        return
    with warnings.catch_warnings(action="ignore"):
        drawn = render(env.task, world.state()["qpos"][None])
    if drawn is None:
        fix = "apt install libegl1 (or libosmesa6); everything else works without"
        yield Finding("opengl", "warning", "no pictures of rollouts", fix)
    else:
        yield Finding("opengl", "ok", "pictures of rollouts can be drawn")


def data(config: DictConfig) -> Iterator[Finding]:
    """Whether the recording is here already; compute nodes often cannot download."""
    env: EnvSpec = build(config.env)
    source = config.data.source
    if source in ("auto", "d4rl", "local"):
        yield _published(config, env)
        return
    try:
        sources.require(source, config.data.download)
        yield Finding("data", "ok", f"{source} (looked at when the job starts)")
    except UserError as error:
        what, _, fix = str(error).partition(": ")
        yield Finding("data", "error", what, fix)


def _published(config: DictConfig, env: EnvSpec) -> Finding:
    folder = expanded(config.data.dir)
    if config.data.source == "local" and env.registered:
        return Finding("data", "ok", f"random actions in {env.name} are recorded when the job starts")
    if env.file is None:
        return Finding("data", "error", f"no recording is named for {env.name}", "data.source=… names it")
    name = Path(env.file.path).name
    if config.data.source != "local" and any((folder / n).is_file() for n in (name, env.file.path)):
        return Finding("data", "ok", f"{folder / name}")
    if config.data.source == "local" or (config.data.source == "auto" and has_recipe(env)):
        instead = "" if config.data.source == "local" else f"{name} is not in {folder}: it will be downloaded, or "
        return Finding("data", "warning", f"{instead}a substitute is recorded, which is not D4RL", _fetch(name, folder))
    return Finding("data", "warning", f"{name} is not in {folder}: it must be downloaded", _fetch(name, folder))


def _fetch(name: str, folder: Path) -> str:
    return f"put {name} into {folder}; on a node with internet any command fetches it"


def disk(config: DictConfig) -> Iterator[Finding]:
    """Room where runs and decoded recordings go."""
    places = {"runs": Path(config.runs_dir)}
    if config.data.cache is not None:
        places["cache"] = expanded(config.data.cache)
    for name, place in places.items():
        there = next(p for p in (place.absolute(), *place.absolute().parents) if p.exists())
        free = shutil.disk_usage(there).free / 1e9
        if not os.access(there, os.W_OK):
            yield Finding(
                name, "error", f"{there} is not writable", "set runs_dir= or data.cache= to a folder of yours"
            )
        elif free < config.free_gb:
            yield Finding(name, "warning", f"{free:.1f} GB free in {there}", f"free {config.free_gb} GB or move {name}")
        else:
            yield Finding(name, "ok", f"{free:.0f} GB free in {there}")


def tracking(config: DictConfig) -> Iterator[Finding]:
    """Where W&B writes."""
    mode = wandb_mode(config.logger.wandb)
    hint = ": wandb sync <run folder>/wandb/offline-run-* sends it later" if mode == "offline" else ""
    yield Finding("wandb", "ok", mode + hint)
