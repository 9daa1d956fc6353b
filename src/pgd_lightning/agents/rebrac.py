"""ReBRAC (arXiv 2305.09836): TD3+BC whose actor and critics are each penalised for leaving the data's actions.

The critics' penalty is taken at the next state, from the next recorded action. A step after which the data hold none
(the last of an episode that a time limit cut; a generated single step) has no penalty. Inside synthetic windows there
always is one.

Differences from the authors' code: an update is one step of the actor and ``critic_updates`` of the critics on one
batch, in the order of :mod:`pgd_lightning.agents.td3_bc`, where theirs is one step of the critics, and every second one
of the actor, each on a batch of its own; so a million of their steps are half a million updates. They leave out steps
that a time limit cut, and divide by mean |Q| without adding 1e-7. One learning rate serves all networks; theirs differ
on AntMaze, where they also multiply rewards by 100.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from pgd_lightning.agents.td3_bc import TD3BC
from pgd_lightning.networks.actors import DeterministicActor
from pgd_lightning.networks.critics import TwinQ
from pgd_lightning.networks.mlp import edac_start_
from pgd_lightning.trajectory import Transition


def of_dataset(name: str, table: dict[str, float], otherwise: float) -> float:
    """The entry of ``table`` for the dataset ``name``, or ``otherwise``."""
    return table.get(name, otherwise)


class ReBRAC(TD3BC):
    """A deterministic actor and twin Q with layer norms, each with a target."""

    next_action = True

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        actor_penalty: float,  # beta_1: weight of |pi(s) - a|^2 against the scaled Q, whose weight is 1
        critic_penalty: float,  # beta_2: weight of |a' - recorded a'|^2 against Q'(s', a')
        **settings: Any,  # of TD3+BC: discount, policy_noise, noise_clip, critic_updates
    ) -> None:
        super().__init__(obs_dim, action_dim, hidden, q_weight=1.0, **settings)
        self.actor_penalty, self.critic_penalty = actor_penalty, critic_penalty
        self.penalised = critic_penalty > 0

    def networks(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> tuple[DeterministicActor, TwinQ]:
        actor = DeterministicActor(obs_dim, action_dim, hidden)
        critic = TwinQ(obs_dim, action_dim, hidden, norm=True)
        edac_start_(actor, last=1e-3)
        edac_start_(critic, last=3e-3)
        return actor, critic

    def actor_loss(self, batch: Transition) -> Tensor:
        """mean of beta_1 |pi(s) - a|^2 - lambda min_j Q_j(s, pi(s)), |.|^2 summed over dims, lambda = 1 / mean |Q|."""
        action = self.actor.act(batch.obs)
        q = self.critic.least_frozen(batch.obs, action)
        penalty = ((action - batch.action) ** 2).sum(-1)
        return self.actor_penalty * penalty.mean() - self.q_scale(q) * q.mean()

    def next_value(self, batch: Transition) -> Tensor:
        """min_j Q'_j(s', a') - beta_2 |a' - recorded a'|^2 of the smoothed target action a', ``[B]``."""
        assert batch.next_action is not None
        action = self.smoothed_action(batch.next_obs)
        penalty = ((action - batch.next_action) ** 2).nansum(-1)
        return self.target_critic(batch.next_obs, action).min(0).values - self.critic_penalty * penalty
