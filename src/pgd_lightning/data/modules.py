"""Lightning's view of the data. Loaders are plain iterables without a length that start at the trainer's global step.

Lightning counts an interrupted pass over a sized loader in its own way and then repeats batches; a stream that asks
``trainer.global_step`` where it is cannot go wrong.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from pgd_lightning.data.ahead import InTurn, Maker, used_by
from pgd_lightning.data.mixing import WindowOrder, device_of, mixing_named, real_batch
from pgd_lightning.data.recording import Steps
from pgd_lightning.data.windows import PaddedWindows, StepWindows, Windows
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import derive_seed, stream
from pgd_lightning.trajectory import Generator, Trajectory, Transition

Observer = Callable[[int, Trajectory], None]  # (step, windows [S, N, T])


@dataclass(frozen=True)
class Share:
    """What one of several processes takes of each batch and makes of each synthetic set."""

    number: int = 0  # of this process
    count: int = 1  # of all
    gathered: Callable[[Any], list[Any]] = lambda mine: [mine]  # what each of them has, for all

    def of(self, batch: Any) -> Any:
        """The rows ``[:, ...]`` that are this process's."""
        return batch if self.count == 1 else batch[:, self.number :: self.count]


ALL = Share()


class Stream:
    """An iterable whose every pass is a fresh call of ``make``."""

    def __init__(self, make: Callable[[], Iterator[Any]]) -> None:
        self.make = make

    def __iter__(self) -> Iterator[Any]:
        return self.make()


class WindowDataModule(LightningDataModule):
    """Batches of windows for the prior, ``[B, T]``."""

    def __init__(
        self,
        train: Windows | PaddedWindows | StepWindows,
        validation: Windows | PaddedWindows | StepWindows | None,
        batch_size: int,
        seed: int,
        total_steps: int,
    ) -> None:
        super().__init__()
        self.train, self.validation = train, validation
        self.batch_size, self.total_steps = batch_size, total_steps
        self.order = WindowOrder(len(train), batch_size, seed)

    def train_dataloader(self) -> Iterable[Trajectory]:
        return Stream(self._batches)

    def _batches(self) -> Iterator[Trajectory]:
        assert self.trainer is not None
        # Each rank of a group takes its own rows of each batch, so that their number changes nothing but rounding.
        rank, ranks = self.trainer.global_rank, self.trainer.world_size
        for step in range(self.trainer.global_step, self.total_steps):
            yield self.train[self.order[step][rank::ranks]]

    def val_dataloader(self) -> Iterable[Trajectory]:
        validation = self.validation
        return Stream(lambda: validation.batches(self.batch_size)) if validation else []


def require_lead(lead: int, lifetime: int) -> None:
    """Raises UserError if a synthetic dataset would be requested before the previous one is in use."""
    if not 0 <= lead <= lifetime:
        raise UserError(f"synthetic.lead={lead} is too large: it must be at most synthetic.lifetime={lifetime}.")


class SyntheticDataModule(LightningDataModule):
    """Real and synthetic batches ``[S, B]``; closes the loop from the agent's policy to its experience.

    Before the updates 0, ``lifetime``, 2 ``lifetime``, ... a new synthetic set is generated, guided by the policy of
    that moment (the first one by none if ``first_unguided``), shown to ``observers``, and kept in the checkpoint.
    With ``lead`` > 0 every set after the first follows the policy of ``lead`` updates before, a copy of which ``maker``
    gets at that time. ``generator=None`` gives real batches alone. Processes that ``share`` the rows make a part of
    each set, all have the whole of it, and take a part of each batch. Raises UserError where a batch cannot be shared
    evenly, or a set would be asked for before the last one is in use.
    """

    def __init__(
        self,
        real: Transition | Steps,
        generator: Generator | None,
        mixing: str,
        batch_size: int,
        synthetic_batch: int,
        lifetime: int,
        num_windows: int,
        first_unguided: bool,
        keep_terminal: bool,
        seeds: Sequence[int],
        total_steps: int,
        observers: Sequence[Observer],
        lead: int = 0,
        maker: Maker | None = None,
        share: Share = ALL,
    ) -> None:
        super().__init__()
        require_lead(lead, lifetime)
        if batch_size % share.count or num_windows < share.count:
            raise UserError(
                f"synthetic.batch_size={batch_size} and num_windows={num_windows} cannot be spread over {share.count} "
                "processes: the first must be a multiple of their number, the second at least as large."
            )
        self.share, self.lead = share, lead
        self.maker = maker or (InTurn(generator) if generator else None)
        if synthetic_batch > batch_size:
            raise UserError(f"synthetic.synthetic_batch={synthetic_batch} is more than batch_size={batch_size}.")
        self.real, self.generator, self.mix = real, generator, mixing_named(mixing)
        self.batch_size, self.synthetic_batch, self.lifetime = batch_size, synthetic_batch, lifetime
        self.num_windows, self.first_unguided, self.keep_terminal = num_windows, first_unguided, keep_terminal
        self.seeds, self.total_steps, self.observers = seeds, total_steps, observers
        self.synthetic: Transition | None = None
        self.generated_at = -1
        self.used: Any = None  # what the generator says of how it made the set
        self.asked: tuple[int, Any] | None = None  # the step that a set was asked for, and the policy it follows
        self.resumed: dict[str, Any] | None = None  # the same, with the policy's weights, as a checkpoint has it

    def train_dataloader(self) -> Iterable[int]:
        """The numbers of the steps to come. Lightning fetches one ahead; a batch made then would follow a policy one
        update old, so :meth:`on_before_batch_transfer` makes it when its turn has come.
        """
        return Stream(lambda: iter(range(self._trainer.global_step, self.total_steps)))

    def on_before_batch_transfer(self, batch: int, dataloader_idx: int) -> Transition:
        return self.batch(batch, self._trainer.lightning_module)

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def batch(self, step: int, module: LightningModule) -> Transition:
        """This process's part of the batch ``[S, B]`` of update ``step``, after a new synthetic set if one is due."""
        return cast(Transition, self.share.of(self._whole_batch(step, module)))

    def _whole_batch(self, step: int, module: LightningModule) -> Transition:
        self.real = self.real.to(module.device)
        if self.generator is None:
            return real_batch(self.real, self.seeds, self.batch_size, step)
        due = step - step % self.lifetime
        if self.generated_at != due:
            self.regenerate(due, module)
        following = due + self.lifetime
        if self.lead and following - self.lead <= step and following < self.total_steps:
            self._ask(following, module)
        self.synthetic = self.synthetic.to(module.device) if self.synthetic is not None else None
        return self.mix(self.real, self.synthetic, step, self.batch_size, self.synthetic_batch, self.seeds)

    def regenerate(self, step: int, module: LightningModule) -> None:
        """Replace the synthetic set by one of the module's current policy."""
        assert self.generator is not None
        if self.lead and step > 0:
            self._ask(step, module)
            assert self.maker is not None
            windows, self.asked = self.maker.result(), None
            self.used = self.maker.used
        else:
            policy: Any = None if self.first_unguided and step == 0 else module.policy
            windows = self.generator.generate(policy, *self._wanted(step))
            self.used = used_by(self.generator)
        if self.share.count > 1:
            parts: Any = self.share.gathered(windows.cpu())
            windows = cast(Trajectory, torch.cat(parts, dim=1))
        windows = windows.to(module.device)
        for observe in self.observers:
            observe(step, windows)
        self.synthetic = finite_only(windows.transitions(self.keep_terminal), step)
        self.generated_at = step

    def _wanted(self, step: int) -> tuple[Tensor, int]:
        """Starts ``[S, N, O]`` and seed of this process's part of the set of ``step``."""
        draws = [stream(seed, "starts", step) for seed in self.seeds]
        rows = torch.stack([torch.randint(len(self.real), (self.num_windows,), generator=draw) for draw in draws])
        starts = self.share.of(self.real[rows.to(device_of(self.real))].obs)
        part = () if self.share.count == 1 else (self.share.number,)
        return starts, derive_seed(self.seeds[0], "synthetic", step, *part)

    def _ask(self, step: int, module: Any) -> None:
        """Have the set of ``step`` made, of the present policy or the one that was asked for before an interruption."""
        if self.asked is not None:
            return
        policy = module.held_policy()
        if self.resumed:
            policy.load_state_dict(self.resumed["policy"])
            self.resumed = None
        self.asked = step, policy
        assert self.maker is not None
        self.maker.begin(policy, *self._wanted(step))

    def state_dict(self) -> dict[str, Any]:
        tensors = self.synthetic.to_dict() if self.synthetic is not None else {}
        state: dict[str, Any] = {"generated_at": self.generated_at, "synthetic": tensors}
        if self.asked is not None:
            step, policy = self.asked
            state["asked"] = {"step": step, "policy": policy.state_dict()}
        return state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generated_at, self.resumed = state["generated_at"], state.get("asked")
        tensors = state["synthetic"]
        self.synthetic = Transition(**tensors, batch_size=tensors["reward"].shape) if tensors else None


class StartsDataModule(LightningDataModule):
    """Turns ``{number, starts [N, O], recorded [B, T]}``: first rows of windows to imagine from, and whole windows."""

    def __init__(self, windows: PaddedWindows, num_starts: int, batch_size: int, seed: int, total_turns: int) -> None:
        super().__init__()
        self.windows, self.num_starts, self.batch_size = windows, num_starts, batch_size
        self.seed, self.total_turns = seed, total_turns

    def train_dataloader(self) -> Iterable[int]:
        """The numbers of the turns to come, see :class:`SyntheticDataModule`."""
        return Stream(lambda: iter(range(self.trainer.global_step, self.total_turns)))  # type: ignore[union-attr]

    def on_before_batch_transfer(self, batch: int, dataloader_idx: int) -> dict[str, Any]:
        return self.turn(batch)

    def turn(self, number: int) -> dict[str, Any]:
        """Both draws are uniform over the windows, and depend on the seed and the turn alone."""
        drawn = torch.randint(
            len(self.windows), (self.num_starts + self.batch_size,), generator=stream(self.seed, "imagine", number)
        )
        starts = self.windows.recording.obs[self.windows.starts[drawn[: self.num_starts]]]
        return {"number": number, "starts": starts, "recorded": self.windows[drawn[self.num_starts :]]}


def finite_only(steps: Transition, at: int) -> Transition:
    """``[S, M]`` with each step that holds NaN or infinity replaced by a finite one of the same seed, and counted.

    Raises UserError if a seed has no finite step.
    """
    finite = _finite(steps.obs) & _finite(steps.action) & _finite(steps.next_obs) & steps.reward.isfinite()
    if finite.all():
        return steps
    print(
        f"warning: {int((~finite).sum())} of {finite.numel()} synthetic steps of update {at} are not finite: replaced"
    )
    rows: Any = []
    for pool, good in zip(steps, finite, strict=True):
        places = good.nonzero().squeeze(-1)
        if len(places) == 0:
            raise UserError(
                f"No synthetic step of update {at} is finite. Where guidance is too strong for the prior, lower "
                "guidance.coef or set guidance.normalise=true; without guidance, look at process.* and at the "
                "loss of the prior."
            )
        order = torch.where(good, torch.arange(len(good), device=good.device), places[0])
        order[~good] = places[torch.arange(int((~good).sum()), device=good.device) % len(places)]
        rows.append(pool[order])
    return cast(Transition, torch.stack(rows))


def _finite(values: Tensor) -> Tensor:
    return values.isfinite().all(-1)
