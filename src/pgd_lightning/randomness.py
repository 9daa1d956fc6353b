"""Randomness as a function of (seed, purpose, step).

No generator state is carried from step to step, so none has to be saved: a run that resumes at step k draws what the
uninterrupted run drew at step k. ``docs/design.md`` says why.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


def derive_seed(*path: int | str) -> int:
    """A 63-bit seed that depends on every element of ``path``, e.g. ``(seed, "prior/noise", step)``."""
    return int.from_bytes(blake2b(repr(path).encode(), digest_size=8).digest(), "little") >> 1


def learner_seeds(seed: int, numbers: Iterable[int]) -> list[int]:
    """One seed for each of the learners ``numbers``: ``seed`` itself for learner 0, for the others one derived from it.

    Runs of different seeds share no learner, however many each trains.
    """
    return [seed if number == 0 else derive_seed(seed, "learner", number) for number in numbers]


def stream(*path: int | str, device: torch.device | str = "cpu") -> torch.Generator:
    """A fresh generator on ``device``, seeded by ``path``."""
    return torch.Generator(device).manual_seed(derive_seed(*path))


def seed_global(*path: int | str) -> None:
    """Seed torch's global generators, on the CPU and on a GPU in use, by ``path``.

    ``torch.manual_seed`` formats its caller's stack three times where there is no GPU: a tenth of an agent's update.
    """
    torch.default_generator.manual_seed(derive_seed(*path))
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(derive_seed(*path))


@contextmanager
def seeded(*path: int | str) -> Iterator[None]:
    """Torch's global generators, seeded by ``path`` inside; the CPU's goes on afterwards as if nothing had been."""
    with torch.random.fork_rng(devices=[]):
        seed_global(*path)
        yield
