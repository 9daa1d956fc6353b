"""PolyGRAD's learners: an agent that learns on-policy in a world model, which is fitted to what is collected online, or
was fitted to a recording and stays as it is.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from lightning import LightningModule
from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.config.build import build
from pgd_lightning.errors import UserError
from pgd_lightning.generators.guidance import OnPolicy
from pgd_lightning.generators.matching import Bounds, adapted, shape_of, standardised, trouble
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.imagination.actor_critic import ActorCritic, Anchor, alive
from pgd_lightning.networks.actors import FlooredActor
from pgd_lightning.randomness import derive_seed, seed_global
from pgd_lightning.runs.console import say
from pgd_lightning.trajectory import Generator, Trajectory


def imagining(section: DictConfig) -> dict[str, Any]:
    """What of a config's section (``conf/imagination`` and its guidance) both learners are made with."""
    built = {key: build(section[key]) for key in ("generator", "guidance", "bounds")}
    return built | {key: section[key] for key in ("adaptation", "tolerance", "log_every")}


class ImaginationLearner(LightningModule):
    """One turn: imagine windows from collected states under the present policy, improve on them, fit the world model.

    Optimizers are stepped by hand. Lightning counts a turn as one step: the world model's last update goes through its
    wrapper, the others past it.
    """

    strength: Tensor
    fitted: Tensor
    shown = ("online/return", "imagination/std", "agent/return", "world/loss", "clone/loss")  # beside the bar

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

    def training_step(self, turn: dict[str, Any], batch_idx: int) -> None:
        number: int = turn["number"]
        seed_global(self.seed, "online/noise", number)
        if turn["statistics"] is not None:
            self.world.codec.set_statistics(*(t.to(self.device) for t in turn["statistics"]))
        logs: dict[str, Tensor | float] = {}
        _, *own = self.optimizers(use_pl_optimizer=False)  # type: ignore[misc]
        if turn["starts"] is not None:
            windows, shape = self.imagined(turn["starts"], derive_seed(self.seed, "imagination", number))
            logs = self.named(self.agent.update(own, windows), shape)
        logs["world/loss"] = self.fit_world(turn["world"])
        if turn["returned"] is not None:
            self.log("online/return", turn["returned"])
        self.note(logs, number)

    def named(self, learned: dict[str, Tensor | float], shape: dict[str, float]) -> dict[str, Tensor | float]:
        """What is logged of an imagined turn."""
        logs = {f"agent/{key}": value for key, value in learned.items()}
        logs |= {f"imagination/{key}": value for key, value in shape.items()}
        logs["imagination/strength"] = float(self.strength)
        logs["policy/std"] = float(self.policy.std.detach().mean())
        return logs

    def note(self, logs: dict[str, Tensor | float], number: int) -> None:
        """Check and log, where it is the turn for it."""
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


@dataclass(frozen=True)
class Phases:
    """Turns of each kind, one after the other."""

    clone: int  # fit the policy to recorded actions, the critic to recorded windows
    warm_up: int  # fit the critic to the clone's imagined returns
    improve: int

    @property
    def turns(self) -> int:
        return self.clone + self.warm_up + self.improve


@dataclass(frozen=True)
class Conservatism:
    """What keeps the policy where the world model has seen data. Raises UserError for an unknown kind."""

    kind: str  # none, kl (to the clone, at imagined states) or data (recorded actions stay likely)
    weight: float  # beside an advantage of deviation 1

    KINDS = ("none", "kl", "data")

    def __post_init__(self) -> None:
        if self.kind not in self.KINDS:
            raise UserError(f"imagine.conservatism.kind={self.kind} is none of {', '.join(self.KINDS)}.")
        if not isinstance(self.weight, int | float):
            raise UserError(f"imagine.conservatism.weight={self.weight} is no number.")

    def anchor(self, actor: FlooredActor, clone: FlooredActor, recorded: Trajectory) -> Anchor | None:
        """The loss it adds: the mean of KL(pi || clone) over imagined steps, or of -log pi over ``recorded [B]``."""
        if self.kind == "none":
            return None
        if self.kind == "data":
            return lambda windows: -self.weight * actor.log_prob(recorded.obs, recorded.action).mean()

        def divergence(windows: Trajectory) -> Tensor:
            obs = windows.obs[:, :-1]
            with torch.no_grad():
                mean, std = clone.normal(obs)
            ratio = (actor.std / std) ** 2
            apart = ((actor.act(obs) - mean) / std) ** 2
            return self.weight * (alive(windows.terminated) * 0.5 * (ratio + apart - 1 - ratio.log()).sum(-1)).mean()

        return divergence


class OfflineImagination(ImaginationLearner):
    """The same in a world model that stays as it is, from a clone of the data's policy (ours, not the paper's).

    A turn is ``{number, starts [N, O], recorded [B, T]}``. Without the clone the model would be asked about actions
    that it has never seen: it has no prior of them. Without a critic that knows what an episode is worth, the first
    steps trade the rest of it for a faster start, so it learns from recorded windows too, which cost no imagination.
    """

    def __init__(self, phases: Phases, conservatism: Conservatism, clone_rate: float, **settings: Any) -> None:
        super().__init__(**settings)
        self.phases, self.conservatism, self.clone_rate = phases, conservatism, clone_rate
        self.world.requires_grad_(False)
        self.fitted.fill_(self.world.total_steps)
        self.clone = copy.deepcopy(self.agent.actor).requires_grad_(False)

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        return [torch.optim.Adam(self.agent.actor.parameters(), lr=self.clone_rate), *self.agent.optimizers()]

    def training_step(self, turn: dict[str, Any], batch_idx: int) -> None:
        number, recorded = turn["number"], turn["recorded"]
        seed_global(self.seed, "imagine/noise", number)
        _, *own = self.optimizers(use_pl_optimizer=False)  # type: ignore[misc]
        wrapped = self.optimizers()[0]  # type: ignore[index]
        if number < self.phases.clone:
            logs = {f"clone/{key}": value for key, value in self.agent.fit_critic(own, recorded).items()}
            wrapped.zero_grad()
            loss = -self.agent.actor.log_prob(recorded.obs[:, 0], recorded.action[:, 0]).mean()
            self.manual_backward(loss)
            logs["clone/loss"] = loss.detach()
        else:
            logs = self._imagined_turn(turn, own)
            wrapped.zero_grad()  # its step moves nothing: Lightning counts turns by it
        wrapped.step()
        if number == self.phases.clone - 1:
            self.clone.load_state_dict(self.agent.actor.state_dict())
        self.note(logs, number)

    def _imagined_turn(self, turn: dict[str, Any], own: list[Any]) -> dict[str, Tensor | float]:
        number = turn["number"]
        windows, shape = self.imagined(turn["starts"], derive_seed(self.seed, "imagination", number))
        if number < self.phases.clone + self.phases.warm_up:
            learned = self.agent.fit_critic(own, windows)
        else:
            anchor = self.conservatism.anchor(self.policy, self.clone, turn["recorded"][:, 0])
            learned = self.agent.update(own, windows, anchor)
        return self.named(learned, shape)
