"""The summary of a synthetic dataset, as numbers and in a line."""

from typing import cast

import numpy as np
import torch
from torch import Tensor

from pgd_lightning.evaluation.fidelity import (
    DataDistance,
    ends_judged,
    error_of_no_change,
    finite,
    log_likelihood,
    median,
    not_available,
    step_errors,
)
from pgd_lightning.simulators import Simulator
from pgd_lightning.trajectory import Policy, Trajectory

SAID = 0.0005  # share of steps from which the line tells what is wrong with them


def health_summary(
    windows: Trajectory,
    target: Policy | None,
    behaviour: Policy,
    simulator: Simulator,
    obs_std: Tensor,
    distance: DataDistance,
    max_rows: int,
    seed: int,
) -> dict[str, float | None]:
    """Summary of a synthetic dataset ``[S, N, T]``, means over seeds.

    finite: share of windows without NaN or infinity; terminals: share of rows; log_likelihood_*: per action dim sum,
    mean over rows, under the policies of the S seeds and under a clone of the behaviour; dynamics_error: median
    squared one-step error in variances of the data, and persistence_error that of predicting no change; reward_error:
    median absolute; data_distance: median distance to the nearest real (obs, action); starts and terminals by the
    simulator: :func:`ends_judged`. Only finite windows are measured, and None is what there was nothing to measure of.
    """
    target_likelihood = float(log_likelihood(target, windows).nanmean()) if target else None
    windows = windows.to(behaviour.device)
    good = finite(windows)
    kept = windows[good]
    errors = step_errors(simulator, kept, obs_std, max_rows, seed)
    sample = kept.transitions()
    likelihood = log_likelihood(behaviour, kept.unsqueeze(0))
    ends = cast(dict[str, float | None], ends_judged(simulator, kept, errors, max_rows, seed))
    picked = torch.as_tensor(np.random.default_rng(seed).permutation(len(sample))[:max_rows])
    return {
        "finite": float(good.float().mean()),
        "terminals": float(kept.terminated.float().mean()) if len(kept) else None,
        **ends,
        "log_likelihood_target": target_likelihood,
        "log_likelihood_behaviour": float(likelihood.mean()) if len(kept) else None,
        "dynamics_error": median(errors.dynamics),
        "persistence_error": error_of_no_change(distance.real.obs, distance.real.next_obs, obs_std),
        "reward_error": median(errors.reward),
        "rows_not_resettable": float(errors.skipped),
        "data_distance": median(distance(sample[picked])) if len(sample) else None,
    }


def health_line(summary: dict[str, float | None], unresettable: str | None = None) -> str:
    """A :func:`health_summary` in one line: errors and likelihoods, and whatever is wrong with this synthetic dataset.

    ``unresettable`` is the simulator's reason for having no errors.
    """

    def named(template: str, *keys: str) -> str | None:
        values = [summary[key] for key in keys]
        return None if None in values else template.format(*values)

    def wrong(template: str, *keys: str) -> str | None:
        return named(template, *keys) if (summary[keys[0]] or 0) >= SAID else None

    parts = (
        not_available(unresettable) if unresettable else None,
        named("median one-step error {:.2g} (predicting no change: {:.2g})", "dynamics_error", "persistence_error"),
        named("log-likelihood of actions {:.2f} under the agent's policy", "log_likelihood_target"),
        named("{:.2f} under the behaviour-cloned policy", "log_likelihood_behaviour"),
        wrong("{:.1%} of steps start in a terminal state", "starts_after_end"),
        wrong("the simulator does not terminate at {} of {} terminals", "false_terminals", "terminals_checked"),
        wrong("it terminates at {} of {} other steps", "missed_terminals", "others_checked"),
        None if summary["finite"] == 1 else named("{:.1%} of windows are finite", "finite"),
    )
    return ", ".join(part for part in parts if part)
