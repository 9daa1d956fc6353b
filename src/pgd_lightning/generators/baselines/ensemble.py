"""PETS: an ensemble of probabilistic one-step models, rolled out by the target policy.

Seven networks give mean and log variance of (s' - s, r) from (s, a), all trained on the same batches for a fixed number
of steps; the five with the smallest squared error on held-out steps are rolled out (Chua et al., arXiv 1805.12114; the
use with a policy is that of MBPO, 1906.08253, the penalty MOPO's, 2005.13239). The paper that compares PGD with PETS
does not say how its PETS was built; the numbers are those of a later ensemble by the same authors.

Differences from that ensemble: an end is learned, as one more output of each member, because a generator knows no
environment's rule; horizon and starts are those of PGD's windows instead of MOPO's; a Gaussian behaviour policy is
fitted beside it, which acts where no policy is given. ``standardise`` is off there.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from pgd_lightning.channels import divisor, mean_and_std, weights
from pgd_lightning.errors import UserError
from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow, density_of_data, happens
from pgd_lightning.generators.window_model import HeldOut, WindowModel
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.networks.probabilistic_ensemble import ProbabilisticEnsemble
from pgd_lightning.trajectory import Trajectory, Transition

PROPAGATIONS = ("ts1", "ts_inf")


class StepUnits(nn.Module):
    """Inputs (s, a) and targets (s' - s, r) of one-step models: as they are, or standardised by the data.

    Either way what is constant in the data has standard deviation 0: it is 0 to the model, and predicted as it was.
    """

    in_mean: Tensor  # [O + A]
    in_std: Tensor
    out_mean: Tensor  # [O + 1]
    out_std: Tensor
    terminal_rate: Tensor  # []
    _version = 2  # of the checkpoint; before, constants had standard deviation 1

    def __init__(self, obs_dim: int, action_dim: int, standardise: bool) -> None:
        super().__init__()
        self.obs_dim, self.standardise = obs_dim, standardise
        for name, size in (("in", obs_dim + action_dim), ("out", obs_dim + 1)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("terminal_rate", torch.tensor(0.5))

    def fit(self, batches: Iterable[Trajectory]) -> None:
        """Mean and population standard deviation over the steps of windows, and the rate of terminals.

        The last row is a step without a successor, and the only one that may be a terminal, or no step at all.
        """
        columns = [
            (_inputs(s.obs, s.action), _targets(s), s.terminated, w.terminated.flatten())
            for w, s in ((w, w.transitions()) for w in batches)
        ]
        inputs, targets, terminated, in_all_rows = (torch.cat(parts).double() for parts in zip(*columns, strict=True))
        self.terminal_rate.copy_(torch.maximum(terminated.mean(), in_all_rows.mean()))
        self._keep("in", *mean_and_std(inputs))
        mean, std = mean_and_std(targets, smallest=0.0)
        std[:-1] *= self.in_std[: self.obs_dim] > 0  # a change that is rounding of a constant
        self._keep("out", mean, std)

    def _keep(self, name: str, mean: Tensor, std: Tensor) -> None:
        as_it_is = (std > 0) & (not self.standardise)
        getattr(self, f"{name}_mean").copy_(mean.masked_fill(as_it_is, 0))
        getattr(self, f"{name}_std").copy_(std.masked_fill(as_it_is, 1))

    def inputs(self, obs: Tensor, action: Tensor) -> Tensor:
        """``[B, O], [B, A] -> [B, O + A]``."""
        return (_inputs(obs, action) - self.in_mean) / divisor(self.in_std)

    def targets(self, steps: Transition) -> Tensor:
        """``[B] -> [B, O + 1]``."""
        return (_targets(steps) - self.out_mean) / divisor(self.out_std)

    @property
    def weights(self) -> Tensor:
        """What each of the targets counts in a mean over them, ``[O + 1]``."""
        return weights((self.out_std > 0).to(self.out_std.dtype))

    def seen_obs(self, obs: Tensor) -> Tensor:
        """``[..., O]``."""
        return (obs - self.in_mean[: self.obs_dim]) / divisor(self.in_std[: self.obs_dim])

    def log_prob_of_data(self, behaviour: GaussianActor, obs: Tensor, action: Tensor) -> Tensor:
        """Mean log density of ``action [..., A]`` in ``obs [..., O]``, both of the data."""
        varies = (self.in_std[self.obs_dim :] > 0).to(action.dtype)
        return density_of_data(behaviour, self.seen_obs(obs), action, varies)

    def like_the_data(self, action: Tensor) -> Tensor:
        """``action [..., A]`` with the constants of the data where these do not vary."""
        return torch.where(self.in_std[self.obs_dim :] > 0, action, self.in_mean[self.obs_dim :])

    def _load_from_state_dict(
        self, state_dict: dict[str, Any], prefix: str, local_metadata: dict[str, Any], *rest: Any
    ) -> None:
        state_dict.setdefault(f"{prefix}terminal_rate", torch.tensor(0.5))  # checkpoints of before lack it
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *rest)
        if self.standardise and (local_metadata.get("version") or 1) < 2:
            for std in (self.in_std, self.out_std):
                std.masked_fill_(std == 1, 0)


def _inputs(obs: Tensor, action: Tensor) -> Tensor:
    return torch.cat([obs, action], dim=-1)


def _targets(steps: Transition) -> Tensor:
    return torch.cat([steps.next_obs - steps.obs, steps.reward.unsqueeze(-1)], dim=-1)


class Ensemble(WindowModel):
    """Learns (s, a) -> (s' - s, r, d) from steps as windows of two rows."""

    name = "ensemble"
    codec: StepUnits
    elites: Tensor  # [num_elites] numbers of members

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        members: int,
        num_elites: int,
        hidden: Sequence[int],
        log_var_bounds: tuple[float, float],  # lower and upper at first
        bound_weight: float,
        standardise: bool,
        elite_rows: int,  # held-out steps that choose the elites, at most
        learning_rate: float,
        adam_eps: float,
        weight_decay: float,
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__(StepUnits(obs_dim, action_dim, standardise), learning_rate, total_steps, log_every, seed)
        self.network = ProbabilisticEnsemble(members, obs_dim + action_dim, hidden, obs_dim + 1, log_var_bounds)
        self.behaviour = GaussianActor(obs_dim, action_dim, hidden[:2])
        self.action_dim, self.num_elites, self.elite_rows = action_dim, num_elites, elite_rows
        self.bound_weight, self.adam_eps, self.weight_decay = bound_weight, adam_eps, weight_decay
        self.register_buffer("elites", torch.arange(num_elites))

    @property
    def method(self) -> str:
        return "pets"

    def loss(self, batch: Trajectory) -> Tensor:
        return torch.stack(list(self.losses(batch.transitions()).values())).sum()

    def losses(self, steps: Transition) -> dict[str, Tensor]:
        """Of ``steps [B]``, for disjoint networks but for the first three.

        ``model``: (mean - y)^2 / var + log var, mean over steps and dims, summed over members; ``bounds``: the weighted
        distance between the bounds; ``terminal``: cross-entropy of an end; ``behaviour``: -log density of the actions.
        """
        mean, log_var, logit = self.network(self.codec.inputs(steps.obs, steps.action))
        misfit = self.codec.weights * ((mean - self.codec.targets(steps)) ** 2 * torch.exp(-log_var) + log_var)
        ended = steps.terminated.to(logit.dtype).expand_as(logit)
        return {
            "model": misfit.mean(dim=(1, 2)).sum(),
            "bounds": self.bound_weight * (self.network.high - self.network.low).sum(),
            "terminal": binary_cross_entropy_with_logits(logit, ended, reduction="none").mean(-1).sum(),
            "behaviour": -self.codec.log_prob_of_data(self.behaviour, steps.obs, steps.action),
        }

    @torch.no_grad()
    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and deviation of (s' - s, r) ``[M, B, O + 1]`` in environment units, logit of an end ``[M, B]``."""
        mean, log_var, logit = self.network(self.codec.inputs(obs, action))
        units = self.codec
        return mean * units.out_std + units.out_mean, torch.exp(0.5 * log_var) * units.out_std, logit

    @torch.no_grad()
    def errors(self, steps: Transition) -> Tensor:
        """Mean squared error of each member on ``steps [B]``, in the units of the targets: ``[M]``."""
        mean, _, _ = self.network(self.codec.inputs(steps.obs, steps.action))
        return (self.codec.weights * (mean - self.codec.targets(steps)) ** 2).mean(dim=(1, 2))

    def settle(self, held_out: HeldOut | None) -> None:
        """The members with the smallest error on held-out steps become the elites; without any, the first ones."""
        if held_out is not None:
            chosen_by = next(iter(held_out.batches(self.elite_rows))).transitions()
            self.elites.copy_(self.errors(chosen_by).argsort()[: self.num_elites])

    def rate(self, step: int) -> float:
        """Constant."""
        return 1.0

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, eps=self.adam_eps, weight_decay=self.weight_decay
        )


class PETS(RowByRow):
    """Rolls a trained ensemble out."""

    purpose = "pets"

    def __init__(
        self,
        model: Ensemble,
        rows: int,
        propagation: str,  # ts1: another elite for each row; ts_inf: one for all rows of a window
        penalty: float,  # MOPO's lambda; 0 is PETS
    ) -> None:
        if propagation not in PROPAGATIONS:
            raise UserError(f"propagation={propagation} is neither {' nor '.join(PROPAGATIONS)}.")
        self.model: Ensemble = model
        self.rows, self.propagation, self.penalty = rows, propagation, penalty

    @property
    def action_dim(self) -> int:
        return self.model.action_dim

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """The elites that make the first step."""
        return (self.draw_members(starts.shape[:-1], random),)

    def draw_members(self, shape: Sequence[int], random: torch.Generator) -> Tensor:
        """Numbers of elites, uniform."""
        elites = self.model.elites
        return elites[torch.randint(len(elites), tuple(shape), generator=random, device=elites.device)]

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        units = self.model.codec
        return units.like_the_data(self.model.behaviour.draw(units.seen_obs(obs), self.noise(obs, random)))

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        """By one member for each row.

        The reward is less ``penalty`` times the largest norm, over the elites, of the deviations of (s' - s, r).
        """
        (member,) = memory
        mean, std, logit = self.model.predict(obs.flatten(0, -2), action.flatten(0, -2))
        uncertainty = std[self.model.elites].norm(dim=-1).amax(0)
        number, row = member.flatten(), torch.arange(std.shape[1], device=obs.device)
        noise = torch.randn(std.shape[1:], generator=random, device=obs.device)
        change = mean[number, row] + std[number, row] * noise
        ended = happens(logit[number, row], self.model.codec.terminal_rate, random)
        reward = change[:, -1] - self.penalty * uncertainty
        following = member if self.propagation == "ts_inf" else self.draw_members(member.shape, random)
        next_obs = obs + change[:, :-1].view_as(obs)
        return (following,), next_obs, reward.view(member.shape), ended.view(member.shape)
