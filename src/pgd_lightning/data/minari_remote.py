"""Minari's remote: a published dataset is fetched by the ``minari`` package itself, and only where asked for."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pgd_lightning.data.sources import MINARI, minari_folder, minari_root
from pgd_lightning.errors import UserError
from pgd_lightning.locks import alone

ROOT = "MINARI_DATASETS_PATH"  # environment variable: where the package keeps and puts its datasets


def folder_of(source: str, download: bool, say: Callable[[str], object]) -> Path:
    """The folder of the dataset ``source``, as :func:`minari_folder`; fetched if it is not there and ``download``."""
    try:
        return minari_folder(source)
    except UserError:
        if not download:
            raise
    fetch(source.removeprefix(MINARI), say)
    return minari_folder(source)


def fetch(name: str, say: Callable[[str], object]) -> None:
    """Download the dataset ``name`` from Minari's remote (``MINARI_REMOTE``). It appears whole or not at all.

    Raises UserError where the remote has no such set or cannot be reached, or a package for it is missing.
    """
    root, mark = minari_root(), name.replace("/", "-")
    part = root / f".{mark}.{os.getpid()}.part"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with alone(root / f".{mark}.lock", lambda: say(f"data: another process downloads {name}; waiting")):
            if (root / name / "data" / "metadata.json").is_file():
                return
            say(f"data: downloading {name} with Minari to {root}")
            with _put_in(part):
                _download(name)
            for metadata in sorted(part.rglob("data/metadata.json")):  # of the set and those that it is combined of
                made = metadata.parent.parent
                place = root / made.relative_to(part)
                if not place.exists():
                    place.parent.mkdir(parents=True, exist_ok=True)
                    made.rename(place)
    except OSError as error:
        raise UserError(f"{name} cannot be downloaded to {root}: {error}.") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _download(name: str) -> None:
    try:
        from minari import download_dataset

        download_dataset(name)
    except ImportError as error:
        extra = "gcs" if os.environ.get("MINARI_REMOTE", "").startswith("gcp") else "hf"
        raise UserError(
            f"Minari's datasets are downloaded with a package that is not installed ({error}): "
            f"pip install 'minari[hdf5,{extra}]'"
        ) from error
    except Exception as error:  # the remotes' clients have no common base
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"Minari could not download {name} ({why}): check the network and the name; 'minari list remote' shows all."
        ) from error


@contextmanager
def _put_in(folder: Path) -> Iterator[None]:
    """Inside, the package puts what it fetches in ``folder``."""
    before = os.environ.get(ROOT)
    os.environ[ROOT] = str(folder)
    try:
        yield
    finally:
        if before is None:
            del os.environ[ROOT]
        else:
            os.environ[ROOT] = before
