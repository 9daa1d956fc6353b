"""Recorded rows against the real simulator: in which physics was this file recorded?"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from pgd_lightning.simulators import Simulator, one_step, replay

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Replay:
    """One step from each of ``rows`` recorded states; errors are of a row's largest component."""

    rows: int
    state: str  # infos: the recorded state was set; observations: what the observation tells of it
    median: float
    most: float  # 99 % of the rows are below
    max: float
    reward_median: float
    reward_max: float
    terminals: int  # recorded ones among the rows
    terminals_confirmed: int  # of these, where the simulator ends too
    terminals_added: int  # other rows at which the simulator ends

    def as_dict(self) -> dict[str, float | str]:
        """For JSON."""
        return asdict(self)


def replayed(
    simulator: Simulator,
    states: Mapping[str, Array] | None,
    obs: Array,
    action: Array,
    next_obs: Array,
    reward: Array,
    terminated: NDArray[np.bool_],
) -> Replay | None:
    """Reset to ``states`` (each ``[N, …]``, as in the file's infos) or else to ``obs [N, O]``, act, compare.

    Rows whose ``next_obs`` is NaN count for rewards and terminals alone. None if no other row's observation determines
    its state.
    """
    if states is not None:
        found, paid, ended = replay(simulator, states, action)
        used = np.isfinite(found).all(-1)
    else:
        found, paid, ended, used, _ = one_step(simulator, obs, action)
    known = used & np.isfinite(next_obs).all(-1)
    if not known.any():
        return None
    error = np.abs(found - next_obs).max(-1)[known]
    wrong = np.abs(paid - reward)[used]
    return Replay(
        rows=int(used.sum()),
        state="observations" if states is None else "infos",
        median=float(np.median(error)),
        most=float(np.quantile(error, 0.99)),
        max=float(error.max()),
        reward_median=float(np.median(wrong)),
        reward_max=float(wrong.max()),
        terminals=int(terminated[used].sum()),
        terminals_confirmed=int((ended & terminated)[used].sum()),
        terminals_added=int((ended & ~terminated)[used].sum()),
    )
