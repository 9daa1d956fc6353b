"""A finished agent run: what its tables and pages say of it, and what is made of it again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.generators import generator_of, model_behind
from pgd_lightning.artifacts.models import PRIOR, verdict_key
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.environment import EnvSpec
from pgd_lightning.evaluation.verdict import Verdict
from pgd_lightning.runs.folder import damaged
from pgd_lightning.runs.identity import trained_section
from pgd_lightning.runs.run import Run
from pgd_lightning.training.fit import accelerator
from pgd_lightning.trajectory import Generator, Policy

NEEDED = ("env", "seeds", "updates", "evaluation")  # settings that every table reads


@dataclass(frozen=True)
class ReportSettings:
    """How much of an agent its page shows (``report`` of ``conf/base.yaml``)."""

    windows: int  # behind each point of the fidelity figure
    episodes_drawn: int
    frames: int  # of the picture strip


@dataclass(frozen=True)
class FinishedAgent:
    """A finished agent run with the settings of its last start."""

    run: Run

    @cached_property
    def record(self) -> dict[str, Any]:
        return self.run.record

    @cached_property
    def _config(self) -> DictConfig:
        config = settings_of(self.run)
        if missing := [name for name in NEEDED if name not in config]:
            raise damaged(self.run.folder / "config.yaml", f"it lacks {', '.join(missing)}")
        return config

    @cached_property
    def env(self) -> EnvSpec:
        return build(self._config.env)

    @property
    def agent(self) -> str:
        return str(self._config.agent.name)

    @property
    def generator(self) -> str:
        return str(self._config.generator.name)

    @property
    def seed(self) -> int:
        return int(self._config.seed)

    @property
    def seeds(self) -> int:
        """How many learners there are."""
        return int(self._config.seeds)

    @property
    def updates(self) -> int:
        return int(self._config.updates)

    @property
    def final_episodes(self) -> int:
        """Episodes a learner that the score was asked to be of; the ledger may have more."""
        return int(self._config.evaluation.final_episodes)

    @property
    def report(self) -> ReportSettings:
        settings = self._config.report
        return ReportSettings(settings.windows, settings.episodes_drawn, settings.frames)

    def setting(self, key: str) -> Any:
        """The setting of the dotted ``key`` or, where there is none of this name, what run.json has under it."""
        value = OmegaConf.select(self._config, key)
        return value if value is not None else OmegaConf.select(OmegaConf.create(self.record), key)

    @property
    def policy(self) -> Policy:
        """The trained policy, on the device that ``trainer.accelerator`` chooses."""
        module = trained_agent(self.run, self._config)
        return module.to(accelerator(self._config.trainer.accelerator)).policy

    def ready_generator(self, dataset: Dataset) -> Generator | None:
        """See :func:`pgd_lightning.artifacts.generators.generator_of`."""
        return generator_of(self.run, self._config, dataset)

    @property
    def model_section(self) -> str | None:
        """The section of the config that describes the generator's model; None for recorded data alone."""
        return trained_section(self._config)

    @property
    def model(self) -> Run | None:
        """The run of the generator's model; None for recorded data alone."""
        return None if self.model_section is None else model_behind(self.run, self._config)

    def verdict(self, model: Run) -> Verdict | None:
        """What ``model`` keeps of the accuracy of its windows, if it is a prior that was judged."""
        if self.model_section != PRIOR:
            return None
        found = model.record.get("verdicts", {}).get(verdict_key(self._config))
        return Verdict(**found) if found else None

    @property
    def verdict_limit(self) -> float:
        """See :meth:`pgd_lightning.evaluation.verdict.Verdict.sentence`."""
        return float(self._config.prior.verdict.limit)
