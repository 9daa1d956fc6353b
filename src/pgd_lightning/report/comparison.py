"""Which runs stand side by side: found in folders, told apart by their settings, compared on equal seeds."""

from __future__ import annotations

import glob
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from pgd_lightning.artifacts.finished import FinishedAgent
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import Ledger, Scores, collected, common_seeds, episodes, oracle, require_alike
from pgd_lightning.evaluation.statistics import Interval, paired_interval, seed_interval
from pgd_lightning.runs.console import say
from pgd_lightning.runs.folder import undamaged
from pgd_lightning.runs.names import NAMES, label
from pgd_lightning.runs.run import Run, readable

# Names at the end of an identity's keys that tell no method from another: which seed, which file (a condition, as the
# budget is), and what follows from the task.
NO_METHOD = {"seed", "num_seeds", "file", "updates", "total_steps", "physics", "obs_dim", "action_dim", "channels"}
CONDITIONS = {"env", "evaluation"}  # sections of an identity that are none of the method either
# Sections that have nothing to do with the generator; "reading", like "evaluation" above, is one of older runs.
COMMON = {"agent", "data", "reading", "batch_size", "trainer", "behaviour"}
BASELINES = ("none", "unguided")


@dataclass(frozen=True)
class Entry(FinishedAgent):
    """A finished agent run with the episodes of its last checkpoint."""

    def whole(self) -> Entry:
        """Itself. Raises UserError where something is lost that tables and pages read of it."""
        self.run.whole()
        self.ledger  # noqa: B018 (read here, with the settings that it needs)
        return self

    @property
    def dataset(self) -> str:
        return str(self.record["env"])

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What may tell this run's method from another's: dotted key -> value."""
        return {
            key: value
            for key, value in flat(self.record["identity"])
            if key.split(".")[-1] not in NO_METHOD and key.split(".")[0] not in CONDITIONS
        }

    @cached_property
    def ledger(self) -> Ledger:
        data, env = self.run.provenance, self.env
        rows = episodes(self.run.rows("ledger.jsonl"), env)
        simulators = sorted({row["simulator"] for row in rows})
        conditions = {
            "data": data["label"],
            "kind of data": data["kind"],
            "simulator": " and ".join(simulators),
            "MuJoCo": " and ".join(sorted({name.split(",")[0] for name in simulators})),
            "physics": env.physics,
            "step limit": env.max_episode_steps,
            "measure": env.measure,
            "score constants": score_constants(env),
            "updates": self.updates,
        }
        learners = self.record.get("learners", ())
        named = {key: str(value) for key, value in conditions.items()}
        return Ledger(str(self.run.folder), self.record["seed"], named, rows, learners)


def score_constants(env: EnvSpec) -> str:
    """The returns that count as scores 0 and 100, where tables show scores: elsewhere they tell no runs apart."""
    return f"{env.ref_min_score:g} and {env.ref_max_score:g}" if env.measure == "score" else ""


@dataclass(frozen=True)
class Method:
    """What a row is about: agent, source of experience, and the settings in which it differs from its namesakes."""

    agent: str
    generator: str
    common: tuple[tuple[str, str], ...]  # settings that have nothing to do with the generator
    own: tuple[tuple[str, str], ...]

    @property
    def label(self) -> str:
        settings = [f"{key.split('.')[-1]}={value}" for key, value in (*self.common, *self.own)]
        return " · ".join([label(self.generator), *settings])

    def is_baseline_of(self, other: Method) -> bool:
        """Whether ``other`` is this method with another generator."""
        ours, theirs = dict(self.own), dict(other.own)
        return (
            (self.agent, self.common) == (other.agent, other.common)
            and self.generator != other.generator
            and all(theirs.get(key, value) == value for key, value in ours.items())
        )


@dataclass(frozen=True)
class Row:
    """One method on one dataset: the last checkpoint, and what stands beside it."""

    method: Method
    entries: tuple[Entry, ...]
    scores: Scores
    score: Interval
    against: dict[str, Interval]  # generator of the baseline -> this minus it, on equal seeds
    oracle: tuple[Interval, int] | None

    @property
    def measure(self) -> str:
        """What the table shows, see :attr:`EnvSpec.measure`."""
        return self.ledgers[0].conditions["measure"]

    @property
    def ledgers(self) -> list[Ledger]:
        return [entry.ledger for entry in self.entries]


Tables = dict[tuple[str, str], list[Row]]  # (dataset, agent) -> its methods


def find_entries(patterns: Sequence[str], chosen: Mapping[str, Any]) -> list[Entry]:
    """The finished agent runs below folders or globs, with the settings ``chosen`` (nested, or dotted keys).

    Raises UserError if there is none.
    """
    finished = (e for e in map(Entry, runs_below(patterns)) if e.record["stage"] == "agent" and e.run.finished)
    entries = list(undamaged(Entry.whole, finished))
    named = ", ".join(patterns)
    if without := [e for e in entries if not e.env.simulated]:
        say(f"{len(without)} runs without an environment (env=none) are left out: there is nothing to compare")
    entries = [e for e in entries if e.run.evaluated]
    if not entries:
        raise UserError(f"There is no finished agent run in '{named}': give their folder or a glob, e.g. RUNS=runs.")
    wanted = dict(flat(chosen))
    kept = [e for e in entries if all(str(e.setting(key)) == str(value) for key, value in wanted.items())]
    if not kept:
        raise UserError(f"None of the {len(entries)} runs in '{named}' has {wanted}: look at their config.yaml.")
    return kept


def runs_below(patterns: Sequence[str]) -> list[Run]:
    """The :func:`undamaged` runs below folders or globs, each once."""
    folders = {folder for pattern in patterns for folder in glob.glob(pattern) or [glob.escape(pattern)]}
    return list(readable(sorted({path for folder in folders for path in Path(folder).rglob("run.json")})))


def methods(entries: Sequence[Entry]) -> dict[Entry, Method]:
    """The method of each run. A setting is named where runs of one dataset, agent and generator differ in it."""
    named = defaultdict[tuple[str, str], set[str]](set)
    for group in grouped(entries, lambda e: (e.dataset, e.record["agent"], e.record["generator"])).values():
        agent, generator = group[0].record["agent"], group[0].record["generator"]
        for key in {key for entry in group for key in entry.settings}:
            if len({str(entry.settings.get(key)) for entry in group}) > 1:
                named[agent, "" if key.split(".")[0] in COMMON else generator].add(key)
    return {entry: method(entry, named) for entry in entries}


def method(entry: Entry, named: Mapping[tuple[str, str], set[str]]) -> Method:
    """Of one run; ``named`` has the settings to be told of (agent, generator), and of (agent, "") those of any."""
    agent, generator = entry.record["agent"], entry.record["generator"]
    common, own = (
        tuple((key, str(entry.settings[key])) for key in sorted(named[agent, part]) if key in entry.settings)
        for part in ("", generator)
    )
    return Method(agent, generator, common, own)


def mixable(entries: Sequence[Entry]) -> tuple[list[Entry], dict[str, str]]:
    """The runs of the datasets whose runs may share a table, and why those of the others may not.

    They may if they were made under the same conditions and share no learner. Raises UserError where none may.
    """
    of, fit, refused = methods(entries), list[Entry](), {}
    for dataset, group in grouped(entries, lambda entry: entry.dataset).items():
        try:
            require_alike([entry.ledger for entry in group])
            for same in grouped(group, lambda entry: of[entry]).values():
                collected([entry.ledger for entry in same], "final")
        except UserError as error:
            refused[dataset] = str(error)
        else:
            fit += group
    if not fit:
        raise UserError(" ".join(refused.values()))
    return fit, refused


def tables(entries: Sequence[Entry]) -> Tables:
    """``(dataset, agent)`` -> a row for each of its methods, real data alone first, of :func:`mixable` runs."""
    of = methods(entries)
    cells = grouped(entries, lambda entry: (entry.dataset, of[entry]))
    scores = {cell: collected([entry.ledger for entry in group], "final") for cell, group in cells.items()}
    found: Tables = {}
    for (dataset, ours), group in cells.items():
        ledgers = [entry.ledger for entry in group]
        row = Row(
            ours, tuple(group), scores[dataset, ours], seed_interval(scores[dataset, ours].score),
            differences(dataset, ours, scores), oracle(ledgers),
        )  # fmt: skip
        found.setdefault((dataset, ours.agent), []).append(row)
    order = list(NAMES)
    for rows in found.values():
        rows.sort(key=lambda r: order.index(r.method.generator) if r.method.generator in order else len(order))
    return found


def differences(dataset: str, ours: Method, scores: dict[tuple[str, Method], Scores]) -> dict[str, Interval]:
    """This method minus each baseline that is it but for the generator, where exactly one is."""
    found = {}
    for generator in BASELINES:
        others = [m for d, m in scores if d == dataset and m.generator == generator and m.is_baseline_of(ours)]
        if len(others) == 1 and ours.generator not in BASELINES[: BASELINES.index(generator) + 1]:
            a, b = common_seeds(scores[dataset, ours], scores[dataset, others[0]])
            if len(a):
                found[generator] = paired_interval(a, b)
    return found


def flat(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """The leaves of nested dicts under dotted keys."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from flat(value, f"{prefix}{key}.")
    else:
        yield prefix[:-1], node


def grouped(items: Iterable[Any], key: Any) -> dict[Any, list[Any]]:
    """Items by ``key``, in the order of their first appearance."""
    found: dict[Any, list[Any]] = {}
    for item in items:
        found.setdefault(key(item), []).append(item)
    return found
