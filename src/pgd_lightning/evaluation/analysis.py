"""Everything that is measured of a set of windows, under one policy, on one simulator: the row of an analysis.

Sources: trajectory likelihood and dynamics error as in section 4.2 of the workshop version of
Policy-Guided Diffusion (Robot Learning Workshop, NeurIPS 2023); the rest is ours.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from sklearn.mixture import GaussianMixture
from torch import Tensor

from pgd_lightning.channels import mean_and_std
from pgd_lightning.evaluation.fidelity import (
    Array,
    DataDistance,
    Ends,
    StepErrors,
    beyond,
    ends_judged,
    finite,
    log_likelihood,
    mean_density,
    median,
    pairs,
    persistence_error,
    step_errors,
)
from pgd_lightning.evaluation.late_rewards import late_rewards
from pgd_lightning.simulators import Simulator
from pgd_lightning.trajectory import Policy, Trajectory, Transition

RESAMPLES = 500  # of a bootstrap


class WindowRow(Ends, total=False):
    """What is measured of one set of windows under one policy, see :meth:`Analyst.row`; a line of ``analysis.json``.

    Where no window is finite ``windows`` and ``finite`` are all there is. None: no step could be tried.
    """

    target: str  # the policy
    generator: str
    label: str
    guidance_coef: float | None  # 0: unguided; None: of another generator
    windows: int  # finite ones
    finite: float  # share of windows
    log_likelihood: float
    log_likelihood_interval: list[float]
    mean_density: float
    persistence_error: float
    dynamics_error_median: float | None
    dynamics_error_interval: list[float] | None
    dynamics_error_mean: float | None
    dynamics_error_p90: float | None
    raw_error_median: float | None
    raw_error_p90: float | None
    by_position: list[float | None]  # [T - 1] medians of the dynamics error
    by_position_quartiles: list[list[float] | None]
    reward_error: float | None
    return_real: float | None
    return_generated: float | None
    late_reward: float | None  # mean of the last quarter of the steps, as generated, and the policy's own there:
    late_reward_policy: float | None  # :func:`~pgd_lightning.evaluation.late_rewards.late_rewards`
    rows_stepped: int
    rows_not_resettable: int
    reset: str  # exact or approximate
    behaviour_log_density: float  # under a mixture fitted to the data
    terminals: float  # share of rows
    data_distance: float  # this and the next three: of Coverage
    coverage: float
    sample_distance: float
    outside_box: float


class BehaviourDensity:
    """log p(obs, action) of a Gaussian mixture fitted to real rows, in standard deviations of the data.

    Directions in which the data do not vary are left out. ``held_out`` is the mean log density of rows that were not
    fitted: what other real rows would get.
    """

    def __init__(self, real: Transition, components: int, max_rows: int, seed: int) -> None:
        chosen = np.random.default_rng(seed).permutation(len(real))[:max_rows]
        rows = pairs(real[torch.as_tensor(chosen)])
        mean, std = (of_each.numpy() for of_each in mean_and_std(torch.as_tensor(rows)))
        self.varies = std > 0
        self.mean, self.scale = mean[self.varies], std[self.varies]
        fitted, held_out = np.split(self._standardised(rows), [len(rows) * 9 // 10])
        self.mixture = GaussianMixture(min(components, len(fitted) // 20 + 1), reg_covar=1e-3, random_state=seed)
        self.mixture.fit(fitted)
        self.held_out = float(self.mixture.score(held_out))

    def _standardised(self, rows: Array) -> Array:
        return (rows[:, self.varies] - self.mean) / self.scale

    def __call__(self, steps: Transition) -> Array:
        """``[B] -> [B]``."""
        return self.mixture.score_samples(self._standardised(pairs(steps)))


class Coverage:
    """How far samples lie from the data and from each other, and how many observations leave the data's box.

    Distances are between (obs, action) rows in standard deviations of the data.
    """

    def __init__(self, real: Transition, max_rows: int, seed: int) -> None:
        self.nearest = DataDistance(real, max_rows, seed)
        self.recorded = real.obs

    def __call__(self, steps: Transition) -> WindowRow:
        """Of ``steps [B]``, as medians except the last.

        ``data_distance``: of a sample to the nearest real row; ``coverage``: of a real row to the nearest sample;
        ``sample_distance``: between neighbours among the samples (small where they collapse); ``outside_box``: share
        of rows with an observation that has a value which the data never reach.
        """
        rows = pairs(steps)
        tree = cKDTree(rows / self.nearest.scale)
        real = self.nearest.tree.data[: len(rows)]
        return {
            "data_distance": float(np.median(self.nearest(steps))),
            "coverage": float(np.median(tree.query(real)[0])),
            "sample_distance": float(np.median(tree.query(tree.data, k=2)[0][:, 1])),
            "outside_box": float(beyond(steps.obs, self.recorded).double().mean()),
        }


@dataclass(frozen=True)
class Analyst:
    """What every row of one analysis is measured against."""

    simulator: Simulator
    obs_std: Tensor  # [O]
    density: BehaviourDensity
    coverage: Coverage
    max_rows: int  # rows stepped in the simulator
    seed: int

    @torch.no_grad()
    def row(self, windows: Trajectory, target: Policy) -> WindowRow:
        """Measure ``windows [S, N, T]`` under the policies of S learners. Windows that are not finite are counted out.

        ``log_likelihood``: mean over rows of log pi(a | s), summed over action dims; ``mean_density``: mean over rows
        of pi(a | s), the workshop paper's trajectory likelihood; ``*_interval``: 95 % bootstrap over windows.
        ``persistence_error``: median error of the guess that nothing changes in a step of these windows.
        Dynamics errors are of one real step: ``dynamics_error_*`` squared and averaged over dims in units of the
        data's variance, ``raw_error_*`` the largest component in the environment's units. ``return_real`` and
        ``return_generated`` are the rewards of the same rows, as paid by the simulator and as generated, summed
        over a window's T - 1 steps. ``late_reward``: mean reward in the last quarter of the windows, and
        ``late_reward_policy`` what the target earns there, if it acts from the windows' first states on.
        """
        row, kept, errors = measure(self.simulator, windows, target, self.obs_std, self.max_rows, self.seed)
        if errors is None:
            return row
        steps = kept.transitions()
        chosen = torch.as_tensor(np.random.default_rng(self.seed).permutation(len(steps))[: self.max_rows])
        behaviour = self.density(steps[chosen])
        return {
            **row,
            **ends_judged(self.simulator, kept, errors, self.max_rows, self.seed),
            "behaviour_log_density": float(np.mean(behaviour)),
            "terminals": float(kept.terminated.float().mean()),
            **self.coverage(steps[chosen]),
        }


@torch.no_grad()
def measure(
    simulator: Simulator, windows: Trajectory, target: Policy, obs_std: Tensor, max_rows: int, seed: int
) -> tuple[WindowRow, Trajectory, StepErrors | None]:
    """Likelihood and one-step error of ``windows [S, N, T]``, see :meth:`Analyst.row`, and what they were measured on.

    The finite windows ``[M, T]`` on the CPU, and their errors: None where no window is finite.
    """
    windows = windows.to(target.device)
    good = finite(windows)
    kept = windows[good].cpu()
    if not len(kept):
        return {"windows": 0, "finite": 0.0}, kept, None
    likelihood = log_likelihood(target, windows)[good].cpu().double().numpy()
    density = mean_density(target, windows)[good].cpu().double().numpy()
    errors = step_errors(simulator, kept, obs_std, max_rows, seed)
    row: WindowRow = {
        "windows": len(kept),
        "finite": float(good.float().mean()),
        "log_likelihood": float(likelihood.mean()),
        "log_likelihood_interval": bootstrap(likelihood, np.mean, seed),
        "mean_density": float(density.mean()),
        "persistence_error": persistence_error(kept, obs_std),
        **error_summary(errors, kept.batch_size[-1], seed),
    }
    late = late_rewards(simulator, windows, target, max_rows, seed)
    row["late_reward"], row["late_reward_policy"] = late or (None, None)
    return row, kept, errors


def error_summary(errors: StepErrors, rows: int, seed: int) -> WindowRow:
    """The simulator's verdict on windows of ``rows`` rows, see :meth:`Analyst.row`; None where no row was stepped."""
    by_position = [errors.dynamics[errors.position == place] for place in range(rows - 1)]
    quartiles = [np.quantile(part, [0.25, 0.75]).tolist() if len(part) else None for part in by_position]
    some = len(errors.dynamics) > 0
    return {
        "dynamics_error_median": median(errors.dynamics),
        "dynamics_error_interval": bootstrap(errors.dynamics, np.median, seed) if some else None,
        "dynamics_error_mean": float(errors.dynamics.mean()) if some else None,
        "dynamics_error_p90": float(np.quantile(errors.dynamics, 0.9)) if some else None,
        "raw_error_median": median(errors.raw),
        "raw_error_p90": float(np.quantile(errors.raw, 0.9)) if some else None,
        "by_position": [median(part) for part in by_position],
        "by_position_quartiles": quartiles,
        "reward_error": median(errors.reward),
        "return_real": float((rows - 1) * errors.real_reward.mean()) if some else None,
        "return_generated": float((rows - 1) * errors.given_reward.mean()) if some else None,
        "rows_stepped": len(errors.dynamics),
        "rows_not_resettable": errors.skipped,
        "reset": "approximate" if errors.approximate else "exact",
    }


def bootstrap(values: NDArray[np.float64], statistic: Any, seed: int) -> list[float]:
    """95 % percentile interval of ``statistic`` over ``values [N]``."""
    index = np.random.default_rng(seed).integers(len(values), size=(RESAMPLES, len(values)))
    low, high = np.quantile(statistic(values[index], axis=1), [0.025, 0.975])
    return [float(low), float(high)]
