"""Recorded windows in the place of synthetic ones: what a finite set costs an agent whose windows have no error."""

import torch
from torch import Tensor

from pgd_lightning.data.windows import Windows
from pgd_lightning.randomness import stream
from pgd_lightning.trajectory import Policy, Trajectory


class Recorded:
    """Windows of ``windows``, drawn at random with replacement."""

    def __init__(self, windows: Windows) -> None:
        self.windows = windows

    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, T]``; of ``starts [..., N, O]`` only the shape counts, and the policy has no part."""
        index = torch.randint(len(self.windows), starts.shape[:-1], generator=stream(seed, "recorded windows"))
        return self.windows[index].to(starts.device)
