"""An autoregressive model of windows: a recurrent world model with a behaviour policy, one mixture density a row.

Would a simpler model than diffusion do? This one has what the MDN-RNN of Ha and Schmidhuber (arXiv 1803.10122) has, on
states instead of codes of images. Its windows can be acted by the target policy, and then drift as those of every
one-step model do; given none it acts by itself.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow, happens
from pgd_lightning.generators.window_model import EncodedWindowModel
from pgd_lightning.networks.window_gru import WindowGRU
from pgd_lightning.trajectory import Trajectory


class AutoregressiveModel(EncodedWindowModel):
    """Trains ``network`` on the likelihood of each row given those before it."""

    name = "autoregressive"
    network: WindowGRU

    def loss(self, batch: Trajectory) -> Tensor:
        """Minus log-likelihood of ``[B, T]``: of actions and ends in all rows, of outcomes in all but the last."""
        net, codec = self.network, self.codec
        obs, action, reward, _ = codec.encode(batch).split([codec.obs_dim, codec.action_dim, 1, 1], dim=-1)
        before, after = net.read(obs, action)
        outcome = torch.cat([obs[:, 1:] - obs[:, :-1], reward[:, :-1]], dim=-1)
        features = net.after_action(after, obs, action)
        ended = batch.terminated.to(obs.dtype)
        counted_obs, counted_action, counted_reward, _ = codec.varies.split([codec.obs_dim, codec.action_dim, 1, 1])
        counted = torch.cat([counted_obs, counted_reward])
        return (
            binary_cross_entropy_with_logits(net.terminal(features).squeeze(-1), ended)
            - net.action.log_prob(net.before_action(before, obs), action, counted_action).mean()
            - net.outcome.log_prob(features[:, :-1], outcome, counted).mean()
        )


class Autoregressive(RowByRow[AutoregressiveModel]):
    """Windows of a trained :class:`AutoregressiveModel`."""

    purpose = "autoregressive"

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """What the recurrent cell has read: nothing."""
        return (starts.new_zeros(*starts.shape[:-1], self.model.network.hidden),)

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        codec, net = self.model.codec, self.model.network
        x = net.action.sample(net.before_action(memory[0], codec.encode_obs(obs)), random)
        where = codec.action_channels
        return (x * codec.std[where] + codec.mean[where]).tanh()

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        codec, net = self.model.codec, self.model.network
        state, taken = codec.encode_obs(obs), codec.encode_action(action)
        hidden = net.remember(memory[0], state, taken)
        features = net.after_action(hidden, state, taken)
        change, reward = net.outcome.sample(features, random).split([codec.obs_dim, 1], dim=-1)
        reward = reward * codec.std[-2] + codec.mean[-2]
        ended = happens(net.terminal(features).squeeze(-1), codec.mean[-1], random)
        return (hidden,), codec.decode_obs(state + change), reward.squeeze(-1), ended
