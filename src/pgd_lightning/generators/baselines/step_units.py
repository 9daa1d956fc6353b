"""The units in which one-step models see steps, and what constants of the data mean to them."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from pgd_lightning.channels import divisor, mean_and_std, weights
from pgd_lightning.generators.baselines.row_by_row import density_of_data
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.trajectory import Trajectory, Transition


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
        self.obs_dim, self.action_dim, self.standardise = obs_dim, action_dim, standardise
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

    def draw_of_data(self, behaviour: GaussianActor, obs: Tensor, noise: Tensor) -> Tensor:
        """An action ``[..., A]`` as ``behaviour`` draws it in ``obs [..., O]``, constant where the data's are."""
        drawn = behaviour.draw(self.seen_obs(obs), noise)
        return torch.where(self.in_std[self.obs_dim :] > 0, drawn, self.in_mean[self.obs_dim :])

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
