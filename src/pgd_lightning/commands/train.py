"""``pgd train``: the whole story. Data -> prior -> agent on real and synthetic batches -> evaluation -> report."""

from __future__ import annotations

import json
import time

from omegaconf import DictConfig

from pgd_lightning.artifacts.agents import behaviour_clone, run_and_agent, train_agent
from pgd_lightning.artifacts.dataset import open_dataset
from pgd_lightning.artifacts.training_settings import mirror_settings
from pgd_lightning.commands import plan
from pgd_lightning.config.compose import compose_config
from pgd_lightning.report import run_report
from pgd_lightning.report.summary import readings
from pgd_lightning.runs import ranks
from pgd_lightning.runs.console import duration, say
from pgd_lightning.runs.provenance import command_line, program
from pgd_lightning.training.loggers import mirror_figures

# Changes of a command that make the policy for log-likelihoods under the data's.
BEHAVIOUR = ("agent=bc", "generator=none", "seeds=1")


def main(config: DictConfig, overrides: list[str]) -> None:
    """Train the chosen generator's agent and those of ``compare``; write and print the comparison."""
    began = time.monotonic()
    dataset = open_dataset(config)
    configs, clone = conditions(config, overrides), clone_config(overrides, config)
    run, _ = run_and_agent(config, dataset)
    if ranks.rank() == 0:
        say(plan.text(plan.planned(configs, clone, dataset), str(run.folder / "report")))
    runs, windows = [], None
    for condition in configs:
        behaviour = behaviour_clone(clone, dataset)
        runs.append(train_agent(condition, dataset, behaviour, shared=condition is not config))
        if ranks.rank() == 0:
            windows = run_report.measure_windows(runs[0], dataset) if len(runs) == 1 else windows
            figures = run_report.write(runs, dataset, windows)
    if ranks.rank() > 0:
        return
    mirror_figures(mirror_settings(config, dataset.provenance), runs[0], figures)
    report = runs[0].folder / "report"
    say(f"\n{(report / 'table.txt').read_text()}")
    for line in readings(json.loads((report / "summary.json").read_text())):
        say(line)
    say(f"\npage:    {report / 'index.html'}  ({duration(time.monotonic() - began)} in all)")
    say(f"again:   {command_line()}")
    say(f"next:    {program()} generate run={runs[0].folder}   # synthetic data as a file in D4RL's layout")


def conditions(config: DictConfig, overrides: list[str]) -> list[DictConfig]:
    """The configs of the agents that a command trains: its own, then those of the generators to compare with."""
    others = [name for name in config.compare if name != config.generator.name]
    return [config, *(recompose(overrides, f"generator={name}") for name in others)]


def recompose(overrides: list[str], *changes: str) -> DictConfig:
    """The same command with other choices; settings of an agent or generator not chosen any more are left out."""
    keys = {change.split("=")[0] for change in changes}
    obsolete = tuple(f"{group}{mark}" for group in ("agent", "generator") if group in keys for mark in "./")
    kept = (o for o in overrides if o.split("=")[0] not in keys and not o.startswith(obsolete))
    return compose_config("train", [*kept, *changes])


def clone_config(overrides: list[str], config: DictConfig) -> DictConfig:
    """The config of the behaviour-cloned policy that measures likelihood under the behaviour."""
    return recompose(overrides, *BEHAVIOUR, f"updates={config.behaviour.updates}")
