"""Dreamer's recurrent state-space model, one of the world models PolyGRAD is compared with (2312.08533).

Networks and loss are TorchRL's of DreamerV3 (Hafner et al., 2301.04104): a grouped recurrent cell, a discrete latent
state with a prior and a posterior, an observation decoder, a two-hot reward, balanced divergences with free nats.

Differences from Dreamer: observations are standardised instead of put through symlog; reward and end are read from the
state *and the action taken in it*, because a row holds (s, a, r, d) and that of an end has no successor; windows have
the length of ``data.horizon`` (there: 64); a Gaussian behaviour policy is fitted beside it, which acts where no policy
is given.
"""

from collections.abc import Sequence

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor, nn
from torchrl.modules import DreamerV3MLP, RSSMPosteriorV3, RSSMPriorV3, RSSMRolloutV3, SymExpTwoHot
from torchrl.objectives import DreamerV3ModelLoss

from pgd_lightning.errors import UserError
from pgd_lightning.generators.baselines.row_by_row import Memory, RowByRow, density_of_data, happens
from pgd_lightning.generators.polygrad.world import WorldCodec
from pgd_lightning.generators.window_model import WindowModel
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.trajectory import Trajectory


class RSSM(nn.Module):
    """The networks. ``[obs, previous action]`` of windows to states, and heads that read them; all standardised.

    Raises UserError where ``blocks`` do not divide ``belief``.
    """

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        belief: int,  # width of the recurrent state
        blocks: int,  # groups that its cell mixes within
        hidden: int,
        latents: int,  # categorical variables of the state
        classes: int,  # of each
        depth: int,  # hidden layers of encoder and heads
        bins: int,  # of the two-hot reward
        unimix: float,  # share of the uniform distribution in each categorical
    ) -> None:
        super().__init__()
        if belief % blocks:
            raise UserError(f"rssm.belief={belief} is not a multiple of the {blocks} blocks of its recurrent cell.")
        self.belief, self.state, self.action_dim = belief, latents * classes, action_dim
        self.encoder = DreamerV3MLP(obs_dim, None, depth, hidden)
        shared = {"hidden_dim": hidden, "num_categoricals": latents, "num_classes": classes, "unimix": unimix}
        cell = {"recurrent_model": "block_gru", "num_blocks": blocks}
        self.rollout = RSSMRolloutV3(
            TensorDictModule(
                RSSMPriorV3(rnn_hidden_dim=belief, action_dim=action_dim, **cell, **shared),
                in_keys=["state", "belief", "action"],
                out_keys=[("next", "prior_logits"), ("next", "state"), ("next", "belief")],
            ),
            TensorDictModule(
                RSSMPosteriorV3(rnn_hidden_dim=belief, obs_embed_dim=hidden, use_rms_norm=True, **shared),
                in_keys=[("next", "belief"), ("next", "encoded_latents")],
                out_keys=[("next", "posterior_logits"), ("next", "state")],
            ),
        )
        features = self.state + belief
        self.decoder = DreamerV3MLP(features, obs_dim, depth, hidden)
        self.reward = DreamerV3MLP(features + action_dim, bins, depth, hidden, outscale=0.0)
        self.going_on = DreamerV3MLP(features + action_dim, 1, depth, hidden)
        self.two_hot = SymExpTwoHot(bins)

    @property
    def prior(self) -> RSSMPriorV3:
        """``(state, belief, action) -> (logits, state, belief)`` without having seen the next observation."""
        return self.rollout.rssm_prior.module

    @property
    def posterior(self) -> RSSMPosteriorV3:
        """``(belief, embedding) -> (logits, state)``."""
        return self.rollout.rssm_posterior.module

    def forward(self, windows: TensorDict) -> TensorDict:
        """What the loss needs of ``windows [B, T]``, with the actions taken in and before each row."""
        after = windows["next"]
        after["encoded_latents"] = self.encoder(after["obs"])
        out = self.rollout(windows)
        state, belief = out["next", "state"], out["next", "belief"]
        out["next", "decoded"] = self.decoder(state, belief)
        out["next", "reward_logits"] = self.reward(state, belief, windows["taken"])
        out["next", "reward"] = self.two_hot(out["next", "reward_logits"])
        out["next", "continue_pred"] = self.going_on(state, belief, windows["taken"])
        return out

    def first(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """State and belief ``[..., *]`` at a first observation ``[..., O]``: after an action of 0 from nothing."""
        lead = obs.shape[:-1]
        nothing = obs.new_zeros(*lead, self.state), obs.new_zeros(*lead, self.belief)
        _, _, belief = self.prior(*nothing, obs.new_zeros(*lead, self.action_dim))
        return self.posterior(belief, self.encoder(obs))[1], belief


class RSSMModel(WindowModel):
    """Trains an :class:`RSSM` on windows at a constant rate."""

    name = "rssm"
    codec: WorldCodec

    def __init__(
        self,
        network: RSSM,
        codec: WorldCodec,
        behaviour_hidden: Sequence[int],
        free_nats: float,
        dynamics_weight: float,  # of KL(posterior held || prior)
        representation_weight: float,  # of KL(posterior || prior held)
        learning_rate: float,
        total_steps: int,
        log_every: int,
        seed: int,
    ) -> None:
        super().__init__(codec, learning_rate, total_steps, log_every, seed)
        self.behaviour = GaussianActor(codec.obs_dim, codec.action_dim, behaviour_hidden)
        self.objective = DreamerV3ModelLoss(
            network, kl_mode="separate", lambda_dynamic=dynamics_weight, lambda_representation=representation_weight,
            lambda_continue=1.0, free_bits=free_nats, unimix=network.prior.unimix, reco_symlog=False,
            num_reward_bins=network.two_hot.num_bins,
        )  # fmt: skip
        self.objective.set_keys(pixels="obs", reco_pixels="decoded")

    @property
    def network(self) -> RSSM:
        """What is trained."""
        return self.objective.world_model

    def loss(self, batch: Trajectory) -> Tensor:
        """Dreamer's sum of losses of ``[B, T]`` and, with parameters of its own, the behaviour policy's."""
        parts, _ = self.objective(self.windows(batch))
        seen, varies = self.codec.encode_obs(batch.obs), self.codec.varies[self.codec.action_channels]
        of_actions = density_of_data(self.behaviour, seen, batch.action, varies)
        return torch.stack([part.sum() for part in parts.values()]).sum() - of_actions

    def windows(self, batch: Trajectory) -> TensorDict:
        """``[B, T]`` as the RSSM reads it: each observation with the action before it, 0 before the first."""
        net, obs, taken = self.network, self.codec.encode_obs(batch.obs), self.codec.encode_action(batch.action)
        before = torch.cat([torch.zeros_like(taken[:, :1]), taken[:, :-1]], dim=1)
        after = {"obs": obs, "reward": batch.reward.unsqueeze(-1), "terminated": batch.terminated.unsqueeze(-1)}
        size = batch.batch_size
        return TensorDict(
            {
                "state": obs.new_zeros(*size, net.state),
                "belief": obs.new_zeros(*size, net.belief),
                "action": before,
                "taken": taken,
                "next": TensorDict(after, size),
            },
            size,
        )


class Dreamed(RowByRow[RSSMModel]):
    """Windows of a trained :class:`RSSMModel`: the start is observed, what follows is imagined."""

    purpose = "rssm"

    def begin(self, starts: Tensor, random: torch.Generator) -> Memory:
        """State and belief."""
        return self.model.network.first(self.model.codec.encode_obs(starts))

    def act_alone(self, memory: Memory, obs: Tensor, random: torch.Generator) -> Tensor:
        codec = self.model.codec
        drawn = self.model.behaviour.draw(codec.encode_obs(obs), self.noise(obs, random))
        return torch.where(codec.std[codec.action_channels] > 0, drawn, codec.mean[codec.action_channels])

    def step(
        self, memory: Memory, obs: Tensor, action: Tensor, random: torch.Generator
    ) -> tuple[Memory, Tensor, Tensor, Tensor]:
        net, codec = self.model.network, self.model.codec
        taken = codec.encode_action(action)
        paid = codec.reward_channel
        reward = net.two_hot.decode(net.reward(*memory, taken))
        reward = torch.where(codec.std[paid] > 0, reward, codec.mean[paid])
        ended = happens(-net.going_on(*memory, taken).squeeze(-1), codec.mean[codec.terminal_channel], random)
        _, state, belief = net.prior(*memory, taken)
        return (state, belief), codec.decode_obs(net.decoder(state, belief)), reward, ended
