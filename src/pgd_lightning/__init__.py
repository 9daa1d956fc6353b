"""Diffusion-generated experience for offline reinforcement learning, on PyTorch Lightning.

From Python: :func:`load`, :func:`train_prior`, :func:`generate`, :func:`fidelity`, :func:`evaluate`,
:func:`train_agent`, :func:`to_numpy` and :func:`save`, which :mod:`pgd_lightning.commands.api` describes.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pgd_lightning.commands.api import (
        Data,
        Fidelity,
        Trained,
        as_target,
        evaluate,
        fidelity,
        generate,
        load,
        save,
        to_numpy,
        train_agent,
        train_prior,
    )

__version__ = "0.1.0"
__all__ = [
    "Data", "Fidelity", "Trained", "as_target", "evaluate", "fidelity", "generate", "load", "save", "to_numpy",
    "train_agent", "train_prior",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    """What is offered is loaded when it is first asked for: torch and Lightning take seconds, and not all need them."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pgd_lightning.commands import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
