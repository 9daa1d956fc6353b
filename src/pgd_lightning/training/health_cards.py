"""A summary of each synthetic dataset, written while an agent is trained."""

from dataclasses import dataclass

from torch import Tensor

from pgd_lightning.agents.agent import Agent
from pgd_lightning.data.modules import SyntheticDataModule
from pgd_lightning.environment import EnvSpec
from pgd_lightning.evaluation.fidelity import DataDistance
from pgd_lightning.evaluation.health import health_line, health_summary
from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import Policy, Trajectory, Transition


@dataclass
class HealthCards:
    """Writes a summary of each synthetic dataset to the run's ``health.jsonl``."""

    run: Run
    module: Agent
    env: EnvSpec
    transitions: Transition
    obs_std: Tensor  # [O], see :func:`pgd_lightning.evaluation.fidelity.step_errors`
    behaviour: Policy
    rows: int
    seed: int
    data: SyntheticDataModule | None = None  # which knows how the set was made

    def __post_init__(self) -> None:
        self.simulator = make(self.env.task, self.env.physics)
        self.distance = DataDistance(self.transitions, 20_000, self.seed)

    def __call__(self, step: int, windows: Trajectory) -> None:
        summary = health_summary(
            windows, self.module.policy, self.behaviour, self.simulator, self.obs_std, self.distance,
            self.rows, self.seed,
        )  # fmt: skip
        used = self.data.used if self.data else None
        self.run.append("health.jsonl", [{"step": step, **summary, **(used.record() if used else {})}])
        line = ", ".join([health_line(summary, self.simulator.unresettable), *([str(used)] if used else [])])
        unguided = step == 0 and self.data is not None and self.data.settings.first_unguided
        say(f"  synthetic dataset of update {step:,}{' (unguided: no policy yet)' if unguided else ''}: {line}")
