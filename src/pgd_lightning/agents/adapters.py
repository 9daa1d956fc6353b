"""Policies of other libraries and of users as :class:`~pgd_lightning.trajectory.Policy`.

Accepted are a function or ``nn.Module`` that takes observations ``[B, O]`` and returns a ``torch.distributions``
distribution over actions or the actions themselves ``[B, A]`` (tensor or array), a TorchRL actor, and an object with a
``predict`` method, as in d3rlpy and Stable-Baselines3.

What a policy counts as, with actions in the units of its environment:

=====================================  =================================================================
returned                               density and score
=====================================  =================================================================
actions, a ``Delta``                   a unit Gaussian around the action in [-1, 1] (PGD, section 4)
``Normal``, ``Independent`` of it      in closed form
a Gaussian squashed by transforms      the Gaussian that the transforms, linearised at its mean, make of it
  (``TanhNormal``)                     (the exact score is unbounded at the edge of the action box)
any other                              its own log_prob, differentiated; with noise, as the
                                       Gaussian of its mean and variance
=====================================  =================================================================
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal, TransformedDistribution

from pgd_lightning.agents.online_policy import MIN_STD
from pgd_lightning.errors import UserError
from pgd_lightning.trajectory import Policy, normal_log_prob

SMALLEST_STD = 1e-6  # in [-1, 1]: below it, a score is beyond what float32 can hold
INSIDE = 1e-6  # of the width of a bounded support: so far from its edges densities are evaluated


def as_policy(policy: Any, action_dim: int, low: Tensor | None = None, high: Tensor | None = None) -> Policy:
    """``policy`` as a :class:`Policy` for observations ``[..., O]``; one already is returned as it is.

    ``low, high [A]`` are the box of the actions that ``policy`` gives, by default [-1, 1].
    Raises UserError for something that cannot act.
    """
    if all(callable(getattr(policy, name, None)) for name in ("act", "draw", "log_prob", "score", "normal")):
        return policy
    device = torch.device("cpu")
    if isinstance(policy, nn.Module):
        device = next((p.device for p in policy.parameters()), device)
    return ForeignPolicy(_response(policy), action_dim, device, low, high)


def _response(policy: Any) -> Callable[[Tensor], Any]:
    """What ``policy`` answers to observations ``[B, O]``."""
    if callable(getattr(policy, "get_dist", None)) or hasattr(policy, "in_keys"):
        return _of_torchrl(policy)
    if callable(getattr(policy, "predict", None)):
        return lambda obs: _first(policy.predict(obs.detach().cpu().numpy()))
    if callable(policy):
        return policy
    raise UserError(
        f"A {type(policy).__name__} is no policy: give a function of observations, a module, a TorchRL actor, an "
        "object with a predict method, or a run folder."
    )


def _of_torchrl(actor: Any) -> Callable[[Tensor], Any]:
    from tensordict import TensorDict

    def respond(obs: Tensor) -> Any:
        seen = TensorDict({actor.in_keys[0]: obs}, [len(obs)])
        if callable(getattr(actor, "get_dist", None)):
            return actor.get_dist(seen)
        return actor(seen)["action"]

    return respond


def _first(answer: Any) -> Any:
    """Stable-Baselines3 returns (actions, state of a recurrent policy)."""
    return answer[0] if isinstance(answer, tuple) else answer


class ForeignPolicy:
    """A policy by what ``respond`` gives for observations ``[B, O]``, on ``device``; satisfies :class:`Policy`.

    Raises UserError where the response is of another kind or shape.
    """

    def __init__(
        self, respond: Callable[[Tensor], Any], action_dim: int, device: torch.device, low: Tensor | None,
        high: Tensor | None,
    ) -> None:  # fmt: skip
        self.respond, self.action_dim, self.device = respond, action_dim, device
        low = torch.full((action_dim,), -1.0) if low is None else low
        high = torch.full((action_dim,), 1.0) if high is None else high
        self.middle, self.half = ((high + low) / 2).to(device), ((high - low) / 2).to(device)

    def act(self, obs: Tensor) -> Tensor:
        """The action, or the mean of its distribution, in [-1, 1]: ``[..., O] -> [..., A]``."""
        answer = self._asked(obs)
        found = self._gaussian(answer, obs)
        return self._like(obs, found[0] if found else self._moments(answer)[0]).clamp(-1, 1)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """An action from standard normal ``noise [..., A]``; a deterministic policy acts.

        A policy that is no Gaussian draws with torch's global generator instead.
        """
        answer = self._asked(obs)
        if not isinstance(answer, Distribution):
            return self._like(obs, self._gaussian(answer, obs)[0]).clamp(-1, 1)  # type: ignore[index]
        found = self._gaussian(answer, obs)
        if found is None:
            return self._like(obs, self._inwards(answer.sample())).clamp(-1, 1)
        mean, std, drawn = found
        return self._like(obs, mean + (std if drawn else 0) * noise.reshape(mean.shape)).clamp(-1, 1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """``[..., O], [..., A] -> [...]``, of actions in [-1, 1]."""
        answer, flat = self._asked(obs), action.reshape(-1, self.action_dim)
        found = self._gaussian(answer, obs)
        if found:
            log_prob = normal_log_prob(flat, found[0], found[1].log())
        else:
            log_prob = self._log_prob(answer, self._outwards(answer, flat))
        return log_prob.reshape(action.shape[:-1])

    def score(self, obs: Tensor, action: Tensor, noise_variance: Tensor | float = 0.0) -> Tensor:
        """Gradient of :meth:`log_prob` in the action, ``[..., A]``; ``noise_variance`` as in ``Policy.score``."""
        answer, flat = self._asked(obs), action.reshape(-1, self.action_dim)
        variance = noise_variance
        if isinstance(variance, Tensor):
            variance = variance.expand(action.shape).reshape(flat.shape)
        found = self._gaussian(answer, obs)
        blurred = isinstance(variance, Tensor) or variance > 0
        if found is None and blurred:
            found = (*self._moments(answer), True)
        if found:
            return ((found[0] - flat) / (found[1] ** 2 + variance)).reshape(action.shape)
        with torch.enable_grad():
            free = self._outwards(answer, flat).detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self._log_prob(answer, free).sum(), free)
        return (gradient * self.half).reshape(action.shape)

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[..., A]`` of the Gaussian that the policy is or counts as."""
        answer = self._asked(obs)
        found = self._gaussian(answer, obs)
        mean, std = found[:2] if found else self._moments(answer)
        return self._like(obs, mean), self._like(obs, std)

    def _asked(self, obs: Tensor) -> Any:
        """The response to ``obs [..., O]``: a distribution, or actions ``[B, A]`` in their own units."""
        flat = obs.reshape(-1, obs.shape[-1])
        answer = self.respond(flat)
        if isinstance(answer, np.ndarray):
            answer = torch.as_tensor(answer, dtype=obs.dtype, device=obs.device)
        if type(answer).__name__.endswith("Delta"):  # TorchRL's
            answer = answer.mean
        if not isinstance(answer, Tensor | Distribution):
            raise UserError(
                f"The policy returned a {type(answer).__name__}: expected a torch.distributions.Distribution, or the "
                f"actions as a tensor or array of shape ({len(flat)}, {self.action_dim})."
            )
        shape = answer.shape if isinstance(answer, Tensor) else answer.batch_shape + answer.event_shape
        if tuple(shape) != (len(flat), self.action_dim):
            raise UserError(
                f"For {len(flat)} observations the policy returned actions of shape {tuple(shape)}: expected "
                f"({len(flat)}, {self.action_dim})."
            )
        if isinstance(answer, Tensor):
            self._require_finite(flat, answer)
        return answer

    def _require_finite(self, obs: Tensor, *numbers: Tensor) -> None:
        """Raises UserError where the policy's answer is not finite, or its second part, the std, not positive."""
        good = torch.stack([number.isfinite().all(-1) for number in numbers]).all(0)
        if len(numbers) > 1:
            good &= (numbers[1] > SMALLEST_STD).all(-1)
        if not bool(good.all()):
            row = int((~good).nonzero()[0])
            answer = ", ".join(str(number[row].tolist()) for number in numbers)
            raise UserError(
                f"The policy answers {answer} to the observation {obs[row].tolist()}: actions and means must be "
                f"finite, standard deviations above {SMALLEST_STD:g}."
            )

    def _gaussian(self, answer: Tensor | Distribution, obs: Tensor) -> tuple[Tensor, Tensor, bool] | None:
        """Mean and standard deviation ``[B, A]`` in [-1, 1] and whether it draws; None if it is no Gaussian."""
        found = self._linearised(answer)
        if found:
            self._require_finite(obs.reshape(-1, obs.shape[-1]), *found[:2])
        return found

    def _linearised(self, answer: Tensor | Distribution) -> tuple[Tensor, Tensor, bool] | None:
        if isinstance(answer, Tensor):
            return self._inwards(answer), torch.ones_like(answer), False
        base = answer.base_dist if isinstance(answer, Independent) else answer
        if isinstance(base, Normal):
            return self._inwards(base.loc), (base.scale / self.half).expand_as(base.loc), True
        if not isinstance(base, TransformedDistribution):
            return None
        squashed = base.base_dist.base_dist if isinstance(base.base_dist, Independent) else base.base_dist
        if not isinstance(squashed, Normal) or any(t.domain.event_dim for t in base.transforms):
            return None
        with torch.enable_grad():
            free = squashed.loc.detach().requires_grad_()
            mean = free
            for transform in base.transforms:
                mean = transform(mean)
            (slope,) = torch.autograd.grad(mean.sum(), free)
        std = (squashed.scale * slope.abs() / self.half).clamp(min=MIN_STD)
        return self._inwards(mean.detach()), std, True

    def _moments(self, answer: Distribution) -> tuple[Tensor, Tensor]:
        """Mean and standard deviation ``[B, A]`` of a distribution, in [-1, 1]."""
        try:
            return self._inwards(answer.mean), answer.variance.sqrt() / self.half
        except NotImplementedError as error:
            raise UserError(
                f"The policy's {type(answer).__name__} has no closed mean and variance, which this needs: "
                "guidance=literal needs neither, or let the policy return a Gaussian."
            ) from error

    def _log_prob(self, answer: Distribution, outwards: Tensor) -> Tensor:
        """Log density ``[B]``, of actions in [-1, 1], at ``outwards [B, A]`` in the policy's units."""
        log_prob = answer.log_prob(outwards)
        return (log_prob.sum(-1) if log_prob.dim() > 1 else log_prob) + self.half.log().sum()

    def _outwards(self, answer: Distribution, action: Tensor) -> Tensor:
        """From [-1, 1] to the policy's units, inside the support of its distribution."""
        outwards = self.middle + self.half * action
        support = getattr(answer.support, "base_constraint", answer.support)
        low, high = (getattr(support, name, None) for name in ("lower_bound", "upper_bound"))
        if low is None or high is None:
            return outwards
        margin = INSIDE * (high - low)
        return torch.clamp(outwards, low + margin, high - margin)

    def _inwards(self, action: Tensor) -> Tensor:
        """From the policy's units to [-1, 1]."""
        return (action - self.middle) / self.half

    @staticmethod
    def _like(obs: Tensor, values: Tensor) -> Tensor:
        """``[B, A]`` with the leading axes of ``obs``."""
        return values.reshape(*obs.shape[:-1], values.shape[-1])
