"""PETS: an ensemble of probabilistic one-step models, rolled out by the target policy.

Seven networks give mean and log variance of (s' - s, r) from (s, a), all trained on the same batches for a fixed number
of steps; the five with the smallest squared error on held-out steps are rolled out (Chua et al., arXiv 1805.12114; the
use with a policy is that of MBPO, 1906.08253, the penalty MOPO's, 2005.13239). The paper that compares PGD with PETS
does not say how its PETS was built; the numbers are those of a later ensemble by the same authors.

Differences from that ensemble: an end is learned, as one more output of each member, because a generator knows no
environment's rule; horizon and starts are those of PGD's windows instead of MOPO's; a Gaussian behaviour policy is
fitted beside it, which acts where no policy is given. ``standardise`` is off there.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow, happens
from pgd_lightning.generators.baselines.step_units import StepUnits
from pgd_lightning.generators.window_model import HeldOut, WindowModel
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.networks.probabilistic_ensemble import ProbabilisticEnsemble
from pgd_lightning.trajectory import Trajectory, Transition


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
        self.num_elites, self.elite_rows = num_elites, elite_rows
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
        """Mean and std of (s' - s, r) ``[M, B, O + 1]`` in environment units, and the logit of an end ``[M, B]``."""
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

    def optimizer(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, eps=self.adam_eps, weight_decay=self.weight_decay
        )


class PETS(RowByRow[Ensemble]):
    """Rolls a trained ensemble out."""

    purpose = "pets"

    def __init__(
        self,
        model: Ensemble,
        rows: int,
        propagation: str,  # ts1: another elite for each row; ts_inf: one for all rows of a window
        penalty: float,  # MOPO's lambda; 0 is PETS
    ) -> None:
        super().__init__(model, rows)
        self.propagation, self.penalty = propagation, penalty

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """The elites that make the first step."""
        return (self.draw_members(starts.shape[:-1], random),)

    def draw_members(self, shape: Sequence[int], random: torch.Generator) -> Tensor:
        """Numbers of elites, uniform."""
        elites = self.model.elites
        return elites[torch.randint(len(elites), tuple(shape), generator=random, device=elites.device)]

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        return self.model.codec.draw_of_data(self.model.behaviour, obs, self.noise(obs, random))

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        """By one member for each row.

        The reward is less ``penalty`` times the largest norm, over the elites, of the std of (s' - s, r).
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
