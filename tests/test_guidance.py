"""Guidance against golden values, closed forms and invariances."""

from dataclasses import dataclass

import pytest
import torch
from helpers.codecs import codec, unit_codec
from helpers.denoisers import EDM_1, churn, injected_noise, injected_start, zero_network
from torch import Tensor

from pgd_lightning.diffusion.samplers import dpmpp_2m, heun
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.guidance import guidance_weight, pgd_guide, policy_score, score_guided


@dataclass
class ConstantPolicy:
    """Gaussian of fixed mean and deviation, whatever the observation."""

    mean: Tensor
    std: Tensor | float = 1.0

    def act(self, obs):
        return self.mean.expand(*obs.shape[:-1], -1)

    def score(self, obs, action, noise_variance=0.0):
        return (self.mean - action) / (torch.as_tensor(self.std) ** 2 + noise_variance)


pytestmark = pytest.mark.usefixtures("float64")

HALF = ConstantPolicy(torch.tensor([0.5]))
ACTIONS = torch.tensor([[0.3, -1.2], [0.0, 2.0], [1.5, 0.7]])
MEANS = torch.tensor([[0.2, -0.4], [0.9, 0.1], [-0.3, 0.6]])


@pytest.mark.parametrize(
    ("std", "expected", "norm"),
    [(1.0, [[-0.09104523, 0.07876845], [0.63390539, -0.03720175], [-0.23925289, -0.00870371]], 0.68922523),
     (torch.tensor([0.5, 0.25]), [[-0.36418091, 1.26029528], [2.53562157, -0.59522793], [-0.95701154, -0.13925937]],
      3.07244352)],
)  # fmt: skip
def test_policy_gradient(std, expected, norm):
    change = codec(1, torch.tensor([0.1, -0.2]), torch.tensor([0.8, 1.3]))
    x = torch.cat([torch.zeros(3, 1), ACTIONS, torch.zeros(3, 2)], dim=-1)
    gradient = policy_score(x, ConstantPolicy(MEANS, torch.as_tensor(std)), change)
    torch.testing.assert_close(gradient, torch.tensor(expected), rtol=0, atol=1e-6)
    assert gradient.norm().item() == pytest.approx(norm, rel=1e-6)


def test_policy_gradient_is_the_autograd_gradient():
    torch.manual_seed(0)
    change = codec(2, torch.randn(3), torch.rand(3) + 0.5)
    x = torch.randn(2, 4, 7, requires_grad=True)
    policy = ConstantPolicy(torch.tensor([0.1, -0.5, 0.8]), torch.tensor(0.4))
    log_prob = -0.5 * ((change.decode_action(x) - policy.mean) / 0.4) ** 2
    (expected,) = torch.autograd.grad(log_prob.sum(), x)
    torch.testing.assert_close(policy_score(x.detach(), policy, change), expected[..., change.action_channels])


@pytest.mark.parametrize(
    ("num_steps", "step", "weight"),
    [(256, 0, 1.0036815), (256, 64, 0.96471925), (256, 128, 0.79997741), (256, 254, 0.01149396), (256, 255, 0.0)],
)
def test_guidance_weight(num_steps, step, weight):
    assert guidance_weight(step, num_steps, coef=1.0, cosine=0.3) == pytest.approx(weight, abs=1e-7)


@pytest.mark.parametrize(("num_steps", "total"), [(256, 177.38787867), (400, 276.89147998)])
def test_guidance_weights_grow_with_the_number_of_steps(num_steps, total):
    assert sum(guidance_weight(i, num_steps, 1.0, 0.3) for i in range(num_steps)) == pytest.approx(total)


@pytest.mark.parametrize(
    ("normalise", "expected"),
    [(False, [-1.2906757, -1.2053109, 0.1331038]), (True, [-1.2472906, -1.1660563, 0.1848046])],
)
def test_literal_guidance_with_injected_noise(normalise, expected):
    change, sigmas = unit_codec(2, 1), EDM_1.schedule(16)
    guide = pgd_guide(HALF, change, coef=0.1, cosine=0.3, denoised=True, normalise=normalise)
    runs = [
        heun(zero_network(), injected_start(), sigmas, g, churn(True), injected_noise(sigmas)) for g in (guide, None)
    ]
    torch.testing.assert_close(runs[0][0, :, 2], torch.tensor(expected), rtol=0, atol=1e-6)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(runs[0][..., others], runs[1][..., others], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("num_steps", "coef", "denoised", "mean", "std", "expected"),
    [(32, 0.0, True, 0.0, 1.0, [-1.01271625, -0.50635812, 0, 0.50635812, 1.01271625]),
     (32, 1.0, False, 0.0, 1.0, [0.51383561, 0.53216675, 0.53271717, 0.53409119, 0.60508395]),
     (32, 1.0, True, 0.0, 1.0, [0.55243018, 0.56245696, 0.58191518, 0.63438802, 0.81736625]),
     (32, 0.1, True, 0.2, 0.7, [-0.68660832, -0.26504153, 0.12450766, 0.5363855, 0.99601338]),
     (256, 0.1, True, 0.0, 1.0, [0.52435181, 0.5469892, 0.58253405, 0.65791258, 0.86309658])],
)  # fmt: skip
def test_literal_guidance_toy(num_steps, coef, denoised, mean, std, expected):
    change = codec(0, torch.tensor([mean]), torch.tensor([std]))
    guide = pgd_guide(HALF, change, coef, cosine=0.3, denoised=denoised, normalise=False)
    x = torch.zeros(5, 1, 3)
    x[:, 0, 0] = 80 * torch.tensor([-1, -0.5, 0, 0.5, 1])
    y = heun(zero_network(), x, EDM_1.schedule(num_steps), guide)
    torch.testing.assert_close(y[:, 0, 0], torch.tensor(expected), rtol=0, atol=1e-5)


class Identity(TrajectoryCodec):
    """Actions as they are: the closed form has no tanh."""

    def decode_action(self, x):
        return x[..., self.action_channels]


@pytest.mark.parametrize(
    ("num_steps", "mean", "deviation"), [(32, 0.2477591, 0.7170994), (64, 0.2477830, 0.7094231), (256, 0.2477899, 0.7072161)]
)  # fmt: skip
def test_score_guidance_reaches_the_exact_product(num_steps, mean, deviation, monkeypatch):
    """Prior N(0, 1) times policy N(0.5, 1) is N(0.25, 0.5), whatever the number of steps."""
    change = Identity(0, 1, 0.999)
    # (1 - a^2) is the slope of tanh, which the identity does not have.
    monkeypatch.setattr(
        "pgd_lightning.generators.guidance.policy_score",
        lambda x, policy, codec, spread: policy.score(None, codec.decode_action(x), spread),
    )
    guided = score_guided(zero_network(), HALF, change, coef=1.0)
    x = torch.zeros(2, 1, 3)
    x[1, 0, 0] = 80.0
    y = heun(guided, x, EDM_1.schedule(num_steps))[:, 0, 0]
    assert y[0].item() == pytest.approx(mean, abs=1e-6)
    assert (y[1] - y[0]).item() == pytest.approx(deviation, abs=1e-6)


def test_strength_of_score_guidance_does_not_depend_on_the_steps():
    change, x = unit_codec(0, 1), 80 * torch.linspace(-2, 2, 41)[:, None, None].expand(-1, 4, 3)
    guided = score_guided(zero_network(), HALF, change, coef=1.0)
    few, many = (dpmpp_2m(guided, x, EDM_1.schedule(n)) for n in (32, 512))
    torch.testing.assert_close(few, many, rtol=0, atol=0.05)


@pytest.mark.parametrize("denoised", [False, True])
def test_normalised_guidance_stays_finite_in_8192_windows(denoised):
    """With noised guidance every tanh saturates in some windows: the official rule gives NaN in 4 of 4096."""
    torch.manual_seed(0)
    change = unit_codec(11, 3)
    guide = pgd_guide(ConstantPolicy(torch.zeros(3)), change, 1.0, 0.3, denoised, normalise=True)
    x = 80 * torch.randn(8192, 32, 16).float()
    y = heun(zero_network(), x, EDM_1.schedule(8).float(), guide)
    assert y.isfinite().all()


def test_denoised_and_noised_guidance_agree_without_noise():
    torch.manual_seed(0)
    change, x, sigmas = unit_codec(2, 2), torch.randn(3, 4, 6), torch.tensor([1e-4, 1e-4, 0.0])
    policy = ConstantPolicy(torch.tensor([0.2, -0.1]))
    moved = [pgd_guide(policy, change, 1.0, 0.3, d, False)(x, 0, sigmas, zero_network()) for d in (False, True)]
    torch.testing.assert_close(moved[0], moved[1], rtol=0, atol=1e-6)
