"""What the parts of ``TemporalResNet`` and of its training are worth: the same without, or with another."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from einops import reduce
from torch import Tensor, nn

from pgd_lightning.channels import divisor, mean_and_std
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.networks.temporal_resnet import Block, TemporalResNet
from pgd_lightning.networks.temporal_unet import Conv, RowGroupNorm, halve_rows, nearest_rows
from pgd_lightning.trajectory import Trajectory


class NoResidual(Block):
    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return super().forward(x, tau) - x


def no_residuals(network: TemporalResNet) -> None:
    """Blocks replace what came before."""
    for block in network.blocks:
        block.__class__ = NoResidual


def no_norm(network: TemporalResNet) -> None:
    """Blocks see the residual stream as it is."""
    for block in network.blocks:
        block.norm = nn.Identity()


def group_norm(network: TemporalResNet) -> None:
    """The U-Net's normalisation: of each row, in eight groups of channels."""
    for block in network.blocks:
        block.norm = RowGroupNorm(8, block.conv.in_channels)


class ShiftOnly(Block):
    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        return x + self.out(F.silu(self.conv(self.norm(x)) + self.modulation(tau).unsqueeze(-2)))


def shift_only(network: TemporalResNet) -> None:
    """The U-Net's conditioning: the noise embedding is added once, after a block's convolution."""
    for block in network.blocks:
        width = block.conv.in_channels
        block.modulation, block.norm = nn.Linear(width, width), nn.LayerNorm(width)
        block.__class__ = ShiftOnly


class NoGate(Block):
    def forward(self, x: Tensor, tau: Tensor) -> Tensor:
        shift, scale = self.modulation(tau).unsqueeze(-2).chunk(2, -1)
        return x + self.out(F.silu(self.conv(torch.addcmul(shift, self.norm(x), 1 + scale))))


def no_gate(network: TemporalResNet) -> None:
    """Shift and scale, no gate."""
    for block in network.blocks:
        width = block.conv.in_channels
        block.modulation = nn.Linear(width, 2 * width)
        nn.init.zeros_(block.modulation.weight)
        nn.init.zeros_(block.modulation.bias)
        block.__class__ = NoGate


def no_dilation(network: TemporalResNet) -> None:
    """Every convolution sees neighbours alone: the whole window is 8 rows to each side."""
    for block in network.blocks:
        block.conv = Conv(block.conv.in_channels, block.conv.in_channels, 3)


def no_positions(network: TemporalResNet) -> None:
    network.position.requires_grad_(False).zero_()


class Pooled(TemporalResNet):
    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        tau, quarter = F.silu(self.time(label)), len(self.blocks) // 4
        h = self.inlet(x) + self.position[: x.shape[-2]]
        for block in self.blocks[:quarter]:
            h = block(h, tau)
        low = halve_rows(h)
        for block in self.blocks[quarter:-quarter]:
            low = block(low, tau)
        h = h + nearest_rows(low, h.shape[-2])
        for block in self.blocks[-quarter:]:
            h = block(h, tau)
        return self.head(h)


def pooled(network: TemporalResNet) -> None:
    """The middle half of the blocks works at half the resolution, as the inside of a U-Net does."""
    network.__class__ = Pooled


class Attention(nn.Module):
    def __init__(self, width: int, heads: int = 4) -> None:
        super().__init__()
        self.heads, self.qkv = heads, nn.Linear(width, 3 * width)

    @property
    def weight(self) -> Tensor:
        return self.qkv.weight

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def attention(network: TemporalResNet) -> None:
    """Every fourth block looks at all rows by attention where the others convolve."""
    for block in network.blocks[3::4]:
        block.conv = Attention(block.conv.in_channels)


def head_norm(network: TemporalResNet) -> None:
    """A layer norm before the head."""
    network.head = nn.Sequential(nn.LayerNorm(network.head.in_features), network.head)


def conv_inlet(network: TemporalResNet) -> None:
    """The first layer sees three rows, so differences are its first features."""
    network.inlet = Conv(network.inlet.in_features, network.inlet.out_features, 3)


ABLATIONS: dict[str, Callable[[TemporalResNet], None]] = {
    f.__name__.replace("_", "-"): f
    for f in (no_residuals, no_norm, group_norm, shift_only, no_gate, no_dilation, no_positions, pooled, attention,
              head_norm, conv_inlet)
}  # fmt: skip


class Differences(TrajectoryCodec):
    """Observations after a window's first are coded as standardised differences to the one before."""

    step_mean: Tensor
    step_std: Tensor

    def fit(self, batches: Iterable[Trajectory]) -> None:
        kept = list(batches)
        super().fit(kept)
        steps = torch.cat([(w.obs[:, 1:] - w.obs[:, :-1]).flatten(0, 1) for w in kept])
        self.step_mean, self.step_std = mean_and_std(steps)

    def encode(self, trajectory: Trajectory) -> Tensor:
        x = super().encode(trajectory)
        steps = trajectory.obs[..., 1:, :] - trajectory.obs[..., :-1, :]
        x[..., 1:, : self.obs_dim] = (steps - self.step_mean) / divisor(self.step_std)
        return x

    def decode(self, x: Tensor) -> Trajectory:
        decoded = super().decode(x)
        steps = x[..., 1:, : self.obs_dim] * self.step_std + self.step_mean
        decoded.obs = torch.cat([decoded.obs[..., :1, :], steps], -2).cumsum(-2)
        return decoded


class Weighted(Denoiser):
    """The reward's and the terminal's channel count ``small`` times as much as the others."""

    small: float

    def losses(self, x0: Tensor, sigma: Tensor, noise: Tensor, varies: Tensor | float = 1.0) -> Tensor:
        weights = torch.ones(x0.shape[-1])
        weights[-2:] = self.small
        error = (self(x0 + sigma[:, None, None] * noise, sigma) - x0) ** 2 * weights / weights.mean()
        return self.process.weight(sigma) * reduce(error, "b t d -> b", "mean")
