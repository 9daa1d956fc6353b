"""The nouns every room shares: what data look like, and what a policy and a generator promise.

Legend of shapes, everywhere in this package:
``S`` seeds (independent learners of one run), ``B`` batch, ``N`` number of windows, ``T`` rows of a window,
``O`` observation dim, ``A`` action dim, ``D = O + A + 2`` channels of a window row. ``...`` are leading axes.
All quantities are in environment units; actions lie in [-1, 1]. Normalisation lives inside the module that needs it.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
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

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """Gradient of :meth:`log_prob` in the action, ``[..., A]``, in closed form, without autograd.

        ``spread``, broadcast to ``[..., A]``, is a variance by which the policy's density is blurred first; a
        Gaussian policy's own variance grows by it.
        """

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., A]`` of the Gaussian that the policy is, or counts as.

        Raises UserError where it is neither.
        """


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

    def score(self, obs: Tensor, action: Tensor, spread: Tensor | float = 0.0) -> Tensor:
        """(mean - a) / (std^2 + spread), the gradient of :meth:`log_prob` blurred by the variance ``spread``."""
        mean, log_std = self.gaussian(obs)
        return (mean - action) / (torch.exp(2 * log_std) + spread)


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


@dataclass(frozen=True)
class DataFile:
    """The official recording of an environment: where it lies and how to recognise it."""

    path: str  # below the base URL, e.g. gym_mujoco_v2/hopper_medium-v2.hdf5
    bytes: int | None  # None where nobody published it
    sha256: str | None


@dataclass(frozen=True)
class ActionBox:
    """The bounds ``low [A]`` and ``high [A]`` of an environment's actions, which are [-1, 1] in this package."""

    low: tuple[float, ...]
    high: tuple[float, ...]

    def __str__(self) -> str:
        if len(set(self.low)) == len(set(self.high)) == 1:
            return f"[{self.low[0]:g}, {self.high[0]:g}]"
        return " × ".join(f"[{low:g}, {high:g}]" for low, high in zip(self.low, self.high, strict=True))

    def normalised(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """The environment's actions ``[..., A]`` in [-1, 1]."""
        low, high = np.array(self.low), np.array(self.high)
        return 2 * (action - low) / (high - low) - 1  # type: ignore[no-any-return]

    def of_normalised(self, action: NDArray[Any]) -> NDArray[np.float64]:
        """Actions ``[..., A]`` in [-1, 1] as the environment takes them."""
        low, high = np.array(self.low), np.array(self.high)
        return low + (np.asarray(action, dtype=np.float64) + 1) / 2 * (high - low)  # type: ignore[no-any-return]


NO_SIMULATOR = "none"  # the task of a recording without an environment
GYMNASIUM = "gym:"  # before the name of an environment that is registered with Gymnasium


@dataclass(frozen=True)
class EnvSpec:
    """Facts of a task and its data set (``conf/env``): one of D4RL's, any Gymnasium environment, or none at all."""

    name: str  # hopper-medium
    d4rl_id: str | None  # hopper-medium-v2; None for what is not D4RL's
    task: str  # hopper, gym:Pusher-v5: names the simulator; none: there is none
    dataset: str  # medium
    obs_dim: int
    action_dim: int
    max_episode_steps: int | None  # None: no limit is known
    ref_min_score: float | None  # return that counts as score 0; None: returns are not normalised
    ref_max_score: float | None  # return that counts as score 100
    file: DataFile | None  # that D4RL published
    physics: str  # of the simulator: today or d4rl
    terminates: bool = True  # whether its simulator can end an episode; else a file's terminals are none
    action_low: Sequence[float] | None = None  # [A] bounds of the environment's actions; None: [-1, 1]
    action_high: Sequence[float] | None = None
    success: bool = False  # whether tables show it: an episode that its simulator ends has done its task

    @property
    def simulated(self) -> bool:
        """Whether there is a simulator in which agents can be evaluated."""
        return self.task != NO_SIMULATOR

    @property
    def registered(self) -> bool:
        """Whether it is an environment registered with Gymnasium and none of D4RL's."""
        return self.task.startswith(GYMNASIUM)

    @property
    def option(self) -> str:
        """How it is chosen on the command line, ``env=…``."""
        return self.task.removeprefix(GYMNASIUM).partition(" ")[0] if self.registered else self.name

    @property
    def scored(self) -> bool:
        """Whether returns are normalised to scores."""
        return self.ref_min_score is not None and self.ref_max_score is not None

    @property
    def measure(self) -> str:
        """What tables show of an episode: ``success``, ``score`` or ``return``."""
        if self.success:
            return "success"
        return "score" if self.scored else "return"

    @property
    def limit(self) -> int:
        """The time limit in steps, -1 where none is known, as Gymnasium counts."""
        return -1 if self.max_episode_steps is None else self.max_episode_steps

    @property
    def box(self) -> ActionBox | None:
        """The bounds of the environment's actions; None if they are [-1, 1]."""
        if self.action_low is None or self.action_high is None:
            return None
        return ActionBox(tuple(self.action_low), tuple(self.action_high))

    def own_actions(self, action: NDArray[Any]) -> NDArray[Any]:
        """Actions ``[..., A]`` in [-1, 1] as the environment takes them and its recordings hold them."""
        return action if self.box is None else self.box.of_normalised(action).astype(action.dtype)

    def score(self, episode_return: float, success: float | None = None) -> float | None:
        """D4RL's normalised score in percent: 100 (R - min) / (max - min); None without reference returns.

        Where tables show success it is 100 ``success``, and None where that is not known.
        """
        if self.success:
            return None if success is None else 100 * float(success)
        if self.ref_min_score is None or self.ref_max_score is None:
            return None
        return 100 * (episode_return - self.ref_min_score) / (self.ref_max_score - self.ref_min_score)

    def returned(self, score: NDArray[np.float64]) -> NDArray[np.float64]:
        """The return behind each :meth:`score`; what tables show without reference returns is one already."""
        if self.ref_min_score is None or self.ref_max_score is None:
            return score
        return self.ref_min_score + (self.ref_max_score - self.ref_min_score) * score / 100
