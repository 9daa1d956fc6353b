"""Finding or fetching the official file: resumed, checked, renamed when whole."""

import http.client
import sys
import time
import urllib.error
import urllib.request
from functools import partial
from hashlib import file_digest
from pathlib import Path

from rich.progress import Progress

from pgd_lightning.data import sources
from pgd_lightning.data.d4rl.hdf5 import opened
from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.locks import alone

HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


class DataUnavailable(UserError):
    """The official file is not here and cannot be had now."""


def locate(env: EnvSpec, source: str, folder: Path, base_url: str, timeout: float, retries: int) -> Path:
    """The file that ``source`` names: ``d4rl`` (found in ``folder`` or downloaded into it) or a path.

    Raises DataUnavailable, with a sentence that says which file to put where, if the official file cannot be had.
    """
    if source != "d4rl":
        return sources.file(source)
    if env.file is None:
        raise UserError(f"There is no published recording of {env.name}: data.source=… names yours.")
    name = Path(env.file.path).name
    for path in (folder / name, folder / env.file.path):
        if path.is_file():
            return path
    try:
        download(f"{base_url.rstrip('/')}/{env.file.path}", folder / name, env.file, timeout, retries)
    except (OSError, ValueError, UserError) as error:  # ValueError: an impossible URL
        raise DataUnavailable(
            f"{env.d4rl_id} cannot be downloaded from {base_url} ({error}); to use it, put {name} into {folder}."
        ) from error
    return folder / name


def download(url: str, path: Path, file: DataFile, timeout: float, retries: int) -> None:
    """Fetch ``url`` to ``path``, continuing a partial file, and check size, content and SHA-256 before the rename.

    One process at a time; the others wait for it and find the file. A server that cannot be reached or refuses is
    not asked again; one that breaks off is, until it broke off ``retries`` times without sending anything more.
    Raises UserError for wrong content, OSError when the file cannot be had, ValueError for an impossible URL.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    waiting = partial(print, f"waiting for another process that fetches {path}", flush=True)
    with alone(path.with_name(path.name + ".lock"), waiting):
        if path.is_file():
            return
        failures, have, first = 0, _size(part), _size(part)
        while True:
            try:
                _fetch(url, part, timeout)
                break
            except OSError as error:
                failures, have = (0 if _size(part) > have else failures + 1), _size(part)
                if failures > retries or (isinstance(error, NoAnswer) and have == first):
                    raise
                time.sleep(0.5 * max(failures, 1))
        _check(part, file)
        part.replace(path)


class NoAnswer(OSError):
    """The server cannot be reached, or says no."""


def _size(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _fetch(url: str, part: Path, timeout: float) -> None:
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to fetch
            return
        raise NoAnswer(f"the server answered {error.code} {error.reason}") from error
    except http.client.HTTPException as error:
        raise NoAnswer(f"what answers there is no web server: {error!r}") from error
    except OSError as error:
        reason = getattr(error, "reason", error)
        raise NoAnswer(getattr(reason, "strerror", None) or str(reason)) from error
    with response:
        have = have if response.status == 206 else 0
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        with part.open("ab" if have else "wb") as file, Progress(disable=not sys.stdout.isatty()) as bar:
            task = bar.add_task(part.name.removesuffix(".part"), total=total, completed=have)
            printed = time.monotonic()
            while piece := _piece(response):
                file.write(piece)
                have += len(piece)
                bar.update(task, completed=have)
                if not sys.stdout.isatty() and time.monotonic() - printed > 20:
                    print(f"downloading {part.name}: {have >> 20} of {(total or 0) >> 20} MiB", flush=True)
                    printed = time.monotonic()
    if total is not None and have < total:
        raise OSError(f"the connection broke after {have} of {total} bytes")


def _piece(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read1(1 << 18)
    except http.client.HTTPException as error:  # sent in chunks, so that nobody knew how much was to come
        raise OSError(f"the connection broke: {error!r}") from error


def _check(part: Path, file: DataFile) -> None:
    """Keep nothing that is not the file: a wrong one is removed, so that the next try starts afresh."""
    with part.open("rb") as data:
        head = data.read(8)
        data.seek(0)
        digest = file_digest(data, "sha256")
    size = part.stat().st_size
    problem = None
    if head != HDF5_SIGNATURE:
        what = "a web page" if head.lstrip()[:1] == b"<" else "something else"
        problem = f"what came is {what}, not an HDF5 file"
    elif file.bytes is not None and size != file.bytes:
        problem = f"it has {size} bytes instead of {file.bytes}"
    elif file.sha256 is not None and digest.hexdigest() != file.sha256:
        problem = f"its SHA-256 is {digest.hexdigest()[:8]}… instead of {file.sha256[:8]}…"
    elif file.sha256 is None:
        problem = _damage(part)
    if problem:
        part.unlink()
        raise UserError(f"the download of {part.name.removesuffix('.part')} is not the published file: {problem}")


def _damage(part: Path) -> str | None:
    """Where no hash is published, HDF5 itself has to find the file whole."""
    try:
        with opened(part) as content:
            list(content)
    except UserError:
        return "it is cut short or damaged"
    return None
