"""D4RL's files: reading, writing, downloading, and what is irregular in them."""

from pgd_lightning.data.d4rl.reader import (
    DataUnavailable,
    Reading,
    file_hash,
    info_rows,
    infos,
    load,
    locate,
    provenance,
    recipe,
    widths,
)
from pgd_lightning.data.d4rl.writer import write

__all__ = [
    "DataUnavailable",
    "Reading",
    "file_hash",
    "info_rows",
    "infos",
    "load",
    "locate",
    "provenance",
    "recipe",
    "widths",
    "write",
]
