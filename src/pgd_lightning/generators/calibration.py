"""Guidance in a unit of its own: 0 is the data, 1 is as likely under the policy as the policy's own actions.

The coefficient of a rule means something else for each sampler, number of steps, body and policy. Here it is searched,
for each policy and each synthetic set, such that what is measured is what was asked for.

The yardstick is :func:`likeness`: the density of an action relative to its peak, exp(-z^2 / 2) with z the distance to
the policy's mean in its standard deviations, mean over windows, rows and action dims. Actions drawn from a Gaussian
have 1 / sqrt(2), the mean action 1, far ones 0. A mean of log-likelihoods is one of z^2 and has no bound: where
unguided actions lie at z = 20, "nine tenths of the way" would still be z = 6, and a few rows would decide. As a mean of
something bounded, strength u has a plain meaning as well: as likely as if a share u of the actions were drawn from the
policy and the others left to the data.

A deterministic policy (TD3+BC) counts, in the guidance's gradient, as a Gaussian of standard deviation 1, half of the
box in which actions lie: under it the data's actions are likelier than its own. It is measured with ``least_std``
instead, the standard deviation that TD3 explores with, and so is a Gaussian that is narrower than that.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.generators.guidance import Guidance
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Policy, Trajectory

UP, DOWN = 4.0, 32.0  # the largest factors between two coefficients; a larger step up may pass over the whole peak
FAR = 0.1  # of the way: a strength that was missed by more is said
WORSE = 0.1  # of the way asked for: a stronger coefficient that falls so far behind a weaker one is too strong
MARGIN, LEAST_UP = 1.5, 2.0  # a step to an unknown side aims so much beyond the wanted one, and up at least so far
INSIDE = 0.1  # of the way between two coefficients: no try is nearer to either of them


def likeness(action: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Mean of exp(-z^2 / 2) over windows, rows and dims of ``action [..., N, T, A]``: ``[...]``."""
    return torch.exp(-0.5 * ((action - mean) / std) ** 2).mean((-3, -2, -1))


def gauge(policy: Policy, obs: Tensor, least_std: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation ``[..., A]`` that actions at ``obs [..., O]`` are measured with.

    Raises UserError for a policy that is no Gaussian.
    """
    mean, std = policy.normal(obs)
    inwards = torch.where(mean > 0, -1.0, 1.0).to(mean.dtype)
    draws = bool((policy.draw(obs, inwards) != policy.act(obs)).any())
    return mean, (std if draws else torch.zeros_like(std)).clamp(min=least_std)


@dataclass(frozen=True)
class Strength:
    """What was found, for each seed."""

    coef: Tensor  # [...], of the rule
    share: Tensor  # [...], of the way from the data to the policy, measured in the search; NaN: there is no way to go

    def record(self) -> dict[str, list[float | None]]:
        """For the health summary."""
        shares = [None if math.isnan(share) else round(share, 4) for share in self.share.flatten().tolist()]
        return {"guidance_coef": self.coef.flatten().tolist(), "guidance_share": shares}

    def __str__(self) -> str:
        coefs, shares = self.coef.flatten().tolist(), self.share[~self.share.isnan()].tolist()
        if not shares:
            return "unguided: the data's actions are as likely as the policy's own"
        return f"guidance coefficient {span(coefs, '.3g')} ({span(shares, '.2f')} of the way to the policy)"


def span(values: list[float], form: str) -> str:
    """Smallest and largest."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


@dataclass
class Search:
    """The coefficient of one seed at which likeness, ``low`` at 0, is ``wanted``.

    Likeness rises with the coefficient up to a peak, beyond which guidance overshoots; it is looked for below the peak.
    """

    coef: float  # to be tried next
    low: float
    wanted: float
    within: float
    tried: dict[float, float] = field(default_factory=dict)

    def tell(self, value: float) -> None:
        """The likeness at ``coef``; NaN counts as beyond the peak."""
        self.tried[self.coef] = -math.inf if math.isnan(value) else value
        self.coef = self.best if self.done else self._next()

    @property
    def best(self) -> float:
        """The coefficient whose likeness was nearest to what is wanted."""
        return min(self.tried, key=lambda coef: abs(self.tried[coef] - self.wanted))

    @property
    def done(self) -> bool:
        """Whether that is near enough."""
        return bool(self.tried) and abs(self.tried[self.best] - self.wanted) <= self.within

    def _next(self) -> float:
        """Likeness grows about in proportion to the coefficient where both are small."""
        below, above = self._bracket()
        way = self.wanted - self.low
        if above is None:  # nothing was strong enough: beyond the strongest
            share = (self.tried[below] - self.low) / way
            return below * (min(max(MARGIN / share, LEAST_UP), UP) if share > 0 else UP)
        value = self.tried[above]
        crossed = value >= self.wanted  # else it lies beyond the peak, and says nothing of where the wanted one is
        if below == 0:  # nothing was too weak: below the weakest
            return above * (max(way / (value - self.low) / MARGIN, 1 / DOWN) if crossed else 1 / UP)
        start = self.tried[below]  # between the two, in the logarithm
        part = (self.wanted - start) / (value - start) if crossed else 0.5
        return below * (above / below) ** min(max(part, INSIDE), 1 - INSIDE)

    def _bracket(self) -> tuple[float, float | None]:
        """The strongest that is too weak (0: none), and the weakest that is strong enough or beyond the peak."""
        below, best = 0.0, self.low
        for coef, value in sorted(self.tried.items()):
            if value >= self.wanted or value < best - WORSE * (self.wanted - self.low):
                return below, coef
            below, best = coef, max(best, value)
        return below, None


@dataclass(frozen=True)
class Calibrated:
    """Settings of a guidance whose strength is a share of the way from the data to the policy."""

    rule: Any  # a guidance with a ``coef``
    coef: float  # of the rule, tried first
    strength: float  # 0: the data; 1: as likely under the policy as actions drawn from it
    least_std: float  # of a policy, in actions: below it, its standard deviation counts as this
    windows: int  # generated at each try, for each seed
    tries: int  # at most
    within: float  # so near to the strength the search ends

    def found(self, sample: Callable[[Guidance | None], Trajectory], policy: Policy, seed: int) -> Strength:
        """The strength of each seed; ``sample`` makes windows ``[..., windows, T]``, always of the same noise.

        Each seed has a coefficient of its own: seeds are independent learners whose policies differ, and what one of
        them learns must not decide what another learns from.
        """
        unguided = sample(None)[..., :-1]
        mean, std = gauge(policy, unguided.obs, self.least_std)
        low = likeness(unguided.action, mean, std)
        noise = torch.randn(mean.shape, generator=stream(seed, "calibration/draws"), dtype=mean.dtype).to(mean.device)
        high = likeness((mean + std * noise).clamp(-1, 1), mean, std)
        way = torch.where(high - low > self.within, high - low, torch.nan)
        searches = {
            place: Search(float(self.coef), start, start + self.strength * length, self.within * length)
            for place, (start, length) in enumerate(zip(low.flatten().tolist(), way.flatten().tolist(), strict=True))
            if self.strength > 0 and not math.isnan(length)
        }
        for _ in range(self.tries):
            if all(search.done for search in searches.values()):
                break
            values = self._tried(searches, low, sample, policy)
            for place, search in searches.items():
                search.tell(float(values[place]))
        coef, share = torch.zeros_like(low).flatten(), torch.where(way.isnan(), way, 0.0).flatten()
        for place, search in searches.items():
            coef[place] = search.best
            share[place] = (search.tried[search.best] - search.low) / float(way.flatten()[place])
        return self._warned(Strength(coef.reshape(low.shape), share.reshape(low.shape)))

    def _tried(
        self, searches: dict[int, Search], low: Tensor, sample: Callable[[Guidance | None], Trajectory], policy: Policy
    ) -> Tensor:
        """Likeness, flat, at each seed's next coefficient."""
        coef = torch.zeros_like(low).flatten()
        for place, search in searches.items():
            coef[place] = search.coef
        windows = sample(replace(self.rule, coef=coef.reshape(low.shape)))[..., :-1]
        return likeness(windows.action, *gauge(policy, windows.obs, self.least_std)).flatten()

    def _warned(self, found: Strength) -> Strength:
        if bool(((found.share - self.strength).abs() > max(FAR, self.within)).any()):
            print(f"warning: guidance.strength={self.strength:g} was not reached: {found}")
        return found
