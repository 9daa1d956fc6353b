"""Actor and critic that learn on-policy from imagined windows (PolyGRAD, arXiv 2312.08533, section 4).

Advantages are TorchRL's GAE, whose value targets are the published lambda-returns.
"""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrl.objectives.value.functional import generalized_advantage_estimate

from pgd_lightning.networks.actors import FlooredActor
from pgd_lightning.networks.mlp import elu_mlp
from pgd_lightning.trajectory import Trajectory

Optimizers = Sequence[torch.optim.Optimizer]


def alive(terminated: Tensor) -> Tensor:
    """1 for the steps before the first terminal one of their window, else 0: ``[N, T] -> [N, T - 1]``."""
    return (1 - terminated[..., :-1].float()).cumprod(-1)


def advantages(windows: Trajectory, values: Tensor, discount: float, decay: float) -> tuple[Tensor, Tensor]:
    """Generalised advantages and lambda-returns ``[N, T - 1]`` each, for ``values [N, T]`` of the states."""
    ended = windows.terminated[:, :-1, None]
    found = generalized_advantage_estimate(
        discount, decay, values[:, :-1, None], values[:, 1:, None], windows.reward[:, :-1, None], ended, ended
    )
    return found[0].squeeze(-1), found[1].squeeze(-1)


def standardised(advantage: Tensor) -> Tensor:
    """Mean 0 and standard deviation 1 over all entries."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


class ActorCritic(nn.Module):
    """Actor, critic and the critic that targets come from; a subclass (A2C, PPO) says how the actor learns.

    The learning rate of the actor is a parameter: it is adapted, travels with checkpoints, and is capped.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        first_std: float,
        min_std: float,
        discount: float,
        decay: float,  # GAE's lambda
        entropy: float,  # weight of the entropy bonus
        actor_rate: float,
        critic_rate: float,
        weight_decay: float,
        max_grad_norm: float,  # of the actor's weights, and of the critic's
        polyak: float,
    ) -> None:
        super().__init__()
        self.actor = FlooredActor(obs_dim, action_dim, hidden, first_std, min_std)
        self.critic = elu_mlp(obs_dim, hidden, 1)
        self.target = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_rate = nn.Parameter(torch.tensor(math.log(actor_rate)))
        self.discount, self.decay, self.entropy = discount, decay, entropy
        self.critic_rate, self.weight_decay = critic_rate, weight_decay
        self.max_grad_norm, self.polyak = max_grad_norm, polyak

    def optimizers(self) -> list[torch.optim.Optimizer]:
        """AdamW of the actor, of the critic, and of whatever else a subclass adapts."""
        rate, decay = float(self.log_rate.detach().exp()), self.weight_decay
        return [
            torch.optim.AdamW(self.actor.parameters(), lr=rate, weight_decay=decay, fused=True),
            torch.optim.AdamW(self.critic.parameters(), lr=self.critic_rate, weight_decay=decay, fused=True),
        ]

    def move_target(self) -> None:
        """target <- (1 - polyak) target + polyak critic, at the start of a training step."""
        torch._foreach_lerp_(list(self.target.parameters()), list(self.critic.parameters()), self.polyak)

    def critic_step(self, optimizer: torch.optim.Optimizer, windows: Trajectory, returns: Tensor) -> Tensor:
        """One step of the critic to the returns ``[N, T - 1]``; its loss."""
        values = self.critic(windows.obs[:, :-1]).squeeze(-1)
        loss = (alive(windows.terminated) * 0.5 * (returns - values) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.critic.parameters(), self.max_grad_norm)
        optimizer.step()
        return loss.detach()

    def entropy_of_policy(self) -> Tensor:
        """Summed over action dims."""
        return (self.actor.std.log() + 0.5 * math.log(2 * math.pi * math.e)).sum()

    def returns(self, windows: Trajectory) -> tuple[Tensor, Tensor]:
        """Advantages and lambda-returns ``[N, T - 1]`` by the target critic, which takes its step first."""
        self.move_target()
        with torch.no_grad():
            return advantages(windows, self.target(windows.obs).squeeze(-1), self.discount, self.decay)

    def update(self, optimizers: Optimizers, windows: Trajectory) -> dict[str, Tensor | float]:
        """Learn from imagined windows ``[N, T]`` of the present policy, actions as they were drawn; what to log."""
        raise NotImplementedError
