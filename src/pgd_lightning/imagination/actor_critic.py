"""On-policy learning from imagined windows (PolyGRAD, arXiv 2312.08533, section 4): A2C with a held step, and PPO.

Advantages are TorchRL's GAE, whose value targets are the published lambda-returns, and PPO's loss is TorchRL's. A2C's
is ours: TorchRL's averages without weights, and rows from the first terminal on have weight 0 here.

Differences from the reference: each try of the line search starts from the same weights, deviation and optimizer state
(there the optimizer's moments and the deviation move on with every try).
"""

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
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
    """Mean 0 and deviation 1 over all entries."""
    return (advantage - advantage.mean()) / (advantage.std() + 1e-8)


@dataclass(frozen=True)
class StepControl:
    """How far one step may change the policy: D = mean |log pi_new - log pi_old| is held near ``target``."""

    target: float
    tolerance: float  # of D, as a share of the target
    ratio: float  # between the learning rates of two tries
    tries: int
    adaptation: float  # AdamW's rate on the logarithm of the learning rate
    max_rate: float

    def search(self, attempt: Callable[[float], float], rate: float) -> tuple[float, float, int]:
        """``attempt(rate)`` takes the step anew and returns D. Gives the first D, the last one and the tries."""
        first = change = attempt(rate)
        tries = 1
        while not (1 - self.tolerance) * self.target <= change <= (1 + self.tolerance) * self.target:
            rate = rate * self.ratio if change > self.target else rate / self.ratio
            if rate > self.max_rate or tries > self.tries or not math.isfinite(change):
                break
            change = attempt(rate)
            tries += 1
        return first, change, tries


class ActorCritic(nn.Module):
    """Actor, critic and the critic that targets come from; a subclass says how the actor learns.

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


class A2C(ActorCritic):
    """One step for each imagined batch; its size is searched so that the policy changes by a fixed amount."""

    def __init__(self, control: StepControl, **settings: Any) -> None:
        super().__init__(**settings)
        self.control = control

    def optimizers(self) -> list[torch.optim.Optimizer]:
        rate = torch.optim.AdamW([self.log_rate], lr=self.control.adaptation, weight_decay=self.weight_decay)
        return [*super().optimizers(), rate]

    def actor_loss(self, windows: Trajectory, advantage: Tensor) -> Tensor:
        """Mean over all steps of w [-log pi(a|s) A - alpha entropy]."""
        log_prob = self.actor.log_prob(windows.obs[:, :-1], windows.action[:, :-1])
        gain = log_prob * advantage + self.entropy * self.entropy_of_policy()
        return -(alive(windows.terminated) * gain).mean()

    def update(self, optimizers: Optimizers, windows: Trajectory) -> dict[str, Tensor | float]:
        actor_optimizer, critic_optimizer, rate_optimizer = optimizers
        advantage, returns = self.returns(windows)
        actor_loss = self.actor_loss(windows, standardised(advantage))
        actor_optimizer.zero_grad()
        actor_loss.backward()
        nn.utils.clip_grad_norm_(self.actor.body.parameters(), self.max_grad_norm)
        attempt = self._attempts(actor_optimizer, windows)
        first, change, tries = self.control.search(attempt, float(self.log_rate.detach().exp()))
        self._adapt(rate_optimizer, first)
        return {
            "actor_loss": actor_loss.detach(),
            "critic_loss": self.critic_step(critic_optimizer, windows, returns),
            "return": returns[:, 0].mean(),
            "policy_change": change,
            "tries": float(tries),
            "rate": float(self.log_rate.detach().exp()),
        }

    def _attempts(self, optimizer: torch.optim.Optimizer, windows: Trajectory) -> Callable[[float], float]:
        """``rate -> D``: the step along the gradient at hand, each time from the same weights and moments."""
        weights = [p.detach().clone() for p in self.actor.parameters()]
        state = copy.deepcopy(optimizer.state_dict())
        obs, action = windows.obs[:, :-1], windows.action[:, :-1]
        with torch.no_grad():
            before = self.actor.log_prob(obs, action)

        def attempt(rate: float) -> float:
            with torch.no_grad():
                torch._foreach_copy_(list(self.actor.parameters()), weights)
            optimizer.load_state_dict(copy.deepcopy(state))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
            with torch.no_grad():
                return float((self.actor.log_prob(obs, action) - before).abs().mean())

        return attempt

    def _adapt(self, optimizer: torch.optim.Optimizer, first: float) -> None:
        """The learning rate moves so that the first try will change the policy by the target."""
        optimizer.zero_grad()
        (-self.log_rate * (self.control.target - first)).backward()
        optimizer.step()
        with torch.no_grad():
            self.log_rate.clamp_(max=math.log(self.control.max_rate))


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
        return {
            "actor_loss": actor_loss.detach(),
            "critic_loss": losses["loss_critic"].detach(),
            "return": returns[:, 0].mean(),
            "policy_change": change,
            "rate": float(self.log_rate.detach().exp()),
        }
