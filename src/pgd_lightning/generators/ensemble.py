"""PETS: an ensemble of probabilistic one-step models, rolled out by the target policy (section 7 of the notes).

Seven networks give mean and log variance of the change of state and of the reward; the five with the smallest error on
held-out steps are rolled out, another one drawn for each row and step (TS1). The paper that compares PGD with PETS does
not say how its PETS was built; these are the numbers of a later ensemble by the same authors.

Differences from that ensemble: inputs and targets are standardised; termination is learned beside them, because no rule
for it is known to a generator; a Gaussian behaviour policy is fitted too, which acts where no policy is given.
"""

from itertools import pairwise
from typing import Any

import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits, softplus

from pgd_lightning.errors import UserError
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.networks.mlp import EnsembleLinear
from pgd_lightning.randomness import derive_seed, stream
from pgd_lightning.trajectory import Policy, Trajectory, Transition


class Ensemble(LightningModule):
    """Learns (s, a) -> (s' - s, r, d) from steps ``[1, B]``, all members from the same batches."""

    in_mean: Tensor  # [O + A]
    in_std: Tensor
    out_mean: Tensor  # [O + 1]
    out_std: Tensor
    elites: Tensor  # [num_elites] numbers of members

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        members: int,
        num_elites: int,
        hidden: list[int],
        log_var_bounds: list[float],  # initial lower and upper; learned
        bound_weight: float,
        learning_rate: float,
        adam_eps: float,
        weight_decay: float,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__()
        targets = obs_dim + 1
        sizes = [obs_dim + action_dim, *hidden, 2 * targets + 1]
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in pairwise(sizes))
        low, high = log_var_bounds
        self.low = nn.Parameter(torch.full((targets,), low))
        self.high = nn.Parameter(torch.full((targets,), high))
        self.behaviour = GaussianActor(obs_dim, action_dim, hidden[:2])
        self.obs_dim, self.members, self.num_elites, self.bound_weight = obs_dim, members, num_elites, bound_weight
        self.learning_rate, self.adam_eps, self.weight_decay = learning_rate, adam_eps, weight_decay
        self.log_every, self.seed = log_every, seed
        for name, size in (("in", obs_dim + action_dim), ("out", targets)):
            self.register_buffer(f"{name}_mean", torch.zeros(size))
            self.register_buffer(f"{name}_std", torch.ones(size))
        self.register_buffer("elites", torch.arange(num_elites))

    def fit_scales(self, steps: Transition) -> None:
        """Mean and deviation of inputs and targets of ``steps [L]``; what does not vary keeps its unit."""
        for name, values in (("in", _inputs(steps.obs, steps.action)), ("out", _targets(steps))):
            std = values.std(0, correction=0)
            getattr(self, f"{name}_mean").copy_(values.mean(0))
            getattr(self, f"{name}_std").copy_(torch.where(std < 1e-6, 1.0, std))

    def predict(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Standardised mean and log variance ``[M, B, O + 1]`` and logit of termination ``[M, B]`` of each member."""
        x = (_inputs(obs, action) - self.in_mean) / self.in_std
        x = x.expand(self.members, *x.shape)
        *body, head = self.layers
        for layer in body:
            x = layer(x).relu()
        out = head(x)
        mean, log_var = out[..., :-1].chunk(2, dim=-1)
        log_var = self.high - softplus(self.high - log_var)
        log_var = self.low + softplus(log_var - self.low)
        return mean, log_var, out[..., -1]

    def losses(self, steps: Transition) -> dict[str, Tensor]:
        """Gaussian, termination and behaviour losses of ``steps [B]``, summed over members, and the bounds' spread."""
        mean, log_var, logit = self.predict(steps.obs, steps.action)
        target = (_targets(steps) - self.out_mean) / self.out_std
        error = ((mean - target) ** 2 * torch.exp(-log_var) + log_var).mean(dim=(1, 2)).sum()
        ended = steps.terminated.float().expand_as(logit)
        return {
            "model": error,
            "bounds": self.bound_weight * (self.high - self.low).sum(),
            "terminal": binary_cross_entropy_with_logits(logit, ended, reduction="none").mean(-1).sum(),
            "behaviour": -self.behaviour.log_prob(self._seen(steps.obs), steps.action).mean(),
        }

    def _seen(self, obs: Tensor) -> Tensor:
        return (obs - self.in_mean[: self.obs_dim]) / self.in_std[: self.obs_dim]

    def training_step(self, batch: Transition, batch_idx: int) -> Tensor:
        losses = self.losses(batch.squeeze(0))  # type: ignore[attr-defined]
        total = torch.stack(list(losses.values())).sum()
        if self.global_step % self.log_every == 0:
            if not total.isfinite():
                raise UserError(
                    f"The ensemble's loss is {total.item()} at step {self.global_step}: lower "
                    f"ensemble.learning_rate (now {self.learning_rate}) and start again."
                )
            self.log_dict({f"ensemble/{name}": value.detach() for name, value in losses.items()})
            self.log("ensemble/loss", total.detach(), prog_bar=True, logger=False)
        return total

    @torch.no_grad()
    def choose_elites(self, held_out: Transition) -> Tensor:
        """Squared error of each member on ``held_out [B]``, ``[M]``; the smallest become the elites."""
        mean, _, _ = self.predict(held_out.obs, held_out.action)
        target = (_targets(held_out) - self.out_mean) / self.out_std
        error = ((mean - target) ** 2).mean(dim=(1, 2))
        self.elites.copy_(error.argsort()[: self.num_elites])
        return error

    def configure_optimizers(self) -> Any:
        return torch.optim.AdamW(
            self.parameters(), lr=self.learning_rate, eps=self.adam_eps, weight_decay=self.weight_decay
        )


def _inputs(obs: Tensor, action: Tensor) -> Tensor:
    return torch.cat([obs, action], dim=-1)


def _targets(steps: Transition) -> Tensor:
    return torch.cat([steps.next_obs - steps.obs, steps.reward.unsqueeze(-1)], dim=-1)


class PETS:
    """Rolls a trained ensemble out from data states. A row that terminates is followed by one of the starts."""

    def __init__(self, model: Ensemble, rows: int, penalty: float) -> None:
        self.model, self.rows = model, rows
        self.penalty = penalty  # MOPO: reward less this times the largest norm of a member's deviations

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]`` that begin at ``starts [..., N, O]``, acted by the policy's mean action.

        Without a policy the fitted behaviour acts, with its noise.
        """
        self.model.to(starts.device)
        random = stream(seed, "pets", device=starts.device)
        obs, columns = starts, []
        for _ in range(self.rows):
            action = self._act(policy, obs, random)
            next_obs, reward, terminated = self.step(obs.flatten(0, -2), action.flatten(0, -2), random)
            columns.append((obs, action, reward.view(obs.shape[:-1]), terminated.view(obs.shape[:-1])))
            obs = torch.where(columns[-1][3].unsqueeze(-1), starts, next_obs.view_as(obs))
        stacked = [torch.stack(column, dim=starts.dim() - 1) for column in zip(*columns, strict=True)]
        return Trajectory(
            obs=stacked[0], action=stacked[1], reward=stacked[2], terminated=stacked[3],
            batch_size=stacked[2].shape,
        )  # fmt: skip

    def _act(self, policy: Policy | None, obs: Tensor, random: torch.Generator) -> Tensor:
        if policy is not None:
            return policy.act(obs).clamp(-1, 1)
        actor = self.model.behaviour
        mean = actor.act(self.model._seen(obs))
        noise = torch.randn(mean.shape, generator=random, device=obs.device)
        return (mean + actor.clamped_log_std().exp() * noise).clamp(-1, 1)

    def step(self, obs: Tensor, action: Tensor, random: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """``(next_obs [B, O], reward [B], terminated [B])`` of a random elite for each row."""
        mean, log_var, logit = self.model.predict(obs, action)
        std = (0.5 * log_var).exp() * self.model.out_std
        drawn = torch.randint(len(self.model.elites), (len(obs),), generator=random, device=obs.device)
        member, row = self.model.elites[drawn], torch.arange(len(obs), device=obs.device)
        noise = torch.randn(len(obs), std.shape[-1], generator=random, device=obs.device)
        change = mean[member, row] * self.model.out_std + self.model.out_mean + std[member, row] * noise
        chance = torch.rand(len(obs), generator=random, device=obs.device)
        doubt = std[self.model.elites].norm(dim=-1).amax(0)
        return (
            obs + change[:, :-1],
            change[:, -1] - self.penalty * doubt,
            chance < logit[member, row].sigmoid(),
        )


def held_out(number: int, share: float, seed: int) -> tuple[Tensor, Tensor]:
    """Numbers of the steps to train on and of the ``share`` that chooses the elites, at random, without overlap."""
    order = torch.randperm(number, generator=stream(derive_seed(seed, "ensemble"), "held out"))
    return order[int(share * number) :], order[: int(share * number)]
