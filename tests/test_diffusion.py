"""Diffusion against closed forms and golden values (spec numbers: official code run in float32, numpy in float64)."""

import copy
import math
from functools import partial

import pytest
import torch
from helpers.denoisers import EDM_1, churn, injected_noise, injected_start, zero_network
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import ancestral, dpmpp_2m, euler, euler_ancestral, heun, stepped
from pgd_lightning.networks.muon import Muon, orthogonal
from pgd_lightning.networks.temporal_resnet import Block, TemporalResNet
from pgd_lightning.networks.temporal_unet import Conv, RowGroupNorm, TemporalUNet, TimeEmbedding, nearest_rows

pytestmark = pytest.mark.usefixtures("float64")


def normal_denoiser(variance: float):
    """The exact denoiser of N(0, variance)."""
    return lambda x, sigma: variance * x / (variance + sigma**2)


@pytest.mark.parametrize(
    ("num_steps", "index", "sigma"),
    [(5, 1, 17.527832), (5, 3, 0.169752756), (8, 4, 1.28661427), (18, 9, 1.9233398), (128, 64, 2.4279243),
     (256, 1, 78.302851), (256, 192, 0.16329334), (256, 254, 0.0022028749), (400, 398, 0.0021277134)],
)  # fmt: skip
def test_schedule(num_steps, index, sigma):
    sigmas = EDM_1.schedule(num_steps)
    assert len(sigmas) == num_steps + 1
    assert sigmas[-1] == 0
    torch.testing.assert_close(sigmas[index].item(), sigma, rtol=1e-6, atol=0)
    torch.testing.assert_close(sigmas[[0, -2]], torch.tensor([80.0, 0.002]))


@pytest.mark.parametrize(
    ("num_steps", "gamma", "count", "first", "last"),
    [(18, 0.41421356, 13, 2, 14), (64, 0.41421356, 47, 6, 52), (256, 0.3125, 191, 22, 212), (400, 0.2, 300, 34, 333)],
)
def test_churn(num_steps, gamma, count, first, last):
    gammas = [churn(True).gamma(sigma, num_steps) for sigma in EDM_1.schedule(num_steps)[:-1]]
    active = [i for i, value in enumerate(gammas) if value > 0]
    assert (len(active), active[0], active[-1]) == (count, first, last)
    assert gammas[first] == pytest.approx(gamma)


@pytest.mark.parametrize(
    ("sigma", "expected"),
    [(0.5, (0.8, 0.447213595, 0.894427191, -0.173286795)), (0.002, (0.999996, 0.001999996, 0.999998, -1.55365202)),
     (80.0, (1.5622559e-4, 0.999921884, 0.0124990236, 1.09550666))],
)  # fmt: skip
def test_scalings(sigma, expected):
    scalings = EDM_1.scalings(torch.tensor(sigma))
    torch.testing.assert_close(torch.stack(scalings), torch.tensor(expected), rtol=1e-6, atol=1e-9)


@given(st.floats(1e-3, 100), st.floats(0.1, 3))
def test_weight_cancels_the_output_scale(sigma, sigma_data):
    process = EDM(sigma_data, 0.002, 80.0, 7.0, -1.2, 1.2)
    _, c_out, _, _ = process.scalings(torch.tensor(sigma))
    assert (process.weight(torch.tensor(sigma)) * c_out**2).item() == pytest.approx(1)


def test_noise_law():
    torch.manual_seed(0)
    sigma = EDM_1.sample_sigma(200_000, "cpu")
    quantiles = torch.tensor([0.05, 0.5, 0.95])
    expected = torch.tensor([0.0418433, 0.3011942, 2.1680418])
    torch.testing.assert_close(sigma.quantile(quantiles), expected, rtol=0.02, atol=0)


def test_loss_of_a_zero_network():
    torch.manual_seed(0)
    sigma = torch.full((20_000,), 0.5)
    normal, flat = torch.randn(20_000, 4, 3), torch.zeros(20_000, 4, 3)
    noise = torch.randn(20_000, 4, 3)
    assert zero_network().losses(normal, sigma, noise).mean().item() == pytest.approx(1.0, abs=0.01)
    assert zero_network().losses(flat, sigma, noise).mean().item() == pytest.approx(0.8, abs=0.01)


@pytest.mark.parametrize(
    ("num_steps", "plain", "literal", "edm", "euler_literal", "euler_edm"),
    [(18, 1.04473, 1.87499, 1.10958, 0.66578, 0.79132), (32, 1.01272, 1.33757, 1.04732, 0.38579, 0.84791),
     (256, 1.00010, 1.03002, 1.00629, 0.05928, 0.93026)],
)  # fmt: skip
def test_sampler_moments(num_steps, plain, literal, edm, euler_literal, euler_edm):
    """Every sampler is linear here, so its final deviation is the norm of what each unit draw turns into."""
    sigmas, denoise = EDM_1.schedule(num_steps), normal_denoiser(1.0)

    def deviation(sampler, settings):
        draws = num_steps + 1
        x = torch.zeros(draws)
        x[0] = 80.0
        unit = iter(range(1, draws))
        return sampler(denoise, x, sigmas, churn=settings, noise=lambda v: torch.eye(draws)[next(unit)]).norm().item()

    assert deviation(heun, None) == pytest.approx(plain, abs=6e-6)
    assert deviation(heun, churn(True)) == pytest.approx(literal, abs=6e-6)
    assert deviation(heun, churn(False)) == pytest.approx(edm, abs=6e-6)
    assert deviation(euler, churn(True)) == pytest.approx(euler_literal, abs=6e-6)
    assert deviation(euler, churn(False)) == pytest.approx(euler_edm, abs=6e-6)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [(None, [0.8905696, -0.8009609, 0.6953209, -0.575764, 0.4446832]),
     (churn(True), [0.4798087, 1.175674, -1.3806065, -0.0940631, 1.5147545]),
     (churn(False), [0.8029089, 0.0077024, -0.7316113, 0.5337539, 0.3432312])],
)  # fmt: skip
def test_heun_with_injected_noise(settings, expected):
    sigmas = EDM_1.schedule(16)
    x = injected_start()
    y = heun(zero_network(), x, sigmas, churn=settings, noise=injected_noise(sigmas))
    torch.testing.assert_close(y[0, 0], torch.tensor(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("sampler", "order"), [(euler, 1), (heun, 2), (dpmpp_2m, 2)])
def test_order_of_convergence(sampler, order):
    """On N(0, 0.25) the flow from 80 to 0.1 is a known factor; the error must fall as steps^-order."""
    target = math.sqrt((0.25 + 0.01) / (0.25 + 80**2))

    def error(num_steps):
        sigmas = torch.linspace(80**0.25, 0.1**0.25, num_steps + 1) ** 4
        return abs(sampler(normal_denoiser(0.25), torch.ones(1), sigmas).item() / target - 1)

    slope = math.log(error(64) / error(256)) / math.log(4)
    assert slope == pytest.approx(order, abs=0.25)


@pytest.mark.parametrize(("sampler", "order"), [(euler_ancestral, 1), (partial(dpmpp_2m, stochastic=True), 2)])
def test_order_of_convergence_of_the_variance(sampler, order):
    """On N(0, 0.25), of which x at sigma 0.1 has variance 0.26. A step is linear in x and in each draw of noise."""

    def error(num_steps):
        sigmas = torch.linspace(80**0.25, 0.1**0.25, num_steps + 1).double() ** 4
        start, *units = torch.eye(num_steps + 1).double()
        drawn = iter(units)
        x = sampler(normal_denoiser(0.25), start * (0.25 + 80**2) ** 0.5, sigmas, noise=lambda v: next(drawn))
        return abs(x.square().sum().item() / 0.26 - 1)

    slope = math.log(error(128) / error(512)) / math.log(4)
    assert slope == pytest.approx(order, abs=0.25)


def test_second_order_ancestral_steps_begin_as_ancestral_ones():
    sigmas = torch.tensor([2.0, 0.7])
    one, other = (s(lambda x, level: 0.3 * x, torch.ones(3), sigmas, noise=torch.ones_like)
                  for s in (euler_ancestral, partial(dpmpp_2m, stochastic=True)))  # fmt: skip
    torch.testing.assert_close(one, other)


def test_ancestral_step_is_the_ddpm_posterior():
    """One Euler-ancestral step = the Gaussian posterior q(x_next | x, x0 = D(x)) in sigma."""
    sigma, sigma_next, x0 = torch.tensor(2.0), torch.tensor(0.7), torch.tensor([0.3])
    x, draw = torch.tensor([1.7]), torch.tensor([0.9])
    ratio = (sigma_next / sigma) ** 2
    expected = ratio * x + (1 - ratio) * x0 + sigma_next * (1 - ratio).sqrt() * draw
    actual = euler_ancestral(lambda v, s: x0, x, torch.stack([sigma, sigma_next]), noise=lambda v: draw)
    torch.testing.assert_close(actual, expected)


def test_time_embedding():
    sines = TimeEmbedding(64, 8).sines(torch.tensor(0.5).log() / 4)
    expected = [-0.172420845, -0.0464708335, -0.0124708791, -0.00334563798]
    torch.testing.assert_close(sines[:4], torch.tensor(expected), rtol=1e-5, atol=1e-9)
    wide = TimeEmbedding(1024, 128).sines(torch.tensor(0.5).log() / 4)
    assert wide.sum().item() == pytest.approx(125.41649205, rel=1e-5)
    assert wide[64].item() == pytest.approx(-0.00167115694, rel=1e-4)


@pytest.mark.parametrize(
    ("channels", "features", "blocks", "count"),
    [(16, 1024, 3, 177_619_984), (25, 1024, 2, 41_292_825), (71, 256, 3, 11_185_479), (8, 64, 3, 700_488)],
)
def test_parameter_count(channels, features, blocks, count):
    with torch.device("meta"):
        network = TemporalUNet(channels, features, blocks, groups=8)
    assert sum(p.numel() for p in network.parameters()) == count


def closed_form_unet() -> TemporalUNet:
    network = TemporalUNet(channels=5, features=64, num_blocks=3, groups=8)
    for k, layer in enumerate(network.layers_in_order()):
        j = torch.arange(layer.weight.numel(), dtype=torch.float64)
        bias = torch.arange(len(layer.bias), dtype=torch.float64)
        if isinstance(layer, RowGroupNorm):
            layer.weight.data, layer.bias.data = 1 + 0.1 * torch.sin(j + k), 0.1 * torch.cos(bias + k)
            continue
        shape = layer.weight.shape[::-1]  # the golden layout is (taps, in, out) or (in, out)
        kernel = torch.sin(1.7 * j + 0.003 * (j % 97) * (j % 89) + k) / math.sqrt(j.numel() / shape[-1])
        axes = (2, 1, 0) if isinstance(layer, Conv) else (1, 0)
        layer.weight.data, layer.bias.data = kernel.view(shape).permute(axes).clone(), 0.1 * torch.cos(0.5 * bias + k)
    return network


def test_unet_with_closed_form_weights():
    row, channel = torch.arange(8.0)[:, None], torch.arange(5.0)
    y = closed_form_unet()(torch.sin(0.3 * row + 0.7 * channel)[None], torch.tensor([0.5]).log() / 4)[0]
    first = torch.tensor([0.3786659, -0.4491846, 0.5147758, 0.1917456, -0.3377392])
    last = torch.tensor([0.0228615, 1.0295507, -0.492428, -0.0619454, 0.6115058])
    torch.testing.assert_close(y[0], first, rtol=0, atol=1e-4)
    torch.testing.assert_close(y[7], last, rtol=0, atol=1e-4)
    assert y.sum().item() == pytest.approx(2.744427, abs=1e-3)


@given(st.integers(1, 40), st.integers(1, 80))
def test_nearest_rows_is_nearest_exact(rows, length):
    x = torch.arange(float(rows)).view(1, rows, 1)
    expected = torch.nn.functional.interpolate(x.transpose(1, 2), size=length, mode="nearest-exact")
    torch.testing.assert_close(nearest_rows(x, length), expected.transpose(1, 2))


@pytest.mark.parametrize(("taps", "dilation"), [(1, 1), (2, 1), (3, 1), (3, 2), (3, 8)])
def test_conv_is_a_same_convolution(taps, dilation):
    torch.manual_seed(0)
    conv, x = Conv(4, 6, taps, dilation=dilation), torch.randn(2, 7, 4)
    padded = torch.nn.functional.pad(x.transpose(1, 2), ((taps - 1) // 2 * dilation, taps // 2 * dilation))
    expected = torch.nn.functional.conv1d(padded, conv.weight, conv.bias, dilation=dilation).transpose(1, 2)
    torch.testing.assert_close(conv(x), expected)


def test_rows_are_normalised_one_by_one():
    torch.manual_seed(0)
    norm, x = RowGroupNorm(8, 64), torch.randn(2, 5, 64)
    expected = torch.nn.functional.group_norm(x.flatten(0, 1), 8, eps=1e-6).view_as(x)
    torch.testing.assert_close(norm(x), expected)


def test_initialisation_is_lecun_normal():
    torch.manual_seed(0)
    network = TemporalUNet(16, 128, 3, 8)
    weight = network.encoders[1].conv_b.weight
    assert weight.std().item() == pytest.approx((256 * 3) ** -0.5, rel=0.01)
    assert weight.abs().max().item() <= 2 * (256 * 3) ** -0.5 / 0.87962566 + 1e-9
    assert network.head.weight.abs().max() > 0
    assert all((p == 0).all() for name, p in network.named_parameters() if name.endswith("bias"))


# --- residual convolutions ---


def test_an_untrained_resnet_is_the_denoiser_of_standard_normal_data():
    denoiser = Denoiser(TemporalResNet(rows=6, channels=3, features=16, num_blocks=4), EDM_1)
    x, sigma = torch.randn(5, 6, 3), torch.tensor([0.01, 0.3, 1.0, 5.0, 80.0])
    torch.testing.assert_close(denoiser(x, sigma), x / (1 + sigma**2)[:, None, None])


def test_a_residual_block_is_its_formula():
    torch.manual_seed(0)
    block, x, tau = Block(16, dilation=2), torch.randn(3, 9, 16), torch.randn(3, 16)
    nn.init.normal_(block.modulation.weight, std=0.1)
    nn.init.normal_(block.modulation.bias, std=0.1)
    shift, scale, gate = (part[:, None] for part in block.modulation(tau).chunk(3, -1))
    seen = nn.functional.layer_norm(x, (16,)) * (1 + scale) + shift
    mixed = nn.functional.conv1d(seen.mT, block.conv.weight, block.conv.bias, padding=2, dilation=2).mT
    expected = x + (1 + gate) * block.out(nn.functional.silu(mixed))
    torch.testing.assert_close(block(x, tau), expected)


def test_eight_residual_blocks_see_thirty_rows_to_each_side():
    network = TemporalResNet(rows=64, channels=2, features=16, num_blocks=8)
    nn.init.normal_(network.head.weight)
    x = torch.randn(1, 64, 2, requires_grad=True)
    (seen,) = torch.autograd.grad(network(x, torch.zeros(1))[0, 31].sum(), x)
    assert seen[0].any(-1).nonzero().squeeze(-1).tolist() == list(range(1, 62))


def test_a_resnet_takes_windows_up_to_its_rows():
    network = TemporalResNet(rows=6, channels=3, features=16, num_blocks=2)
    assert [network(torch.randn(2, rows, 3), torch.zeros(2)).shape[1] for rows in (1, 5, 6)] == [1, 5, 6]
    with pytest.raises(RuntimeError, match="size of tensor"):
        network(torch.randn(2, 7, 3), torch.zeros(2))


def test_a_resnet_learns_the_denoiser_of_correlated_rows():
    """Of windows N(0, C) the exact one is C (C + sigma^2)^-1 x; what is learned in a moment is most of the way there."""
    torch.set_default_dtype(torch.float32)
    torch.manual_seed(0)
    rows = torch.arange(6.0)
    covariance = 0.95 ** (rows[:, None] - rows).abs()
    root = torch.linalg.cholesky(covariance)
    denoiser = Denoiser(TemporalResNet(rows=6, channels=1, features=16, num_blocks=4), EDM_1)
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=5e-3)

    def gap(sigma: float) -> float:
        """Squared distance to the exact denoiser, over that of the untrained one."""
        x = root @ torch.randn(2000, 6, 1) + sigma * torch.randn(2000, 6, 1)
        exact = covariance @ torch.linalg.solve(covariance + sigma**2 * torch.eye(6), x)
        with torch.no_grad():
            found = denoiser(x, torch.tensor(sigma))
        return float((found - exact).square().mean() / (x / (1 + sigma**2) - exact).square().mean())

    assert gap(0.3) == pytest.approx(1)
    for _ in range(120):
        optimizer.zero_grad()
        denoiser.loss(root @ torch.randn(128, 6, 1)).backward()
        optimizer.step()
    assert max(gap(0.3), gap(1.0)) < 0.15


# --- Muon ---


@pytest.mark.parametrize("shape", [(5, 5), (4, 12), (12, 4), (3, 6, 4)])
@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e4])
def test_orthogonal_brings_all_singular_values_near_one_and_keeps_their_directions(shape, scale):
    torch.manual_seed(0)
    x = torch.randn(shape)
    y = orthogonal(scale * x)
    left, values, right = torch.linalg.svd(x, full_matrices=False)
    found = left.mT @ y @ right.mT
    torch.testing.assert_close(found, torch.diag_embed(found.diagonal(dim1=-2, dim2=-1)), atol=1e-6, rtol=0)
    kept = found.diagonal(dim1=-2, dim2=-1)[values > 0.05 * values[..., :1]]
    assert ((kept > 0.65) & (kept < 1.25)).all()


def test_muon_moves_matrices_by_orthogonal_steps_and_the_rest_as_adam():
    torch.manual_seed(0)
    conv, other = nn.Parameter(torch.randn(4, 6, 3)), nn.Parameter(torch.randn(7))
    start, twin = conv.detach().clone(), nn.Parameter(other.detach().clone())
    ours, adam = Muon([conv], [other], lr=0.01), torch.optim.Adam([twin], lr=0.01)
    for _ in range(3):
        before = conv.detach().clone()
        conv.grad, other.grad, twin.grad = torch.randn_like(conv), torch.ones(7), torch.ones(7)
        ours.step()
        adam.step()
        sizes = torch.linalg.svdvals((conv - before).flatten(1)) / (0.01 * 0.2 * 18**0.5)
        assert ((sizes > 0.65) & (sizes < 1.25)).all()
    torch.testing.assert_close(other, twin)
    assert not torch.equal(conv, start)


def test_muon_goes_on_from_its_saved_state():
    def run(stop: int | None) -> torch.Tensor:
        torch.manual_seed(0)
        weight, bias = nn.Parameter(torch.randn(4, 4)), nn.Parameter(torch.randn(4))
        optimizer = Muon([weight], [bias], lr=0.01)
        for step in range(6):
            if step == stop:
                state = copy.deepcopy(optimizer.state_dict())
                optimizer = Muon([weight], [bias], lr=0.01)
                optimizer.load_state_dict(state)
            optimizer.zero_grad()
            (weight @ torch.ones(4) + bias).square().sum().backward()
            optimizer.step()
        return torch.cat([weight.flatten(), bias]).detach()

    assert torch.equal(run(stop=3), run(stop=None))


@pytest.mark.parametrize(
    "network",
    [TemporalUNet(5, 16, 3, 8), TemporalResNet(rows=8, channels=5, features=16, num_blocks=4)],
    ids=lambda network: type(network).__name__,
)
def test_hidden_weights_touch_neither_channels_nor_the_label(network):
    names = {id(p): name for name, p in network.named_parameters()}
    hidden = [names[id(p)] for p in network.hidden_weights()]
    assert len(hidden) == len(set(hidden)) == (11 if isinstance(network, TemporalUNet) else 8)
    assert not any(
        part in name for name in hidden for part in ("time", "head", "inlet", "position", "modulation", "bias")
    )
    assert all(min(p.shape[:2]) >= 16 for p in network.hidden_weights())


def test_a_correction_knows_the_noise_that_churn_added():
    settings, seen = churn(False), []

    def look(step):
        torch.testing.assert_close(
            step.mean, stepped(step.x, step.denoised, step.sigma, ancestral(step.sigma, step.sigma_next)[0])
        )
        seen.append(step)
        return step.mean

    sigmas = EDM_1.schedule(8)
    euler_ancestral(lambda x, sigma: 0.3 * x, torch.randn(3), sigmas, churn=settings, correct=look)
    for number, step in enumerate(seen):
        gamma = settings.gamma(float(sigmas[number]), 8)
        torch.testing.assert_close(step.sigma, sigmas[number] * (1 + gamma))
    assert any(step.sigma > sigmas[step.number] for step in seen)
