"""Implicit Q-learning (arXiv 2110.06169) with the settings of Policy-Guided Diffusion.

The three losses of an update use the values of before it: none waits for another's step.

Differences from the reference: none known. It steps V, Q and the actor in turn, but computes advantages and targets
first, which equals one step on the sum. The critic loss is the mean over both critics; where others (TorchRL) sum them,
Q's gradients are twice as large, which Adam notices only through its eps.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from pgd_lightning.agents.learner import Learner
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.networks.critics import StateValue, TwinQ
from pgd_lightning.trajectory import Transition


class IQL(Learner):
    """A Gaussian actor, twin Q with targets, and V."""

    actor: GaussianActor
    discount: float

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        discount: float,  # gamma
        expectile: float,  # tau: 0.5 is the mean, 1 the maximum over the data's actions
        temperature: float,  # beta, inverse: larger is greedier
        max_weight: float,  # cap on exp(beta advantage)
    ) -> None:
        super().__init__()
        self.actor = GaussianActor(obs_dim, action_dim, hidden)
        self.critic = TwinQ(obs_dim, action_dim, hidden)
        self.value = StateValue(obs_dim, hidden)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.discount, self.expectile = discount, expectile
        self.temperature, self.max_weight = temperature, max_weight

    def phases(self) -> list[tuple[str, ...]]:
        return [("value", "critic", "actor")]

    def targets(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.target_critic, self.critic)]

    def losses(self, batch: Transition, names: tuple[str, ...]) -> dict[str, Tensor]:
        """All three at once, for they share the advantage A = min_j Q'_j(s, a) - V(s)."""
        advantage = self.target_critic(batch.obs, batch.action).min(0).values - self.value(batch.obs)
        losses = {
            "value": self.value_loss(advantage),
            "critic": self.critic_loss(batch),
            "actor": self.actor_loss(batch, advantage.detach()),
        }
        return {name: losses[name] for name in names}

    def value_loss(self, advantage: Tensor) -> Tensor:
        """mean |tau - 1[A < 0]| A^2, A ``[B]``: V tends to the tau-expectile of Q over the data's actions."""
        weight = torch.where(advantage < 0, 1 - self.expectile, self.expectile)
        return (weight * advantage**2).mean()

    def critic_loss(self, batch: Transition) -> Tensor:
        """mean over the batch and both critics of (Q_j(s, a) - r - gamma (1 - d) V(s'))^2."""
        with torch.no_grad():
            target = batch.reward + self.discount * ~batch.terminated * self.value(batch.next_obs)
        return ((self.critic(batch.obs, batch.action) - target) ** 2).mean()

    def actor_loss(self, batch: Transition, advantage: Tensor) -> Tensor:
        """mean -min(exp(beta A), cap) log pi(a | s): clones the data's actions in proportion to their advantage."""
        return -(self.weights(advantage) * self.actor.log_prob(batch.obs, batch.action)).mean()

    def weights(self, advantage: Tensor) -> Tensor:
        """min(exp(beta A), cap), ``[B]``."""
        return torch.exp(self.temperature * advantage).clamp(max=self.max_weight)

    def values(self, batch: Transition) -> Tensor:
        return self.critic(batch.obs, batch.action).mean(0)
