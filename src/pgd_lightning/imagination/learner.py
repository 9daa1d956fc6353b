"""PolyGRAD's learner: an agent that learns on-policy in a world model, which is fitted to what is collected online."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from lightning import LightningModule
from torch import Tensor

from pgd_lightning.errors import UserError
from pgd_lightning.generators.guidance import OnPolicy
from pgd_lightning.generators.matching import Bounds, adapted, shape_of, standardised, trouble
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.imagination.actor_critic import ActorCritic
from pgd_lightning.imagination.collector import Turn
from pgd_lightning.networks.actors import FlooredActor
from pgd_lightning.randomness import derive_seed, seed_global
from pgd_lightning.runs.console import say
from pgd_lightning.trajectory import Generator, Trajectory


class ImaginationLearner(LightningModule):
    """One turn: imagine windows from collected states under the present policy, improve on them, fit the world model.

    Optimizers are stepped by hand. Lightning counts a turn as one step: the world model's last update goes through its
    wrapper, the others past it.
    """

    strength: Tensor
    fitted: Tensor
    critic = None  # its values are of imagined windows
    shown = ("online/return", "imagination/std", "agent/return", "world/loss")  # beside the bar

    def __init__(
        self,
        world: WorldModel,
        agent: ActorCritic,
        generator: Callable[..., Generator],  # made of model= and guidance=
        guidance: OnPolicy,  # its strength is the first one
        bounds: Bounds,
        adaptation: float,  # eta, by which the strength follows sigma_a
        tolerance: float,  # of sigma_a, beyond which something is said
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.world, self.agent, self.make, self.guidance = world, agent, generator, guidance
        self.bounds, self.adaptation, self.tolerance = bounds, adaptation, tolerance
        self.log_every, self.seed = log_every, seed
        self.register_buffer("strength", torch.tensor(float(guidance.coef)))  # delta
        self.register_buffer("fitted", torch.tensor(0))  # updates of the world model
        self.said: set[str] = set()  # kinds of trouble that were spoken of

    @property
    def policy(self) -> FlooredActor:
        """For observations with any leading axes."""
        return self.agent.actor

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [self.world.optimizer(), *self.agent.optimizers()]

    def training_step(self, turn: Turn, batch_idx: int) -> None:
        number = turn.number
        seed_global(self.seed, "online/noise", number)
        if turn.statistics is not None:
            self.world.codec.set_statistics(*(t.to(self.device) for t in turn.statistics))
        logs: dict[str, Tensor | float] = {}
        _, *own = self.optimizers(use_pl_optimizer=False)  # type: ignore[misc]
        if turn.starts is not None:
            windows, shape = self.imagined(turn.starts, derive_seed(self.seed, "imagination", number))
            logs |= {f"agent/{key}": value for key, value in self.agent.update(own, windows).items()}
            logs |= {f"imagination/{key}": value for key, value in shape.items()}
            logs["imagination/strength"] = float(self.strength)
            logs["policy/std"] = float(self.policy.std.detach().mean())
        logs["world/loss"] = self.fit_world(turn.world)
        if turn.returned is not None:
            self.log("online/return", turn.returned)
        if number == 0 or (number + 1) % self.log_every == 0:
            self._check(logs, number)
            for key, value in logs.items():
                self.log(key, value)

    def imagined(self, starts: Tensor, seed: int) -> tuple[Trajectory, dict[str, float]]:
        """Windows from ``starts [N, O]`` and the shape of their actions; the strength then follows sigma_a."""
        generator = self.make(model=self.world, guidance=replace(self.guidance, coef=float(self.strength)))
        windows = generator.generate(self.policy, starts, seed)
        with torch.no_grad():
            shape = shape_of(standardised(self.policy, windows))
        low, high = self.bounds.low, self.bounds.high * float(self.policy.std.detach().min()) ** 2
        self._say(trouble(float(self.strength), shape, low, high, self.tolerance))
        self.strength.fill_(adapted(float(self.strength), shape["std"], self.adaptation, low, high))
        return windows, shape

    def fit_world(self, batches: Trajectory) -> Tensor:
        """An update of the world model for each of ``batches [K, B, T]``; the last loss."""
        wrapped = self.optimizers()[0]  # type: ignore[index]
        for number, batch in enumerate(batches):
            loss = self.world.loss(batch)
            wrapped.zero_grad()
            self.manual_backward(loss)
            (wrapped if number == len(batches) - 1 else wrapped.optimizer).step()
            self.fitted += 1
            self.world.average(int(self.fitted))
        return loss.detach()

    def _say(self, message: str | None) -> None:
        """A warning for the first trouble of its kind, not at every turn."""
        if message is None or message.split()[0] in self.said:
            return
        self.said.add(message.split()[0])
        say(f"warning: imagination, world model of {int(self.fitted)} updates: {message}")

    def _check(self, logs: dict[str, Tensor | float], number: int) -> None:
        for key, value in logs.items():
            if not torch.as_tensor(value).isfinite().all():
                raise UserError(
                    f"{key} is {float(value)} at turn {number}: lower its learning rate; older checkpoints are kept."
                )
