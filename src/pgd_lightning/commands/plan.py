"""What ``pgd train`` is about to do: its stages, how long each takes on this machine, and where results will be."""

from __future__ import annotations

import copy
import os
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig

from pgd_lightning.artifacts.agent_modules import build_agent
from pgd_lightning.artifacts.agents import agent_label, run_of_agent
from pgd_lightning.artifacts.behaviour import behaviour_run, build_behaviour, needs_behaviour, real_batches
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.models import build_model, length_of, run_of_model, steps_of, training_set
from pgd_lightning.artifacts.training_settings import trainer_settings
from pgd_lightning.config.build import build
from pgd_lightning.data.modules import SyntheticSettings, WindowDataModule
from pgd_lightning.generators.calibration import Calibrated
from pgd_lightning.generators.matching import StdMatched
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.runs import ranks
from pgd_lightning.runs.console import duration
from pgd_lightning.runs.identity import trained_section
from pgd_lightning.runs.run import Run
from pgd_lightning.training.fit import ALONE, accelerator, trainer_of
from pgd_lightning.trajectory import Generator

WARM_UP, FEWEST, MOST = 3, 5, 100  # steps of a copy of each module: untimed, and timed
SAMPLED = 64  # windows, to time sampling
CROWDED = 0.25  # cores beyond the spare ones that others use: from there on times are not told


@dataclass(frozen=True)
class Stage:
    """One training of a command. ``seconds``: what is left of it, None where it was not timed.

    ``at_least``: they are without the sampling of synthetic data, which was not timed.
    """

    title: str
    work: str
    done: int
    steps: int
    seconds: float | None
    untimed: str = "not timed"
    at_least: bool = False

    @property
    def finished(self) -> bool:
        return self.done >= self.steps

    def line(self, number: int, title_width: int, work_width: int) -> str:
        """One row of the plan's table."""
        if self.finished:
            left = "trained already"
        elif self.seconds is None:
            left = self.untimed
        else:
            left = f"{'at least' if self.at_least else 'about'} {duration(self.seconds)}"
            left += f", from step {self.done:,}" if self.done else ""
            left += "; sampling is not timed" if self.at_least else ""
        return f"  {number}  {self.title:<{title_width}}  {self.work:<{work_width}}  {left}"


def text(stages: list[Stage], results: str) -> str:
    """The plan as a table."""
    title_width, work_width = (max(len(getattr(stage, key)) for stage in stages) for key in ("title", "work"))
    lines = [stage.line(number + 1, title_width, work_width) for number, stage in enumerate(stages)]
    left = [stage for stage in stages if not stage.finished]
    known = [stage.seconds for stage in left if stage.seconds is not None]
    about = "at least" if len(known) < len(left) or any(stage.at_least for stage in left) else "about"
    total = f", {about} {duration(sum(known))} on this machine without evaluation" if known else ""
    return "\n".join([f"plan: {len(stages)} training runs{total}; results will be in {results}", *lines])


def planned(conditions: list[DictConfig], clone: DictConfig, dataset: Dataset) -> list[Stage]:
    """:func:`stages`, without times if other processes wanted the same cores while they were taken.

    Torch's threads wait for each other at every operation, so a step beside another process may take fifty times as
    long as one alone, and says nothing of the next minute.
    """
    if all(run_of_agent(config, dataset, Run.named).finished for config in (*conditions, clone)):
        conditions, clone = [untimed(config) for config in conditions], untimed(clone)
    began, before = time.monotonic(), others_seconds()
    found = list(stages(conditions, clone, dataset))
    took, after = time.monotonic() - began, others_seconds()
    spare = (os.cpu_count() or 1) - torch.get_num_threads()
    if before is not None and after is not None and (after - before) / took > spare + CROWDED:
        return [replace(stage, seconds=None, untimed="not timed: other processes use the cores") for stage in found]
    return found


def others_seconds() -> float | None:
    """Processor time, in seconds, that all processes of this machine but this one have used; None: not known here."""
    try:
        used = sum(map(int, Path("/proc/stat").read_text().split()[1:4]))  # user, nice, system
    except (OSError, ValueError):
        return None
    return used / os.sysconf("SC_CLK_TCK") - sum(os.times()[:2])


def stages(conditions: list[DictConfig], clone: DictConfig, dataset: Dataset) -> Iterator[Stage]:
    """The trainings of the agents of ``conditions``, in the order of the command; of processes together, untimed."""
    yield agent_stage(clone, dataset, "behaviour cloning (for log-likelihoods)", agent_pace(clone, dataset), 0)
    models: dict[str, WindowModel] = {}
    of_an_update = agent_pace(conditions[0], dataset)  # equal for all, but for the sampling
    for config in conditions:
        section = trained_section(config)
        if section is not None and section not in models:
            stage, models[section] = model_stage(config, section, dataset)
            yield stage
        if needs_behaviour(config) and config is conditions[0]:
            yield behaviour_stage(config, dataset)
        of_a_window = window_seconds(config, models[section], dataset) if section else 0
        yield agent_stage(config, dataset, agent_label(config), of_an_update, of_a_window)


def model_stage(config: DictConfig, section: str, dataset: Dataset) -> tuple[Stage, WindowModel]:
    """Training of the model behind a generator, and that model, untrained."""
    train, _ = training_set(config, section, dataset)
    settings = config[section]
    steps = steps_of(settings, train)
    model = build_model(config, section, steps)
    run = run_of_model(config, section, model, dataset, Run.named)
    size = sum(p.numel() for p in model.parameters() if p.requires_grad)
    work = f"{size:,} parameters, {length_of(settings, steps)}, batch size {settings.batch_size}"
    rows = train[torch.arange(min(len(train), settings.batch_size))]
    model.fit_units([rows])
    seconds = None
    if not run.finished and len(train) >= settings.batch_size:
        seconds = pace(config, model, WindowDataModule(train, None, settings.batch_size, config.seed, steps))
    stage = stage_of(section, work, run, steps, seconds)
    if settings.steps == "auto" and not stage.finished:  # most of its steps may never be taken
        stage = replace(stage, seconds=None)
    return stage, model


def window_seconds(config: DictConfig, model: WindowModel, dataset: Dataset) -> float | None:
    """Seconds of sampling a window, under the policy of a new agent where windows are guided; None: not timed."""
    if not isinstance(model, DiffusionPrior) or ranks.count() > 1 or not config.plan.seconds:
        return None
    generator: Generator = build(config.generator.build)(model)
    guidance = getattr(generator, "guidance", None)
    if isinstance(generator, StdMatched) or isinstance(guidance, Calibrated):
        return None  # how long the search for a strength takes depends on the policy
    device = accelerator(config.trainer.accelerator)
    policy = build_agent(config, dataset).to(device).policy if guidance else None
    starts = torch.zeros(config.seeds, -(-SAMPLED // config.seeds), config.env.obs_dim, device=device)
    took = 0.0
    for _ in range(2):  # the first is slower
        began = time.monotonic()
        generator.generate(policy, starts, config.seed).cpu()  # which waits for a GPU
        took = time.monotonic() - began
    return took / starts.shape[:-1].numel()


def untimed(config: DictConfig) -> DictConfig:
    """``config`` without tried steps."""
    changed = config.copy()
    changed.plan.seconds = 0
    return changed


def agent_pace(config: DictConfig, dataset: Dataset) -> float | None:
    """Seconds of an update of the agent of ``config`` on real data."""
    module = build_agent(config, dataset)
    size, next_action = config.synthetic.batch_size, module.learner.next_action
    return pace(config, module, real_batches(config, dataset, module.seeds, WARM_UP + MOST, size, next_action))


def agent_stage(
    config: DictConfig, dataset: Dataset, title: str, of_an_update: float | None, of_a_window: float | None
) -> Stage:
    """Training of an agent, from the seconds of an update and of generating a synthetic window; None: not timed."""
    learners = f"{config.seeds} seeds" if config.seeds > 1 else "1 seed"
    work = f"{learners}, {config.updates:,} updates, batch size {config.synthetic.batch_size}"
    if config.generator.build is not None:
        drawn = SyntheticSettings(**config.synthetic).drawn(config.updates, config.data.horizon)
        work += f", each synthetic step drawn {drawn:,.1f} times"
    seconds = of_an_update
    if seconds is not None and of_a_window:
        windows = -(-config.updates // config.synthetic.lifetime) * config.synthetic.num_windows * config.seeds
        seconds += windows * of_a_window / config.updates
    stage = stage_of(title, work, run_of_agent(config, dataset, Run.named), config.updates, seconds)
    return replace(stage, at_least=seconds is not None and of_a_window is None)


def behaviour_stage(config: DictConfig, dataset: Dataset) -> Stage:
    """Training of the behaviour model that the agent holds."""
    settings, run = config.pretraining, behaviour_run(config, dataset, Run.named)
    seconds = None
    if not run.finished:
        data = real_batches(config, dataset, [settings.seed], WARM_UP + MOST, settings.batch_size)
        seconds = pace(config, build_behaviour(config, dataset), data)
    work = f"{settings.updates:,} updates, batch size {settings.batch_size}"
    return stage_of("behaviour model", work, run, settings.updates, seconds)


def stage_of(title: str, work: str, run: Run, steps: int, pace: float | None) -> Stage:
    """A stage, of which a checkpoint of ``run`` may have a part; ``pace``: seconds of a step."""
    done = (
        steps
        if run.finished
        else max((int(p.stem.partition("=")[2]) for p in run.checkpoints.glob("*.ckpt")), default=0)
    )
    return Stage(title, work, done, steps, None if pace is None else pace * (steps - done))


class Clock(Callback):
    """The time at each step's end."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self.times = seconds, list[float]()

    def on_train_batch_end(self, trainer: Trainer, module: LightningModule, *_: Any) -> None:
        if module.device.type == "cuda":
            torch.cuda.synchronize(module.device)
        self.times.append(time.monotonic())
        if len(self.times) >= WARM_UP + FEWEST and self.times[-1] - self.times[0] > self.seconds:
            trainer.should_stop = True


def pace(config: DictConfig, module: LightningModule, data: LightningDataModule) -> float | None:
    """Seconds of a training step of a copy of ``module``; None if ``plan.seconds`` is 0 or several processes train."""
    if ranks.count() > 1 or not config.plan.seconds:
        return None
    clock = Clock(config.plan.seconds)
    with warnings.catch_warnings(action="ignore"):  # Lightning's are said where the training itself begins
        trainer = Trainer(
            **trainer_of(trainer_settings(config), ALONE, module), max_steps=WARM_UP + MOST, max_epochs=-1,
            callbacks=[clock], logger=False, enable_checkpointing=False, enable_progress_bar=False,
            enable_model_summary=False, num_sanity_val_steps=0, limit_val_batches=0,
        )  # fmt: skip
        trainer.fit(copy.deepcopy(module), data)
    steps = [after - before for before, after in pairwise(clock.times[WARM_UP - 1 :])]
    return min(steps, default=None)  # other processes and first times make steps longer, nothing makes them shorter
