"""What a command may write over: nothing that it did not write itself, unless it was told ``overwrite=true``."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pgd_lightning.errors import UserError


def expanded(path: str) -> Path:
    """``path`` with a leading ~ replaced by the home folder; that of nobody is a name."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


def make_folder(folder: Path, output: Path | None = None) -> Path:
    """``folder``, made if it is new. Raises UserError, which names the ``output`` that goes there, if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        what = output or folder
        raise UserError(f"Cannot write {what}: {error.strerror}. Choose a folder you may write to.") from error
    return folder


def require_new(path: Path, overwrite: bool, source: Path | None = None) -> None:
    """Raises UserError if ``path`` exists and ``overwrite`` is not set, or if it is the ``source`` that is read."""
    if not path.exists():
        return
    if source is not None and source.exists() and path.samefile(source):
        raise UserError(f"{path} is what is read: choose another out=.")
    if not overwrite:
        raise UserError(f"{path} is there already: choose another out=, or set overwrite=true to replace it.")


def require_own(
    folder: Path, names: Iterable[str], index: str, own: Callable[[dict[str, Any]], bool], overwrite: bool
) -> None:
    """Raises UserError if ``folder`` has files called ``names`` that this command did not write for the same purpose.

    It did if the JSON file ``index`` of the folder satisfies ``own``. ``overwrite`` allows all.
    """
    taken = [name for name in names if (folder / name).exists()]
    if overwrite or not taken:
        return
    try:
        content = json.loads((folder / index).read_text())
    except (OSError, ValueError):
        content = None
    if not isinstance(content, dict) or not own(content):
        raise UserError(
            f"{folder / taken[0]} is there already and is about something else: choose another out=, or set "
            "overwrite=true to replace it."
        )
