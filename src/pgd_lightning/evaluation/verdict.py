"""Whether a prior is accurate enough: one-step error of its windows, compared with no change and held-out data."""

from dataclasses import dataclass

from torch import Tensor

from pgd_lightning.evaluation.fidelity import finite, median, not_available, persistence_error, step_errors
from pgd_lightning.simulators import Simulator
from pgd_lightning.trajectory import Trajectory


@dataclass(frozen=True)
class Verdict:
    """Medians of squared one-step errors, in variances of the data."""

    error: float | None  # of the prior's windows; None where no simulator can be put into their states
    persistence: float  # of predicting no change, on held-out windows
    floor: float | None  # of held-out windows as they were recorded
    unavailable: str | None = None  # why there is no error

    def sentence(self, limit: float) -> str:
        """The errors in words; a warning where the prior's is above ``limit`` times the persistence error."""
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
    if simulator.unresettable:
        return Verdict(None, persistence_error(held_out, obs_std), None, simulator.unresettable)
    good = finite(made)
    enough = good.float().mean() > 0.5
    return Verdict(
        error=_median(simulator, made[good], obs_std, max_rows, seed) if enough else float("inf"),
        persistence=persistence_error(held_out, obs_std),
        floor=_median(simulator, held_out, obs_std, max_rows, seed),
    )


def _median(simulator: Simulator, windows: Trajectory, obs_std: Tensor, max_rows: int, seed: int) -> float | None:
    return median(step_errors(simulator, windows, obs_std, max_rows, seed).dynamics)
