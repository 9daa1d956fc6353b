"""One of K candidate actions, by their values: the second half of guide-then-select."""

import torch
from torch import Tensor

RULES = ("max", "softmax")


def select(candidates: Tensor, values: Tensor, rule: str) -> Tensor:
    """One action ``[..., A]`` of ``candidates [..., K, A]``.

    ``max``: the one of the largest of ``values [..., K]``. ``softmax``: number k with probability softmax_k(values),
    by the largest of values plus Gumbel noise.
    """
    if rule == "softmax":
        values = values - torch.empty_like(values).exponential_().log()
    chosen = values.argmax(-1)[..., None, None]
    return candidates.take_along_dim(chosen, dim=-2).squeeze(-2)
