"""The report of one run: what is measured for it, and its files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.finished import FinishedAgent
from pgd_lightning.evaluation.analysis import WindowRow, measure
from pgd_lightning.evaluation.fidelity import simulated
from pgd_lightning.evaluation.ledgers import episodes
from pgd_lightning.evaluation.rollout import episode_states
from pgd_lightning.randomness import derive_seed
from pgd_lightning.report import figures, run_page
from pgd_lightning.report.analysis_figure import analysis_figure
from pgd_lightning.report.summary import summarise, table
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.folder import undamaged
from pgd_lightning.runs.names import agent_name, label
from pgd_lightning.runs.run import Run, readable
from pgd_lightning.simulators import make
from pgd_lightning.simulators.channel_names import channels_of
from pgd_lightning.simulators.rendering import render
from pgd_lightning.trajectory import Policy, Trajectory


def siblings(run: Run) -> list[Run]:
    """``run`` first, then the newest evaluated run of each other generator with all else equal."""
    record = run.record
    paths = sorted(run.folder.parents[1].glob(f"*/{run.folder.name}/run.json"), key=lambda p: p.stat().st_mtime)
    equal = (r for r in readable(paths) if r.finished and r.record.get("comparison") == record["comparison"])
    others = undamaged(Run.whole, (r for r in equal if r.record.get("generator") != record["generator"]))
    found = {other.record["generator"]: other for other in others if other.evaluated}
    return list({record["generator"]: run, **found}.values())


def write(runs: list[Run], dataset: Dataset, windows: run_page.Measured | None) -> list[Path]:
    """The report of ``runs`` into the folder of the first, ``index.html`` last; returns its figures.

    ``windows``: what :func:`measure_windows` found of the first run. Its figures are drawn by the first call and stay,
    so that a comparison is cheap to write again with each run that is finished.
    """
    folder = runs[0].folder / "report"
    folder.mkdir(exist_ok=True)
    agent = FinishedAgent(runs[0])
    env = dataset.env
    evaluated = runs if env.simulated else []
    ledgers = {run.record["generator"]: episodes(run.rows("ledger.jsonl"), env) for run in evaluated}
    summary = summarise(ledgers, dataset, agent.agent, agent.updates, agent.final_episodes)
    write_atomic(folder / "summary.json", json.dumps({**summary, "runs": [str(r.folder) for r in runs]}, indent=2))
    title = f"{agent_name(agent.agent)} on {dataset.label}"
    write_atomic(folder / "table.txt", table(summary, title))
    paths = []
    if ledgers:
        named = {label(name): rows for name, rows in ledgers.items()}
        paths.append(figures.learning_curves(named, title, folder / "learning_curves.png", measure=env.measure))
    if windows is None or not windows.figures:
        (folder / "rollout.png").unlink(missing_ok=True)  # of an earlier report: this machine may be unable to draw it
    if windows:
        if not windows.figures:
            windows.figures.extend(window_figures(windows, dataset, title, folder))
            windows.figures.extend(rollout_strip(windows.states, agent.report.frames, dataset, title, folder))
        paths += windows.figures
    run_page.write(runs, agent, dataset, summary, ledgers, windows, folder)
    return paths


@torch.no_grad()
def measure_windows(run: Run, dataset: Dataset) -> run_page.Measured | None:
    """What the report of ``run`` says of real, unguided and guided windows and of an episode; None without windows.

    Likelihood under the final policy and one-step error, and some windows to look at.
    """
    if not len(dataset.train):
        return None
    agent = FinishedAgent(run)
    policy, asked = agent.policy, agent.report
    kinds = example_windows(agent, dataset, policy)
    simulator = make(dataset.env.task, dataset.env.physics)
    rows: list[WindowRow] = [
        {
            "target": "", "generator": name, "label": name, "guidance_coef": None,
            **measure(simulator, windows, policy, dataset.obs_std, 8 * asked.windows, 0)[0],
        }
        for name, windows in kinds.items()
    ]  # fmt: skip
    drawn = asked.episodes_drawn
    pairs = {
        k: (w.obs[0, :drawn].cpu().double().numpy(), w.action[0, :drawn].cpu().double().numpy())
        for k, w in kinds.items()
    }
    states = np.empty((0, 0))
    if "qpos" in simulator.state():
        states = episode_states(dataset.env, policy, agent.seeds, derive_seed(agent.seed, "frames"))
    again = {name: simulated(simulator, *pair) for name, pair in pairs.items()}
    return run_page.Measured(rows, pairs, again, states, simulator.unresettable)


def window_figures(windows: run_page.Measured, dataset: Dataset, title: str, folder: Path) -> list[Path]:
    """The fidelity plane and a look at some windows; their numbers go to ``fidelity.json``."""
    write_atomic(folder / "fidelity.json", json.dumps({row["label"]: row for row in windows.rows}, indent=2))
    drawn = channels_of(dataset.env).drawn
    trajectories = figures.trajectories(windows.drawn, windows.replayed, drawn, title, folder / "trajectories.png")
    if windows.unresettable:  # there is no error to be drawn
        return [trajectories]
    return [analysis_figure(windows.rows, title, folder / "fidelity.png"), trajectories]


def rollout_strip(states: NDArray[np.float64], frames: int, dataset: Dataset, title: str, folder: Path) -> list[Path]:
    """``frames`` of an episode of positions ``states [steps, nq]``; nothing where the machine cannot draw."""
    if not len(states):
        return []
    every = max(len(states) // frames, 1)
    images = render(dataset.env.task, states[::every][:frames])
    if images is None:
        return []
    return [figures.strip(images, f"{title}: one episode of seed 0", folder / "rollout.png")]


def example_windows(agent: FinishedAgent, dataset: Dataset, policy: Policy) -> dict[str, Trajectory]:
    """``[S, N, T]`` of real windows and, where the run generates, of unguided and guided ones of equal noise."""
    num = min(agent.report.windows, len(dataset.train))
    chosen = torch.linspace(0, len(dataset.train) - 1, num).long()
    real = dataset.train[chosen]
    kinds = {"real": real.unsqueeze(0).expand(agent.seeds, *real.batch_size)}
    generator = agent.ready_generator(dataset)
    if generator is None:
        return kinds
    starts = real.obs[:, 0].expand(agent.seeds, -1, -1).to(policy.device)
    seed = derive_seed(agent.seed, "report")
    plain = "unguided" if agent.model_section else "recorded"
    kinds[plain] = generator.generate(None, starts, seed)
    if agent.generator != "unguided":
        guided = generator.generate(policy, starts, seed)
        if not torch.equal(guided.action, kinds[plain].action):  # some take no notice of the policy
            kinds["guided"] = guided
    return kinds
