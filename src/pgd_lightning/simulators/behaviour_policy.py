"""A behaviour policy that ships with this package; ``behaviour`` trains one, ``recipes`` records with it."""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "behaviour_weights"


class BehaviourPolicy(nn.Module):
    """N(mean(s), diag std^2) on standardised observations; not squashed, the simulator clips what it samples."""

    obs_mean: Tensor
    obs_var: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, action_dim)
        )
        self.log_std = nn.Parameter(torch.zeros(action_dim))
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_var", torch.ones(obs_dim))
        with torch.no_grad():
            self.body[-1].weight.mul_(0.01)  # type: ignore[operator]

    def standardised(self, obs: Tensor) -> Tensor:
        """``[..., O]``, clipped to ten deviations."""
        return ((obs - self.obs_mean) / (self.obs_var + 1e-8).sqrt()).clamp(-10, 10)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of the action, each ``[..., A]``."""
        mean = self.body(self.standardised(obs))
        return mean, self.log_std.exp().expand_as(mean)


def load_policy(name: str) -> BehaviourPolicy:
    """The shipped policy, e.g. ``hopper-medium``."""
    with safe_open(WEIGHTS / f"{name}.safetensors", framework="pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dictionary)
    hidden, obs_dim = tensors["body.0.weight"].shape
    policy = BehaviourPolicy(obs_dim, len(tensors["log_std"]), hidden)
    policy.load_state_dict(tensors)
    return policy
