"""Text and paths of a command line, as a shell hands them over and as Hydra's grammar takes them."""

import os
import re

from hydra.core.override_parser.types import Quote, QuotedString

from pgd_lightning.data import sources

QUOTED = r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')"""


def quoted(value: str, paths: bool, several: bool) -> str:
    """Text as Hydra takes it for what was typed; ``several`` of them are written [a,b]."""
    if several and value.startswith("[") and value.endswith("]"):
        return f"[{','.join(quoted(part, paths, several=False) for part in parts(value[1:-1]))}]"
    text = unquoted(value)
    return QuotedString(at_home(text) if paths else text, Quote.double).with_quotes()


def unquoted(value: str) -> str:
    """``value`` without the quotes around all of it, if it has some."""
    return re.sub(r"\\([\"'\\])", r"\1", value[1:-1]) if re.fullmatch(QUOTED, value, re.DOTALL) else value


def parts(value: str) -> list[str]:
    """``value`` at its commas, but those within quotes."""
    parts = re.findall(rf"(?:{QUOTED}|[^,])+", value, re.DOTALL)
    return [part.strip() for part in parts]


def at_home(path: str) -> str:
    """``path`` with a leading ~ replaced by the home folder; that of nobody is a name."""
    prefix, tilde, rest = path.partition("~")
    if not tilde or prefix not in ("", sources.MINARI):
        return path
    found = os.path.expanduser(tilde + rest)
    return prefix + (f"./{found}" if found.startswith("~") else found)
