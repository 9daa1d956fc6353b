"""What stands in for a simulator where a recording has none (``env=none``)."""

from collections.abc import Mapping
from typing import Any

from pgd_lightning.errors import UserError
from pgd_lightning.simulators.simulator import Array, Simulator, State


class Absent(Simulator):
    """Says why nothing can be stepped."""

    model: Any = None
    data: Any = None
    physics = "no simulator"
    unresettable: str | None = "there is no environment (env=none)"
    end_is_seen = False
    obs_dim = action_dim = 0

    def reset(self, seed: int) -> Array:
        raise UserError("env=none cannot be reset.")

    def step(self, action: Array) -> tuple[Array, float, bool]:
        raise UserError("env=none cannot be stepped.")

    def state(self) -> State:
        return {}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        raise UserError("env=none has no states.")

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        raise UserError("env=none has no states.")
