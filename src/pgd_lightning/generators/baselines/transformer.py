"""A causal transformer that regresses the next row: one of the world models PolyGRAD is compared with (2312.08533).

It reads (s, a) of up to a window less one row and says, deterministically, s' - s and r, and the chance of an end.

Differences from the reference: the row of (s, a) gives its own reward and end, there those of the next row, whose
action is no input; the policy's action is brought to the data's units, there it is taken for one in them; the next
state is learned as a change, an end by its cross-entropy; a Gaussian behaviour policy is fitted beside it, which acts
where no policy is given.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow, happens
from pgd_lightning.generators.baselines.step_units import StepUnits
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.networks.window_transformer import WindowTransformer
from pgd_lightning.trajectory import Trajectory


class TransformerModel(WindowModel):
    """Trains a network ``[B, T, O + A] -> [B, T, O + 2]`` on the change, the reward and the end of each row."""

    name = "transformer"
    codec: StepUnits

    def __init__(
        self,
        network: Callable[..., WindowTransformer],  # of the numbers of inputs and outputs
        obs_dim: int,
        action_dim: int,
        behaviour_hidden: Sequence[int],
        learning_rate: float,
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        units = StepUnits(obs_dim, action_dim, standardise=True)
        super().__init__(units, learning_rate, total_steps, log_every, seed)
        self.network = network(channels=obs_dim + action_dim, predicted=obs_dim + 2)
        self.behaviour = GaussianActor(obs_dim, action_dim, behaviour_hidden)

    def loss(self, batch: Trajectory) -> Tensor:
        """Of ``[B, T]``: squared error of outcomes in all rows but the last, cross-entropy of ends in all of them.

        And minus the log density of the actions under the behaviour policy, whose parameters are its own.
        """
        read = self.network(self.codec.inputs(batch.obs, batch.action))
        steps = batch.transitions().view(len(batch), -1)
        outcome = read[:, :-1, :-1]
        return (
            (self.codec.weights * (outcome - self.codec.targets(steps)) ** 2).mean()
            + binary_cross_entropy_with_logits(read[..., -1], batch.terminated.to(read.dtype))
            - self.codec.log_prob_of_data(self.behaviour, batch.obs, batch.action)
        )


class TransformerRollout(RowByRow[TransformerModel]):
    """Windows of a trained :class:`TransformerModel`, which sees as many of the last rows as it was trained to."""

    purpose = "transformer"

    def __init__(self, model: TransformerModel, rows: int) -> None:
        super().__init__(model, rows)
        self.context = model.network.rows - 1  # outcomes were trained up to there

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """No row read: ``[..., context, O + A]`` from the left, and how many of them are filled, ``[..., 1]``."""
        channels, lead = starts.shape[-1] + self.model.codec.action_dim, starts.shape[:-1]
        filled = torch.zeros(*lead, 1, dtype=torch.long, device=starts.device)
        return starts.new_zeros(*lead, self.context, channels), filled

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        return self.model.codec.draw_of_data(self.model.behaviour, obs, self.noise(obs, random))

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        units = self.model.codec
        seen, filled = memory
        full = filled == self.context
        seen = torch.where(full.unsqueeze(-1), seen.roll(-1, dims=-2), seen)
        last = filled.clamp(max=self.context - 1).unsqueeze(-1)  # [..., 1, 1]
        row = units.inputs(obs, action).unsqueeze(-2)
        seen = seen.scatter(-2, last.expand_as(row), row)
        read = self.model.network(seen.flatten(0, -3)).unflatten(0, seen.shape[:-2])
        read = read.gather(-2, last.expand(*last.shape[:-1], read.shape[-1])).squeeze(-2)
        change = read[..., :-1] * units.out_std + units.out_mean
        filled = (filled + 1).clamp(max=self.context)
        ended = happens(read[..., -1], units.terminal_rate, random)
        return (seen, filled), obs + change[..., :-1], change[..., -1], ended
