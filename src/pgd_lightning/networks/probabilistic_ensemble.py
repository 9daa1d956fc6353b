"""An ensemble of networks with a Gaussian output each, whose log variance is softly kept within learned bounds."""

from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pgd_lightning.networks.mlp import EnsembleLinear


class ProbabilisticEnsemble(nn.Module):
    """``[B, inputs] ->`` means and log variances ``[M, B, outputs]`` and one logit ``[M, B]`` of each member.

    The bounds, shared by the members, are one pair for each output (Chua et al., arXiv 1805.12114, appendix A.1).
    """

    def __init__(
        self,
        members: int,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        log_var_bounds: tuple[float, float],  # lower and upper at first
    ) -> None:
        super().__init__()
        self.members = members
        sizes = [inputs, *hidden, 2 * outputs + 1]
        self.layers = nn.ModuleList(EnsembleLinear(members, a, b) for a, b in pairwise(sizes))
        low, high = log_var_bounds
        self.low = nn.Parameter(torch.full((outputs,), low))
        self.high = nn.Parameter(torch.full((outputs,), high))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = x.expand(self.members, *x.shape)
        *body, head = self.layers
        for layer in body:
            x = F.relu(layer(x))
        out = head(x)
        mean, log_var = out[..., :-1].chunk(2, dim=-1)
        log_var = self.high - F.softplus(self.high - log_var)
        return mean, self.low + F.softplus(log_var - self.low), out[..., -1]
