"""D4RL's files: reading, writing, downloading, and what is irregular in them."""

from pgd_lightning.data.d4rl.download import DataUnavailable, locate
from pgd_lightning.data.d4rl.file_provenance import file_hash, provenance, recipe
from pgd_lightning.data.d4rl.reader import Reading, info_rows, infos, load, widths
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
