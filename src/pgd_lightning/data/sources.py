"""What ``data.source`` names, looked for but not read: neither torch nor HDF5 is loaded for it."""

import os
import re
from collections.abc import Sequence
from pathlib import Path

from pgd_lightning.data.outputs import expanded
from pgd_lightning.errors import UserError

MINARI = "minari:"  # before the name or the folder of a Minari dataset
OGBENCH = "ogbench:"  # before the name of a dataset of OGBench's
PACKAGE = "d4rl-package"  # what an installed old d4rl returns
OWN_WORDS = ("auto", "d4rl", "local", PACKAGE)  # everything else is a path
PUBLISHED = re.compile(r"(?:[\w-]+/)+(?P<body>[\w-]+)/(?P<kind>[\w-]+)-v\d+")  # mujoco/hopper/medium-v0

# antmaze-large-navigate-singletask-task2-v0: the environment antmaze-large, recorded as navigate, its second task
SINGLE_TASK = re.compile(r"(?P<env>[\w-]+)-(?P<kind>\w+)-singletask(?P<task>-task\d)?-(?P<version>v\d+)")
SINGLE_TASKS = "name one of its tasks, such as env=pointmaze-medium-navigate-singletask-v0"


def require(source: str, download: bool = False) -> None:
    """Raises UserError where ``source`` names a file or a local dataset that is not there.

    A Minari dataset need not be if it would be fetched (``download``).
    """
    if source.startswith(MINARI):
        if not (download and PUBLISHED.fullmatch(source.removeprefix(MINARI))):
            minari_folder(source)
    elif source.startswith(OGBENCH):
        if not download:
            ogbench_file(source)
    elif source not in OWN_WORDS:
        file(source)


def file(source: str) -> Path:
    """The file at the path ``source``. Raises UserError if there is none."""
    path = expanded(source)
    if not path.is_file():
        raise UserError(f"There is no file {path}: check data.source=, or leave it out to use the D4RL file.")
    return path


def minari_folder(source: str) -> Path:
    """The folder of ``minari:NAME`` (below ``MINARI_DATASETS_PATH`` or ``~/.minari/datasets``) or ``minari:FOLDER``.

    Raises UserError, with the command that downloads it, if it is not there.
    """
    name = source.removeprefix(MINARI)
    for folder in (minari_root() / name, expanded(name)):
        if name and (folder / "data" / "metadata.json").is_file():
            return folder
    raise UserError(
        f"There is no Minari dataset '{name}', neither as a folder nor in {minari_root()}: data.download=true or "
        f"'minari download {name}' fetches a published one; nothing is downloaded unasked."
    )


def single_task(name: str) -> tuple[str, str] | None:
    """``(id of the environment, name of the dataset)`` of a single task of OGBench's; None for another name.

    Of ``antmaze-large-navigate-singletask-task2-v0`` they are ``antmaze-large-singletask-task2-v0`` and
    ``antmaze-large-navigate-v0``, as in OGBench's ``make_env_and_datasets``.
    """
    found = SINGLE_TASK.fullmatch(name)
    if found is None:
        return None
    env, kind, task, version = found.group("env", "kind", "task", "version")
    return f"{env}-singletask{task or ''}-{version}", f"{env}-{kind}-{version}"


def is_ogbench(source: str) -> bool:
    """Whether ``source`` is in OGBench's layout: ``ogbench:NAME`` or a path that ends in .npz."""
    return source.startswith(OGBENCH) or source.endswith(".npz")


def ogbench_file(source: str) -> Path:
    """The file of ``ogbench:NAME`` (below ``~/.ogbench/data``) or of a path that ends in .npz.

    Raises UserError, with the setting that downloads it, if it is not there.
    """
    if not source.startswith(OGBENCH):
        return file(source)
    name = source.removeprefix(OGBENCH)
    path = ogbench_root() / f"{name}.npz"
    if not path.is_file():
        raise UserError(
            f"There is no {path}: data.download=true lets the ogbench package fetch it (nothing is downloaded "
            "unasked), and data.source=….npz names another place."
        )
    return path


def ogbench_root() -> Path:
    """Where the ``ogbench`` package keeps its datasets."""
    return Path.home() / ".ogbench" / "data"


def minari_environment(name: str, environments: Sequence[str]) -> str:
    """Which of ``environments`` a published Minari dataset is of: of ``mujoco/hopper/medium-v0`` it is hopper-medium.

    Raises UserError if it is of none that is here.
    """
    found = PUBLISHED.fullmatch(name)
    body, kind = (found["body"], found["kind"]) if found else (name, "")
    body = {"pointmaze": "maze2d"}.get(body, body)
    if f"{body}-{kind}" in environments:
        return f"{body}-{kind}"
    of_body = [env for env in environments if env.startswith(f"{body}-")]
    if not of_body:
        raise UserError(f"There is no environment here for the Minari dataset {name}: see 'pgd train --help'.")
    raise UserError(
        f"{name} has no counterpart among D4RL's datasets of {body}: choose one of their environments, such as "
        f"env={of_body[0]}, and data.source={MINARI}{name}."
    )


def minari_root() -> Path:
    """Where the ``minari`` package keeps its datasets."""
    return Path(os.environ.get("MINARI_DATASETS_PATH") or Path.home() / ".minari" / "datasets")
