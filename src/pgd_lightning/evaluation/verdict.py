"""Whether a prior is accurate enough: one-step error of its windows, compared with no change and held-out data."""

from dataclasses import dataclass

from torch import Tensor

from pgd_lightning.evaluation.fidelity import finite, median, not_available, persistence_error, step_errors
from pgd_lightning.simulators import Simulator
from pgd_lightning.trajectory import Trajectory


@dataclass(frozen=True)
class Verdict:
    """Medians of squared one-step errors, in variances of the data, and the variance that windows keep."""

    error: float | None  # of the prior's windows; None where no simulator can be put into their states
    persistence: float  # of predicting no change, on held-out windows
    floor: float | None  # of held-out windows as they were recorded
    unavailable: str | None = None  # why there is no error
    variance: float | None = None  # of observations over the data's, median over dims; older verdicts do not say

    def sentence(self, limit: float) -> str:
        """The verdict in words; a warning where the prior's error is above ``limit`` times the persistence error."""
        if self.variance is None:
            return self._errors(limit)
        return f"{self._errors(limit)}. The prior's windows keep {self.variance:.0%} of the observations' variance"

    def _errors(self, limit: float) -> str:
        if self.error is None or self.floor is None:
            return not_available(self.unavailable or "no row could be restored")
        highest = limit * self.persistence
        beside = f"(predicting no change: {self.persistence:.2g}; held-out data: {self.floor:.2g})"
        if self.floor > highest:
            return (
                f"warning: median one-step error {self.error:.2g} {beside}. Held-out data exceed the limit of "
                f"{highest:.2g}: the simulator does not reproduce the data, so the prior cannot be judged by it"
            )
        if not self.error <= highest:
            return (
                f"warning: median one-step error {self.error:.2g} exceeds the limit of {highest:.2g} {beside}. "
                "Synthetic data from this prior may harm an agent. Train the prior longer (prior.steps) or "
                "use generator=none"
            )
        return f"median one-step error {self.error:.2g}, within the limit of {highest:.2g} {beside}"


def verdict(
    simulator: Simulator, made: Trajectory, held_out: Trajectory, obs_std: Tensor, max_rows: int, seed: int
) -> Verdict:
    """Compare windows ``made [N, T]`` with ``held_out [M, T]``; the error is infinite if half of ``made`` is.

    At most ``max_rows`` rows of each are stepped in the simulator.
    """
    good = finite(made)
    variance = _variance(made[good], obs_std) if good.any() and obs_std.any() else None
    if simulator.unresettable:
        return Verdict(None, persistence_error(held_out, obs_std), None, simulator.unresettable, variance)
    enough = good.float().mean() > 0.5
    return Verdict(
        error=_median(simulator, made[good], obs_std, max_rows, seed) if enough else float("inf"),
        persistence=persistence_error(held_out, obs_std),
        floor=_median(simulator, held_out, obs_std, max_rows, seed),
        variance=variance,
    )


def _variance(windows: Trajectory, obs_std: Tensor) -> float:
    varies = obs_std > 0
    kept = windows.obs[..., varies].flatten(0, -2).double().var(0, correction=0) / obs_std[varies].double() ** 2
    return float(kept.median())


def _median(simulator: Simulator, windows: Trajectory, obs_std: Tensor, max_rows: int, seed: int) -> float | None:
    return median(step_errors(simulator, windows, obs_std, max_rows, seed).dynamics)
