"""Windows made one row after the other: the loop that all models of single steps share."""

from abc import ABC, abstractmethod
from typing import Generic, TypeVar

import torch
from torch import Tensor
from torch.distributions import Normal

from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.randomness import seeded, stream
from pgd_lightning.trajectory import Policy, Trajectory

Memory = tuple[Tensor, ...]  # [..., N, *] each: what a model keeps from row to row
Model = TypeVar("Model", bound=WindowModel)


class RowByRow(ABC, Generic[Model]):
    """Rolls a trained model of steps out from data states.

    A row that ends an episode is followed by its start again, with nothing remembered: so every step inside a window is
    one to learn from, as after the reset of a real environment.
    """

    purpose: str  # names the streams of its noise

    def __init__(self, model: Model, rows: int) -> None:
        self.model, self.rows = model, rows

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]`` that begin at ``starts [..., N, O]``.

        Actions are drawn from the policy, kept in the box, or from the model's own idea of the data's.
        """
        self.model.to(starts.device)
        random = stream(seed, self.purpose, device=starts.device)
        obs, rows = starts, []
        with seeded(seed, f"{self.purpose}/policy"):  # of modules whose noise is their own
            first = memory = self.begin(starts, random)
            for _ in range(self.rows):
                action = self.act(policy, memory, obs, random)
                memory, next_obs, reward, terminated = self.step(memory, obs, action, random)
                rows.append(
                    Trajectory(obs=obs, action=action, reward=reward, terminated=terminated, batch_size=reward.shape)
                )
                obs = _reset_where(terminated, starts, next_obs)
                memory = tuple(_reset_where(terminated, a, b) for a, b in zip(first, memory, strict=True))
        return torch.stack(rows, dim=starts.dim() - 1)  # type: ignore[arg-type, return-value]

    def act(self, policy: Policy | None, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        """An action ``[..., A]`` in ``obs [..., O]``."""
        if policy is None:
            return self.act_alone(memory, obs, random)
        return policy.draw(obs, self.noise(obs, random)).clamp(-1, 1)

    def noise(self, obs: Tensor, random: torch.Generator) -> Tensor:
        """Standard normal ``[..., A]`` for ``obs [..., O]``."""
        size = (*obs.shape[:-1], self.model.codec.action_dim)
        return torch.randn(size, generator=random, device=obs.device, dtype=obs.dtype)

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """What is remembered before the first row, at ``starts [..., O]``."""
        return ()

    @abstractmethod
    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        """An action ``[..., A]`` like the data's in ``obs [..., O]``."""

    @abstractmethod
    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        """``(memory, next_obs [..., O], reward [...], terminated [...])`` of ``action [..., A]`` in ``obs``."""


def happens(logit: Tensor, rate: Tensor, random: torch.Generator) -> Tensor:
    """True ``[...]`` with the probability of ``logit [...]``; never or always where ``rate``, the data's, is 0 or 1."""
    drawn = torch.rand(logit.shape, generator=random, device=logit.device) < logit.sigmoid()
    return (drawn & (rate > 0)) | (rate == 1)


def density_of_data(actor: GaussianActor, obs: Tensor, action: Tensor, varies: Tensor) -> Tensor:
    """Mean log density of ``action [..., A]``, summed over the dims that ``varies [A]`` has 1 for, not 0.

    A density of a constant has no bound, and would soon be all that is trained.
    """
    mean, std = actor.normal(obs)
    return (varies * Normal(mean, std, validate_args=False).log_prob(action)).sum(-1).mean()


def _reset_where(ended: Tensor, start: Tensor, following: Tensor) -> Tensor:
    """``start [..., *]`` where an episode has ``ended [...]``, else ``following``."""
    return torch.where(ended.view(*ended.shape, *[1] * (start.dim() - ended.dim())), start, following)
