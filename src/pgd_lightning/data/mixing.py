"""Two sources, one stream of batches: which rows, at which step, is a function of (learner's seed, step) alone.

Difference from the reference: rows are drawn with replacement, where PGD's are distinct within a batch (of 240 from
its 253,952 synthetic steps, two coincide in one batch out of nine). On a GPU the stream is that device's own.
"""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor

from pgd_lightning.data.recording import Steps
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Transition

Mixing = Callable[[Transition | Steps, Transition | None, int, int, int, Sequence[int]], Transition]


def real_batch(real: Transition | Steps, seeds: Sequence[int], size: int, step: int) -> Transition:
    """``[S, size]`` uniform steps of ``real [M]``, each learner's drawn by its own of the S ``seeds``."""
    return real[_indices(len(real), seeds, size, "real", step, device_of(real))]


def device_of(real: Transition | Steps) -> torch.device:
    """Where ``real`` is."""
    return real.device if isinstance(real, Steps) else real.obs.device


def synthetic_batch(synthetic: Transition, size: int, seeds: Sequence[int], step: int) -> Transition:
    """``[S, size]`` uniform steps, each learner's from its own pool in ``synthetic [S, M]``."""
    num_seeds, num = synthetic.batch_size
    device = synthetic.obs.device
    index = _indices(num, seeds, size, "synthetic", step, device)
    return synthetic[torch.arange(num_seeds, device=device)[:, None], index]


def _indices(num: int, seeds: Sequence[int], size: int, source: str, step: int, device: torch.device) -> Tensor:
    return torch.stack(
        [
            torch.randint(num, (size,), generator=stream(seed, source, step, device=device), device=device)
            for seed in seeds
        ]
    )


def blend(
    real: Transition | Steps, synthetic: Transition | None, step: int, size: int, share: int, seeds: Sequence[int]
) -> Transition:
    """A batch ``[S, size]`` of ``share`` synthetic rows and the rest real (PGD: 240 of 256), as two pools."""
    assert synthetic is not None
    parts: Any = [synthetic_batch(synthetic, share, seeds, step)]
    if size > share:
        parts.append(real_batch(real, seeds, size - share, step))
    return cast(Transition, torch.cat(parts, dim=1))


def alternate(
    real: Transition | Steps, synthetic: Transition | None, step: int, size: int, share: int, seeds: Sequence[int]
) -> Transition:
    """Whole batches ``[S, size]`` in turn: real at even steps, synthetic at odd ones; ``share`` has no part in it."""
    assert synthetic is not None
    if step % 2:
        return synthetic_batch(synthetic, size, seeds, step)
    return real_batch(real, seeds, size, step)


MIXINGS: dict[str, Mixing] = {"blend": blend, "alternate": alternate}  # ``synthetic.mixing``


class WindowOrder:
    """Shuffled passes over N windows in batches, the remainder of each pass dropped; step k is known without k-1."""

    def __init__(self, num_windows: int, batch_size: int, seed: int) -> None:
        self.num_windows, self.batch_size, self.seed = num_windows, batch_size, seed
        self.per_pass = num_windows // batch_size
        self.current: tuple[int, Tensor] | None = None

    def __getitem__(self, step: int) -> Tensor:
        """Indices ``[batch_size]`` of the windows of this step."""
        number, place = divmod(step, self.per_pass)
        if self.current is None or self.current[0] != number:
            order = torch.randperm(self.num_windows, generator=stream(self.seed, "windows", number))
            self.current = number, order
        return self.current[1][place * self.batch_size : (place + 1) * self.batch_size]
