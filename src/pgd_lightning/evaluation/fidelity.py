"""How faithful are windows: dynamics and reward error in the real simulator, likelihood, distance to the data."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pgd_lightning.channels import in_own_units, mean_and_std
from pgd_lightning.simulators import Simulator, one_step, reset_from_obs
from pgd_lightning.trajectory import Policy, Trajectory, Transition

ROUNDING = 1e-6  # of an observation, in its own units

Array = NDArray[np.float64]


@dataclass(frozen=True)
class StepErrors:
    """One real step from each generated row, compared with the row after it.

    Rows not exactly resettable are out; where no row is, because the observation hides part of the state, all are in,
    reset as well as the simulator can: ``approximate``.
    """

    dynamics: Array  # [R] mean over dims of squared error, each in the data's standard deviation if it has one
    raw: Array  # [R] largest absolute error of a component, in the environment's units
    reward: Array  # [R] absolute error
    real_reward: Array  # [R] what the simulator paid
    given_reward: Array  # [R] what the row says
    terminated: NDArray[np.bool_]  # [R] what the simulator does
    had_ended: Array  # [B], left-out rows too: 1 where the row's state has ended an episode already; NaN: none can
    position: NDArray[np.int64]  # [R] row in the window
    skipped: int  # rows whose state the observation does not determine
    approximate: bool


def step_errors(simulator: Simulator, windows: Trajectory, obs_std: Tensor, max_rows: int, seed: int) -> StepErrors:
    """Reset the simulator to rows of ``windows [N, T]``, apply their action, compare (PGD's workshop version, 4.2).

    ``max_rows`` rows are drawn without replacement from those that have a successor in their window: not the last,
    and none that ends an episode.
    """
    rows = windows.batch_size[-1]
    going_on = np.flatnonzero(~windows.terminated[:, :-1].cpu().numpy())
    chosen = np.random.default_rng(seed).permutation(going_on)[:max_rows]
    return transition_errors(simulator, windows.transitions()[torch.as_tensor(chosen)], obs_std, chosen % (rows - 1))


def transition_errors(
    simulator: Simulator, steps: Transition, obs_std: Tensor, position: NDArray[np.int64] | None = None
) -> StepErrors:
    """As :func:`step_errors`, for ``steps [B]`` that stand at ``position [B]`` in their windows."""
    obs, action = (t.cpu().double().numpy() for t in (steps.obs, steps.action))
    next_obs, reward, terminated, exact, had_ended = one_step(simulator, obs, action)
    used = exact if exact.any() else np.isfinite(reward)
    wrong = next_obs - steps.next_obs.cpu().double().numpy()
    scaled = wrong / in_own_units(obs_std).numpy()
    given = steps.reward.cpu().double().numpy()
    return StepErrors(
        dynamics=(scaled**2).mean(-1)[used],
        raw=np.abs(wrong).max(-1)[used],
        reward=np.abs(reward - given)[used],
        real_reward=reward[used],
        given_reward=given[used],
        terminated=terminated[used],
        had_ended=had_ended,
        position=(np.zeros(len(obs), dtype=np.int64) if position is None else position)[used],
        skipped=int((~used).sum()),
        approximate=bool(used.any() and not exact.any()),
    )


class Ends(TypedDict, total=False):
    """See :func:`ends_judged`."""

    starts_after_end: float | None
    terminal_agreement: float | None
    terminals_checked: int | None
    false_terminals: int | None
    others_checked: int | None
    missed_terminals: int | None


def ends_judged(simulator: Simulator, windows: Trajectory, going_on: StepErrors, max_rows: int, seed: int) -> Ends:
    """Where steps of ``windows [N, T]`` begin and end, by the simulator; ``going_on`` are :func:`step_errors` of them.

    ``starts_after_end``: share of the steps that start in a state in which an episode has ended already. None where
    no state ends one. ``terminal_agreement``: share of the steps whose terminal flag is the simulator's; None without
    a terminal on either side, and, with all counts, where an observation does not decide it. ``terminals_checked``:
    flagged steps that were stepped, ``max_rows`` at most, of which the simulator does not end ``false_terminals``;
    ``others_checked``: others that were, of which it ends ``missed_terminals``.

    The shares are of all steps: those that have a successor in their window and those flagged.
    """
    flagged = windows[windows.terminated]
    chosen = torch.as_tensor(np.random.default_rng(seed).permutation(len(flagged))[:max_rows])
    obs, action = (values[chosen].cpu().double().numpy() for values in (flagged.obs, flagged.action))
    _, reward, terminated, exact, had_ended = one_step(simulator, obs, action)
    used = exact if exact.any() else np.isfinite(reward)
    number = len(flagged), int((~windows.terminated[:, :-1]).sum())  # of steps that end an episode, and of others
    false, missed = ~terminated[used], going_on.terminated  # [R] of those stepped
    seen, decided = simulator.end_is_seen, len(false) > 0 or missed.any()
    return {
        "starts_after_end": _share(number, (had_ended, going_on.had_ended)),
        "terminal_agreement": _share(number, (~false, ~missed)) if seen and decided else None,
        "terminals_checked": len(false) if seen else None,
        "false_terminals": int(false.sum()) if seen else None,
        "others_checked": len(missed) if seen else None,
        "missed_terminals": int(missed.sum()) if seen else None,
    }


def _share(number: Sequence[int], sampled: Sequence[NDArray[Any]]) -> float | None:
    """Share of all steps, of which there are ``number`` of each kind, by the values ``sampled`` of each (NaN left out).

    None where nothing was sampled.
    """
    seen = [(count, values[~np.isnan(values)]) for count, values in zip(number, sampled, strict=True)]
    total = sum(count for count, values in seen if len(values))
    return sum(count * float(values.mean()) for count, values in seen if len(values)) / total if total else None


def median(values: Array) -> float | None:
    """None of nothing."""
    return float(np.median(values)) if len(values) else None


def simulated(simulator: Simulator, obs: Array, action: Array) -> Array:
    """What the simulator makes of the actions of windows: ``obs [n, T, O], action [n, T, A] -> [n, T, O]``.

    Each starts from its own first observation, and ends, in NaN, where the episode does.
    """
    real = np.full(obs.shape, np.nan)
    if simulator.unresettable:
        return real
    for window, (rows, actions) in enumerate(zip(obs, action, strict=True)):
        reset_from_obs(simulator, rows[0])
        real[window, 0] = rows[0]
        for row, act in enumerate(actions[:-1]):
            real[window, row + 1], _, terminated = simulator.step(act)
            if terminated:
                break
    return real


def open_loop_errors(simulator: Simulator, windows: Trajectory, obs_std: Tensor) -> Array:
    """How far ``windows [N, T]`` are from where the simulator gets by their actions from their starts: ``[N, T]``.

    Squared, mean over dims, in the data's variance; NaN after the end of the simulator's episode or of the window's.
    """
    obs, action = (values.cpu().double().numpy() for values in (windows.obs, windows.action))
    apart = (obs - simulated(simulator, obs, action)) / in_own_units(obs_std).numpy()
    ended = (windows.terminated.int().cumsum(-1) - windows.terminated.int() > 0).cpu().numpy()
    return np.where(ended, np.nan, (apart**2).mean(-1))


def beyond(obs: Tensor, recorded: Tensor) -> Tensor:
    """Which observations have a value that ``recorded [B, O]`` never reach: ``[..., O] -> [...]``.

    Actions do not count: a recorded tanh ends below 1, which every clipped Gaussian reaches without being far away.
    """
    low, high = recorded.double().aminmax(dim=0)
    return ((obs.double() < low - ROUNDING) | (obs.double() > high + ROUNDING)).any(-1)


def log_likelihood(policy: Policy, windows: Trajectory) -> Tensor:
    """Mean of log pi(a_t | s_t) over the T - 1 steps: ``[..., N, T] -> [..., N]``, without tanh determinant.

    The last row's action leads nowhere, so it is no part of the experience (and not made by models of single steps).
    """
    return policy.log_prob(windows.obs[..., :-1, :], windows.action[..., :-1, :]).mean(-1)


def mean_density(policy: Policy, windows: Trajectory) -> Tensor:
    """Mean of pi(a_t | s_t) over the T - 1 steps, as in PGD's workshop version (4.2): ``[..., N, T] -> [..., N]``."""
    return policy.log_prob(windows.obs[..., :-1, :], windows.action[..., :-1, :]).exp().mean(-1)


class DataDistance:
    """Distance of (obs, action) rows to their nearest real row, in standard deviations of the data.

    A dim that is constant in the data counts in the environment's units.
    """

    def __init__(self, real: Transition, max_rows: int, seed: int) -> None:
        self.real = real[torch.as_tensor(np.random.default_rng(seed).permutation(len(real))[:max_rows])]
        rows = pairs(self.real)
        self.scale = in_own_units(mean_and_std(torch.as_tensor(rows))[1]).numpy()
        self.tree = cKDTree(rows / self.scale)

    def __call__(self, steps: Transition) -> Array:
        """``[B] -> [B]``."""
        return self.tree.query(pairs(steps) / self.scale)[0]


def pairs(steps: Transition) -> Array:
    """(obs, action) rows ``[B, O + A]``."""
    return torch.cat([steps.obs, steps.action], dim=-1).cpu().double().numpy()


@torch.no_grad()
def finite(windows: Trajectory) -> Tensor:
    """Which of ``windows [..., N, T]`` hold neither NaN nor infinity in observations and actions: ``[..., N]`` bool."""
    return torch.stack([t.isfinite().flatten(-2).all(-1) for t in (windows.obs, windows.action)]).all(0)


def persistence_error(windows: Trajectory, obs_std: Tensor) -> float:
    """Median squared error, in variances of the data, of predicting no change in a step of ``windows [N, T]``."""
    return error_of_no_change(windows.obs[:, :-1], windows.obs[:, 1:], obs_std)


def error_of_no_change(obs: Tensor, next_obs: Tensor, obs_std: Tensor) -> float:
    """As :func:`persistence_error`, of steps ``[..., O]``."""
    return float(((next_obs - obs).cpu() / in_own_units(obs_std.cpu())).square().mean(-1).median())


def not_available(why: str) -> str:
    """In place of a one-step error."""
    return f"one-step error: not available, because {why}"
