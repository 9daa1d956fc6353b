"""What every test runs under: one thread, repeatable examples, no network beyond this machine."""

import ipaddress
import os
import socket
import tempfile
from pathlib import Path
from typing import Any

import torch
from hypothesis import settings

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
