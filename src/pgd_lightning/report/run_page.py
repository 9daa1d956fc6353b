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
from pgd_lightning.evaluation.analysis import WindowRow
from pgd_lightning.evaluation.fidelity import not_available
from pgd_lightning.evaluation.ledgers import EpisodeRow
from pgd_lightning.evaluation.statistics import Interval
from pgd_lightning.report import summary as summaries
from pgd_lightning.report.analysis_figure import fidelity_panels
from pgd_lightning.report.drawing import inline, panel, saved
from pgd_lightning.report.figures import SIMULATED, channel_figure, curve_of, curves_panel, draw_losses
from pgd_lightning.report.how_to_repeat import how_to_repeat
from pgd_lightning.report.templates import ScoreRow, notice, photograph, render, score_row
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.names import agent_name, label
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators.channel_names import channels_of

Losses = dict[str, tuple[list[int], list[float]]]  # "training", "held-out" -> steps, values


@dataclass(frozen=True)
class Measured:
    """What was measured of real, unguided and guided windows."""

    rows: list[WindowRow]
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
    summary: summaries.Summary,
    ledgers: Mapping[str, list[EpisodeRow]],
    windows: Measured | None,
    folder: Path,
) -> None:
    """Write the page of ``runs[0]``, which is ``agent`` and the others are compared with."""
    model = agent.model
    curves = {label(name): curve_of(rows) for name, rows in ledgers.items()}
    pictures = {}
    if ledgers:
        pictures["learning"] = curves_panel(curves, summary["measure"])
    losses = losses_of(model) if model else {}
    if losses:
        pictures["losses"] = panel(lambda axis: draw_losses(axis, losses), xlabel="training step", ylabel="loss")
    shown = channels_of(dataset.env).drawn if windows else []
    if windows:
        pictures |= window_panels(windows, shown)
    strip = folder / "rollout.png"
    content = {
        "title": f"{agent_name(agent.agent)} on {dataset.env.name}",
        "notice": "" if dataset.env.file is None else notice(dataset.provenance["kind"]),
        "substitute": dataset.provenance["kind"] == "local recipe",
        "label": dataset.label,
        "what": what_was_run(runs, agent, dataset),
        "readings": summaries.readings(summary),
        "measure": summary["measure"],
        "not_evaluated": "" if ledgers else summaries.NOT_EVALUATED,
        "rows": score_rows(summary, ledgers),
        "conditions": summaries.conditions(summary),
        "minari": summaries.minari_scores(summary),
        "data": data_facts(dataset),
        "notes": list(dataset.recording.notes),
        "model": model_facts(agent, model, losses) if model else None,
        "windows": windows.rows if windows else [],
        "not_stepped": not_available(windows.unresettable) if windows and windows.unresettable else "",
        "num_drawn": len(next(iter(windows.drawn.values()))[0]) if windows else 0,
        "simulated": SIMULATED,
        "channels": [name for _, _, name in shown],
        "differences": summaries.differences(summary),
        "critics": summaries.critics(summary),
        "rollout": photograph(strip) if strip.exists() else "",
        **how_to_repeat(runs, folder, origin_of(dataset)),
    }
    write_atomic(folder / "index.html", render("run_page.html", pictures, **content))


def write_short(run: Run, title: str, said: str, table: str, drawn: Mapping[str, Path], folder: Path) -> None:
    """Write the page of a run of PolyGRAD: what is ``said`` of it, its ``table`` and figures, ``caption -> file``."""
    pictures = {name: saved(path) for name, path in drawn.items()}
    content = {"title": title, "said": said, "table": table, **how_to_repeat([run], folder)}
    write_atomic(folder / "index.html", render("short_page.html", pictures, **content))


def window_panels(windows: Measured, shown: Sequence[tuple[str, int, str]]) -> dict[str, str]:
    """``name -> SVG`` of ``windows`` and of their ``shown`` channels, drawn by the first call."""
    if not windows.panels:
        measured = [row for row in windows.rows if row.get("dynamics_error_median") is not None]
        if measured and not windows.unresettable:
            windows.panels["plane"], windows.panels["by_row"] = fidelity_panels(measured)
        for channel in shown:
            windows.panels[channel[2]] = inline(channel_figure(windows.drawn, windows.replayed, channel))
    return windows.panels


# --- what it says ---


def what_was_run(runs: Sequence[Run], agent: FinishedAgent, dataset: Dataset) -> str:
    """One sentence."""
    seeds = f"{agent.seeds} seed" + ("s" if agent.seeds > 1 else "")
    first, *beside = [summaries.experience(run.record["generator"]) for run in runs]
    against = f", compared with {' and '.join(beside)}" if beside else ""
    trained = f"{agent_name(agent.agent)} was trained for {agent.updates:,} updates with {seeds}"
    return f"{trained} on {dataset.label}: {first}{against}."


def score_rows(summary: summaries.Summary, ledgers: Mapping[str, list[EpisodeRow]]) -> list[ScoreRow]:
    """The table of scores, and mean returns of the same episodes."""
    counted = min((score["num_episodes"] for score in summary["scores"].values()), default=0)
    returns = {
        name: fmean(row["return"] for row in rows if row["purpose"] == "final" and row["index"] < counted)
        for name, rows in ledgers.items()
    }
    return [score_row(label(name), Interval(**score), returns[name]) for name, score in summary["scores"].items()]


def data_facts(dataset: Dataset) -> list[tuple[str, str]]:
    """The summary of the recording, line by line."""
    summary, held = dataset.recording.summary(), len(dataset.validation) if dataset.validation else 0
    scored = dataset.env.measure == "score"
    return [
        ("data", dataset.label),
        ("episodes", f"{summary['episodes']:,} of {summary['length_min']} to {summary['length_max']} steps, "
                     f"{summary['steps']:,} steps in all"),
        ("return", f"mean {summary['return_mean']:.1f}, {summary['return_min']:.1f} to {summary['return_max']:.1f}"
                   + (f"; mean score {dataset.env.score(summary['return_mean']):.1f}" if scored else "")),
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


def origin_of(dataset: Dataset) -> tuple[str, str]:
    """The provenance of the data in a line."""
    said = ((key, value) for key, value in dataset.provenance.items() if key not in ("label", "says", "minari"))
    return "data", ", ".join(f"{key} {value}" for key, value in said if value is not None)
