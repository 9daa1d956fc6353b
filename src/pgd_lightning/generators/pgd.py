"""Policy-Guided Diffusion (arXiv 2404.06356): windows of the behaviour prior, pulled toward the current policy."""

from dataclasses import replace

import torch
from torch import Tensor

from pgd_lightning.diffusion.samplers import Churn, Sampler, euler_ancestral, normal_noise
from pgd_lightning.errors import UserError
from pgd_lightning.generators.calibration import Calibrated, Strength
from pgd_lightning.generators.guidance import Guidance, Guided, OnPolicy
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.randomness import derive_seed, stream
from pgd_lightning.trajectory import Policy, Trajectory


class PGD:
    """A trained prior, a sampler and a guidance make a generator; without guidance it is the unguided baseline."""

    def __init__(
        self,
        model: DiffusionPrior,
        sampler: Sampler,
        num_steps: int,
        churn: Churn | None,
        guidance: Guidance | Calibrated | None,
        rows: int,
        batch_size: int,  # windows denoised at once, over all seeds
        precision: str,  # of the network: float32 or bfloat16
    ) -> None:
        require_correction(sampler, guidance)
        self.prior, self.sampler, self.num_steps, self.churn = model, sampler, num_steps, churn
        self.guidance, self.rows, self.batch_size = guidance, rows, batch_size
        self.dtype: torch.dtype = getattr(torch, precision)
        self.used: Strength | None = None  # what a calibrated guidance found for the last policy

    @torch.no_grad()
    def generate(self, policy: Policy | None, starts: Tensor, seed: int) -> Trajectory:
        """Windows ``[..., N, rows]``. PGD samples whole windows: of ``starts [..., N, O]`` only the shape counts.

        The noise depends on ``seed`` and the position alone, so guided and unguided sets of one seed are pairs.
        """
        self.prior.to(starts.device)
        self.used, guidance = None, self.guidance
        if isinstance(guidance, Calibrated):
            if policy is not None:
                self.used = self._calibrated(guidance, policy, starts, derive_seed(seed, "calibration"))
                guidance = replace(guidance.rule, coef=self.used.coef) if self.used.coef.any() else None
            else:
                guidance = None
        return self._windows(policy, guidance, starts, seed)

    def _calibrated(self, guidance: Calibrated, policy: Policy, starts: Tensor, seed: int) -> Strength:
        few = starts[..., :1, :].expand(*starts.shape[:-2], guidance.windows, -1)
        return guidance.found(lambda rule: self._windows(policy, rule, few, seed), policy, seed)

    def _windows(self, policy: Policy | None, guidance: Guidance | None, starts: Tensor, seed: int) -> Trajectory:
        per_call = max(self.batch_size // starts.shape[:-2].numel(), 1)
        parts = [
            self._sample(policy, guidance, start.shape[:-1], seed, part, starts.device)
            for part, start in enumerate(starts.split(per_call, dim=-2))
        ]
        return self.prior.codec.decode(torch.cat(parts, dim=-3))

    def _sample(
        self, policy: Policy | None, guidance: Guidance | None, shape: torch.Size, seed: int, part: int,
        device: torch.device,
    ) -> Tensor:  # fmt: skip
        noise = normal_noise(stream(seed, "pgd", part, device=device))
        guided = Guided(self._denoise)
        if policy is not None and guidance is not None:
            guided = guidance(self._denoise, policy, self.prior.codec)
        sigmas = self.prior.ema.process.schedule(self.num_steps)
        x = sigmas[0] * noise(torch.empty(*shape, self.rows, self.prior.codec.channels, device=device))
        after = {} if guided.after is None else {"correct": guided.after}
        return self.sampler(guided.denoise, x, sigmas, guided.before, self.churn, noise, **after)

    def _denoise(self, x: Tensor, sigma: Tensor) -> Tensor:
        """The average's D(x; sigma) in float32, whatever its products are computed in; constants are 0 in and out."""
        varies = self.prior.codec.varies
        with torch.autocast(x.device.type, self.dtype, enabled=self.dtype != torch.float32):
            return varies * self.prior.ema(varies * x, sigma)


def require_correction(sampler: Sampler, guidance: Guidance | Calibrated | None) -> None:
    """Raises UserError where ``guidance`` acts after a step and ``sampler`` has no place for it."""
    guidance = guidance.rule if isinstance(guidance, Calibrated) else guidance
    if isinstance(guidance, OnPolicy) and getattr(sampler, "func", sampler) is not euler_ancestral:
        raise UserError("This guidance corrects each denoising step and needs sampler=euler_ancestral.")
