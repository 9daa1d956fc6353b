"""From the ledgers of several runs to score matrices, refusing to put unlike runs into one.

A ledger has a row for each evaluation episode. Purposes: ``final``, of the last checkpoint at a fixed budget, is the
headline; ``monitor`` chooses nothing; ``select`` are episodes that influenced a choice and count on the meter.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.statistics import Interval, seed_interval

Array = NDArray[np.float64]
Key = tuple[int, int]  # (seed of the run, learner in it): what pairs one method's row with another's

WITHIN = ("data", "simulator", "score constants", "updates", "episodes")  # alike in all rows of one table
ACROSS = ("kind of data", "MuJoCo", "physics", "updates")  # alike in all data sets of one aggregate


@dataclass(frozen=True)
class Ledger:
    """One run's episodes, and under what conditions they were counted."""

    run: str  # for messages: its folder
    seed: int
    conditions: Mapping[str, str]
    rows: Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Scores:
    """One method on one data set."""

    keys: tuple[Key, ...]  # [S]
    score: Array  # [S, E] percent
    returns: Array  # [S, E] environment units


def require_alike(ledgers: Iterable[Ledger], names: Sequence[str] = WITHIN) -> None:
    """Raises UserError, in one sentence, where two runs differ in a condition."""
    first, *others = ledgers
    for other in others:
        for name in names:
            if first.conditions[name] != other.conditions[name]:
                raise UserError(
                    f"One row would mix two kinds of {name}, '{first.conditions[name]}' ({first.run}) and "
                    f"'{other.conditions[name]}' ({other.run}): name runs that belong together, or choose among them "
                    "with where={key:value}, e.g. where={updates:5000}."
                )


def collected(ledgers: Sequence[Ledger], purpose: str, step: int | None = None) -> Scores:
    """The episodes of one purpose at one step, or at the last there is, of runs of one method that differ in the seed.

    Raises UserError where the runs are not alike, where one has other numbers of episodes, or where two have one seed.
    """
    require_alike(ledgers)
    found: dict[Key, list[Mapping[str, Any]]] = {}
    for ledger in ledgers:
        for learner, rows in by_learner(ledger, purpose, step).items():
            if (ledger.seed, learner) in found:
                raise UserError(
                    f"Two runs of one method have seed {ledger.seed}, one of them {ledger.run}: a run counts once."
                )
            found[ledger.seed, learner] = rows
    if len({len(rows) for rows in found.values()}) > 1:
        raise UserError(f"The {purpose} episodes in the ledger of {ledgers[0].run} are not equally many for each seed.")
    keys = tuple(sorted(found))
    return Scores(keys, column(found, keys, "score"), column(found, keys, "return"))


def by_learner(ledger: Ledger, purpose: str, step: int | None) -> dict[int, list[Mapping[str, Any]]]:
    """Episodes of each learner in the order of their numbers."""
    rows = [row for row in ledger.rows if row["purpose"] == purpose]
    last = max((row["step"] for row in rows), default=0) if step is None else step
    found: dict[int, list[Mapping[str, Any]]] = {}
    for row in sorted((r for r in rows if r["step"] == last), key=lambda r: (r["seed"], r["index"])):
        found.setdefault(row["seed"], []).append(row)
    return found


def column(found: Mapping[Key, list[Mapping[str, Any]]], keys: Sequence[Key], name: str) -> Array:
    """``[S, E]`` of one entry of the rows, ``[0, 0]`` if there are none."""
    return np.array([[row[name] for row in found[key]] for key in keys], dtype=float).reshape(
        len(keys), -1 if keys else 0
    )


def common_seeds(a: Scores, b: Scores) -> tuple[Array, Array]:
    """The scores of the seeds that both have, ``[S, E]`` each, in the same order."""
    keys = [key for key in a.keys if key in b.keys]
    return a.score[[a.keys.index(k) for k in keys]], b.score[[b.keys.index(k) for k in keys]]


def monitored_steps(ledgers: Sequence[Ledger]) -> list[int]:
    """The steps at which every one of these runs was looked at."""
    steps = [{row["step"] for row in ledger.rows if row["purpose"] == "monitor"} for ledger in ledgers]
    return sorted(set.intersection(*steps)) if steps else []


def oracle(ledgers: Sequence[Ledger]) -> tuple[Interval, int] | None:
    """The score of each seed's best monitored checkpoint, and the episodes a seed that this choice would have spent.

    Nobody who must decide beforehand gets this number: it is chosen by the episodes that measure it.
    """
    steps = monitored_steps(ledgers)
    if not steps:
        return None
    scores = np.stack([collected(ledgers, "monitor", step).score for step in steps])  # [K, S, E]
    best = np.take_along_axis(scores, scores.mean(2).argmax(0)[None, :, None], axis=0)[0]
    return seed_interval(best), scores.shape[0] * scores.shape[2]
