"""Learning-rate schedules of PGD's agents: the factor on the peak rate at a given update."""

import math
from collections.abc import Callable

WARMUP = 0.1  # both the fraction of all updates and the first factor
DECAY = 0.1  # factor at the end


def constant(step: int, total_steps: int) -> float:
    """1."""
    return 1.0


def cosine(step: int, total_steps: int) -> float:
    """From 1 to 0 over all updates."""
    return 0.5 * (1 + math.cos(math.pi * min(step / total_steps, 1.0)))


def exponential(step: int, total_steps: int) -> float:
    """Linear from 0.1 to 1 over the first tenth, then geometric to 0.1 at the end."""
    warmup = WARMUP * total_steps
    if step < warmup:
        return WARMUP + (1 - WARMUP) * step / warmup
    return float(DECAY ** min((step - warmup) / (total_steps - warmup), 1.0))


SCHEDULES: dict[str, Callable[[int, int], float]] = {"constant": constant, "cosine": cosine, "exponential": exponential}
