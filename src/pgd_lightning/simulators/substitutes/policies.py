"""The behaviour policies that ship with this package: a ladder of stages for each body.

``behaviour`` trains a ladder, ``recipes`` record with it.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights"


def ladders() -> list[str]:
    """The tasks that have one."""
    return sorted(path.stem for path in WEIGHTS.glob("*.safetensors"))


class BehaviourPolicy(nn.Module):
    """tanh(u), u ~ N(mean(s), diag std^2) on standardised observations: inside the box, as the SAC behind D4RL's."""

    obs_mean: Tensor
    obs_std: Tensor

    def __init__(self, obs_dim: int, action_dim: int, hidden: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Linear(obs_dim, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh(), nn.Linear(hidden, action_dim)
        )
        self.log_std = nn.Parameter(torch.full((action_dim,), -0.5))
        self.register_buffer("obs_mean", torch.zeros(obs_dim))
        self.register_buffer("obs_std", torch.ones(obs_dim))
        with torch.no_grad():
            self.body[-1].weight.mul_(0.01)  # type: ignore[operator]

    def standardised(self, obs: Tensor) -> Tensor:
        """``[..., O]``, clipped to ten standard deviations."""
        return ((obs - self.obs_mean) / (self.obs_std + 1e-4)).clamp(-10, 10)

    def forward(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation of u, the action before its tanh, each ``[..., A]``."""
        mean = self.body(self.standardised(obs))
        return mean, self.log_std.exp().expand_as(mean)


@dataclass(frozen=True)
class Ladder:
    """The policies of one training run in the order of their age, with what is known of each.

    Attributes:
        stages: at least ``steps`` (of training) and ``return`` (mean of fresh stochastic episodes) of every policy.
        medium: place of the first policy at D4RL's medium level.
        expert: place of the best policy.
    """

    policies: list[BehaviourPolicy]
    stages: list[dict[str, Any]]
    medium: int
    expert: int
    command: str = ""

    def save(self, path: Path, physics: str) -> None:
        """Half precision: what is rounded here is what was evaluated (see ``behaviour``)."""
        tensors = {
            f"{place}.{name}": tensor.half()
            for place, policy in enumerate(self.policies)
            for name, tensor in policy.state_dict().items()
        }
        facts = {"stages": self.stages, "medium": self.medium, "expert": self.expert}
        save_file(tensors, path, {"command": self.command, "physics": physics, "facts": json.dumps(facts)})

    @staticmethod
    def load(task: str) -> "Ladder":
        """The shipped ladder of one of :func:`ladders`."""
        with safe_open(WEIGHTS / f"{task}.safetensors", framework="pt") as file:
            metadata = file.metadata()
            tensors = {key: file.get_tensor(key).float() for key in file.keys()}  # noqa: SIM118 (not a dictionary)
        facts = json.loads(metadata["facts"])
        policies = []
        for place in range(len(facts["stages"])):
            own = {key.split(".", 1)[1]: t for key, t in tensors.items() if key.split(".", 1)[0] == str(place)}
            hidden, obs_dim = own["body.0.weight"].shape
            policies.append(BehaviourPolicy(obs_dim, len(own["log_std"]), hidden))
            policies[-1].load_state_dict(own)
        return Ladder(policies, facts["stages"], facts["medium"], facts["expert"], metadata["command"])


def rounded(policy: BehaviourPolicy) -> BehaviourPolicy:
    """A copy of ``policy`` as it will be read back from half precision."""
    hidden, obs_dim = policy.body[0].weight.shape  # type: ignore[union-attr, misc]
    copy = BehaviourPolicy(int(obs_dim), len(policy.log_std), int(hidden))  # type: ignore[has-type]
    copy.load_state_dict({key: tensor.half().float() for key, tensor in policy.state_dict().items()})
    return copy
