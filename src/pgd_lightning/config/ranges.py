"""What each setting may be, as ``conf/ranges.yaml`` declares it, and the sentence for what it may not be."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from typing import Any

import yaml

from pgd_lightning.errors import UserError

CONF = files("pgd_lightning.conf")
LARGEST = 2**53  # float64 and torch's int64 count exactly so far
INTERVAL = re.compile(r"(whole|number) ([\[(])(.+), (.+)([\])])(?: multiple of (.+))?")
CONDITION = re.compile(r"null (if|unless) (.+)")
SEVERAL = re.compile(r"(list|pair) of (.+)")
KINDS = {"flag": bool, "text": str, "path": str, "settings": Mapping, "mapping": Mapping, "any": object}
NAMES = {
    "flag": "true or false", "path": "a path", "settings": "a group of settings", "mapping": "{setting:value,…}",
    "empty": "an empty list, []",
}  # fmt: skip
UNSET = "???"

Config = Mapping[str, Any]
Look = Callable[[str], tuple[str, Any]]  # from the name of a setting to its full name and value (None: there is none)


def of_group(group: str) -> list[str]:
    """The names that ``group=`` accepts; ``base`` is what the options of some groups have in common."""
    names = (p.name.removesuffix(".yaml") for p in (CONF / group).iterdir() if p.name.endswith(".yaml"))
    return sorted(name for name in names if name != "base")


@cache
def declarations() -> dict[str, str]:
    """The entries of ``conf/ranges.yaml``."""
    text = (CONF / "ranges.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)


@cache
def declared(verb: str, key: str) -> list[str]:
    """What ``key`` of ``verb`` may be, by the longest part of its name that has an entry; [] if none has."""
    parts = [verb, *key.split(".")]
    names = [".".join(parts[start:]) for start in range(len(parts))]
    found = next((declarations()[name] for name in [*names, f"{parts[-2]}.*"] if name in declarations()), "")
    return found.split(" or ") if found else []


def leaves(verb: str, node: Config, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every setting of a nested config with its full name; not what says which object is built (``_target_``)."""
    for name, value in node.items():
        key = f"{prefix}{name}"
        allowed = declared(verb, key)
        if isinstance(value, Mapping) and (not allowed or "settings" in allowed):
            yield from leaves(verb, value, f"{key}.")
        elif not str(name).startswith("_"):
            yield key, value


def check(verb: str, config: Config, key: str, value: Any) -> None:
    """Raises UserError, with what it may be, where ``value`` does not fit ``key``; ``config`` holds other settings."""
    allowed, look = declared(verb, key), partial(_look, config, key)
    if not allowed:
        raise UserError(
            f"{key}={shown(value)} does not fit: 'pgd {verb}' has no setting of that name that takes a value; "
            f"'pgd {verb} --cfg' shows all."
        )
    if isinstance(value, int) and abs(value) > LARGEST:
        raise UserError(f"{key}={value} does not fit: whole numbers beyond {LARGEST} are not counted exactly.")
    if value != UNSET and not any(_fits(option, value, look) for option in allowed):
        raise UserError(f"{key}={shown(value)} does not fit: it is {_sentence(allowed, look)}.")


def sentence(verb: str, key: str) -> str:
    """What ``key`` of ``verb`` may be, in words; empty where nothing is declared."""
    allowed = declared(verb, key)
    return _sentence(allowed, lambda name: (name, None)) if allowed else ""


def _sentence(allowed: list[str], look: Look) -> str:
    *others, last = [_phrase(option, look) for option in allowed]
    return f"{', '.join(others)} or {last}" if others else last


def shown(value: Any) -> str:
    """``value`` as it is typed."""
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return f"[{','.join(map(shown, value))}]" if isinstance(value, list) else str(value)


def _look(config: Config, key: str, name: str) -> tuple[str, Any]:
    """Beside ``key`` first, then from the top."""
    for full in (f"{key.rpartition('.')[0]}.{name}".lstrip("."), name):
        *groups, last = full.split(".")
        node: Any = config
        for group in groups:
            node = node.get(group) if isinstance(node, Mapping) else None
        if isinstance(node, Mapping) and last in node:
            return full, node[last]
    return name, None


def _fits(option: str, value: Any, look: Look) -> bool:
    if interval := Interval.read(option, look):
        return value in interval
    if several := SEVERAL.fullmatch(option):
        right = isinstance(value, list) and (len(value) == 2 if several[1] == "pair" else len(value) > 0)
        return right and all(_fits(several[2], element, look) for element in value)
    if option in KINDS:
        return isinstance(value, KINDS[option]) and value != ""
    if option.startswith("option of "):
        return value in of_group(option.removeprefix("option of "))
    if condition := CONDITION.fullmatch(option):
        return value is None and (look(condition[2])[1] is None) == (condition[1] == "unless")
    return value == [] if option == "empty" else shown(value) == option


def _phrase(option: str, look: Look) -> str:
    if several := SEVERAL.fullmatch(option):
        return f"{'two values' if several[1] == 'pair' else 'a list'}, each {_phrase(several[2], look)}"
    if option.startswith("option of "):
        return f"one of {', '.join(of_group(option.removeprefix('option of ')))}"
    if condition := CONDITION.fullmatch(option):
        return f"null while {look(condition[2])[0]} is {'not' if condition[1] == 'if' else 'null too'}"
    return str(Interval.read(option, look) or NAMES.get(option, option))


@dataclass(frozen=True)
class Interval:
    """A range of numbers, read from ``whole [1, inf)`` and the like."""

    whole: bool
    low: float
    high: float
    opening: str  # [ or (
    closing: str  # ] or )
    high_name: str  # how the upper bound is said
    divisors: list[tuple[str, int]]  # names and values of settings that divide it

    @classmethod
    def read(cls, option: str, look: Look) -> Interval | None:
        """None where ``option`` is no range. Settings that bound or divide it count where they are numbers."""
        found = INTERVAL.fullmatch(option)
        if not found:
            return None
        kind, opening, low, high, closing, names = found.groups()
        try:
            bound, high_name = float(high), high
        except ValueError:
            name, other = look(high)
            usable = isinstance(other, int | float) and not math.isnan(other)
            bound, high_name = (other, f"{name}={other}") if usable else (math.inf, "inf")
        divisors = [look(name) for name in names.split(" and ")] if names else []
        whole_ones = [(name, value) for name, value in divisors if isinstance(value, int) and value > 0]
        return cls(kind == "whole", float(low), bound, opening, closing, high_name, whole_ones)

    def __contains__(self, value: Any) -> bool:
        if isinstance(value, bool) or not isinstance(value, int if self.whole else int | float):
            return False
        above = value > self.low if self.opening == "(" else value >= self.low
        below = value < self.high if self.closing == ")" else value <= self.high
        return above and below and all(value % divisor == 0 for _, divisor in self.divisors)

    def __str__(self) -> str:
        low = "" if self.low == -math.inf else f"{'above' if self.opening == '(' else 'at least'} {self.low:.15g}"
        high = "" if self.high == math.inf else f"{'below' if self.closing == ')' else 'at most'} {self.high_name}"
        if self.opening == "[" and high.startswith("at most"):
            low, high = f"{self.low:.15g} to {self.high_name}", ""
        multiple = " and of ".join(f"{name}={value}" for name, value in self.divisors)
        parts = (
            "a whole number" if self.whole else "a number",
            low,
            high,
            f"a multiple of {multiple}" * bool(multiple),
        )
        return ", ".join(part for part in parts if part)
