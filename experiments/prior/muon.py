"""Muon (Jordan et al. 2024): steps whose matrices are orthogonal; for all but matrices inside a network, Adam."""

from itertools import groupby

import torch
from torch import Tensor, nn


class Muon(torch.optim.Optimizer):
    """Momentum, orthogonalised, for weights of two or more dims inside ``network``'s blocks; Adam elsewhere."""

    def __init__(self, network: nn.Module, lr: float, adam_lr: float, betas: tuple[float, float]) -> None:
        inside = [p for n, p in network.named_parameters() if p.dim() > 1 and "blocks" in n and "modulation" not in n]
        ids = {id(p) for p in inside}
        self.adam = torch.optim.Adam([p for p in network.parameters() if id(p) not in ids], lr=adam_lr, betas=betas)
        super().__init__(sorted(inside, key=lambda p: tuple(p.shape)), {"lr": lr})
        self.param_groups += self.adam.param_groups

    def zero_grad(self, set_to_none: bool = True) -> None:
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @torch.no_grad()
    def step(self, closure=None):  # type: ignore[no-untyped-def,override]
        self.adam.step()
        lr = self.param_groups[0]["lr"]
        for _, same in groupby(self.param_groups[0]["params"], key=lambda p: tuple(p.shape)):
            group = list(same)
            moments = []
            for p in group:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                m.lerp_(p.grad, 0.05)
                moments.append(p.grad.lerp(m, 0.95).flatten(1))
            steps = orthogonal(torch.stack(moments))
            scale = 0.2 * max(steps.shape[-2:]) ** 0.5  # the size of Adam's steps (Liu et al. 2025)
            for p, s in zip(group, steps, strict=True):
                p.add_(s.to(p.dtype).view_as(p), alpha=-lr * scale)


def orthogonal(g: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices ``[n, r, c]``, by five Newton-Schulz steps."""
    x = g.bfloat16()
    x = x.mT if g.shape[-2] > g.shape[-1] else x
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(5):
        a = x @ x.mT
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x.mT if g.shape[-2] > g.shape[-1] else x
