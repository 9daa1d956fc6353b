"""How faithful are windows: dynamics and reward error in the real simulator, likelihood, distance to the data."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from torch import Tensor

from pgd_lightning.channels import in_own_units, mean_and_std
from pgd_lightning.simulators import Simulator, one_step, reset_from_obs
from pgd_lightning.trajectory import Policy, Trajectory, Transition

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
    terminal_agrees: NDArray[np.bool_]  # [R]
    position: NDArray[np.int64]  # [R] row in the window
    skipped: int  # rows whose state the observation does not determine
    approximate: bool


def step_errors(simulator: Simulator, windows: Trajectory, obs_std: Tensor, max_rows: int, seed: int) -> StepErrors:
    """Reset the simulator to rows of ``windows [N, T]``, apply their action, compare (PGD workshop paper, 4.2).

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
    next_obs, reward, terminated, exact = one_step(simulator, obs, action)
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
        terminal_agrees=(terminated == steps.terminated.cpu().numpy())[used],
        position=(np.zeros(len(obs), dtype=np.int64) if position is None else position)[used],
        skipped=int((~used).sum()),
        approximate=bool(used.any() and not exact.any()),
    )


def replayed(simulator: Simulator, obs: Array, action: Array) -> Array:
    """What the simulator makes of the actions of windows: ``obs [n, T, O], action [n, T, A] -> [n, T, O]``.

    Each starts from its own first observation, and ends, in NaN, where the episode does.
    """
    real = np.full(obs.shape, np.nan)
    for window, (rows, actions) in enumerate(zip(obs, action, strict=True)):
        reset_from_obs(simulator, rows[0])
        real[window, 0] = rows[0]
        for row, act in enumerate(actions[:-1]):
            real[window, row + 1], _, terminated = simulator.step(act)
            if terminated:
                break
    return real


def log_likelihood(policy: Policy, windows: Trajectory) -> Tensor:
    """Mean of log pi(a_t | s_t) over the T - 1 steps: ``[..., N, T] -> [..., N]``, without tanh determinant.

    The last row's action leads nowhere, so it is no part of the experience (and not made by models of single steps).
    """
    return policy.log_prob(windows.obs[..., :-1, :], windows.action[..., :-1, :]).mean(-1)


def mean_density(policy: Policy, windows: Trajectory) -> Tensor:
    """Mean of pi(a_t | s_t) over the T - 1 steps, the workshop paper's likelihood: ``[..., N, T] -> [..., N]``."""
    return policy.log_prob(windows.obs[..., :-1, :], windows.action[..., :-1, :]).exp().mean(-1)


class DataDistance:
    """Distance of (obs, action) rows to their nearest real row, in standard deviations of the data.

    A dim that is constant in the data counts in the environment's units.
    """

    def __init__(self, real: Transition, max_rows: int, seed: int) -> None:
        chosen = np.random.default_rng(seed).permutation(len(real))[:max_rows]
        rows = pairs(real[torch.as_tensor(chosen)])
        self.scale = in_own_units(mean_and_std(torch.as_tensor(rows))[1]).numpy()
        self.tree = cKDTree(rows / self.scale)

    def __call__(self, steps: Transition) -> Array:
        """``[B] -> [B]``."""
        distance: Array = self.tree.query(pairs(steps) / self.scale)[0]
        return distance


def pairs(steps: Transition) -> Array:
    """(obs, action) rows ``[B, O + A]``."""
    return torch.cat([steps.obs, steps.action], dim=-1).cpu().double().numpy()


@torch.no_grad()
def health_card(
    windows: Trajectory,
    target: Policy | None,
    behaviour: Policy,
    simulator: Simulator,
    obs_std: Tensor,
    distance: DataDistance,
    max_rows: int,
    seed: int,
) -> dict[str, float | None]:
    """Is this synthetic set ``[S, N, T]`` fit to train on? Means over seeds.

    finite: share of windows without NaN or infinity; terminals: share of rows; log_likelihood_*: per action dim sum,
    mean over rows, under the policies of the S seeds and under a clone of the behaviour; dynamics_error: median
    squared one-step error in units of the data's deviation; reward_error: median absolute; data_distance: median
    distance to the nearest real (obs, action). Only finite windows are measured.
    """
    target_likelihood = float(log_likelihood(target, windows).nanmean()) if target else None
    windows = windows.to(behaviour.device)
    finite = torch.stack([torch.isfinite(t).flatten(2).all(-1) for t in (windows.obs, windows.action)]).all(0)
    flat = windows.reshape(-1, windows.batch_size[-1])
    kept = flat[finite.flatten()]
    errors = step_errors(simulator, kept, obs_std, max_rows, seed)
    sample = kept.transitions()
    picked = torch.as_tensor(np.random.default_rng(seed).permutation(len(sample))[:max_rows])
    return {
        "finite": float(finite.float().mean()),
        "terminals": float(kept.terminated.float().mean()),
        "log_likelihood_target": target_likelihood,
        "log_likelihood_behaviour": float(log_likelihood(behaviour, kept.unsqueeze(0)).mean()),
        "dynamics_error": float(np.median(errors.dynamics)),
        "reward_error": float(np.median(errors.reward)),
        "rows_not_resettable": float(errors.skipped),
        "data_distance": float(np.median(distance(sample[picked]))),
    }
