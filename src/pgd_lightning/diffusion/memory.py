"""How many windows pass through a network at once: all that are asked for, or as many as memory holds."""

from collections.abc import Callable

import torch
from torch import Tensor

from pgd_lightning.errors import UserError

SIGNS = ("can't allocate memory", "out of memory", "ALLOC_FAILED", "bad_alloc", "could not create a primitive")


class AsManyAsFit:
    """Calls a network on all rows; where memory runs out on half of them at a time, and so on, from then on.

    Rows do not depend on each other, so parts change nothing but rounding. Raises UserError where one row is too much.
    """

    def __init__(self) -> None:
        self.at_once: int | None = None  # rows; None: all of them fitted so far

    def __call__(self, network: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """``network(*inputs)`` for ``inputs [B, ...]``."""
        rows = len(inputs[0])
        while True:
            size = min(self.at_once or rows, rows)
            try:
                if size == rows:
                    return network(*inputs)
                return torch.cat([network(*part) for part in zip(*(i.split(size) for i in inputs), strict=True)])
            except (RuntimeError, MemoryError) as error:
                if not ran_out(error):
                    raise
                if size == 1:
                    raise UserError(
                        f"Memory does not hold one window in {type(network).__name__}: free some, take a device with "
                        "more, or a smaller network."
                    ) from error
                self.at_once = (size + 1) // 2
            print(f"memory: {size} windows do not fit at once; going on with {self.at_once} at a time")
            if inputs[0].is_cuda:
                torch.cuda.empty_cache()


def ran_out(error: Exception) -> bool:
    """Whether a device, or the process, has no memory left: each library says it in its own way."""
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or any(sign in str(error) for sign in SIGNS)
