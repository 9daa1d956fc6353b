"""The training of S learners side by side: targets, one AdamW, learning rate, logs and alarms.

Differences from the reference: one Adam over all networks instead of one for each (equal, since the losses of a phase
touch disjoint parameters); noise depends on the seed and the step alone; observations are normalised here, before
they reach the networks, instead of inside each.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from lightning import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from pgd_lightning.agents.checks import check_losses, value_warning
from pgd_lightning.agents.learner import Learner
from pgd_lightning.agents.policy import StackedPolicy
from pgd_lightning.agents.rewards import RewardScale
from pgd_lightning.agents.schedules import SCHEDULES
from pgd_lightning.agents.seeds import call_stacked, stacked_learners
from pgd_lightning.channels import divisor, mean_and_std
from pgd_lightning.errors import UserError
from pgd_lightning.networks.compiling import compiled
from pgd_lightning.randomness import learner_seeds, seed_global
from pgd_lightning.trajectory import Transition


class Agent(LightningModule):
    """Trains ``num_seeds`` independent learners on batches ``[S, B]``. ``learner`` makes one of them.

    ``seeds [S]`` are the learners' own, see :func:`learner_seeds`.
    """

    obs_shift: Tensor  # [O]
    obs_scale: Tensor  # [O]
    largest_return = float("inf")  # that the recording's rewards allow
    generated = False  # whether it trains on a generator's steps too
    shown = ("train/value",)  # beside the bar
    compiling: str | None = None  # how torch.compile takes the losses; None: not at all

    def __init__(
        self,
        name: str,
        learner: Callable[[], Learner],
        num_seeds: int,
        seed: int,
        obs_dim: int,
        normalise_obs: bool,
        learning_rate: float,  # peak
        adam_eps: float,
        polyak: float,  # fraction of the way that a target moves toward its online module in an update
        lr_schedule: str,  # constant, cosine or exponential
        total_steps: int,
        log_every: int,
        value_alarm: str,  # stop or warn
        value_alarm_factor: float,  # times the largest discounted sum of rewards that the data allow
        weight_decay: float = 0.0,  # decoupled (AdamW)
        rewards: RewardScale | None = None,  # what the learner sees of rewards; None: as recorded
        first: int = 0,  # number of the first learner among those of the run
        value_alarm_floor: float = 0.0,  # what that sum counts as where it is less; older runs do not say
        matmul_precision: str = "highest",  # of an update, as torch.set_float32_matmul_precision; older runs do not say
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.name, self.num_seeds, self.seed, self.first = name, num_seeds, seed, first
        self.seeds = learner_seeds(seed, range(first, first + num_seeds))
        self.learner = stacked_learners(learner, self.seeds)
        self.normalise_obs = normalise_obs
        self.learning_rate, self.adam_eps, self.polyak = learning_rate, adam_eps, polyak
        self.lr_schedule, self.total_steps, self.log_every = lr_schedule, total_steps, log_every
        self.warned_of = 0.0  # the mean value that the last warning named
        self.value_alarm, self.value_alarm_factor = value_alarm, value_alarm_factor
        self.value_alarm_floor = value_alarm_floor
        self.weight_decay, self.rewards, self.matmul_precision = weight_decay, rewards, matmul_precision
        self.reward_scale, self.reward_shift = 1.0, 0.0
        self.register_buffer("obs_shift", torch.zeros(obs_dim))
        self.register_buffer("obs_scale", torch.ones(obs_dim))

    def fit_normaliser(self, obs: Tensor) -> None:
        """From now on the networks see (obs - mean) / (std + 1e-3) of ``obs [N, O]``, if ``normalise_obs`` is set.

        A channel that is constant in ``obs`` is not seen at all: nothing is learned of other values that it may take.
        """
        if self.normalise_obs:
            mean, std = mean_and_std(obs)
            self.obs_shift.copy_(mean)
            self.obs_scale.copy_(divisor(std) + 1e-3)

    def fit_rewards(self, reward: Tensor, terminated: Tensor, truncated: Tensor) -> None:
        """Find the scale and shift of ``rewards`` in a recording ``[L]``, and the largest reward for the alarm."""
        if self.rewards is not None:
            self.reward_scale, self.reward_shift = self.rewards(reward, terminated, truncated)
        self.set_reward_scale(float(self.seen_reward(reward).abs().max()))

    def seen_reward(self, reward: Tensor) -> Tensor:
        """What the learner sees of ``reward [...]``."""
        return self.reward_scale * reward + self.reward_shift

    def set_reward_scale(self, max_abs_reward: float) -> None:
        """Arms the value alarm: no return of rewards up to ``max_abs_reward`` exceeds max|r| / (1 - discount)."""
        if self.learner.discount is not None:
            self.largest_return = max_abs_reward / (1 - self.learner.discount)

    @property
    def policy(self) -> StackedPolicy:
        """The current policies of all seeds; it follows the training."""
        return StackedPolicy(self.learner, self.normalised)

    @property
    def critic(self) -> "Agent | None":
        """This agent as :class:`~pgd_lightning.trajectory.Critic`; None where its learner does not value returns."""
        return None if self.learner.discount is None or self.learner.penalised else self

    @property
    def discount(self) -> float:
        """Of a reward one step later."""
        assert self.learner.discount is not None
        return self.learner.discount

    @torch.no_grad()
    def value(self, obs: Tensor, action: Tensor) -> Tensor:
        """Mean of the critics: ``[S, B, O], [S, B, A] -> [S, B]``."""
        nothing = torch.zeros(obs.shape[:-1], device=obs.device)
        steps = Transition(
            obs=self.normalised(obs), action=action, reward=nothing, next_obs=obs, terminated=nothing.bool(),
            batch_size=obs.shape[:-1],
        )  # fmt: skip
        values: Tensor = call_stacked(self.learner, "values", steps)
        return values

    def normalised(self, obs: Tensor) -> Tensor:
        """What the networks see of ``obs [..., O]``."""
        return (obs - self.obs_shift) / self.obs_scale if self.normalise_obs else obs

    def training_step(self, batch: Transition, batch_idx: int) -> None:
        """One update of all learners on their batches ``[S, B]``."""
        seed_global(self.seeds[0], "agent/noise", self.global_step, self.global_rank)
        step = self.global_step
        logs = step == 0 or (step + 1) % self.log_every == 0  # Lightning writes after the latter (log_every_n_steps)
        batch = self._seen(batch)
        values = self._values(batch) if logs else None
        losses = self._update_online(batch)
        if logs:
            check_losses(losses, self.name, step, self.first, self.learning_rate)
            scalars = {f"{name}_loss": loss for name, loss in losses.items()} | self._diagnostics(batch)
            self.log_dict({f"train/{name}": value.mean() for name, value in scalars.items()}, sync_dist=True)
        if values is not None:
            self._check_values(values, step)
            self.log("train/value", values.mean(), sync_dist=True)

    def _seen(self, batch: Transition) -> Transition:
        """``batch`` with observations and rewards as the learner sees them."""
        if not self.normalise_obs and self.rewards is None:
            return batch
        seen: Transition = batch.clone(recurse=False)  # type: ignore[attr-defined]
        seen.obs, seen.next_obs = self.normalised(batch.obs), self.normalised(batch.next_obs)
        seen.reward = self.seen_reward(batch.reward)
        return seen

    @torch.no_grad()
    def _update_targets(self) -> None:
        """target <- target + polyak (online - target). They start as copies, so the first update changes nothing."""
        pairs = self.learner.targets()
        if pairs:
            targets: list[Tensor] = [p for target, _ in pairs for p in target.parameters()]
            online = [p.detach() for _, module in pairs for p in module.parameters()]
            torch._foreach_lerp_(targets, online, self.polyak)

    def _update_online(self, batch: Transition) -> dict[str, Tensor]:
        """One optimiser step for each phase, and the targets' step; the last losses of each name, ``[S]``."""
        optimizer: Any = self.optimizers()
        phases = self.learner.phases()
        losses: dict[str, Tensor] = {}
        for number, phase in enumerate(phases):
            if number == self.learner.polyak_phase:
                self._update_targets()
            losses |= self._gradients(batch, phase, optimizer)
            if number < len(phases) - 1:
                optimizer.optimizer.step()  # not through Lightning, whose global_step would count it as an update
        optimizer.step()
        scheduler: Any = self.lr_schedulers()
        scheduler.step()
        return losses

    def _gradients(self, batch: Transition, names: tuple[str, ...], optimizer: Any) -> dict[str, Tensor]:
        """Gradients of the losses ``names`` summed over names and seeds; what they do not touch has none and rests."""
        optimizer.zero_grad(set_to_none=True)
        with matmul_precision(self.matmul_precision):
            losses: dict[str, Tensor] = compiled(call_stacked, self.compiling)(
                self.learner, "losses", batch, names=names
            )
            self.manual_backward(torch.stack(list(losses.values())).sum())
        return {name: loss.detach() for name, loss in losses.items()}

    @torch.no_grad()
    def _diagnostics(self, batch: Transition) -> dict[str, Tensor]:
        return call_stacked(self.learner, "diagnostics", batch)

    @torch.no_grad()
    def _values(self, batch: Transition) -> Tensor | None:
        """Mean value of the data's actions ``[S]``, None for learners without one."""
        if self.learner.discount is None:
            return None
        values: Tensor = call_stacked(self.learner, "values", batch)
        return values.mean(-1)

    def _check_values(self, values: Tensor, step: int) -> None:
        if step == 0:  # they are the first weights', whatever the data are
            return
        limit = self.value_alarm_factor * max(self.largest_return, self.value_alarm_floor)
        message = value_warning(values, self.largest_return, limit, self.name, step, self.first, self.generated)
        if message and self.value_alarm == "stop":
            raise UserError(message + " (agent.value_alarm=warn goes on from the last checkpoint.)")
        worst = values.abs().max().item() if message else 0.0
        if message and not worst <= 2 * self.warned_of:  # once, and again wherever they have doubled or are no number
            self.warned_of = worst
            rank_zero_warn(message)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        state_dict.pop(f"{prefix}value_limit", None)  # checkpoints of before kept the alarm's bound
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def configure_optimizers(self) -> Any:
        online = [p for p in self.learner.parameters() if p.requires_grad]
        optimizer = torch.optim.AdamW(
            online, lr=self.learning_rate, eps=self.adam_eps, weight_decay=self.weight_decay, fused=True
        )
        factor, total_steps = SCHEDULES[self.lr_schedule], self.total_steps
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(step, total_steps))
        return [optimizer], [schedule]


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Inside, float32 matrix products have torch's precision ``name``: with ``medium`` their factors are bfloat16 on a
    processor that multiplies it, and TF32 on a GPU; sums, weights and results stay in float32.
    """
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(name)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
