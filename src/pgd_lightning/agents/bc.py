"""Behaviour cloning: the Gaussian policy of largest likelihood. It stands for the data's policy where PGD needs one."""

from collections.abc import Sequence

from torch import Tensor

from pgd_lightning.agents.learner import Learner
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.trajectory import Transition


class BC(Learner):
    """A Gaussian actor and nothing else."""

    actor: GaussianActor

    def __init__(self, obs_dim: int, action_dim: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.actor = GaussianActor(obs_dim, action_dim, hidden)

    def phases(self) -> list[tuple[str, ...]]:
        return [("actor",)]

    def actor_loss(self, batch: Transition) -> Tensor:
        """mean -log pi(a | s)."""
        return -self.actor.log_prob(batch.obs, batch.action).mean()
