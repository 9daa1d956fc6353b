"""Multi-layer perceptrons of PGD's agents: ReLU, LeCun-normal weights, zero biases."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pgd_lightning.networks.temporal_unet import lecun_normal_


def linear(inputs: int, outputs: int) -> nn.Linear:
    """An affine layer at its initial weights."""
    layer = nn.Linear(inputs, outputs)
    lecun_normal_(layer.weight.data)
    nn.init.zeros_(layer.bias)
    return layer


def mlp(inputs: int, hidden: Sequence[int], outputs: int, layer_norm: bool = False) -> nn.Sequential:
    """``[..., inputs] -> [..., outputs]``: affine layers with ReLU between them, none after the last."""
    layers: list[nn.Module] = []
    for size, following in pairwise([inputs, *hidden]):
        layers += [linear(size, following), *([nn.LayerNorm(following)] if layer_norm else []), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, linear([inputs, *hidden][-1], outputs))


def elu_mlp(inputs: int, hidden: Sequence[int], outputs: int) -> nn.Sequential:
    """``[..., inputs] -> [..., outputs]``: affine layers, LayerNorm and ELU between them (PolyGRAD, arXiv 2312.08533).

    Layers start as torch starts them.
    """
    layers: list[nn.Module] = []
    for size, following in pairwise([inputs, *hidden]):
        layers += [nn.Linear(size, following), nn.LayerNorm(following, eps=1e-3), nn.ELU()]
    return nn.Sequential(*layers, nn.Linear([inputs, *hidden][-1], outputs))


class EnsembleLinear(nn.Module):
    """``M`` independent affine layers in one matrix product: ``[M, B, in] -> [M, B, out]``."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(members, inputs, outputs))
        self.bias = nn.Parameter(torch.zeros(members, 1, outputs))
        for member in self.weight.data:
            lecun_normal_(member.T)

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias, x, self.weight)

    def frozen(self, x: Tensor, member: int) -> Tensor:
        """``[B, in] -> [B, out]`` of one member, its weights held fixed: gradients reach ``x`` alone."""
        return torch.addmm(self.bias[member].detach(), x, self.weight[member].detach())


class EnsembleLayerNorm(nn.Module):
    """``M`` layer norms side by side: ``[M, B, width] -> [M, B, width]``."""

    eps = 1e-6  # Flax's

    def __init__(self, members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(members, 1, width))
        self.bias = nn.Parameter(torch.zeros(members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        return torch.addcmul(self.bias, F.layer_norm(x, x.shape[-1:], eps=self.eps), self.weight)

    def frozen(self, x: Tensor, member: int) -> Tensor:
        """``[B, width] -> [B, width]`` of one member, its weights held fixed."""
        normed = F.layer_norm(x, x.shape[-1:], eps=self.eps)
        return torch.addcmul(self.bias[member].detach(), normed, self.weight[member].detach())


class EnsembleMLP(nn.Module):
    """``M`` independent scalar perceptrons of the same input: ``[..., inputs] -> [M, ...]``.

    With ``norm`` each hidden layer's ReLU is followed by a layer norm.
    """

    def __init__(self, members: int, inputs: int, hidden: Sequence[int], norm: bool = False) -> None:
        super().__init__()
        self.members = members
        self.layers = nn.ModuleList(EnsembleLinear(members, *sizes) for sizes in pairwise([inputs, *hidden, 1]))
        self.norms = nn.ModuleList(EnsembleLayerNorm(members, size) if norm else nn.Identity() for size in hidden)

    def forward(self, x: Tensor) -> Tensor:
        flat = x.reshape(-1, x.shape[-1]).expand(self.members, -1, -1)
        *body, head = self.layers
        for layer, norm in zip(body, self.norms, strict=True):
            flat = norm(layer(flat).relu_())
        return head(flat).reshape(self.members, *x.shape[:-1])

    def frozen(self, x: Tensor, member: int) -> Tensor:
        """``[..., inputs] -> [...]`` of one member, its weights held fixed: gradients reach ``x`` alone."""
        flat = x.reshape(-1, x.shape[-1])
        layers: Any = self.layers
        *body, head = layers
        norms: Any = self.norms
        for layer, norm in zip(body, norms, strict=True):
            flat = layer.frozen(flat, member).relu_()
            flat = norm.frozen(flat, member) if isinstance(norm, EnsembleLayerNorm) else flat
        out: Tensor = head.frozen(flat, member)
        return out.reshape(x.shape[:-1])


def uniform_fan_in_(network: nn.Module) -> nn.Module:
    """``network`` with the affine layers as torch starts them: weights and biases uniform in +- 1 / sqrt(inputs)."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear):
            layer.reset_parameters()
        elif isinstance(layer, EnsembleLinear):
            _uniform_(layer, layer.weight.shape[1])
    return network


def edac_start_(network: nn.Module, last: float) -> None:
    """First weights of EDAC (arXiv 2110.01548) for a perceptron, in place.

    Hidden weights are uniform in +- 1 / sqrt(inputs) and hidden biases 0.1; the last layer is uniform in +- ``last``.
    """
    *body, head = (layer for layer in network.modules() if isinstance(layer, nn.Linear | EnsembleLinear))
    for layer in body:
        inputs = layer.weight.shape[1]  # of both: [out, in] and [M, in, out]
        nn.init.uniform_(layer.weight, -(inputs**-0.5), inputs**-0.5)
        nn.init.constant_(layer.bias, 0.1)
    for parameter in (head.weight, head.bias):
        nn.init.uniform_(parameter, -last, last)


def uniform_fan_out_(ensemble: EnsembleMLP) -> EnsembleMLP:
    """``ensemble`` with weights and biases uniform in +- 1 / sqrt(outputs), so that its members start far apart."""
    for layer in ensemble.layers:
        assert isinstance(layer, EnsembleLinear)
        _uniform_(layer, layer.weight.shape[2])
    return ensemble


def _uniform_(layer: EnsembleLinear, fan: int) -> None:
    for parameter in (layer.weight, layer.bias):
        nn.init.uniform_(parameter, -(fan**-0.5), fan**-0.5)
