"""The scores of runs that differ in the generator alone: computed, in plain text, and in sentences.

A :class:`Summary` is plain data, which ``summary.json`` keeps beside a page.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.data.origin import Provenance, minari_references, score_constants
from pgd_lightning.evaluation.ledgers import EpisodeRow, beside_the_critics, expectation, final_scores
from pgd_lightning.evaluation.statistics import FEWEST, Interval, paired_interval, seed_interval
from pgd_lightning.runs.names import MEASURES, label

NOT_EVALUATED = "Evaluation: not available, because there is no environment (env=none)."
EXPERIENCE = {
    "none": "real data alone",
    "recorded": "recorded windows",
    "unguided": "unguided data",
    "pgd": "guided data",
}
Intervals = dict[str, dict[str, Any]]  # name -> the fields of an Interval


class MinariScores(TypedDict):
    """Scores by a Minari set's own references."""

    score_constants: str
    scores: Intervals


class Summary(TypedDict):
    """What came out of runs of one agent, each named by its generator."""

    env: str
    agent: str
    provenance: Provenance
    updates: int
    measure: str  # see :attr:`EnvSpec.measure`
    score_constants: str  # the returns that count as 0 and 100
    scores: Intervals  # of the last checkpoints
    differences: Intervals  # "first - other", paired by seed
    simulators: list[str]
    interval: str  # of which kind they are
    minari: NotRequired[MinariScores]
    critics: NotRequired[dict[str, list[float]]]  # see :func:`~pgd_lightning.evaluation.ledgers.beside_the_critics`


@dataclass(frozen=True)
class Difference:
    """The scores of one condition minus those of another, paired by seed."""

    name: str
    interval: Interval

    @property
    def said(self) -> str:
        """What the interval allows one to say, in short."""
        if self.interval.low is None:
            return f"too few seeds (at least {FEWEST})"
        return "interval excludes zero" if self.interval.excludes_zero else "interval includes zero"


def summarise(
    ledgers: Mapping[str, list[EpisodeRow]], dataset: Dataset, agent: str, updates: int, final_episodes: int
) -> Summary:
    """Scores of the last checkpoints with intervals, differences paired by seed, and what was spent.

    Of each learner the first ``final_episodes`` count.
    """
    found = {name: final_scores(rows, final_episodes) for name, rows in ledgers.items()}
    fewest = min((scores.shape[1] for scores in found.values()), default=0)
    finals = {name: scores[:, :fewest] for name, scores in found.items()}
    (first, *others) = finals or [""]
    summary: Summary = {
        "env": dataset.env.name,
        "agent": agent,
        "provenance": dataset.provenance,
        "updates": updates,
        "measure": dataset.env.measure,
        "score_constants": score_constants(dataset.env, dataset.provenance),
        "scores": {name: vars(seed_interval(scores)) for name, scores in finals.items()},
        "differences": {f"{first} - {other}": vars(paired_interval(finals[first], finals[other])) for other in others},
        "simulators": sorted({row["simulator"] for rows in ledgers.values() for row in rows}),
        "interval": "95 %, Student's t over the means of seeds; none below 3 seeds",
    }
    last = {
        name: [row for row in rows if row["purpose"] == "final" and row["index"] < fewest]
        for name, rows in ledgers.items()
    }
    if critics := {name: list(pair) for name, rows in last.items() if (pair := beside_the_critics(rows))}:
        summary["critics"] = critics
    if references := minari_references(dataset.provenance):
        low, high = references
        again = {name: 100 * (dataset.env.returned(scores) - low) / (high - low) for name, scores in finals.items()}
        summary["minari"] = {
            "score_constants": f"{low:g} and {high:g} (the Minari set's own)",
            "scores": {name: vars(seed_interval(scores)) for name, scores in again.items()},
        }
    return summary


def table(summary: Summary, title: str) -> str:
    """The comparison as plain text."""
    if not summary["scores"]:
        return f"{title}\n{summary['updates']} updates\n{NOT_EVALUATED}\n"
    measured = f"{summary['updates']} updates, last checkpoint, {', '.join(summary['simulators'])}"
    lines = [title, measured, meaning(summary["measure"], summary["score_constants"]), ""]
    lines += [*score_lines(summary["scores"], summary["measure"]), ""]
    if own := summary.get("minari"):
        said = f"scores 0 and 100 are returns of {own['score_constants']}"
        lines += [said, "", *score_lines(own["scores"], "score"), ""]
    lines += [f"{row.name:<48}{row.interval!s:<28}{row.said}" for row in differences(summary)]
    if expectations := critics(summary):
        lines += ["", *expectations]
    return "\n".join(lines) + "\n"


def score_lines(scores: Intervals, measure: str) -> list[str]:
    """A header, and the measured interval of each condition."""
    lines = [f"{'experience':<24}{MEASURES[measure].name + ' [95 % interval]':<34}{'seeds':>6}{'episodes/seed':>15}"]
    for name, entry in scores.items():
        interval = Interval(**entry)
        lines.append(f"{label(name):<24}{interval!s:<34}{interval.num_seeds:>6}{interval.num_episodes:>15}")
    return lines


def differences(summary: Summary) -> list[Difference]:
    """The paired differences under the names of tables."""
    return [
        Difference(" minus ".join(label(part) for part in name.split(" - ", 1)), Interval(**values))
        for name, values in summary["differences"].items()
    ]


def critics(summary: Summary) -> list[str]:
    """A sentence for each condition on what its critics expect and its policies earn; nothing where it is not known."""
    return [f"{_capital(experience(name))}: {expectation(pair)}." for name, pair in summary.get("critics", {}).items()]


def conditions(summary: Summary) -> str:
    """Under which the scores were measured."""
    said = meaning(summary["measure"], summary["score_constants"])
    return f"{summary['updates']:,} updates · {' and '.join(summary['simulators'])} · {said}"


def meaning(measure: str, constants: str) -> str:
    """What the numbers of a table of this measure mean; ``constants`` are those of scores."""
    if measure == "score":
        return f"scores 0 and 100 are returns of {constants}"
    if measure == "success":
        return "a success rate is the share of episodes, in percent, in which the task was done before the time limit"
    return "returns are not normalised: the environment has no reference returns (env.ref_min_score, env.ref_max_score)"


def minari_scores(summary: Summary) -> str:
    """The scores by a Minari set's own references; empty where it has none."""
    own = summary.get("minari")
    if own is None:
        return ""
    scores = ", ".join(f"{label(name)} {Interval(**entry)}" for name, entry in own["scores"].items())
    return f"Where scores 0 and 100 are returns of {own['score_constants']}: {scores}."


def readings(summary: Summary) -> list[str]:
    """A sentence for each comparison, or the measured interval where there is nothing to compare."""
    if not summary["scores"]:
        return []
    measure = MEASURES[summary["measure"]]
    if not summary["differences"]:
        name, score = next(iter(summary["scores"].items()))
        return [f"{_capital(experience(name))}: {measure.said(Interval(**score))}."]
    return [
        reading(first, other, Interval(**values), measure.name)
        for name, values in summary["differences"].items()
        for first, other in [name.split(" - ", 1)]
    ]


def reading(first: str, other: str, difference: Interval, measure: str) -> str:
    """What the paired ``difference`` of two generators, in what is called ``measure``, allows one to say."""
    a, b = experience(first), experience(other)
    if difference.low is None:
        seeds = "1 seed is" if difference.num_seeds == 1 else f"{difference.num_seeds} seeds are"
        found = f"difference in {measure} {difference.mean:.1f}"
        return f"{seeds} too few to compare {a} with {b} (at least {FEWEST}): {found}."
    found = f"difference {difference} over {difference.num_seeds} seeds"
    if not difference.excludes_zero:
        return f"No significant difference in {measure} between {a} and {b}: {found}."
    return f"{_capital(a)} gave a {'higher' if difference.mean > 0 else 'lower'} {measure} than {b}: {found}."


def experience(name: str) -> str:
    """The data that an agent learned from, in words."""
    return EXPERIENCE.get(name, f"{name} data")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
