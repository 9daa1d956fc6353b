"""Is a prior good enough to learn from? One step of its windows in the simulator, beside what the data allow."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pgd_lightning.evaluation.fidelity import persistence_error, step_errors
from pgd_lightning.simulators import Simulator
from pgd_lightning.trajectory import Trajectory


@dataclass(frozen=True)
class Verdict:
    """Medians of squared one-step errors, in variances of the data."""

    error: float  # of the prior's windows
    persistence: float  # of saying that nothing changes in a step, on held-out windows
    floor: float  # of held-out windows as they were recorded

    def sentence(self, limit: float) -> str:
        """What is to be said where errors above ``limit`` times the persistence error count as harmful."""
        found = (
            f"one-step error {self.error:.2g} in the simulator ({self.persistence:.2g} if nothing changed in a step, "
            f"{self.floor:.2g} in held-out data)"
        )
        if self.floor > limit * self.persistence:
            return f"warning: {found}: this simulator does not reproduce the data, so the prior cannot be judged by it"
        if not self.error <= limit * self.persistence:
            return (
                f"warning: {found}: an agent that learns from such windows may end worse than on the data alone; train "
                f"the prior longer (prior.steps) until the error is below {limit * self.persistence:.2g}, or use "
                "generator=none"
            )
        return f"{found}: its windows move as the simulator does"


def verdict(
    simulator: Simulator, made: Trajectory, held_out: Trajectory, obs_std: Tensor, max_rows: int, seed: int
) -> Verdict:
    """Judge windows ``made [N, T]`` beside ``held_out [M, T]``; windows that are not finite count as wrong.

    At most ``max_rows`` rows of each are stepped in the simulator.
    """
    finite = torch.isfinite(made.obs).flatten(1).all(-1) & torch.isfinite(made.action).flatten(1).all(-1)
    enough = finite.float().mean() > 0.5
    return Verdict(
        error=_median(simulator, made[finite], obs_std, max_rows, seed) if enough else float("inf"),
        persistence=persistence_error(held_out, obs_std),
        floor=_median(simulator, held_out, obs_std, max_rows, seed),
    )


def _median(simulator: Simulator, windows: Trajectory, obs_std: Tensor, max_rows: int, seed: int) -> float:
    return float(np.median(step_errors(simulator, windows, obs_std, max_rows, seed).dynamics))
