"""TD3+BC (arXiv 2106.06860) in the order of Policy-Guided Diffusion.

One update: targets, the actor once, then the critics ``critic_updates`` times on the same batch with fresh noise.
Here the actor shares the first critic step: its loss reads the critic of before the update, and the first critic loss
reads only targets and itself, so the sum of both has the gradients that the two steps have in turn.

Differences from the reference: the two critics share one Adam, as all networks do; their losses touch disjoint
parameters, so this equals one Adam each. TD3's delayed actor appears as more critic steps per update.
"""

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import Tensor, nn

from pgd_lightning.agents.learner import Learner
from pgd_lightning.networks.actors import DeterministicActor
from pgd_lightning.networks.critics import TwinQ
from pgd_lightning.trajectory import Transition


class TD3BC(Learner):
    """A deterministic actor and twin Q, each with a target."""

    actor: DeterministicActor
    discount: float

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        discount: float,  # gamma
        q_weight: float,  # alpha: weight of the scaled Q against the cloning term, whose weight is 1
        policy_noise: float,  # standard deviation of the target action's smoothing noise
        noise_clip: float,
        critic_updates: int,  # critic steps per update
    ) -> None:
        super().__init__()
        self.actor, self.critic = self.networks(obs_dim, action_dim, hidden)
        self.target_actor = deepcopy(self.actor).requires_grad_(False)
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.discount, self.q_weight = discount, q_weight
        self.policy_noise, self.noise_clip = policy_noise, noise_clip
        self.critic_updates = critic_updates

    def networks(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> tuple[DeterministicActor, TwinQ]:
        """An untrained actor and critic."""
        return DeterministicActor(obs_dim, action_dim, hidden), TwinQ(obs_dim, action_dim, hidden)

    def phases(self) -> list[tuple[str, ...]]:
        return [("actor", "critic")] + [("critic",)] * (self.critic_updates - 1)

    def targets(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.target_actor, self.actor), (self.target_critic, self.critic)]

    def actor_loss(self, batch: Transition) -> Tensor:
        """-lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2, the latter over batch and dims."""
        action = self.actor.act(batch.obs)
        q = self.critic.first_frozen(batch.obs, action)
        return -self.q_scale(q) * q.mean() + ((action - batch.action) ** 2).mean()

    def q_scale(self, q: Tensor) -> Tensor:
        """lambda = alpha / (mean |Q| + 1e-7), a constant for the gradient."""
        return self.q_weight / (self.across(q.detach().abs().mean()) + 1e-7)

    def critic_loss(self, batch: Transition) -> Tensor:
        """sum_j mean (Q_j(s, a) - y)^2, y = r + gamma (1 - d) min_j Q'_j(s', a'), a' the smoothed target action."""
        with torch.no_grad():
            target = batch.reward + self.discount * ~batch.terminated * self.next_value(batch)
        return ((self.critic(batch.obs, batch.action) - target) ** 2).mean(-1).sum()

    def next_value(self, batch: Transition) -> Tensor:
        """min_j Q'_j(s', a') of the smoothed target action a', ``[B]``."""
        return self.target_critic(batch.next_obs, self.smoothed_action(batch.next_obs)).min(0).values

    def smoothed_action(self, obs: Tensor) -> Tensor:
        """clip(pi'(s) + clip(noise, -c, c), -1, 1), ``[B, A]``."""
        action = self.target_actor.act(obs)
        noise = (self.policy_noise * torch.randn_like(action)).clamp(-self.noise_clip, self.noise_clip)
        return (action + noise).clamp(-1, 1)

    def values(self, batch: Transition) -> Tensor:
        return self.critic(batch.obs, batch.action).mean(0)
