"""Finding what a run folder holds, or making it there."""

from collections.abc import Callable, Mapping
from typing import TypeVar

from omegaconf import DictConfig

from pgd_lightning.config.saved import as_text
from pgd_lightning.runs.run import Run

T = TypeVar("T")


def find_or_make(
    run: Run, config: DictConfig, provenance: Mapping[str, object], load: Callable[[], T], make: Callable[[], T]
) -> T:
    """``load()`` if ``run`` is finished, else ``make()`` in it, after which it is.

    Several commands may want it: one makes it, the others wait and load it.
    """
    if run.finished:
        return load()
    with run.started(as_text(config), provenance, shared=True):
        if run.finished:
            return load()
        made = make()
        run.update(state="finished")
    return made
