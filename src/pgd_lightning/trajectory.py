"""The nouns that all packages share: what data look like, and what a policy and a generator promise.

Legend of shapes, everywhere in this package:
``S`` seeds (independent learners of one run), ``B`` batch, ``N`` number of windows, ``T`` rows of a window,
``O`` observation dim, ``A`` action dim, ``D = O + A + 2`` channels of a window row. ``...`` are leading axes.
All quantities are in environment units; actions lie in [-1, 1]. Normalisation lives inside the module that needs it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Protocol

import torch
from tensordict import TensorClass, TensorDict
from torch import Tensor


class Transition(TensorClass):
    """Steps of experience with leading axes ``[...]``; ``terminated`` is a true end, never a time limit."""

    obs: Tensor  # [..., O]
    action: Tensor  # [..., A]
    reward: Tensor  # [...]
    next_obs: Tensor  # [..., O]
    terminated: Tensor  # [...] bool
    next_action: Tensor | None = None  # [..., A], only where a learner reads it; NaN where the data hold none

    def to_torchrl(self) -> TensorDict:
        """The same data under TorchRL's keys (``observation``, ``action``, ``("next", ...)``)."""
        terminated = self.terminated.unsqueeze(-1)
        after = {
            "observation": self.next_obs,
            "reward": self.reward.unsqueeze(-1),
            "terminated": terminated,
            "done": terminated,
        }
        return TensorDict(
            {"observation": self.obs, "action": self.action, "next": TensorDict(after, self.batch_size)},
            self.batch_size,
        )

    def as_windows(self) -> Trajectory:
        """``[...] -> [..., 2]``: (s, a, r, d), then s' in which nothing is done; ``transitions`` undoes it."""
        batch = (*self.batch_size, 2)
        return Trajectory(
            obs=torch.stack([self.obs, self.next_obs], dim=-2),
            action=torch.stack([self.action, torch.zeros_like(self.action)], dim=-2),
            reward=torch.stack([self.reward, torch.zeros_like(self.reward)], dim=-1),
            terminated=torch.stack([self.terminated, torch.zeros_like(self.terminated)], dim=-1),
            batch_size=batch,
        )


class Trajectory(TensorClass):
    """Windows of experience, leading axes ``[..., N, T]``. Row t holds (s_t, a_t) and what a_t led to: r_t, d_t."""

    obs: Tensor  # [..., T, O]
    action: Tensor  # [..., T, A]
    reward: Tensor  # [..., T]
    terminated: Tensor  # [..., T] bool

    def transitions(self, keep_terminal: bool = False, next_action: bool = False) -> Transition:
        """The ``N * (T-1)`` steps inside the windows, as ``[..., N * (T-1)]``, with the action after each if asked for.

        The last row has no successor, so PGD drops it, and with it (almost) every synthetic terminal. With
        ``keep_terminal`` a window whose last row is terminal gives up its first row instead: the terminal step is
        kept, as its own successor, which a terminated target never reads. Windows of two rows are single steps
        (:meth:`Transition.as_windows`), after which there is no action.
        """
        lead, num, rows = self.batch_size[:-2], self.batch_size[-2], self.batch_size[-1]
        successor = torch.cat([self.obs[..., 1:, :], self.obs[..., -1:, :]], dim=-2)
        steps = Transition(
            obs=self.obs,
            action=self.action,
            reward=self.reward,
            next_obs=successor,
            terminated=self.terminated,
            next_action=self._next_actions() if next_action else None,
            batch_size=self.batch_size,
        )
        kept = steps[..., : rows - 1]
        if keep_terminal:
            kept = steps[..., 1:].where(self.terminated[..., -1:].expand(kept.batch_size), kept)
        return kept.reshape(*lead, num * (rows - 1))

    def _next_actions(self) -> Tensor:
        """The action of the row after each, NaN where there is none: ``[..., T, A]``."""
        none = torch.full_like(self.action, torch.nan)
        if self.batch_size[-1] == 2:
            return none
        return torch.cat([self.action[..., 1:, :], none[..., -1:, :]], dim=-2)


class Policy(Protocol):
    """What guides a generator and acts in the simulator. A policy of S learners expects a leading axis S."""

    @property
    def device(self) -> torch.device:
        """Where observations must be."""

    def act(self, obs: Tensor) -> Tensor:
        """The action taken at evaluation (the mean of a stochastic policy): ``[..., O] -> [..., A]``."""

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """An action of the policy's distribution from standard normal ``noise [..., A]``; a deterministic one acts."""

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density of ``action``, summed over its dims: ``[..., O], [..., A] -> [...]``.

        A deterministic policy counts as a unit Gaussian around :meth:`act` (PGD, section 4).
        """

    def score(self, obs: Tensor, action: Tensor, noise_variance: Tensor | float = 0.0) -> Tensor:
        """Gradient of :meth:`log_prob` in the action, ``[..., A]``, in closed form, without autograd.

        ``noise_variance``, broadcast to ``[..., A]``, is that of Gaussian noise with which the policy's density is
        convolved first; a Gaussian policy's own variance grows by it.
        """

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., A]`` of the Gaussian that the policy is, or counts as.

        Raises UserError where it is neither.
        """


class Critic(Protocol):
    """What the critics of S learners expect of an action, in the rewards that the learners see."""

    @property
    def discount(self) -> float:
        """Of a reward one step later."""

    def value(self, obs: Tensor, action: Tensor) -> Tensor:
        """Mean over the critics: ``[S, B, O], [S, B, A] -> [S, B]``."""

    def seen_reward(self, reward: Tensor) -> Tensor:
        """What the learners see of ``reward [...]``."""


class GaussianPolicy(ABC):
    """What a diagonal Gaussian policy is by its mean and log standard deviation; satisfies :class:`Policy`."""

    @abstractmethod
    def gaussian(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean ``[..., A]`` and log standard deviation, which broadcasts to it, at ``obs [..., O]``."""

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation: ``[..., O] -> [..., A]`` each; differentiable in ``obs``."""
        mean, log_std = self.gaussian(obs)
        return mean, log_std.exp().expand_as(mean)

    def act(self, obs: Tensor) -> Tensor:
        """The mean: ``[..., O] -> [..., A]``."""
        return self.gaussian(obs)[0]

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """mean + std noise, clipped to the action box: ``[..., O], [..., A] -> [..., A]``."""
        mean, log_std = self.gaussian(obs)
        return (mean + log_std.exp() * noise).clamp(-1, 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """log N(action; mean, std^2), summed over action dims: ``[..., O], [..., A] -> [...]``."""
        return normal_log_prob(action, *self.gaussian(obs))

    def score(self, obs: Tensor, action: Tensor, noise_variance: Tensor | float = 0.0) -> Tensor:
        """(mean - a) / (std^2 + noise_variance), the gradient of the convolved density's logarithm."""
        mean, log_std = self.gaussian(obs)
        return (mean - action) / (torch.exp(2 * log_std) + noise_variance)


def normal_log_prob(action: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """log N(action; mean, std^2), summed over the last axis: ``[..., A] -> [...]``."""
    standard = (action - mean) * torch.exp(-log_std)
    return (-0.5 * standard**2 - log_std - 0.5 * math.log(2 * math.pi)).sum(-1)


class Generator(Protocol):
    """Turns a policy into experience."""

    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, T]`` for start states ``[..., N, O]``; ``seed`` fixes every random draw.

        ``policy=None`` means data of the behaviour policy. A policy of S learners takes starts ``[S, N, O]``. A
        generator of single steps gives windows of two rows instead, as many as make up the same number of steps.
        """
