"""The seed axis: S learners as one module whose parameters carry a leading axis S.

The stacked module keeps the names of a single learner, so checkpoints read naturally; calls go through ``vmap``.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state
from torch.utils._pytree import tree_map

from pgd_lightning.agents.learner import Learner
from pgd_lightning.randomness import derive_seed


def stacked_learners(make: Callable[[], Learner], num_seeds: int, seed: int) -> Learner:
    """S learners in one; number s starts as the only one of a run with seed ``seed + s`` does."""
    learners = []
    with torch.random.fork_rng(devices=[]):
        for s in range(num_seeds):
            torch.manual_seed(derive_seed(seed + s, "init"))
            learners.append(make())
    parameters, buffers = stack_module_state(learners)  # type: ignore[arg-type]
    stacked = learners[0]
    for name, tensor in parameters.items():
        owner, leaf = _owner(stacked, name)
        setattr(owner, leaf, nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad))
    for name, tensor in buffers.items():
        owner, leaf = _owner(stacked, name)
        setattr(owner, leaf, tensor)
    return stacked


def _owner(module: nn.Module, name: str) -> tuple[nn.Module, str]:
    path, _, leaf = name.rpartition(".")
    return module.get_submodule(path), leaf


def call_stacked(stacked: Learner, method: str, *args: Any, **fixed: Any) -> Any:
    """``method`` of each learner on its own slice of ``args`` (leading axis S); ``fixed`` is shared by all.

    Each learner draws its own noise. Results, tensors or dictionaries of them, carry the axis S.
    """
    state = dict(stacked.named_parameters()) | dict(stacked.named_buffers())

    def one(state: dict[str, Tensor], *args: Any) -> Any:
        return functional_call(stacked, state, (method, *args), fixed)

    if len(next(iter(state.values()))) == 1:  # the plain case, without vmap's overhead
        single = one({name: tensor.squeeze(0) for name, tensor in state.items()}, *(arg.squeeze(0) for arg in args))
        return tree_map(lambda tensor: tensor.unsqueeze(0), single)
    return torch.vmap(one, randomness="different")(state, *args)
