"""What every test runs under (one thread, repeatable examples, no network beyond this machine), and shared fixtures."""

import ipaddress
import os
import pickle
import shutil
import socket
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from helpers.commands import ONLINE, command, pgd
from helpers.undrawn import leave_undrawn
from hypothesis import settings
from omegaconf import OmegaConf

from pgd_lightning.config import compose as configuration
from pgd_lightning.data import d4rl
from pgd_lightning.simulators.substitutes.recipes import RECIPES

# Child processes too: the same number of threads, or their sums would differ in the last bit.
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)

settings.register_profile("local", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "local")

# Child processes are not reached by the guard below: a dead proxy stops their downloads, and W&B stays offline.
for proxy in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
    os.environ[proxy] = "http://127.0.0.1:9"
os.environ["no_proxy"] = os.environ["NO_PROXY"] = "127.0.0.1,localhost,::1"
os.environ["WANDB_MODE"] = "offline"
os.environ.setdefault("MPLBACKEND", "agg")

# Decoded recordings go where nobody else's are; Matplotlib keeps its fonts, which take seconds to find.
os.environ.setdefault(
    "MPLCONFIGDIR", str(Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "matplotlib")
)
_cache = tempfile.TemporaryDirectory(prefix="pgd_cache_")
os.environ["XDG_CACHE_HOME"] = _cache.name


def _is_local(address: Any) -> bool:
    if not isinstance(address, tuple):  # a Unix socket's path
        return True
    if address[0] in ("", "localhost"):
        return True
    try:
        return ipaddress.ip_address(address[0]).is_loopback
    except ValueError:
        return False


def _refuse_network() -> None:
    for name in ("connect", "connect_ex"):
        original = getattr(socket.socket, name)

        def guarded(self: socket.socket, address: Any, original: Any = original) -> Any:
            if not _is_local(address):
                raise OSError(f"a test tried to reach {address!r}: tests use no network beyond this machine")
            return original(self, address)

        setattr(socket.socket, name, guarded)


_refuse_network()


def _compose_once() -> None:
    """Hydra composes the same words once a process, which takes it a quarter of a second each time."""
    compose, configs = configuration.compose, {}

    def composed(verb: str, overrides: Sequence[str] = (), **more: Any) -> Any:
        key = (verb, *overrides, str(more))
        if key not in configs:
            configs[key] = pickle.dumps(compose(verb, overrides=list(overrides), **more))
        return pickle.loads(configs[key])  # a fifth of the time of a deep copy

    configuration.compose = composed


def _read_once() -> None:
    """Other words read the same thirty YAML files, which is half of the time that Hydra takes."""
    load, files = OmegaConf.load, {}

    def loaded(file: Any) -> Any:
        if not hasattr(file, "fileno"):
            return load(file)
        status = os.fstat(file.fileno())
        key = (file.name, status.st_mtime_ns, status.st_size)
        if key not in files:
            files[key] = pickle.dumps(load(file))
        return pickle.loads(files[key])

    OmegaConf.load = staticmethod(loaded)  # type: ignore[method-assign]


_compose_once()
_read_once()


# With each file on one worker, the longest begin first, or one of them would be what all wait for at the end.
LONGEST = ("test_ranks", "test_kills", "test_conditions", "test_polygrad_online")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    order = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


# --- fixtures ---


@pytest.fixture(scope="session")
def made_once(tmp_path_factory) -> Callable[[str, Callable[[Path], None]], Path]:
    """``made_once(name, make)``: a folder that ``make(folder)`` fills, once for all workers of a test run."""
    root = tmp_path_factory.getbasetemp()
    root = root.parent if "PYTEST_XDIST_WORKER" in os.environ else root

    def made(name: str, make: Callable[[Path], None]) -> Path:
        folder, done = root / name, root / f"{name}.done"
        with FileLock(root / f"{name}.lock"):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                done.touch()
        return folder

    return made


@pytest.fixture
def drawn_by_nobody(monkeypatch) -> None:
    """Figures hold their words alone: for tests of commands that draw figures which nobody looks at."""
    leave_undrawn(monkeypatch.setattr)


@pytest.fixture(scope="session")
def recording(made_once) -> Path:
    """4,000 steps of a maze; 0.1 s to make, but equal bits for all."""

    def make(folder: Path) -> None:
        chunks = (chunk for chunk, _ in RECIPES["maze2d-umaze"].record(4000, 0, {}))
        d4rl.write(folder / "maze.hdf5", chunks, {}, 4000)

    return made_once("recording", make) / "maze.hdf5"


@pytest.fixture(scope="session")
def finished(recording, made_once) -> Path:
    """The runs folder of an uninterrupted small run of IQL with all three sources of experience: look, do not write.

    What the command said is in ``said.txt`` beside it.
    """

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch, redirect_stdout((folder / "said.txt").open("w")):
            leave_undrawn(patch.setattr)
            assert pgd(patch, command(recording, folder / "runs")) == 0

    return made_once("finished", make) / "runs"


@pytest.fixture(scope="session")
def online(made_once) -> Path:
    """The runs folder of an uninterrupted small run of PolyGRAD online."""

    def make(folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            leave_undrawn(patch.setattr)
            assert pgd(patch, [*ONLINE, f"runs_dir={folder}"]) == 0

    return made_once("online", make)


@pytest.fixture
def copied(finished, tmp_path) -> Path:
    """A copy of the :func:`finished` runs folder, to write into."""
    return Path(shutil.copytree(finished, tmp_path / "runs"))


@pytest.fixture
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
