"""Muon: steps of weight matrices are made orthogonal, so that no direction of a layer is learned last.

Jordan et al. 2024 (kellerjordan.github.io/posts/muon); the scale of a step is that of Liu et al. 2025 (2502.16982), so
that Adam's learning rates fit. ``torch.optim.Muon`` takes neither convolutions nor Adam for the other weights.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # brings singular values between 0.001 and 1 to between 0.7 and 1.2 in five steps
SIZE = 0.2  # root mean square of an entry of Adam's usual step, over its learning rate


class Muon(torch.optim.Adam):
    """``matrices``, of two or more dims, move along orthogonal steps, ``others`` as by Adam; both with a rate ``lr``.

    Its state is that of one optimizer. The gradients of the matrices are gone after a step.
    """

    def __init__(self, matrices: Iterable[Tensor], others: Iterable[Tensor], lr: float) -> None:
        super().__init__([{"params": list(others)}, {"params": list(matrices)}], lr=lr, fused=True)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:  # type: ignore[override]
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        group = self.param_groups[1]
        alike: dict[tuple[int, ...], list[Tensor]] = defaultdict(list)
        for p in group["params"]:
            if p.grad is not None:
                alike[p.shape].append(p)
        for shape, weights in alike.items():
            steps = orthogonal(torch.stack([self._averaged(p).flatten(1) for p in weights]))
            length = SIZE * max(steps.shape[-2:]) ** 0.5 * group["lr"]
            torch._foreach_sub_(weights, list((length * steps).view(-1, *shape).to(weights[0].dtype)))
        super().step()
        return loss

    def _averaged(self, p: Tensor) -> Tensor:
        """Nesterov's momentum of a gradient, which Adam does not get to see."""
        state, gradient = self.state[p], p.grad
        assert gradient is not None
        if not state:
            state |= {
                "step": torch.zeros((), device=p.device),
                "momentum": torch.zeros_like(p),
            }  # Adam expects a step in every state
        state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        p.grad = None
        return gradient.lerp(state["momentum"], MOMENTUM)


def orthogonal(x: Tensor) -> Tensor:
    """Roughly the nearest matrices ``[..., r, c]`` with all singular values 1, of x at any scale (Newton-Schulz)."""
    tall = x.shape[-2] > x.shape[-1]
    y = (x.mT if tall else x).to(torch.bfloat16 if x.is_cuda else x.dtype)
    y = y / (torch.linalg.matrix_norm(y, keepdim=True) + 1e-7)
    a, b, c = QUINTIC
    for _ in range(5):
        square = y @ y.mT
        y = a * y + (b * square + c * square @ square) @ y
    return y.mT if tall else y
