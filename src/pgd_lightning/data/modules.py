"""Lightning's view of the data. Loaders are plain iterables without a length that start at the trainer's global step.

Lightning counts an interrupted pass over a sized loader in its own way and then repeats batches; a stream that asks
``trainer.global_step`` where it is cannot go wrong.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from lightning import LightningDataModule, LightningModule, Trainer
from torch import Tensor

from pgd_lightning.data.mixing import MIXINGS, WindowOrder, device_of, real_batch
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


@dataclass(frozen=True)
class SyntheticSettings:
    """The life of a synthetic dataset and its part in each batch (conf/synthetic)."""

    mixing: str  # blend or alternate, see :mod:`pgd_lightning.data.mixing`
    batch_size: int
    synthetic_batch: int  # synthetic steps of a blended batch
    lifetime: int  # updates
    num_windows: int  # for each seed
    first_unguided: bool
    keep_terminal: bool

    def drawn(self, updates: int, horizon: int) -> float:
        """How often a step of a synthetic dataset of windows of ``horizon`` rows is drawn in its life, on average."""
        share = self.synthetic_batch if self.mixing == "blend" else self.batch_size / 2
        return min(self.lifetime, updates) * share / (self.num_windows * (horizon - 1))


class SyntheticDataModule(LightningDataModule):
    """Real and synthetic batches ``[S, B]``; closes the loop from the agent's policy to its experience.

    Before the updates 0, ``lifetime``, 2 ``lifetime``, ... a new synthetic dataset is made, guided by the policy of
    that moment (the first one by none if ``first_unguided``), shown to ``observers``, and kept in the checkpoint.
    ``generator=None`` gives real batches alone. Processes that ``share`` the rows make a part of each dataset, all have
    the whole of it, and take a part of each batch. Raises UserError where these cannot be divided evenly.
    """

    def __init__(
        self,
        real: Transition | Steps,
        generator: Generator | None,
        settings: SyntheticSettings,
        seeds: Sequence[int],  # of the S learners
        total_steps: int,
        observers: Sequence[Observer] = (),
        share: Share = ALL,
        next_action: bool = False,  # whether batches hold the action after each step
    ) -> None:
        super().__init__()
        if settings.batch_size % share.count or settings.num_windows < share.count:
            raise UserError(
                f"synthetic.batch_size={settings.batch_size} and num_windows={settings.num_windows} cannot be spread "
                f"over {share.count} processes: the first must be a multiple of their number, the second at least as "
                "large."
            )
        self.real = replace(real, next_action=True) if next_action and isinstance(real, Steps) else real
        self.generator, self.settings, self.share = generator, settings, share
        self.next_action = next_action
        self.mix = MIXINGS[settings.mixing]
        self.seeds, self.total_steps, self.observers = seeds, total_steps, observers
        self.synthetic: Transition | None = None
        self.generated_at = -1
        self.used: Any = None  # what the generator says of how it made the windows, such as its guidance strength

    def train_dataloader(self) -> Iterable[int]:
        """The numbers of the steps to come. Lightning fetches one in advance; a batch made then would follow a policy
        one update old, so :meth:`on_before_batch_transfer` makes it when its turn has come.
        """
        return Stream(lambda: iter(range(self._trainer.global_step, self.total_steps)))

    def on_before_batch_transfer(self, batch: int, dataloader_idx: int) -> Transition:
        return self.batch(batch, self._trainer.lightning_module)

    @property
    def _trainer(self) -> Trainer:
        assert self.trainer is not None
        return self.trainer

    def batch(self, step: int, module: LightningModule) -> Transition:
        """This process's part of the batch ``[S, B]`` of update ``step``; first a new synthetic dataset, if due."""
        settings = self.settings
        self.real = self.real.to(module.device)
        if self.generator is None:
            return self._part(real_batch(self.real, self.seeds, settings.batch_size, step))
        due = step - step % settings.lifetime
        if self.generated_at != due:
            self.regenerate(due, module)
        self.synthetic = self.synthetic.to(module.device) if self.synthetic is not None else None
        return self._part(
            self.mix(self.real, self.synthetic, step, settings.batch_size, settings.synthetic_batch, self.seeds)
        )

    def _part(self, batch: Transition) -> Transition:
        return cast(Transition, self.share.of(batch))

    def regenerate(self, step: int, module: LightningModule) -> None:
        """Replace the synthetic dataset by one of the module's current policy."""
        assert self.generator is not None
        policy: Any = None if self.settings.first_unguided and step == 0 else module.policy
        windows = self.generator.generate(policy, self._starts(step), self._seed(step))
        self.used = getattr(self.generator, "used", None)
        if self.share.count > 1:
            windows = cast(Trajectory, torch.cat(self.share.gathered(windows.cpu()), dim=1))  # type: ignore[arg-type]
        windows = windows.to(module.device)
        for observe in self.observers:
            observe(step, windows)
        self.synthetic = finite_only(windows.transitions(self.settings.keep_terminal, self.next_action), step)
        self.generated_at = step

    def _starts(self, step: int) -> Tensor:
        """The real states ``[S, N, O]`` that this process's windows of ``step`` begin in."""
        draws = [stream(seed, "starts", step) for seed in self.seeds]
        size = (self.settings.num_windows,)
        rows = torch.stack([torch.randint(len(self.real), size, generator=draw) for draw in draws])
        return self.share.of(self.real[rows.to(device_of(self.real))].obs)

    def _seed(self, step: int) -> int:
        part = () if self.share.count == 1 else (self.share.number,)
        return derive_seed(self.seeds[0], "synthetic", step, *part)

    def state_dict(self) -> dict[str, Any]:
        tensors = self.synthetic.to_dict() if self.synthetic is not None else {}
        held = {name: tensor for name, tensor in tensors.items() if tensor is not None}
        return {"generated_at": self.generated_at, "synthetic": held}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.generated_at, tensors = state["generated_at"], state["synthetic"]
        self.synthetic = Transition(**tensors, batch_size=tensors["reward"].shape) if tensors else None


def finite_only(steps: Transition, at: int) -> Transition:
    """``[S, M]`` with each step that holds NaN or infinity replaced by a finite one of the same seed, and counted.

    Raises UserError if a seed has no finite step.
    """
    finite = _finite(steps.obs) & _finite(steps.action) & _finite(steps.next_obs) & steps.reward.isfinite()
    if steps.next_action is not None:
        finite &= ~steps.next_action.isinf().any(-1)
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
