"""Small trainings for tests: a recording made up of noise, models and agents at sizes that mean nothing."""

import warnings
from functools import cache
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from omegaconf import DictConfig

from pgd_lightning.agents import Agent
from pgd_lightning.artifacts.models import build_model
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data.modules import SyntheticDataModule, SyntheticSettings, WindowDataModule
from pgd_lightning.data.recording import Recording, Steps
from pgd_lightning.data.windows import PaddedWindows, Windows, split_padded, split_steps, window_starts
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.randomness import stream

ROWS = 12
SMALL = ("env=hopper-medium", "scale=smoke", "updates=8", "seeds=2", f"data.horizon={ROWS}", "network.features=16")
SMALL += ("synthetic.lifetime=4", "synthetic.num_windows=4", "sampler.num_steps=4", "world.sampling.num_steps=4")
SMALL += ("step_world.sampling.num_steps=3", "synther.sampling.num_steps=3", "synthetic.batch_size=32")
SMALL += ("synthetic.synthetic_batch=16",)
LOG_EVERY = 3


@cache
def composed(*extra: str) -> DictConfig:
    return compose_config("train", [*SMALL, *extra])


@cache
def recorded(episodes: int = 6, rows: int = 40) -> Recording:
    """A recording with terminals, time limits and successors that are not the next row."""
    generator = stream("recorded")
    num = episodes * rows
    number, ends = torch.arange(num) // rows, torch.arange(rows - 1, num, rows)
    last = torch.arange(num) % rows == rows - 1
    return Recording(
        obs=torch.randn(num, 11, generator=generator), action=torch.rand(num, 3, generator=generator) * 2 - 1,
        reward=torch.randn(num, generator=generator), terminated=last & (number % 2 == 0),
        truncated=last & (number % 2 == 1), has_successor=torch.ones(num, dtype=torch.bool), successor_rows=ends,
        successor_values=torch.randn(len(ends), 11, generator=generator), clipped_actions=0,
    )  # fmt: skip


def training_windows(section: str) -> Any:
    data = recorded()
    if section in ("ensemble", "synther", "step_world"):
        return split_steps(Steps(data, None), 0.0, 0)[0]
    if section == "world":
        return split_padded(data, ROWS, 0.0, 0)[0]
    return Windows(data, window_starts(data.terminated, data.truncated, ROWS, 2), ROWS)


def model(section: str, *extra: str) -> tuple[WindowModel, WindowDataModule]:
    """An untrained model that knows its units, and its data."""
    built, train = build_model(composed(*extra), section, 8), training_windows(section)
    built.log_every = LOG_EVERY
    built.fit_units((train.rows if isinstance(train, PaddedWindows) else train).batches(64))
    return built, WindowDataModule(train, None, 16, 0, 8)


def agent(*extra: str) -> tuple[Agent, SyntheticDataModule]:
    """An untrained agent, and real batches or those of a generator whose model is untrained."""
    config, data = composed(*extra), recorded()
    module: Agent = build(config.agent)
    module.log_every = LOG_EVERY
    module.fit_normaliser(data.obs)
    module.fit_rewards(data.reward, data.terminated, data.truncated)
    generator: Any = None
    if config.generator.build is not None:
        generator = build(config.generator.build)(model(config.generator.model, *extra)[0])
    steps = Steps(data, torch.arange(5, len(data)))
    return module, SyntheticDataModule(
        steps, generator, SyntheticSettings(**config.synthetic), module.seeds, total_steps=8,
        next_action=module.learner.next_action,
    )  # fmt: skip


def fitted(
    module: LightningModule, data: LightningDataModule, steps: int, here: str, checkpoint: Path | None = None,
    callbacks: list[Callback] | None = None, **place: Any,
) -> Trainer:  # fmt: skip
    """Train ``module`` on the ``cpu`` or a ``gpu``, or where ``place`` says."""
    place = place or {"accelerator": here, "devices": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = Trainer(
            **place, max_steps=steps, max_epochs=-1, logger=False, enable_checkpointing=False,
            callbacks=callbacks or [], enable_progress_bar=False, enable_model_summary=False,
            log_every_n_steps=LOG_EVERY,
        )  # fmt: skip
        trainer.fit(module, data, ckpt_path=checkpoint, weights_only=True)
    return trainer
