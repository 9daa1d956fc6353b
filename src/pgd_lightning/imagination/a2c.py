"""A2C with a held step: its size is searched so that the policy changes by a fixed amount (PolyGRAD, section 4).

The loss is ours: TorchRL's averages without weights, and rows from the first terminal on have weight 0 here.

Differences from the reference: each try of the line search starts from the same weights, standard deviation and
optimizer state (there the optimizer's moments and the standard deviation move on with every try).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from pgd_lightning.imagination.actor_critic import ActorCritic, Optimizers, alive, standardised
from pgd_lightning.trajectory import Trajectory


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
