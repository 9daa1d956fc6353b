"""torch.compile behind one setting, ``trainer.compile``: of agents' losses, and of the networks of diffusion models.

The plain form is the default and stays beside it; results differ by rounding. ``reduce-overhead`` records CUDA graphs,
so that an agent's update or a denoising step is one launch instead of hundreds.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

BACKENDS = ("eager", "aot_eager")  # which trace and do not compile: for tests


def arguments(how: str) -> dict[str, str]:
    """What ``torch.compile`` is called with."""
    return {"backend" if how in BACKENDS else "mode": how}


@cache
def compiled(function: Callable[..., Any], how: str | None) -> Callable[..., Any]:
    """``function`` compiled, once for all callers; None: as it is."""
    return function if how is None else torch.compile(function, **arguments(how))  # type: ignore[call-overload,no-any-return]


def compile_networks(model: torch.nn.Module, how: str | None) -> None:
    """Compile the networks of a diffusion model in place, the trained one and the average; of other models nothing."""
    for name in ("denoiser", "ema"):
        denoiser = getattr(model, name, None)
        if how is not None and denoiser is not None:
            denoiser.network.compile(**arguments(how))
