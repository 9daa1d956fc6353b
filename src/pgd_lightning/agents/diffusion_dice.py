"""Diffusion-DICE (arXiv 2407.20109): a diffusion policy tilted by the optimal distribution ratio.

The optimal policy is w(s, a) pi_D(a | s), w the weight that DICE's dual gives each action of the data. Critics find w
(1.), guidance learns log E[w | noised action] from data actions alone (2.), and a decision samples K candidates of the
behaviour model plus guidance and lets a critic choose (3.). No loss evaluates a critic at an action outside the data,
except with ``guidance_rule=contrastive`` (QGPO's, arXiv 2304.12824), which must. The behaviour model is trained before
(:mod:`pgd_lightning.agents.behaviour`) and shared by all seeds. ``decision=select`` is IDQL's way of acting.

One update, in the published order: V; Q and the ensemble, their target from the new V; the targets; guidance, from
the new V and targets.

Differences from the paper, all but the first as in its published code: rows (s', d) may come from synthetic data; V
counts with weight 1 instead of 1 - gamma; w is a function of (Q - V) / temperature; selection asks an ensemble that
trains on the same target and is used nowhere else, or a softmax of the first target critic; AdamW decays weights.
Differences from the code: candidates are clipped to the box before the critics see them, not by the environment
afterwards; cosine annealing, off by default there, would anneal guidance too.
"""

from collections.abc import Sequence
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn

from pgd_lightning.agents.behaviour import MakeDenoiser
from pgd_lightning.agents.divergence import conjugate, weight
from pgd_lightning.agents.learner import Learner
from pgd_lightning.agents.policy import variance_over
from pgd_lightning.diffusion.denoiser import Denoise
from pgd_lightning.diffusion.energy import Energy, contrastive_loss, energy_guided, in_sample_loss
from pgd_lightning.diffusion.likelihood import flow_log_prob
from pgd_lightning.diffusion.samplers import Sampler
from pgd_lightning.errors import UserError
from pgd_lightning.networks.critics import EnsembleQ, StateValue, TwinQ
from pgd_lightning.networks.mlp import uniform_fan_in_
from pgd_lightning.networks.residual_mlp import EnergyMLP
from pgd_lightning.trajectory import Transition

MIN_WEIGHT = 1e-40


def for_env(name: str, table: dict[str, float]) -> float:
    """The entry of ``table`` for the environment ``name``. Raises UserError if there is none."""
    if name not in table:
        raise UserError(f"agent: nothing is published for {name}; take agent=diffusion_dice or set the value by hand.")
    return table[name]


class DiffusionDICE(Learner):
    """V, twin Q with targets, an ensemble that selects, and guidance g, around a frozen behaviour model."""

    discount: float
    shared = ("behaviour",)
    polyak_phase = 2

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: Sequence[int],
        behaviour: MakeDenoiser,
        discount: float,  # gamma
        temperature: float,  # alpha of DICE: smaller is greedier
        max_weight: float,
        ensemble: int,  # critics that select; 0: the first target critic does
        guidance_hidden: Sequence[int],
        time: str,  # features of the noise level that g sees: fourier30 or smooth
        time_features: int,
        guidance_start: str,  # first weights of g: torch or he
        guidance_rule: str,  # in_sample or contrastive
        noise_copies: int,  # M noised copies of each action; contrastive: generated actions of each state
        contrastive_weight: float,  # beta of Q in the contrastive targets
        guidance_scale: float,  # s: 1 is the policy that DICE defines
        decision: str,  # guide, select or guide_then_select
        candidates: int,  # K
        selection: str,  # max or softmax
        sampler: Sampler,
        num_steps: int,  # of the sampler
        likelihood_steps: int,  # of the ODE behind log_prob
    ) -> None:
        super().__init__()
        self.action_dim = action_dim
        self.behaviour = behaviour().requires_grad_(False)
        self.value = uniform_fan_in_(StateValue(obs_dim, hidden, layer_norm=True))
        self.critic = uniform_fan_in_(TwinQ(obs_dim, action_dim, hidden))
        self.target_critic = deepcopy(self.critic).requires_grad_(False)
        self.ensemble = EnsembleQ(ensemble, obs_dim, action_dim, hidden) if ensemble else None
        energy = EnergyMLP(action_dim, obs_dim, guidance_hidden, time_features, time, guidance_start)
        self.guidance = Energy(energy, self.behaviour.process)
        self.discount, self.temperature, self.max_weight = discount, temperature, max_weight
        self.guidance_rule, self.noise_copies, self.contrastive_weight = guidance_rule, noise_copies, contrastive_weight
        self.guidance_scale = 0.0 if decision == "select" else guidance_scale
        self.num_candidates = 1 if decision == "guide" else candidates
        self.selection, self.sampler, self.num_steps = selection, sampler, num_steps
        self.likelihood_steps = likelihood_steps

    @property
    def actor(self) -> "DiffusionDICE":  # type: ignore[override]
        """The policy needs every part of the learner."""
        return self

    def phases(self) -> list[tuple[str, ...]]:
        return [("value",), ("critic", "ensemble") if self.ensemble else ("critic",), ("guidance",)]

    def targets(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self.target_critic, self.critic)]

    # --- 1. critics ---

    def advantage(self, batch: Transition) -> Tensor:
        """y = (min_j Q'_j(s, a) - V(s)) / temperature, ``[B]``."""
        return (self.target_critic(batch.obs, batch.action).min(0).values - self.value(batch.obs)) / self.temperature

    def value_loss(self, batch: Transition) -> Tensor:
        """mean of f*(y) + V / temperature: at its minimum the weights average to 1 at every state."""
        return (conjugate(self.advantage(batch)) + self.value(batch.obs) / self.temperature).mean()

    def critic_loss(self, batch: Transition) -> Tensor:
        """sum_j mean (r + gamma (1 - d) V(s') - Q_j(s, a))^2."""
        return ((self.critic(batch.obs, batch.action) - self.critic_target(batch)) ** 2).mean(-1).sum()

    def ensemble_loss(self, batch: Transition) -> Tensor:
        """As :meth:`critic_loss`, mean over members."""
        assert self.ensemble is not None
        return ((self.ensemble(batch.obs, batch.action) - self.critic_target(batch)) ** 2).mean()

    @torch.no_grad()
    def critic_target(self, batch: Transition) -> Tensor:
        """r + gamma (1 - d) V(s'), ``[B]``."""
        return batch.reward + self.discount * ~batch.terminated * self.value(batch.next_obs)

    @torch.no_grad()
    def weights(self, batch: Transition) -> Tensor:
        """w(s, a) of the data's actions ``[B]``, in [1e-40, max_weight]."""
        return weight(self.advantage(batch)).clamp(MIN_WEIGHT, self.max_weight)

    def values(self, batch: Transition) -> Tensor:
        return self.critic(batch.obs, batch.action).mean(0)

    def diagnostics(self, batch: Transition) -> dict[str, Tensor]:
        """Mean weight, effective sample size E[w]^2 / E[w^2], and the share of weights above 10."""
        w = self.weights(batch)
        return {
            "weight": w.mean(),
            "weight_sample_size": w.mean() ** 2 / (w**2).mean(),
            "weight_above_10": (w > 10).float().mean(),
        }

    # --- 2. guidance ---

    def guidance_loss(self, batch: Transition) -> Tensor:
        """Of g at noised actions, one noise level a state."""
        if self.guidance_rule == "contrastive":
            fake = self.sample(batch.obs, self.noise_copies, 0.0).detach()
            obs = batch.obs.unsqueeze(-2).expand(*fake.shape[:-1], -1)
            q = self.target_critic(obs, fake).min(0).values
            return contrastive_loss(self.noised_guidance(batch.obs, fake), self.contrastive_weight * q)
        copies = batch.action.unsqueeze(-2).expand(-1, self.noise_copies, -1)
        return in_sample_loss(self.noised_guidance(batch.obs, copies), self.weights(batch).unsqueeze(-1))

    def noised_guidance(self, obs: Tensor, action: Tensor) -> Tensor:
        """g(a + sigma z, sigma, s) ``[B, M]`` of actions ``[B, M, A]``, each with its own z, sigma ``[B]``."""
        sigma = self.behaviour.process.sample_sigma(len(obs), obs.device).unsqueeze(-1)
        noised = action + sigma.unsqueeze(-1) * torch.randn_like(action)
        return self.guidance(noised, sigma, obs.unsqueeze(-2))

    # --- 3. decisions ---

    def guided(self, obs: Tensor, scale: float) -> Denoise:
        """The behaviour's denoiser at ``obs [..., O]``, tilted by ``scale`` times the guidance."""
        denoise: Denoise = partial(self.behaviour, condition=obs)
        return energy_guided(denoise, partial(self.guidance, condition=obs), scale) if scale else denoise

    def sample(self, obs: Tensor, num: int, scale: float) -> Tensor:
        """``num`` actions for each of ``obs [..., O]``: ``[..., num, A]``, in one call of the solver.

        At the schedule's end the state of the VP process is m x; one that ends at sigma 0 has m = 1.
        """
        process = self.behaviour.process
        sigmas = process.schedule(self.num_steps)
        noise = torch.randn(*obs.shape[:-1], num, self.action_dim, device=obs.device)
        x = self.sampler(self.guided(obs.unsqueeze(-2), scale), process.start_scale(sigmas[0]) * noise, sigmas)
        return (process.scalings(sigmas[-1])[2] * x).clamp(-1, 1)

    def candidate_values(self, obs: Tensor, candidates: Tensor) -> Tensor:
        """Mean of the ensemble, or the first target critic, of ``[..., K, A]``: ``[..., K]``."""
        repeated = obs.unsqueeze(-2).expand(*candidates.shape[:-1], -1)
        if self.ensemble is None:
            return self.target_critic(repeated, candidates)[0]
        return self.ensemble(repeated, candidates).mean(0)

    def act(self, obs: Tensor) -> Tensor:
        """A decision for each of ``obs [..., O]``, with noise from torch's global generator: ``[..., A]``."""
        candidates = self.sample(obs, self.num_candidates, self.guidance_scale)
        if self.num_candidates == 1:
            return candidates.squeeze(-2)
        return select(candidates, self.candidate_values(obs, candidates), self.selection)

    def draw(self, obs: Tensor, noise: Tensor) -> Tensor:
        """:meth:`act`, whose noise is its own."""
        return self.act(obs)

    def normal(self, obs: Tensor) -> tuple[Tensor, Tensor]:
        """Raises UserError."""
        raise UserError(
            "diffusion_dice's policy is no Gaussian; guidance by its mean and standard deviation needs one."
        )

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log density ``[...]`` of a candidate, before selection, by the guided model's probability-flow ODE.

        There is no closed form. The density is that of the guided model at its smallest noise level.
        """
        levels = self.behaviour.process.schedule(self.likelihood_steps)
        low, high = levels[levels > 0][-1].log(), levels[0].log()
        sigmas = (low + (high - low) * torch.linspace(0, 1, self.likelihood_steps + 1)).exp()
        return flow_log_prob(self.guided(obs, self.guidance_scale), action, sigmas.to(obs.device, non_blocking=True))

    def score(self, obs: Tensor, action: Tensor, noise_variance: Tensor | float = 0.0) -> Tensor:
        """(D(a; sigma, s) - a) / sigma^2, D the guided denoiser: the score of a candidate's density.

        That is the behaviour's score plus the guidance's gradient. A diffusion model knows its density convolved with
        noise of any variance sigma^2, so ``noise_variance`` is sigma^2, its mean over action dims where it differs
        between them, and at least that of the smallest noise level.
        """
        levels = self.behaviour.process.schedule(self.num_steps)
        lowest = levels[levels > 0][-1] ** 2
        variance = variance_over(action, noise_variance).mean(-1).clamp(min=float(lowest))
        denoised = self.guided(obs, self.guidance_scale)(action, variance.sqrt())
        return (denoised - action) / variance.unsqueeze(-1)


def select(candidates: Tensor, values: Tensor, rule: str) -> Tensor:
    """One action ``[..., A]`` of ``candidates [..., K, A]``.

    ``max``: the one of the largest of ``values [..., K]``. ``softmax``: number k with probability softmax_k(values),
    by the largest of values plus Gumbel noise.
    """
    if rule == "softmax":
        values = values - torch.empty_like(values).exponential_().log()
    chosen = values.argmax(-1)[..., None, None]
    return candidates.take_along_dim(chosen, dim=-2).squeeze(-2)
