"""From the ledgers of several runs to score matrices, refusing to put unlike runs into one.

A ledger has a row for each evaluation episode. Purposes: ``final``, of the last checkpoint at a fixed budget, is the
headline; ``monitor`` chooses nothing; ``select`` are episodes that influenced a choice and count on the meter.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any, NotRequired, TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.statistics import Interval, seed_interval

Array = NDArray[np.float64]
EpisodeRow = TypedDict(  # a row of a ledger; as a call, for return is no name of a class's field
    "EpisodeRow",
    {
        "purpose": str,
        "step": int,  # updates of the agent, or steps of the environment online
        "seed": int,  # number of the learner
        "index": int,  # number of the episode
        "return": float,
        "score": float | None,  # percent
        "success": NotRequired[bool],  # where tables show it
        "length": int,  # steps
        "expected": NotRequired[float],  # the critics' value of its first action
        "earned": NotRequired[float],  # its discounted return of the rewards that the critics see
        "simulator": str,
    },
)
Key = tuple[int, int]  # (seed of the run, the learner's own): what pairs one method's row with another's

WITHIN = ("data", "simulator", "step limit", "measure", "score constants", "updates")  # alike in all rows of one table
ACROSS = ("kind of data", "MuJoCo", "physics", "updates")  # alike in all datasets of one aggregate


def episodes(rows: Iterable[Mapping[str, Any]], env: EnvSpec) -> list[EpisodeRow]:
    """Each episode of a ledger once, as it was written last, its score (or None) by the constants of ``env``."""
    found = {(row["purpose"], row["step"], row["seed"], row["index"]): row for row in rows}
    scored = ({**row, "score": env.score(row["return"], row.get("success"))} for row in found.values())
    return [cast(EpisodeRow, row) for row in scored]


def outcome(row: EpisodeRow) -> float:
    """The score of an episode, its success in percent, or its return where returns are not normalised."""
    return float(row["return"] if row["score"] is None else row["score"])


def mean_outcome(rows: Sequence[EpisodeRow], env: EnvSpec) -> dict[str, float]:
    """Mean of episodes under the name of the measure of ``env``, for the record of a run; nothing of none."""
    return {env.measure: fmean(map(outcome, rows))} if rows else {}


def scores_of(rows: Sequence[EpisodeRow], purpose: str, step: int | None = None) -> Array:
    """Scores ``[S, E]`` of the ledger's episodes of one purpose, at one step or at the last there is.

    Returns where they are not normalised.
    """
    chosen = [row for row in rows if row["purpose"] == purpose]
    last = max((row["step"] for row in chosen), default=0) if step is None else step
    chosen = sorted((r for r in chosen if r["step"] == last), key=lambda r: (r["seed"], r["index"]))
    seeds = len({row["seed"] for row in chosen})
    return np.array([outcome(row) for row in chosen]).reshape(max(seeds, 1), -1)


def final_scores(rows: Sequence[EpisodeRow], episodes: int) -> Array:
    """Scores ``[S, E]`` of the last checkpoint by each learner's first ``episodes``; a ledger may have more."""
    return scores_of([row for row in rows if row["index"] < episodes], "final")


def beside_the_critics(rows: Sequence[EpisodeRow]) -> tuple[float, float] | None:
    """Means of what the critics expect of the start of an episode, and of what is earned; None if no row says it."""
    found = [row for row in rows if "expected" in row]
    return (fmean(row["expected"] for row in found), fmean(row["earned"] for row in found)) if found else None


def expectation(pair: Sequence[float]) -> str:
    """A pair of :func:`beside_the_critics` in words."""
    expected, earned = pair
    return f"the critics expect a discounted return of {expected:,.1f} from an episode's start; {earned:,.1f} is earned"


@dataclass(frozen=True)
class Ledger:
    """One run's episodes, and under what conditions they were counted."""

    run: str  # for messages: its folder
    seed: int
    conditions: Mapping[str, str]
    rows: Sequence[EpisodeRow]
    learners: Sequence[int] = ()  # the seed of each learner; older runs have none, and learner s began as seed + s

    def learner(self, number: int) -> int:
        """The seed of learner ``number``."""
        return self.learners[number] if self.learners else self.seed + number


@dataclass(frozen=True)
class Scores:
    """One method on one dataset."""

    keys: tuple[Key, ...]  # [S]
    score: Array  # [S, E] percent; returns where they are not normalised
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

    Where some were evaluated in more episodes than others, those that all have: equal numbers began in equal states.
    Raises UserError where the runs are not alike, where two have one seed, or where two share a learner.
    """
    require_alike(ledgers)
    found: dict[Key, list[EpisodeRow]] = {}
    of: dict[int, Ledger] = {}
    for ledger in ledgers:
        for number, rows in by_learner(ledger, purpose, step).items():
            learner = ledger.learner(number)
            if (ledger.seed, learner) in found:
                raise UserError(
                    f"Two runs of one method have seed {ledger.seed}, one of them {ledger.run}: a run counts once."
                )
            if learner in of:
                raise UserError(
                    f"{of[learner].run} and {ledger.run} share learners, because seeds of one run were once the next "
                    "numbers after its seed=: name one of them, or train one again."
                )
            found[ledger.seed, learner], of[learner] = rows, ledger
    common = set.intersection(*({row["index"] for row in rows} for rows in found.values())) if found else set()
    found = {key: [row for row in rows if row["index"] in common] for key, rows in found.items()}
    keys = tuple(sorted(found))
    return Scores(keys, column(found, keys, outcome), column(found, keys, lambda row: row["return"]))


def by_learner(ledger: Ledger, purpose: str, step: int | None) -> dict[int, list[EpisodeRow]]:
    """Episodes of each learner in the order of their numbers."""
    rows = [row for row in ledger.rows if row["purpose"] == purpose]
    last = max((row["step"] for row in rows), default=0) if step is None else step
    found: dict[int, list[EpisodeRow]] = {}
    for row in sorted((r for r in rows if r["step"] == last), key=lambda r: (r["seed"], r["index"])):
        found.setdefault(row["seed"], []).append(row)
    return found


def column(found: Mapping[Key, list[EpisodeRow]], keys: Sequence[Key], value: Callable[[EpisodeRow], float]) -> Array:
    """``[S, E]`` of a ``value`` of the rows, ``[0, 0]`` if there are none."""
    return np.array([[value(row) for row in found[key]] for key in keys], dtype=float).reshape(
        len(keys), -1 if keys else 0
    )


def common_seeds(a: Scores, b: Scores) -> tuple[Array, Array]:
    """The scores of the seeds that both have, ``[S, E]`` each, in the same order."""
    keys, fewest = [key for key in a.keys if key in b.keys], min(a.score.shape[1], b.score.shape[1])
    return a.score[[a.keys.index(k) for k in keys], :fewest], b.score[[b.keys.index(k) for k in keys], :fewest]


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
    found = [collected(ledgers, "monitor", step).score for step in steps]
    fewest = min(score.shape[1] for score in found)
    scores = np.stack([score[:, :fewest] for score in found])  # [K, S, E]
    best = np.take_along_axis(scores, scores.mean(2).argmax(0)[None, :, None], axis=0)[0]
    return seed_interval(best), scores.shape[0] * scores.shape[2]
