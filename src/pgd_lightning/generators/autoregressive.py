"""An autoregressive model of windows: a recurrent world model with a behaviour policy, one mixture density a row.

Would a simpler model than diffusion do? This one has what the MDN-RNN of Ha and Schmidhuber (arXiv 1803.10122) has, on
states instead of codes of images. Its windows can be acted by the target policy, and then drift as those of every
one-step model do; given none it acts by itself.
"""

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.prior import WindowModel, warmup_cosine
from pgd_lightning.networks.window_gru import WindowGRU
from pgd_lightning.randomness import seeded, stream
from pgd_lightning.trajectory import Policy, Trajectory


class AutoregressiveModel(WindowModel):
    """Trains ``network`` on the likelihood of each row given those before it."""

    name = "autoregressive"
    codec: TrajectoryCodec

    def __init__(
        self,
        network: WindowGRU,
        codec: TrajectoryCodec,
        learning_rate: float,  # peak
        warmup_start: float,  # fraction of the peak at step 0
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__(codec, learning_rate, total_steps, log_every, seed)
        self.network, self.warmup_start = network, warmup_start

    def rate(self, step: int) -> float:
        return warmup_cosine(step, self.total_steps, self.warmup_start)

    def loss(self, batch: Trajectory) -> Tensor:
        """Minus log-likelihood of ``[B, T]``: of actions and ends in all rows, of outcomes in all but the last."""
        net, codec = self.network, self.codec
        obs, action, reward, _ = codec.encode(batch).split([codec.obs_dim, codec.action_dim, 1, 1], dim=-1)
        before, after = net.read(obs, action)
        outcome = torch.cat([obs[:, 1:] - obs[:, :-1], reward[:, :-1]], dim=-1)
        features = net.after_action(after, obs, action)
        ended = batch.terminated.to(obs.dtype)
        return (
            binary_cross_entropy_with_logits(net.terminal(features).squeeze(-1), ended)
            - net.action.log_prob(net.before_action(before, obs), action).mean()
            - net.outcome.log_prob(features[:, :-1], outcome).mean()
        )


class Autoregressive:
    """Windows of a trained :class:`AutoregressiveModel`, row by row."""

    def __init__(self, model: AutoregressiveModel, rows: int) -> None:
        self.model, self.rows = model, rows

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]`` that begin at ``starts [..., N, O]``.

        Actions are drawn from the policy (the mean plus its noise) or, where there is none, from the model. A row
        that ends an episode is followed by the start again, with nothing remembered.
        """
        model = self.model.to(starts.device)
        random = stream(seed, "autoregressive", device=starts.device)
        first = model.codec.encode_obs(starts)
        obs, state, rows = starts, first, []
        memory = starts.new_zeros(*starts.shape[:-1], model.network.hidden)
        with seeded(seed, "autoregressive/policy"):  # of policies whose noise is their own
            for _ in range(self.rows):
                action = self._act(policy, memory, obs, state, random)
                memory, state, reward, terminated = self._step(memory, state, action, random)
                rows.append(
                    Trajectory(obs=obs, action=action, reward=reward, terminated=terminated, batch_size=reward.shape)
                )
                ended = terminated.unsqueeze(-1)
                memory, state = memory.masked_fill(ended, 0), torch.where(ended, first, state)
                obs = torch.where(ended, starts, model.codec.decode_obs(state))
        return torch.stack(rows, dim=starts.dim() - 1)  # type: ignore[arg-type, return-value]

    def _act(
        self, policy: Policy | None, memory: Tensor, obs: Tensor, state: Tensor, random: torch.Generator
    ) -> Tensor:
        """An action ``[..., A]`` in [-1, 1]."""
        codec, net = self.model.codec, self.model.network
        if policy is not None:
            noise = torch.randn(*obs.shape[:-1], codec.action_dim, generator=random, device=obs.device)
            return policy.draw(obs, noise)
        x = net.action.sample(net.before_action(memory, state), random)
        where = codec.action_channels
        return (x * codec.std[where] + codec.mean[where]).tanh()

    def _step(
        self, memory: Tensor, state: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """``(memory, state, reward, terminated)`` after ``action [..., A]`` in the standardised ``state [..., O]``."""
        codec, net = self.model.codec, self.model.network
        taken = codec.encode_action(action)
        memory = net.remember(memory, state, taken)
        features = net.after_action(memory, state, taken)
        change, reward = net.outcome.sample(features, random).split([codec.obs_dim, 1], dim=-1)
        reward = reward * codec.std[-2] + codec.mean[-2]
        chance = torch.rand(memory.shape[:-1], generator=random, device=memory.device)
        ended = chance < net.terminal(features).squeeze(-1).sigmoid()
        return memory, state + change, reward.squeeze(-1), ended
