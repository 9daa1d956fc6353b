"""Guidance of the strength at which actions are as spread as the policy says (PolyGRAD, arXiv 2312.08533).

z = (a - mean) / std is measured on generated windows, and the strength is moved until sigma_a, the standard deviation
of z, is 1. Online that is the published rule (:func:`adapted`), one small step for each imagined batch. Where windows
are wanted for one policy only, :class:`StdMatched` searches the strength before it generates: the result depends on
(policy, starts, seed) alone, and a generator of either kind of guidance can be matched.

What the published rule does not see: sigma_a falls with the strength only up to delta / std^2 = 1.5 and rises beyond
2, where the chain oscillates and the rule runs away; and for a policy whose mean moves much with the state at small
standard deviation no strength gives 1. Strengths are bounded here, and both cases are said.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.errors import UserError
from pgd_lightning.generators.calibration import Calibrated
from pgd_lightning.trajectory import Generator, Policy, Trajectory


def standardised(policy: Policy, windows: Trajectory) -> Tensor:
    """z = (a - mean(s)) / std ``[..., N, T - 1, A]`` of all rows but the last, at the generated states."""
    kept = windows[..., :-1]
    mean, std = policy.normal(kept.obs)
    return (kept.action - mean) / std


def standard_deviation(z: Tensor) -> Tensor:
    """sigma_a: standard deviation over windows and rows of ``z [..., N, T, A]``, mean over action dims: ``[...]``."""
    return z.flatten(-3, -2).std(-2).mean(-1)


def shape_of(z: Tensor) -> dict[str, float]:
    """Of ``z [..., N, T, A]``: :func:`standard_deviation`, mean, kurtosis (a Gaussian's is 3) and share beyond 3."""
    flat = z.flatten(0, -2)
    centred = flat - flat.mean(0)
    return {
        "std": float(standard_deviation(z).mean()),
        "mean": float(flat.mean()),
        "kurtosis": float((centred**4).mean() / (centred**2).mean() ** 2),
        "beyond_3": float((z.abs() > 3).float().mean()),
    }


def adapted(coef: float, sigma_a: float, rate: float, low: float, high: float) -> float:
    """delta exp(rate (sigma_a - 1)) in [low, high]; unchanged where sigma_a is not finite."""
    moved = coef * math.exp(rate * (sigma_a - 1)) if math.isfinite(sigma_a) else coef
    return min(max(moved, low), high)


def trouble(coef: float, shape: dict[str, float], low: float, high: float, tolerance: float) -> str | None:
    """What is wrong with a matched strength, in a sentence; None where nothing is."""
    if abs(shape["std"] - 1) > tolerance:
        at = "at its bound" if coef <= low * 1.01 or coef >= high * 0.99 else "not at a bound"
        return (
            f"actions have {shape['std']:.2f} times the policy's standard deviation at strength {coef:.2g} ({at}): at "
            "low entropy, or where the mean moves much with the state, no strength gives 1."
        )
    if shape["kurtosis"] > 6:
        return f"a few actions lie far out (kurtosis {shape['kurtosis']:.1f}): sigma_a alone does not show it."
    return None


@dataclass(frozen=True)
class Bounds:
    """The strengths that are searched: from ``low`` to ``high`` times the policy's smallest variance."""

    low: float
    high: float  # in units of std^2: beyond 1.5 PolyGRAD's sigma_a rises with the strength

    def of(self, policy: Policy, obs: Tensor) -> tuple[Tensor, Tensor]:
        """``[S]`` each, at ``obs [S, N, O]``. Raises UserError for a policy without standard deviation."""
        std = policy.normal(obs)[1]
        if not (std > 0).all():
            raise UserError("The policy is deterministic, and PolyGRAD needs a density: give it a standard deviation.")
        return torch.full_like(std[:, 0, 0], self.low), self.high * std.flatten(1).amin(-1) ** 2


class StdMatched:
    """A guided generator whose strength is found anew for each policy, one for each seed."""

    def __init__(
        self,
        model: Any,
        generator: Callable[..., Generator],  # made of model= and guidance=
        guidance: Any,  # a setting of guidance with a ``coef``
        bounds: Bounds,
        windows: int,  # generated at each try, for each seed
        tries: int,
        tolerance: float,  # of sigma_a, beyond which something is said
    ) -> None:
        if isinstance(guidance, Calibrated):
            raise UserError("This generator searches a strength of its own: guidance=literal or guidance=score.")
        self.model, self.make, self.guidance = model, generator, guidance
        self.bounds, self.windows, self.tries, self.tolerance = bounds, windows, tries, tolerance
        self.coef: Tensor | None = None  # [S], of the last policy

    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[S, N, T]`` with actions in [-1, 1], for ``starts [S, N, O]``."""
        if policy is None:
            return _boxed(self.make(model=self.model, guidance=self.guidance).generate(None, starts, seed))
        self.coef = self.match(policy, starts[..., : self.windows, :], seed)
        windows = self._with(self.coef).generate(policy, starts, seed)
        self._report(policy, windows, starts)
        return _boxed(windows)

    @torch.no_grad()
    def match(self, policy: Policy, starts: Tensor, seed: int) -> Tensor:
        """The strength ``[S]`` at which sigma_a is 1, by bisection of its logarithm with the same noise throughout."""
        low, high = (bound.log() for bound in self.bounds.of(policy, starts))
        for _ in range(self.tries):
            middle = (low + high) / 2
            windows = self._with(middle.exp()).generate(policy, starts, seed)
            too_wide = standard_deviation(standardised(policy, windows)) > 1  # more strength is needed
            low, high = torch.where(too_wide, middle, low), torch.where(too_wide, high, middle)
        return ((low + high) / 2).exp()

    def _with(self, coef: Tensor) -> Generator:
        return self.make(model=self.model, guidance=replace(self.guidance, coef=coef))

    def _report(self, policy: Policy, windows: Trajectory, starts: Tensor) -> None:
        assert self.coef is not None
        bounds = [bound.detach() for bound in self.bounds.of(policy, starts)]
        z = standardised(policy, windows).detach()
        for seed, coef in enumerate(self.coef.tolist()):
            low, high = (float(bound[seed]) for bound in bounds)
            message = trouble(coef, shape_of(z[seed]), low, high, self.tolerance)
            if message:
                print(f"warning: guidance of seed {seed}: {message}")


def _boxed(windows: Trajectory) -> Trajectory:
    """Actions as the simulator takes them: a policy's draw may leave the box, and the simulator clips it."""
    windows.action = windows.action.clamp(-1, 1)
    return windows
