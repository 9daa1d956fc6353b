"""PPO on imagined windows, with TorchRL's loss."""

from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss

from pgd_lightning.imagination.actor_critic import ActorCritic, Optimizers, alive, standardised
from pgd_lightning.trajectory import Trajectory


class PPO(ActorCritic):
    """Epochs of minibatches over the live steps of an imagined batch, with TorchRL's clipped loss."""

    def __init__(self, epochs: int, minibatch: int, clip: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.epochs, self.minibatch, self.clip = epochs, minibatch, clip

    def _loss(self) -> ClipPPOLoss:
        normal = TensorDictModule(self.actor.normal, ["observation"], ["loc", "scale"])
        draw = ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=IndependentNormal, return_log_prob=True
        )
        value = ValueOperator(self.critic, ["observation"])
        return ClipPPOLoss(
            ProbabilisticTensorDictSequential(normal, draw), value, clip_epsilon=self.clip,
            entropy_coeff=0.0,
            critic_coeff=0.5, loss_critic_type="l2",
        )  # fmt: skip

    def update(self, optimizers: Optimizers, windows: Trajectory) -> dict[str, Tensor | float]:
        actor_optimizer, critic_optimizer = optimizers
        advantage, returns = self.returns(windows)
        with torch.no_grad():
            obs, action = windows.obs[:, :-1], windows.action[:, :-1]
            before = self.actor.log_prob(obs, action)
        live = alive(windows.terminated).bool()
        told: dict[str, Tensor | float] = {"return": returns[:, 0].mean(), "rate": float(self.log_rate.detach().exp())}
        if not live.any():  # every window ended where it began
            return told | dict.fromkeys(("actor_loss", "critic_loss", "policy_change"), returns.new_zeros(()))
        steps = TensorDict(
            {
                "observation": obs[live], "action": action[live], "action_log_prob": before[live],
                "advantage": standardised(advantage[live]).unsqueeze(-1),
                "value_target": returns[live].unsqueeze(-1),
            },
            [int(live.sum())],
        )  # fmt: skip
        loss = self._loss()
        for _ in range(self.epochs):
            for rows in torch.randperm(len(steps), device=obs.device).split(self.minibatch):
                losses = loss(steps[rows])
                actor_loss = losses["loss_objective"] - self.entropy * self.entropy_of_policy()
                actor_optimizer.zero_grad()
                critic_optimizer.zero_grad()
                (actor_loss + losses["loss_critic"]).backward()
                for network in (self.actor.body, self.critic):
                    nn.utils.clip_grad_norm_(network.parameters(), self.max_grad_norm)
                actor_optimizer.step()
                critic_optimizer.step()
        with torch.no_grad():
            change = (self.actor.log_prob(obs, action) - before)[live].abs().mean()
        return told | {
            "actor_loss": actor_loss.detach(),
            "critic_loss": losses["loss_critic"].detach(),
            "policy_change": change,
        }
