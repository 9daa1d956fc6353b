"""The page of one run, ``report/index.html``: what was run, what came out, and how to do it again.

It reads the ledgers, the metrics of the model behind the generator, and what :mod:`run_report` measured; nothing is
computed here that is not written there.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.finished import FinishedAgent
from pgd_lightning.evaluation.fidelity import not_available
from pgd_lightning.evaluation.ledgers import EpisodeRow
from pgd_lightning.evaluation.statistics import FEWEST, Interval
from pgd_lightning.report.analysis_figure import ERROR, LIKELIHOOD, POSITION, draw_error_by_row, draw_plane
from pgd_lightning.report.drawing import inline, panel, saved
from pgd_lightning.report.figures import MEASURES, SIMULATED, channel_figure, curve_of, draw_curves, draw_losses
from pgd_lightning.report.templates import notice, photograph, render, score_row
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.names import NAMES, agent_name
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators.channel_names import channels_of

NOT_EVALUATED = "Evaluation: not available, because there is no environment (env=none)."
EXPERIENCE = {"none": "real data alone", "unguided": "unguided data", "pgd": "guided data"}
Losses = dict[str, tuple[list[int], list[float]]]  # "training", "held-out" -> steps, values


@dataclass(frozen=True)
class Measured:
    """What was measured of real, unguided and guided windows."""

    rows: list[dict[str, Any]]  # see evaluation.analysis.measure
    drawn: dict[str, tuple[NDArray[Any], NDArray[Any]]]  # kind -> obs [n, T, O], action [n, T, A]
    replayed: dict[str, NDArray[Any]]  # kind -> obs [n, T, O] of the simulator under the same actions
    states: NDArray[np.float64]  # qpos [steps, nq] of an episode of the policy, to be drawn; [0, 0] where there is none
    unresettable: str | None = None  # why nothing could be stepped
    figures: list[Path] = field(default_factory=list)  # drawn of them, once
    panels: dict[str, str] = field(default_factory=dict)  # the same for the page


def write(
    runs: Sequence[Run],
    agent: FinishedAgent,
    dataset: Dataset,
    summary: Mapping[str, Any],
    ledgers: Mapping[str, list[EpisodeRow]],
    windows: Measured | None,
    folder: Path,
) -> Path:
    """Write the page of ``runs[0]``, which is ``agent`` and the others are compared with; returns its path."""
    model = agent.model
    curves = {NAMES.get(name, name): curve_of(rows) for name, rows in ledgers.items()}
    pictures = {}
    if ledgers:
        label = MEASURES[summary["measure"]]
        pictures["learning"] = panel(lambda axis: draw_curves(axis, curves), xlabel="agent updates", ylabel=label)
    losses = losses_of(model) if model else {}
    if losses:
        pictures["losses"] = panel(lambda axis: draw_losses(axis, losses), xlabel="training step", ylabel="loss")
    shown = channels_of(dataset.env).drawn if windows else []
    if windows:
        pictures |= window_panels(windows, shown)
    strip = folder / "rollout.png"
    content = {
        "title": f"{agent_name(agent.agent)} on {dataset.env.name}",
        "env": dataset.env.name,
        "notice": "" if dataset.env.file is None else notice(dataset.provenance["kind"]),
        "substitute": dataset.provenance["kind"] == "local recipe",
        "label": dataset.label,
        "what": what_was_run(runs, agent, dataset),
        "readings": readings(summary),
        "measure": summary["measure"],
        "not_evaluated": "" if ledgers else NOT_EVALUATED,
        "rows": score_rows(summary, ledgers),
        "conditions": conditions(summary),
        "minari": minari_scores(summary),
        "data": data_facts(dataset),
        "notes": list(dataset.recording.notes),
        "model": model_facts(agent, model, losses) if model else None,
        "windows": windows.rows if windows else [],
        "not_stepped": not_available(windows.unresettable) if windows and windows.unresettable else "",
        "num_drawn": len(next(iter(windows.drawn.values()))[0]) if windows else 0,
        "simulated": SIMULATED,
        "channels": [name for _, _, name in shown],
        "differences": differences(summary),
        "rollout": photograph(strip) if strip.exists() else "",
        "commands": repeated(runs),
        "facts": [*versions(runs[0]), origin_of(dataset)],
        "wandb": wandb_note(runs[0]),
        "files": files_beside(folder),
    }
    page = folder / "index.html"
    write_atomic(page, render("run_page.html", pictures, **content))
    return page


def write_short(run: Run, title: str, said: str, table: str, drawn: Mapping[str, Path], folder: Path) -> Path:
    """The page of a run of PolyGRAD: what is ``said`` of it, its ``table`` and figures, ``caption -> file``."""
    content = {
        "title": title, "said": said, "table": table, "commands": repeated([run]), "facts": versions(run),
        "wandb": wandb_note(run), "files": files_beside(folder),
    }  # fmt: skip
    page = folder / "index.html"
    write_atomic(page, render("short_page.html", {name: saved(path) for name, path in drawn.items()}, **content))
    return page


def window_panels(windows: Measured, shown: Sequence[tuple[str, int, str]]) -> dict[str, str]:
    """``name -> SVG`` of ``windows`` and of their ``shown`` channels, drawn by the first call."""
    if not windows.panels:
        measured = [row for row in windows.rows if row["windows"]]
        if not windows.unresettable:
            windows.panels["plane"] = panel(lambda axis: draw_plane(axis, measured), xlabel=LIKELIHOOD, ylabel=ERROR)
            windows.panels["by_row"] = panel(
                lambda axis: draw_error_by_row(axis, measured), xlabel=POSITION, ylabel=ERROR
            )
        for channel in shown:
            windows.panels[channel[2]] = inline(channel_figure(windows.drawn, windows.replayed, channel))
    return windows.panels


# --- what it says ---


def what_was_run(runs: Sequence[Run], agent: FinishedAgent, dataset: Dataset) -> str:
    """One sentence."""
    seeds = f"{agent.seeds} seed" + ("s" if agent.seeds > 1 else "")
    first, *beside = [_experience(run.record["generator"]) for run in runs]
    against = f", compared with {' and '.join(beside)}" if beside else ""
    trained = f"{agent_name(agent.agent)} was trained for {agent.updates:,} updates with {seeds}"
    return f"{trained} on {dataset.label}: {first}{against}."


def readings(summary: Mapping[str, Any]) -> list[str]:
    """A sentence for each comparison, or the score where there is nothing to compare."""
    if not summary["scores"]:
        return []
    if not summary["differences"]:
        ((name, score),) = list(summary["scores"].items())[:1]
        return [f"{_capital(_experience(name))}: {summary.get('measure', 'score')} {Interval(**score)}."]
    found = []
    for name, difference in summary["differences"].items():
        first, other = name.split(" - ", 1)
        found.append(reading(first, other, Interval(**difference)))
    return found


def reading(first: str, other: str, difference: Interval) -> str:
    """What the paired ``difference`` of the scores of two generators allows one to say."""
    a, b = _experience(first), _experience(other)
    if difference.low is None:
        seeds = "1 seed is" if difference.num_seeds == 1 else f"{difference.num_seeds} seeds are"
        return f"{seeds} too few to compare {a} with {b} (at least {FEWEST}): difference {difference.mean:.1f}."
    found = f"difference {difference} over {difference.num_seeds} seeds"
    if not difference.excludes_zero:
        return f"No significant difference between {a} and {b}: {found}."
    return f"{_capital(a)} scored {'higher' if difference.mean > 0 else 'lower'} than {b}: {found}."


def _experience(name: str) -> str:
    return EXPERIENCE.get(name, f"{name} data")


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def score_rows(summary: Mapping[str, Any], ledgers: Mapping[str, list[EpisodeRow]]) -> list[dict[str, Any]]:
    """The table of scores; only the first agent has differences."""
    against = {name.split(" - ", 1)[1]: Interval(**values) for name, values in summary["differences"].items()}
    return [
        score_row(
            NAMES.get(name, name), Interval(**score), against if number == 0 else {},
            {"return": fmean(row["return"] for row in ledgers[name] if row["purpose"] == "final")},
        )
        for number, (name, score) in enumerate(summary["scores"].items())
    ]  # fmt: skip


def differences(summary: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Name, interval and whether it excludes zero."""
    return [
        {
            "name": " minus ".join(NAMES.get(part, part) for part in name.split(" - ", 1)),
            "difference": values,
            "told": Interval(**values).excludes_zero,
            "said": told(Interval(**values)),
        }
        for name, values in summary["differences"].items()
    ]


def told(difference: Interval) -> str:
    """The last column of the paired differences."""
    if difference.low is None:
        return f"too few seeds (at least {FEWEST})"
    return "interval excludes zero" if difference.excludes_zero else "interval includes zero"


def conditions(summary: Mapping[str, Any]) -> str:
    """Under which the scores were measured."""
    return f"{summary['updates']:,} updates · {' and '.join(summary['simulators'])} · {constants(summary)}"


def constants(summary: Mapping[str, Any]) -> str:
    """What scores mean, or why there are none."""
    if summary["measure"] == "score":
        return f"scores 0 and 100 are returns of {summary['score_constants']}"
    if summary["measure"] == "success":
        return "success is the share of episodes, in percent, in which the task was done before the time limit"
    return "returns are not normalised: the environment has no reference returns (env.ref_min_score, env.ref_max_score)"


def minari_scores(summary: Mapping[str, Any]) -> str:
    """The scores by a Minari set's own references; empty where it has none."""
    own = summary.get("minari")
    if own is None:
        return ""
    scores = ", ".join(f"{NAMES.get(name, name)} {Interval(**entry)}" for name, entry in own["scores"].items())
    return f"Where scores 0 and 100 are returns of {own['score_constants']}: {scores}."


def data_facts(dataset: Dataset) -> list[tuple[str, str]]:
    """The summary of the recording, line by line."""
    summary, held = dataset.recording.summary(), len(dataset.validation) if dataset.validation else 0
    return [
        ("data", dataset.label),
        ("episodes", f"{summary['episodes']:,} of {summary['length_min']} to {summary['length_max']} steps, "
                     f"{summary['steps']:,} steps in all"),
        ("return", f"mean {summary['return_mean']:.1f}, {summary['return_min']:.1f} to {summary['return_max']:.1f}"
                   + (f"; mean score {dataset.env.score(summary['return_mean']):.1f}" if dataset.env.scored else "")),
        ("episode boundaries", f"{summary['terminals']} terminals, {summary['timeouts']} timeouts"),
        ("reward", f"{summary['reward_min']:.4g} to {summary['reward_max']:.4g}"),
        ("windows", f"{len(dataset.train):,} to train on, {held:,} held out"),
        ("SHA-256", dataset.file),
    ]  # fmt: skip


def losses_of(model: Run) -> Losses:
    """Training and held-out losses from the metrics of all starts, a later one replacing what it repeats."""
    found: dict[str, dict[int, float]] = {"training": {}, "held-out": {}}
    for path in sorted(model.folder.glob("metrics/attempt_*/metrics.csv"), key=lambda p: int(p.parent.name[8:])):
        with path.open(newline="") as file:
            for row in csv.DictReader(file):
                for label, end in (("training", "/loss"), ("held-out", "/val_loss")):
                    for key, value in row.items():
                        if key.endswith(end) and value:
                            found[label][int(row["step"]) + 1] = float(value)
    return {label: (sorted(v), [v[step] for step in sorted(v)]) for label, v in found.items() if v}


def model_facts(agent: FinishedAgent, model: Run, losses: Losses) -> dict[str, Any]:
    """The method of the ``model`` behind ``agent``, its last losses, and the verdict on a prior's windows if any."""
    found = agent.verdict(model)
    return {
        "section": agent.model_section,
        "method": model.record["method"],
        "losses": [f"{label} loss {values[-1]:.3g} at step {steps[-1]:,}" for label, (steps, values) in losses.items()],
        "verdict": found.sentence(agent.verdict_limit) if found else "",
        "errors": vars(found) if found else None,
        "folder": str(model.folder),
    }


def repeated(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The commands behind ``runs``, each with the runs that it trained."""
    found: dict[str, list[str]] = {}
    for run in runs:
        starts = run.record["starts"]
        again = f", start {len(starts)}" if len(starts) > 1 else ""
        trained = f"{run.record['method']} in {run.folder}, {starts[-1]['time']}{again}"
        found.setdefault(starts[-1]["command"], []).append(trained)
    return found


def versions(run: Run) -> list[tuple[str, str]]:
    """Code, packages and machine of the last start."""
    start = run.record["starts"][-1]
    packages = ", ".join(f"{name} {number}" for name, number in start.get("packages", {}).items())
    facts = {"code": start.get("code"), "python": start.get("python"), "packages": packages,
             "machine": start.get("machine")}  # fmt: skip
    return [(name, str(value)) for name, value in facts.items() if value]


def origin_of(dataset: Dataset) -> tuple[str, str]:
    """The provenance of the data in a line."""
    said = ((key, value) for key, value in dataset.provenance.items() if key not in ("label", "says", "minari"))
    return "data", ", ".join(f"{key} {value}" for key, value in said if value is not None)


def files_beside(folder: Path) -> list[str]:
    """What else there is in the folder of a page."""
    return sorted(path.name for path in folder.iterdir() if path.name[0] != "." and path.suffix != ".html")


def wandb_note(run: Run) -> str:
    """What W&B has of the run."""
    kept = [path for path in sorted((run.folder / "wandb").glob("*run-*")) if path.is_dir()]
    if not kept:
        return "There is no W&B run: it was disabled (logger.wandb=disabled) or failed."
    if kept[-1].name.startswith("offline"):
        return f"The W&B run is offline; upload it with: wandb sync {run.folder / 'wandb' / 'offline-run-*'}"
    return "The W&B run is online."
