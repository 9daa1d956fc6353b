"""The seed axis: S learners as one module whose parameters carry a leading axis S.

The stacked module keeps the names of a single learner, so checkpoints read naturally; calls go through ``vmap``.
What a learner declares as ``shared`` is there once, without the axis.
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
    for name, tensor in (parameters | buffers).items():
        owner, leaf = _owner(stacked, name)
        if name in parameters:
            tensor = nn.Parameter(tensor.detach(), requires_grad=tensor.requires_grad)
        if not _is_shared(stacked, name):
            setattr(owner, leaf, tensor)
    return stacked


def _is_shared(stacked: Learner, name: str) -> bool:
    return name.split(".")[0] in stacked.shared


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

    own = {name for name in state if not _is_shared(stacked, name)}
    if all(len(state[name]) == 1 for name in own):  # the plain case, without vmap's overhead
        alone = {name: tensor.squeeze(0) if name in own else tensor for name, tensor in state.items()}
        return tree_map(lambda tensor: tensor.unsqueeze(0), one(alone, *(arg.squeeze(0) for arg in args)))
    axes = {name: 0 if name in own else None for name in state}
    return torch.vmap(one, in_dims=(axes, *(0 for _ in args)), randomness="different")(state, *args)
