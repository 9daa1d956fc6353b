"""When, where and with which code a process started."""

import os
import platform
import shlex
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

SNAPSHOT = "SNAPSHOT"  # file in a copy of the source that says which version it was
PACKAGES = ("torch", "lightning", "torchrl", "hydra-core", "wandb", "numpy", "gymnasium", "mujoco")


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
    root, tracked = _git(here, "rev-parse", "--show-toplevel"), _git(here, "ls-files", "runs/provenance.py")
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
