"""The behaviour model of agents that are diffusion models themselves: noised actions, given the observation.

It is trained once for a dataset (``pgd_lightning.artifacts.behaviour``) and then shared by all seeds and settings. Its
loss is that of Diffusion-DICE (arXiv 2407.20109): the squared error of the predicted noise, summed over action dims.
"""

from collections.abc import Callable

from torch import Tensor

from pgd_lightning.agents.learner import Learner
from pgd_lightning.diffusion.denoiser import ConditionalDenoiser
from pgd_lightning.diffusion.process import Process
from pgd_lightning.networks.residual_mlp import VectorUNet
from pgd_lightning.trajectory import Transition

MakeDenoiser = Callable[[], ConditionalDenoiser]


def action_denoiser(
    obs_dim: int,
    action_dim: int,
    process: Process,
    width: int,  # of the first block
    features: int,  # of time and of the observation
    time: str,  # fourier30 or smooth
) -> ConditionalDenoiser:
    """An untrained denoiser of actions ``[..., A]`` given observations ``[..., O]``."""
    return ConditionalDenoiser(VectorUNet(action_dim, obs_dim, width, features, time), process)


class Behaviour(Learner):
    """A denoiser of actions and nothing else."""

    def __init__(self, behaviour: MakeDenoiser) -> None:
        super().__init__()
        self.behaviour = behaviour()

    def phases(self) -> list[tuple[str, ...]]:
        return [("behaviour",)]

    def behaviour_loss(self, batch: Transition) -> Tensor:
        """mean of sigma^-2 |D(a + sigma z; sigma, s) - a|^2."""
        return self.behaviour.loss(batch.action, batch.obs)
