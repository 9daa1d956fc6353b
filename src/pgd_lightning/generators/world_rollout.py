"""Autoregressive diffusion: PolyGRAD's world model of two rows, rolled out one step after the other.

The baseline of the paper (arXiv 2312.08533) that is as exact and needs a whole chain of denoising for every step.

Difference from the reference: the model learns from single transitions, whose second row does nothing (action, reward
and end are 0) in training as in sampling; there it is the next row in training and has a mean action in sampling.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

from pgd_lightning.diffusion.samplers import Noise, normal_noise
from pgd_lightning.generators.guidance import Rule
from pgd_lightning.generators.polygrad import imagine
from pgd_lightning.generators.world import WorldModel
from pgd_lightning.randomness import seeded, stream
from pgd_lightning.trajectory import Policy, Trajectory


class StepWorldModel(WorldModel):
    """A world model of single transitions, as windows of two rows."""

    name = "step_world"

    def fit_units(self, batches: Iterable[Trajectory]) -> None:
        """Of the rows in which something is done."""
        self.codec.fit(batch[..., :1] for batch in batches)


class WorldRollout:
    """Windows of a trained :class:`StepWorldModel`."""

    def __init__(self, model: StepWorldModel, guidance: Rule, num_steps: int, rows: int) -> None:
        self.model, self.guidance, self.num_steps, self.rows = model, guidance, num_steps, rows

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]`` that begin at ``starts [..., N, O]``.

        Actions are drawn from the policy, kept in the box, or are the data's mean and deviation of noise where there
        is none. A row that ends an episode is followed by the start again.
        """
        self.model.to(starts.device)
        noise = normal_noise(stream(seed, "world rollout", device=starts.device))
        obs, rows = starts, []
        with seeded(seed, "world rollout/policy"):  # of policies whose noise is their own
            for _ in range(self.rows):
                action = self._act(policy, obs, noise)
                row, following = self.step(obs, action, noise)
                rows.append(row)
                obs = torch.where(row.terminated.unsqueeze(-1), starts, following)
        return torch.stack(rows, dim=starts.dim() - 1)  # type: ignore[arg-type, return-value]

    def _act(self, policy: Policy | None, obs: Tensor, noise: Noise) -> Tensor:
        codec = self.model.codec
        drawn = noise(obs.new_zeros(*obs.shape[:-1], codec.action_dim))
        if policy is not None:
            return policy.draw(obs, drawn).clamp(-1, 1)
        where = codec.action_channels
        return drawn * codec.std[where] + codec.mean[where]

    def step(self, obs: Tensor, action: Tensor, noise: Noise) -> tuple[Trajectory, Tensor]:
        """The row ``[...]`` of ``action [..., A]`` in ``obs [..., O]``, and the next observation."""
        codec = self.model.codec
        given = codec.encode_action(torch.stack([action, torch.zeros_like(action)], dim=-2))
        windows = codec.decode(
            imagine(
                self.model.denoise, self.model.ema, codec, None, self.guidance, None, codec.encode_obs(obs), 2,
                self.num_steps, noise, given,
            )
        )  # fmt: skip
        first = windows[..., 0]
        row = Trajectory(
            obs=obs, action=action, reward=first.reward, terminated=first.terminated, batch_size=action.shape[:-1]
        )
        return row, windows.obs[..., 1, :]
