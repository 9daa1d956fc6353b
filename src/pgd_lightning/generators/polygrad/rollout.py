"""Autoregressive diffusion: PolyGRAD's world model of two rows, rolled out one step after the other.

The baseline of the paper (arXiv 2312.08533) that is as exact and needs a whole chain of denoising for every step.

Difference from the reference: the model learns from single transitions, whose second row does nothing (action, reward
and end are 0) in training as in sampling; there it is the next row in training and has a mean action in sampling.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pgd_lightning.diffusion.samplers import normal_noise
from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow
from pgd_lightning.generators.guidance import OnPolicy
from pgd_lightning.generators.polygrad.imagination import imagine
from pgd_lightning.generators.polygrad.world import WorldModel
from pgd_lightning.trajectory import Trajectory


class StepWorldModel(WorldModel):
    """A world model of single transitions, as windows of two rows."""

    name = "step_world"

    def fit_units(self, batches: Iterable[Trajectory]) -> None:
        """Of the rows in which something is done."""
        self.codec.fit(batch[..., :1] for batch in batches)


class WorldRollout(RowByRow[StepWorldModel]):
    """Windows of a trained :class:`StepWorldModel`; without a policy, actions have the data's mean and std."""

    purpose = "world rollout"

    def __init__(self, model: StepWorldModel, guidance: OnPolicy, num_steps: int, rows: int) -> None:
        super().__init__(model, rows)
        self.guidance, self.num_steps = guidance, num_steps

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        codec = self.model.codec
        where = codec.action_channels
        return self.noise(obs, random) * codec.std[where] + codec.mean[where]

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        codec = self.model.codec
        given = codec.encode_action(torch.stack([action, torch.zeros_like(action)], dim=-2))
        windows = codec.decode(
            imagine(
                self.model.denoise, self.model.ema, codec, None, self.guidance, None, codec.encode_obs(obs), 2,
                self.num_steps, normal_noise(random), given,
            )
        )  # fmt: skip
        first = windows[..., 0]
        return memory, windows.obs[..., 1, :], first.reward, first.terminated
