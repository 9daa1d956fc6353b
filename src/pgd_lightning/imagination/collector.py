"""Experience that is collected while it is learned from: turns of a few steps in the simulator and batches of windows.

TorchRL's collector and buffer are not used: a collector cannot stop between two steps and go on, in another process,
bit for bit, and its slices of episodes know no rows beyond a terminal.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor

from pgd_lightning.data.modules import Stream
from pgd_lightning.imagination.buffer import EpisodeBuffer
from pgd_lightning.randomness import derive_seed, stream
from pgd_lightning.trajectory import Policy, Trajectory

RANDOM, ACTING = "online prefill", "online acting"  # purposes of randomness


class Environment(Protocol):
    """What is asked of a simulator."""

    obs_dim: int
    action_dim: int

    def reset(self, seed: int) -> Any:
        """The first observation of an episode that ``seed`` decides."""

    def step(self, action: Any) -> tuple[Any, float, bool]:
        """``(next_obs, reward, terminated)``; clips the action."""


class EpisodeCollector:
    """Steps of one environment into a buffer, episode after episode; each depends on the seed and its number alone."""

    def __init__(self, environment: Environment, limit: int, seed: int) -> None:
        self.environment, self.limit, self.seed = environment, limit, seed
        self.buffer = EpisodeBuffer(environment.obs_dim, environment.action_dim, limit)
        self.returns: list[float] = []
        self.obs = self._start()

    def _start(self) -> Tensor:
        number = len(self.buffer.ends)
        return torch.as_tensor(self.environment.reset(derive_seed(self.seed, "online episode", number))).float()

    def step(self, action: Tensor) -> bool:
        """Take ``action [A]``, which is kept as it is, unclipped; whether an episode ended."""
        following, reward, terminated = self.environment.step(action.double().numpy())
        self.buffer.add(self.obs, action, float(reward), bool(terminated))
        self.obs = torch.as_tensor(following).float()
        age = len(self.buffer.current["reward"])
        if not (terminated or age >= self.limit):
            return False
        self.returns.append(float(self.buffer.current["reward"].double().sum()))
        self.buffer.end()
        self.obs = self._start()
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"buffer": self.buffer.state_dict(), "returns": list(self.returns)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As it was: the simulator gets there by the recorded actions of the episode that was going on."""
        self.buffer.load_state_dict(state["buffer"])
        self.returns = list(state["returns"])
        self.obs = self._start()
        for action in self.buffer.current["action"]:
            self.obs = torch.as_tensor(self.environment.step(action.double().numpy())[0]).float()


class Turn(NamedTuple):
    """What the learner gets after some steps in the simulator."""

    number: int
    world: Trajectory  # [K, B, T]: windows for K updates of the world model
    starts: Tensor | None  # [N, O]: where imagination begins; None as long as nothing is imagined
    statistics: tuple[Tensor, Tensor] | None  # mean and standard deviation of the buffer, if an episode ended
    returned: float | None  # the return of the last episode that ended in this turn


class OnlineDataModule(LightningDataModule):
    """Steps in the simulator, turn by turn, as batches of a Trainer.

    A turn takes ``steps`` steps of the module's policy, as it is then, and draws from the buffer what the module learns
    from: windows for the world model and start states for imagination, none of those before ``patience`` steps. Before
    the first turn come whole random episodes of at least ``prefill`` steps, which count as no steps of the environment.
    """

    def __init__(
        self,
        environment: Environment,
        limit: int,
        rows: int,
        prefill: int,
        steps: int,
        patience: int,
        world_updates: int,
        world_batch: int,
        imagined: int,
        total_turns: int,
        seed: int,
        policy: Callable[[], Policy],
    ) -> None:
        super().__init__()
        self.collector = EpisodeCollector(environment, limit, seed)
        self.rows, self.prefill, self.steps, self.patience = rows, prefill, steps, patience
        self.world_updates, self.world_batch, self.imagined = world_updates, world_batch, imagined
        self.total_turns, self.seed, self.policy = total_turns, seed, policy

    def train_dataloader(self) -> Iterable[int]:
        """The numbers of the turns to come, see :class:`SyntheticDataModule`."""
        return Stream(lambda: iter(range(self.trainer.global_step, self.total_turns)))  # type: ignore[union-attr]

    def on_before_batch_transfer(self, batch: int, dataloader_idx: int) -> Turn:
        return self.turn(batch)

    def turn(self, number: int) -> Turn:
        """Collect, and draw what is learned from."""
        buffer = self.collector.buffer
        if number == 0 and not buffer.ends:
            self._fill()
        ended = len(buffer.ends)
        for step in range(number * self.steps, (number + 1) * self.steps):
            self.collector.step(self._acted(step))
        world = buffer.windows(self.world_updates * self.world_batch, self.rows, stream(self.seed, "world", number))
        due = (number + 1) * self.steps > self.patience
        drawn = stream(self.seed, "imagination starts", number)
        return Turn(
            number=number,
            world=world.reshape(self.world_updates, self.world_batch, self.rows),
            starts=buffer.windows(self.imagined, self.rows, drawn).obs[:, 0] if due else None,
            statistics=buffer.statistics() if number == 0 or len(buffer.ends) > ended else None,
            returned=self.collector.returns[-1] if len(buffer.ends) > ended else None,
        )

    def _fill(self) -> None:
        size = self.collector.environment.action_dim
        while True:
            rng = np.random.default_rng(derive_seed(self.seed, RANDOM, self.collector.buffer.size))
            ended = self.collector.step(torch.as_tensor(rng.uniform(-1, 1, size)).float())
            if ended and self.collector.buffer.size >= self.prefill:
                return

    @torch.no_grad()
    def _acted(self, step: int) -> Tensor:
        """A draw of the policy; its noise depends on the step alone."""
        policy = self.policy()
        size = self.collector.environment.action_dim
        noise = torch.randn(size, generator=stream(self.seed, ACTING, step))
        return policy.draw(self.collector.obs.to(policy.device), noise.to(policy.device)).cpu()

    def state_dict(self) -> dict[str, Any]:
        return self.collector.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.collector.load_state_dict(state)
