"""HTML pages: what those of one run and of many runs share. Nothing in them is fetched from the network."""

import base64
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypedDict

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pgd_lightning.evaluation.statistics import Interval
from pgd_lightning.runs.names import MEASURES, agent_name

NOTICES = {  # by the kind of a recording's provenance
    "local recipe": "The data are a substitute recorded by this project, not D4RL's: scores cannot be compared with "
    "published ones.",
    "unverified": "The file has the name of a D4RL file, but no published checksum confirms it.",
    "legacy package": "The data were read by the d4rl package; their checksum could not be verified.",
}
OWN = "own environment"  # the kind of a recording of an environment that is none of D4RL's
FOREIGN = "The data are not D4RL's: scores cannot be compared with published ones."
Fields = dict[str, Any]  # of an Interval
ScoreRow = TypedDict(  # a line of a table of scores; as a call, for return is no name of a class's field
    "ScoreRow",
    {
        "method": str,
        "score": Fields,
        "against": dict[str, Fields],  # none, unguided -> the difference on equal seeds
        "bold": bool,  # whether a difference excludes zero
        "return": float,
        "oracle": Fields | None,
        "oracle_episodes": int,  # of a seed
    },
)


def notice(kind: str) -> str:
    """What a reader of scores must know of data of this kind; nothing of D4RL's own."""
    return "" if kind in ("official", OWN) else NOTICES.get(kind, FOREIGN)


def render(template: str, pictures: Mapping[str, str], **content: Any) -> str:
    """A page of ``content``, every text of which is escaped, and of ``pictures``, which are markup."""
    room = Environment(
        loader=PackageLoader("pgd_lightning", "report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    room.filters |= {
        "interval": interval_text,
        "compact": compact,
        "in_words": MEASURES.__getitem__,
        "agent_name": agent_name,
    }
    drawn = {name: Markup(drawing) for name, drawing in pictures.items()}
    return room.get_template(template).render(**content, pictures=drawn)


def interval_text(values: Mapping[str, Any] | None) -> str:
    """``mean [low, high]`` of an interval in plain data."""
    return str(Interval(**values)) if values else ""


def compact(value: float | None) -> str:
    """Three digits."""
    return "" if value is None else f"{value:.3g}"


def photograph(path: Path) -> str:
    """A PNG file as a data URL."""
    return f"data:image/png;base64,{base64.b64encode(path.read_bytes()).decode()}"


def score_row(
    method: str,
    score: Interval,
    returned: float,
    against: Mapping[str, Interval] | None = None,
    oracle: tuple[Interval, int] | None = None,
) -> ScoreRow:
    """A line of a table of scores; ``oracle`` as :func:`pgd_lightning.evaluation.ledgers.oracle` has it."""
    against = against or {}
    return {
        "method": method,
        "score": vars(score),
        "against": {name: vars(interval) for name, interval in against.items()},
        "bold": any(interval.excludes_zero for interval in against.values()),
        "return": returned,
        "oracle": vars(oracle[0]) if oracle else None,
        "oracle_episodes": oracle[1] if oracle else 0,
    }


def each_once(texts: Iterable[str]) -> list[str]:
    """The texts that are not empty, in the order of their first appearance."""
    return list(dict.fromkeys(text for text in texts if text))
