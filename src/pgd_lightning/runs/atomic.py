"""Files that appear whole or not at all."""

import errno
import os
from pathlib import Path

from pgd_lightning.errors import UserError


def write_atomic(path: Path, content: str | bytes) -> None:
    """Replace ``path`` by ``content``: whoever reads it sees the old content or the new, never a part."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb" if isinstance(content, bytes) else "w") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"Cannot write {path}: {error.strerror}. {_way_out(error)}") from error


def _way_out(error: OSError) -> str:
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return "Choose a folder you may write to."
    if error.errno == errno.EISDIR:
        return "Name a file, not a folder."
    return "Free some space and run the command again."
