"""Diffusion-DICE: golden values, closed forms, order of updates, in-sample losses, and the command itself.

python -m pytest tests/test_diffusion_dice.py
"""

import math
import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.agents import fit, make_agent, make_batch, same
from helpers.commands import SMALL, command, pgd, run_of
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kstest
from torch import Tensor, nn

from pgd_lightning.agents.behaviour import Behaviour, action_denoiser
from pgd_lightning.agents.diffusion_dice import DiffusionDICE, for_env, select
from pgd_lightning.agents.divergence import conjugate, derivative, divergence, weight
from pgd_lightning.agents.rewards import ReturnRange, Shift
from pgd_lightning.agents.seeds import call_stacked
from pgd_lightning.config.compose import compose_config
from pgd_lightning.diffusion.energy import Energy, contrastive_loss, energy_guided, excess, in_sample_loss
from pgd_lightning.diffusion.likelihood import flow_log_prob
from pgd_lightning.diffusion.process import VP
from pgd_lightning.diffusion.samplers import dpmpp_2m, dpmpp_2s
from pgd_lightning.errors import UserError
from pgd_lightning.networks.critics import EnsembleQ, StateValue, TwinQ
from pgd_lightning.networks.mlp import uniform_fan_in_
from pgd_lightning.networks.residual_mlp import EnergyMLP, FourierTime, VectorUNet
from pgd_lightning.randomness import derive_seed

PUBLISHED = VP(0.1, 20.0, 0.001, 1.0, label="time", noise_law="time", spacing="time", to_zero=False)
OURS = VP(0.1, 20.0, 0.001, 0.77, label="log_sigma", noise_law="time", spacing="log_sigma", to_zero=True)
WHOLE = replace(OURS, time_max=1.0)
OBS, ACTION = 4, 2

behaviour = partial(action_denoiser, OBS, ACTION, OURS, width=16, features=8, time="smooth")
dice = partial(
    DiffusionDICE, OBS, ACTION, [16, 16], behaviour, discount=0.99, temperature=0.5, max_weight=100.0, ensemble=3,
    guidance_hidden=[16, 16], time="smooth", time_features=8, guidance_start="he", guidance_rule="in_sample", noise_copies=4,
    contrastive_weight=3.0, guidance_scale=1.0, decision="guide_then_select", candidates=4, selection="max",
    sampler=dpmpp_2m, num_steps=6, likelihood_steps=16,
)  # fmt: skip


def tensor(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


def close(actual: Tensor | float, *expected: float, rtol: float = 1e-6, atol: float = 1e-12) -> None:
    target = tensor(*expected)
    torch.testing.assert_close(torch.as_tensor(actual).double().reshape(target.shape), target, rtol=rtol, atol=atol)


def bisect(increasing: Callable[[float], float], low: float, high: float) -> float:
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (low, middle) if increasing(middle) > 0 else (middle, high)
    return low


def solve_value(q: Tensor, share: Tensor, alpha: float, mean_weight: float = 1.0) -> float:
    """V with E[w((Q - V) / alpha)] = mean_weight, actions in ``share``."""
    return bisect(lambda v: mean_weight - float((share * weight((q - v) / alpha)).sum()), -10, 10)


# --- f-divergence, V, weights (G1 to G5, ring of 7.2) ---


def test_g1_divergence() -> None:
    close(divergence(tensor(0, 0.1, 0.5, 1, 1.5, 3)), 1, 0.6697414907, 0.1534264097, 0, 0.25, 4)
    y = tensor(-10, -2, -0.5, 0, 0.5, 2, 10)
    close(conjugate(y), -0.9999546001, -0.8646647168, -0.3934693403, 0, 0.5625, 3, 35)
    close(weight(y), 4.5399930e-05, 0.1353352832, 0.6065306597, 1, 1.25, 2, 6)


@given(st.floats(-30, 50))
def test_fenchel_equality_and_inverse(y: float) -> None:
    y = tensor(y)
    w = weight(y)
    torch.testing.assert_close(w * y - divergence(w), conjugate(y), rtol=1e-13, atol=1e-13)
    torch.testing.assert_close(derivative(w), y, rtol=1e-9, atol=1e-9)
    (slope,) = torch.autograd.grad(conjugate(leaf := y.clone().requires_grad_()).sum(), leaf)
    torch.testing.assert_close(slope, w)


@pytest.mark.parametrize(
    ("alpha", "value", "first"),
    [
        (0.5, 0.4263027510, 0.7868486245),
        (0.1, 0.8000670476, 0.9998323811),
        (1, 0.3748225282, 0.6562943680),
        (2, 0.3529234490, 0.5808845689),
    ],
)
def test_g2_value_of_two_actions(alpha: float, value: float, first: float) -> None:
    q, half = tensor(1, 0), tensor(0.5, 0.5)
    v = solve_value(q, half, alpha)
    assert v == pytest.approx(value, rel=1e-6)
    assert (half * weight((q - v) / alpha))[0].item() == pytest.approx(first, rel=1e-6)


def test_g2_loss_and_g3_coefficient() -> None:
    q, half = tensor(1, 0), tensor(0.5, 0.5)
    v = solve_value(q, half, 0.5)
    assert (half * conjugate((q - v) / 0.5)).sum() + v / 0.5 == pytest.approx(1.3040183933, rel=1e-9)
    assert solve_value(q, half, 0.5, mean_weight=0.01) == pytest.approx(3.0194755083, rel=1e-8)


class Given(nn.Module):
    """A network that answers with ``outputs``."""

    def __init__(self, outputs: Tensor) -> None:
        super().__init__()
        self.outputs = nn.Parameter(outputs)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.outputs


def test_g4_value_loss_batch(float64) -> None:
    learner, batch = dice(), make_batch(4).to(torch.float64)
    q = tensor(1, 0.2, -3, 0.5)
    learner.target_critic = Given(torch.stack([q, q + 1])).requires_grad_(False)
    learner.value = Given(tensor(0.4, 0.5, 0, 0.5))
    close(learner.weights(batch), 1.6, 0.5488116361, 0.0024787522, 1)
    loss = learner.value_loss(batch)
    close(loss, 0.7278225971)
    (gradient,) = torch.autograd.grad(loss, learner.value.outputs)
    close(gradient, -0.3, 0.2255941820, 0.4987606239, 0)


def test_g5_overflow_and_weight_limits() -> None:
    y = torch.tensor([1000.0, -1.0], requires_grad=True)
    conjugate(y).sum().backward()
    close(y.grad, 501, 0.3678794412)
    learner = dice()
    learner.advantage = lambda batch: torch.tensor([1000.0, -1000.0])
    assert learner.weights(None).tolist() == [100.0, pytest.approx(1e-40, rel=1e-3)]


@pytest.mark.parametrize(
    ("alpha", "value", "reward", "inner", "largest"),
    [(0.1, 0.3070892067, 0.6923519894, 0.0701389, 4.4645540), (0.3, 0.0578171413, 0.4727454903, 0.0956631, 2.5703048),
     (1.0, -0.0894452167, 0.2063780490, 0.1188273, 1.5447226)],
)  # fmt: skip
def test_ladder_of_the_ring(alpha: float, value: float, reward: float, inner: float, largest: float) -> None:
    """Closed-form policy of the published bandit, by radial quadrature (notes, 7.2)."""
    edges = [0.25, 0.5, 1.0, 1.5]
    cells = torch.cat([(torch.arange(50_000).double() + 0.5) / 50_000 * (b - a) + a for a, b in pairwise(edges)])
    r, width = cells, torch.tensor([b - a for a, b in pairwise(edges)]).double().repeat_interleave(50_000)
    share = width * r * (-(r**2) / 2).exp()
    share = share / share.sum()
    q = torch.where(r < 0.5, 0.8 - 7.2 * (r - 0.25).abs(), 1 - 4 * (r - 1).abs())
    v = solve_value(q, share, alpha)
    w = weight((q - v) / alpha)
    assert v == pytest.approx(value, abs=1e-6)
    close((share * w * q).sum(), reward, rtol=1e-5)
    close((share * w)[r < 0.5].sum(), inner, rtol=1e-4)
    assert weight(tensor(1 - v) / alpha).item() == pytest.approx(largest, rel=1e-6)


# --- process and solver (G6 to G10) ---


def test_g6_schedule(float64) -> None:
    time = tensor(0.001, 0.01, 0.1, 0.5, 1)
    sigma = PUBLISHED.sigma(time)
    close(sigma, 0.01048599, 0.04468771, 0.34017653, 3.41291831, 152.16697028)
    torch.testing.assert_close(PUBLISHED.time(sigma), time)
    c_skip, c_out, c_in, label = PUBLISHED.scalings(sigma)
    close(c_in, 0.9999450265, 0.9990029973, 0.9467217988, 0.2811828808, 0.0065715865)
    assert (c_skip == 1).all() and torch.equal(c_out, -sigma)
    torch.testing.assert_close(label, time)
    close(PUBLISHED.weight(sigma)[[0, 2, 3, 4]], 9094.54, 8.64154, 0.0858516, 4.3188e-05, rtol=1e-5)
    assert PUBLISHED.start_scale(sigma[-1]).item() == pytest.approx(152.17026, rel=1e-7)
    torch.manual_seed(0)
    drawn = PUBLISHED.sample_sigma(100_000, "cpu")
    close(drawn.quantile(tensor(0.25, 0.5, 0.75)), 0.96, 3.42, 17.0, rtol=0.03)
    assert (PUBLISHED.time(drawn) < 0.1).double().mean().item() == pytest.approx(0.0990991, abs=0.004)


def test_schedules_of_both_spacings(float64) -> None:
    published, ours = PUBLISHED.schedule(15), OURS.schedule(6)
    torch.testing.assert_close(PUBLISHED.time(published), torch.linspace(1, 0.001, 16))
    assert len(ours) == 7 and ours[-1] == 0
    torch.testing.assert_close(ours[1:-1] / ours[:-2], (ours[5] / ours[0]).pow(1 / 5).expand(5))
    close(ours[[0, 5]], math.sqrt(math.expm1(19.9 * 0.77**2 / 2 + 0.1 * 0.77)), 0.01048599)


def solve(sampler: Callable, process: VP, denoise: Callable, x: Tensor, steps: int) -> Tensor:
    """From VP states at t = 1 to VP states at the schedule's end."""
    sigmas = process.schedule(steps)
    return process.scalings(sigmas[-1])[2] * sampler(denoise, process.start_scale(sigmas[0]) * x, sigmas)


def normal(mean: float, std: float) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, sigma: (std**2 * x + sigma**2 * mean) / (std**2 + sigma**2)


def test_g7_coefficients(float64) -> None:
    """x_t = A x_s + B D_s + C D_mid in VP coordinates, read off a solver that sees unit vectors."""
    sigmas = PUBLISHED.schedule(15)
    m = PUBLISHED.scalings(sigmas)[2]
    for start, expected in [(0, (0.99976178, 0.00055435, 0.01566941)), (12, (0.38473824, -0.17392221, 0.83648096)),
                            (14, (0.04648099, 0.95466215, 0.0))]:  # fmt: skip
        units = iter(torch.eye(3)[1:])
        end = dpmpp_2s(lambda x, sigma, u=units: next(u), torch.eye(3)[0] / m[start], sigmas[start : start + 3])
        close(m[min(start + 2, 15)] * end, *expected, rtol=2e-6, atol=5e-9)


def test_g8_solver_on_a_gaussian(float64) -> None:
    x = tensor(-1.5, 0, 1)
    close(solve(dpmpp_2s, PUBLISHED, normal(0.5, 0.2), x, 15), 0.2970973270, 0.4995290806, 0.6344835831, rtol=1e-9)
    exact = 0.6995823176
    for steps, error in [(31, 0.02723), (63, 0.009659), (127, 0.003311), (255, 0.001107)]:
        end = solve(dpmpp_2s, PUBLISHED, normal(0.5, 0.2), tensor(1), steps)
        assert abs(end.item() - exact) == pytest.approx(error, rel=2e-3)
    ends = solve(dpmpp_2s, PUBLISHED, normal(0, 1), tensor(0, 1), 15)
    assert (ends[1] - ends[0]).item() == pytest.approx(0.9491852, rel=1e-7)


@pytest.mark.parametrize("std", [0.05, 0.1, 0.2, 0.5, 1.0])
def test_our_default_keeps_modes_wider_than_the_published_solver(std: float, float64) -> None:
    """6 evaluations of ours against 15: slope of the sampled map and error of the mean, in units of the mode's width."""
    slopes = []
    for sampler, process, steps in [(dpmpp_2m, OURS, 6), (dpmpp_2s, PUBLISHED, 15)]:
        ends = solve(sampler, process, normal(0.5, std), tensor(0, 1), steps)
        slopes.append(((ends[1] - ends[0]) / std).item())
        assert ends[0].item() == pytest.approx(0.5, abs=0.03 * std)
    assert abs(slopes[0] - 1) < abs(slopes[1] - 1)
    assert slopes[0] == pytest.approx(1, abs=0.12)


def test_2s_to_zero_ends_in_the_denoised_sample(float64) -> None:
    for steps in (400, 401):
        end = solve(dpmpp_2s, WHOLE, normal(0.5, 0.2), tensor(1), steps)
        assert end.item() == pytest.approx(0.7, abs=2e-3)


def tilt(x: Tensor, sigma: Tensor) -> Tensor:
    """g of w = exp(0.8 a - 0.32) under N(0, 1)."""
    m2 = 1 / (1 + sigma**2)
    return (0.8 * m2 * x).sum(-1) - 0.32 * m2


def test_g9_guided_solver(float64) -> None:
    """The tilted Gaussian is N(0.8, 1): D = D_behaviour + s sigma^2 grad g is its denoiser exactly."""
    guided = energy_guided(normal(0, 1), tilt, 1.0)
    ends = solve(dpmpp_2s, PUBLISHED, guided, tensor(0, 1)[:, None], 15)
    close(ends[:, 0], 0.7949658991, 1.7441510986, rtol=1e-9)
    x, sigma = torch.randn(5, 1), torch.tensor(0.7)
    torch.testing.assert_close(guided(x, sigma), normal(0.8, 1)(x, sigma))
    torch.testing.assert_close(energy_guided(normal(0, 1), tilt, 4.0)(x, sigma), normal(3.2, 1)(x, sigma))


# --- guidance (G11 to G15) ---


def test_g11_in_sample_loss(float64) -> None:
    w = tensor(2, 0.5)[:, None]
    g = torch.tensor([[0.3, -0.2], [1, -2]], requires_grad=True)
    loss = in_sample_loss(g, w)
    close(loss, 0.2335518108)
    (gradient,) = torch.autograd.grad(loss, g)
    close(gradient.flatten(), -0.0162956011, -0.0488156233, 0.0276104373, -0.0911661792)
    g = torch.tensor([[-90.0, 0], [1, 2]], requires_grad=True)
    loss = in_sample_loss(g, w)
    close(loss, 0.5)
    (gradient,) = torch.autograd.grad(loss, g)
    close(gradient[0, 0], -0.5)
    assert gradient.flatten()[1:].abs().max() < 1e-34


@pytest.mark.parametrize(("time", "minimum"), [(0.1, 0.7131897074), (0.5, 0.9746995800), (0.9, 0.9999075585)])
def test_g14_gaussian_tilt(time: float, minimum: float, float64) -> None:
    """The loss at g* by Gauss-Hermite quadrature, and what a constant error adds to it."""
    nodes, shares = (tensor(*v) for v in np.polynomial.hermite_e.hermegauss(60))
    sigma = PUBLISHED.sigma(tensor(time))
    a, z = torch.meshgrid(nodes, nodes, indexing="ij")
    share = torch.outer(shares, shares) / shares.sum() ** 2
    g = tilt((a + sigma * z).unsqueeze(-1), sigma)
    w = (0.8 * a - 0.32).exp()
    close((share * (w * (-g).exp() + g)).sum(), minimum)
    close(excess(g + 0.1, g), 0.0048374180)
    close(excess(g - 0.1, g), 0.0051709181)


def mixture(points: Tensor, share: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Exact denoiser of atoms at ``points [n]`` for x ``[..., 1]``."""

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        belief = (share.log() - (x - points) ** 2 / (2 * sigma**2)).softmax(-1)
        return (belief * points).sum(-1, keepdim=True)

    return denoise


def log_ratio(points: Tensor, share: Tensor, w: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """Exact g(x, sigma) = log E[w | x]."""

    def energy(x: Tensor, sigma: Tensor) -> Tensor:
        logits = share.log() - (x - points) ** 2 / (2 * sigma.unsqueeze(-1) ** 2)
        return torch.logsumexp(logits + w.log(), -1) - torch.logsumexp(logits, -1)

    return energy


W2 = (1.5736972490, 0.4263027510)  # of the points +1 and -1


def test_g12_two_points(float64) -> None:
    points, share, w = tensor(1, -1), tensor(0.5, 0.5), tensor(*W2)
    energy = log_ratio(points, share, w)
    sigma = PUBLISHED.sigma(tensor(0.2))[0]
    m = (1 + sigma**2).rsqrt()
    x = tensor(-1, 0, 0.3, 1)[:, None] / m
    close(energy(x, sigma), -0.8297823683, 0, 0.3010251786, 0.4471544417, atol=1e-9)
    guided = energy_guided(mixture(points, share), energy, 1.0)
    torch.testing.assert_close(guided(x, sigma), mixture(points, share * w)(x, sigma))
    score = m * (m**-2 * 0) + (m * guided(x, sigma)[2, 0] - 0.3) / (1 - m**2)  # of the VP state
    close(score, 1.206351511186932, rtol=1e-9)


@pytest.mark.parametrize(
    ("points", "w", "scale", "expected"),
    [((1, -1), W2, 0, (0.5, 0.5)), ((1, -1), W2, 1, (0.78575, 0.21425)), ((1, -1), W2, 4, (0.99484, 0.00516)),
     ((-1, 0, 1), (1.3, 0.1, 1.6), 1, (0.43359, 0.03334, 0.53307)),
     ((-1, 0, 1), (1.3, 0.1, 1.6), 4, (0.36495, 0.00002, 0.63503))],
)  # fmt: skip
def test_g15_mass_under_guidance(points, w, scale, expected, float64) -> None:
    """Shares of the flow's ends, from a grid of equally likely starts; at scale 4 they are not those of w^4."""
    atoms = tensor(*points)
    share = torch.full_like(atoms, 1 / len(points))
    guided = energy_guided(mixture(atoms, share), log_ratio(atoms, share, tensor(*w)), float(scale))
    starts = torch.special.ndtri((torch.arange(4000) + 0.5) / 4000)[:, None]
    ends = solve(dpmpp_2m, WHOLE, guided, starts, 300)
    masses = [((ends - atom).abs() < 0.5).double().mean() for atom in atoms]
    close(torch.stack(masses), *expected, rtol=0, atol=1.5e-3)


def test_learnt_guidance_is_the_closed_form() -> None:
    """In-sample guidance learning on the two points: one data action a draw, g within a small excess of g*."""
    torch.manual_seed(0)
    points, share, w = torch.tensor([1.0, -1.0]), torch.tensor([0.5, 0.5]), torch.tensor(W2)
    exact = log_ratio(points, share, w)
    process = VP(0.1, 20.0, 0.001, 1.0, label="log_sigma", noise_law="log_sigma", spacing="time", to_zero=True)
    g = Energy(EnergyMLP(1, 1, [64, 64], 16, "smooth", "he"), process)
    optimizer = torch.optim.Adam(g.parameters(), 3e-3, fused=True)
    condition = torch.zeros(1, 1)

    def draw(num: int) -> tuple[Tensor, Tensor, Tensor]:
        index = torch.randint(2, (num,))
        sigma = process.sample_sigma(num, "cpu")
        return points[index, None] + sigma[:, None] * torch.randn(num, 1), sigma, w[index]

    for step in range(3000):
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * (1 - step / 3000) + 1e-5
        x, sigma, seen = draw(512)
        optimizer.zero_grad()
        in_sample_loss(g(x, sigma, condition), seen).backward()
        optimizer.step()
    x, sigma, _ = draw(20_000)
    with torch.no_grad():
        learnt, truth = g(x, sigma, condition), exact(x, sigma)
    assert excess(learnt, truth) < 2e-3 < 0.09 < excess(torch.zeros_like(truth), truth)
    assert (learnt - truth).abs().mean() < 0.04
    grid = torch.linspace(-1.5, 1.5, 7)[:, None]
    level = torch.full((7,), 0.5)
    with torch.no_grad():
        assert (g(grid, level, condition) - exact(grid, level)).abs().max() < 0.3


def test_contrastive_loss_is_smallest_at_the_softmax_ratio() -> None:
    value = torch.randn(6, 5)
    best = contrastive_loss(value + 3.0, value)
    assert best < contrastive_loss(value * 0.9, value)
    torch.testing.assert_close(best, torch.distributions.Categorical(logits=value).entropy().mean())


# --- exact critics: the sampled policy is the reweighted behaviour ---


class ExactBehaviour(nn.Module):
    """The denoiser of N(0.1, 0.3^2) in every state."""

    process = WHOLE

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return normal(0.1, 0.3)(x, sigma.unsqueeze(-1))


class ExactGuidance(nn.Module):
    """log E[w | x], w of the critic Q(a) = -|a - 0.5|, by quadrature."""

    def __init__(self, alpha: float) -> None:
        super().__init__()
        self.actions = torch.linspace(-1.4, 1.6, 601)
        share = (-((self.actions - 0.1) ** 2) / (2 * 0.3**2)).exp()
        self.share = share / share.sum()
        q = -(self.actions - 0.5).abs()
        self.w = weight((q - solve_value(q, self.share, alpha)) / alpha)

    def forward(self, x: Tensor, sigma: Tensor, condition: Tensor) -> Tensor:
        return log_ratio(self.actions, self.share, self.w)(x, sigma)


@pytest.fixture
def exact(float64) -> DiffusionDICE:
    learner = dice(num_steps=24, decision="guide")
    learner.action_dim, learner.behaviour, learner.guidance = 1, ExactBehaviour(), ExactGuidance(0.1)
    return learner


def test_sampled_policy_is_the_reweighted_behaviour(exact) -> None:
    torch.manual_seed(0)
    actions = exact.act(torch.zeros(1000, OBS)).squeeze(-1).numpy()
    exact_guidance = exact.guidance
    cdf = (exact_guidance.share * exact_guidance.w).cumsum(0).numpy()
    assert kstest(actions, lambda a: np.interp(a, exact_guidance.actions.numpy(), cdf)).pvalue > 0.01
    assert kstest(actions, "norm", (0.1, 0.3)).pvalue < 1e-6  # it has moved


def test_decisions(exact) -> None:
    """select: K of the behaviour, then the critic; guide: one, without the critic."""

    class Near(nn.Module):
        def forward(self, obs: Tensor, action: Tensor) -> Tensor:
            return -(action - 0.5).abs().sum(-1).expand(3, *action.shape[:-1])

    obs = torch.zeros(400, OBS)
    exact.ensemble = Near()
    exact.num_candidates, exact.guidance_scale = 16, 0.0
    torch.manual_seed(1)
    chosen = exact.act(obs)
    exact.num_candidates = 1
    torch.manual_seed(1)
    single = exact.act(obs)
    assert (chosen - 0.5).abs().mean() < 0.06 < (single - 0.5).abs().mean()
    assert single.mean().item() == pytest.approx(0.1, abs=0.06)
    for key, name in [
        ("decision", "argmax"),
        ("selection", "best"),
        ("guidance_rule", "none"),
        ("guidance_start", "zero"),
    ]:
        with pytest.raises(UserError, match=f"{key}={name} does not fit"):
            compose_config("train", ["env=hopper-medium", "agent=diffusion_dice", f"agent.learner.{key}={name}"])


def test_log_prob_and_score_of_a_gaussian(exact) -> None:
    """Without guidance the density is N(0.1, 0.3^2) blurred; with it, the score is the gradient of log_prob."""
    obs, action = torch.zeros(5, OBS), torch.linspace(-0.5, 0.8, 5)[:, None]
    exact.guidance_scale, exact.likelihood_steps = 0.0, 100
    lowest = PUBLISHED.sigma(tensor(0.001))[0]
    truth = torch.distributions.Normal(0.1, (0.09 + lowest**2).sqrt())
    torch.testing.assert_close(exact.log_prob(obs, action), truth.log_prob(action).sum(-1), rtol=0, atol=5e-3)
    for spread in (0.0, 0.04, 2.0):
        blurred = 0.09 + max(spread, float(lowest**2))
        torch.testing.assert_close(exact.score(obs, action, spread), (0.1 - action) / blurred)
    exact.guidance_scale = 1.0
    leaf = action.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(exact.log_prob(obs, leaf).sum(), leaf)
    torch.testing.assert_close(exact.score(obs, action), gradient, rtol=0.03, atol=0.05)


def test_flow_log_prob_of_two_dims(float64) -> None:
    sigmas = WHOLE.schedule(60)[:-1].flip(0)
    std = tensor(0.2, 0.5)
    x = torch.randn(4, 2) * std
    actual = flow_log_prob(lambda y, sigma: std**2 * y / (std**2 + sigma**2), x, sigmas)
    truth = torch.distributions.Normal(0.0, (std**2 + sigmas[0] ** 2).sqrt()).log_prob(x).sum(-1)
    torch.testing.assert_close(actual, truth, rtol=0, atol=5e-3)


# --- networks, selection, rewards ---


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


@pytest.mark.parametrize(
    ("obs_dim", "action_dim", "sizes"),
    [(11, 3, (1_627_939, 210_721, 139_778, 70_145, 698_890)), (17, 6, (1_634_278, 213_025, 144_386, 71_681, 721_930)),
     (29, 8, (1_638_760, 216_609, 151_554, 74_753, None)), (45, 24, (1_672_056, 224_801, 167_938, 78_849, None))],
)  # fmt: skip
def test_g19_sizes(obs_dim: int, action_dim: int, sizes: tuple[int, ...]) -> None:
    wide = [256, 256]
    networks = [
        VectorUNet(action_dim, obs_dim, 512, 32, "fourier30"), EnergyMLP(action_dim, obs_dim, [256] * 4, 32, "fourier30", "torch"),
        TwinQ(obs_dim, action_dim, wide), StateValue(obs_dim, wide, layer_norm=True),
        EnsembleQ(10, obs_dim, action_dim, wide),
    ]  # fmt: skip
    assert all(count(network) == size for network, size in zip(networks, sizes, strict=True) if size)


def test_g18_fourier_features_travel_in_checkpoints() -> None:
    time = FourierTime(4, 30.0)
    assert "frequencies" in time.state_dict()
    time.frequencies = torch.tensor([1.0, -0.5])
    close(time.waves(torch.tensor(0.3)), 0.9510565163, -0.8090169944, -0.3090169944, 0.5877852523, rtol=1e-5)


def test_ensemble_starts_apart_and_twins_together() -> None:
    torch.manual_seed(0)
    obs, action = torch.randn(256, 11), torch.rand(256, 3) * 2 - 1
    apart = EnsembleQ(10, 11, 3, [256, 256])
    assert apart(obs, action).std(0).mean().item() == pytest.approx(0.9, abs=0.3)
    assert uniform_fan_in_(TwinQ(11, 3, [256, 256]))(obs, action).std() < 0.15


def test_values_are_computed_once_for_all_candidates_of_a_state() -> None:
    """Leading axes broadcast: K candidates of one condition give what K copies of it give."""
    network, energy = (
        VectorUNet(ACTION, OBS, 16, 8, "fourier30"),
        EnergyMLP(ACTION, OBS, [16, 16], 8, "smooth", "torch"),
    )
    x, obs, label = torch.randn(5, 3, ACTION), torch.randn(5, 1, OBS), torch.tensor(0.3)
    for net in (network, energy):
        torch.testing.assert_close(net(x, label, obs), net(x, label.expand(5, 3), obs.expand(5, 3, OBS)))


def test_g17_selection() -> None:
    torch.manual_seed(0)
    values = torch.tensor([1, 1.5, 0.2, 1.4]).expand(100_000, 4)
    candidates = torch.arange(4.0).view(4, 1).expand(100_000, 4, 1)
    assert (select(candidates, values, "max") == 1).all()
    drawn = select(candidates, values, "softmax").flatten().long().bincount() / 100_000
    close(drawn, 0.21787086, 0.35920832, 0.09789569, 0.32502513, rtol=0.03)
    learner = dice()
    learner.ensemble = Given(torch.tensor([[5.0, 2.0], [-3.0, 1.0], [4.0, 1.5]]))
    mean = learner.candidate_values(torch.zeros(OBS), torch.zeros(2, ACTION))
    assert select(torch.tensor([[0.0], [1.0]]), mean, "max").item() == 0


def test_g20_return_range() -> None:
    reward = torch.arange(1.0, 4.0).repeat_interleave(5)
    terminated, truncated = torch.zeros(15, dtype=torch.bool), torch.zeros(15, dtype=torch.bool)
    truncated[4::5] = True
    assert ReturnRange(1000.0, True, 5).segments(reward, terminated, truncated).tolist() == [6, 12]
    assert ReturnRange(1000.0, True, 5)(reward, terminated, truncated) == (1000 / 6, 0)
    assert ReturnRange(1000.0, False, 5)(reward, terminated, truncated) == (100, 0)
    assert Shift(-1.0)(reward, terminated, truncated) == (1, -1)
    with pytest.raises(UserError, match="without a spread of returns"):
        ReturnRange(1000.0, False, 5)(torch.ones(15), terminated, truncated)


def test_g21_target_and_published_scales() -> None:
    learner, batch = dice(), make_batch(2)
    learner.value = Given(torch.tensor([2.0, 2.0]))
    batch.reward, batch.terminated = torch.ones(2), torch.tensor([False, True])
    close(learner.critic_target(batch), 2.98, 1.0)
    assert for_env("hopper-medium", {"hopper-medium": 4.0}) == 4
    with pytest.raises(UserError, match="nothing is published for pen-human"):
        for_env("pen-human", {})


# --- the learner and the agent ---


def test_in_sample_means_in_sample() -> None:
    """No loss asks a critic about an action that is not the batch's; the contrastive rule does, so the spy can see."""
    torch.manual_seed(0)
    asked: list[Tensor] = []

    def spy(critic: nn.Module) -> nn.Module:
        critic.register_forward_pre_hook(lambda module, inputs: asked.append(inputs[1]))
        return critic

    batch = make_batch(16)
    for rule, expected in [("in_sample", True), ("contrastive", False)]:
        learner = dice(guidance_rule=rule)
        for name in ("critic", "target_critic", "ensemble"):
            spy(getattr(learner, name))
        asked.clear()
        for phase in learner.phases():
            torch.stack(list(learner.losses(batch, phase).values())).sum().backward()
        learner.diagnostics(batch), learner.values(batch)
        assert len(asked) >= 6
        assert all(torch.equal(action, batch.action) for action in asked) == expected


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_each_loss_touches_its_own_network_only(num_seeds: int) -> None:
    agent, batch = make_agent(dice, num_seeds), make_batch(num_seeds, 8)
    for name in (name for phase in agent.learner.phases() for name in phase):
        agent.zero_grad(set_to_none=True)
        call_stacked(agent.learner, "losses", batch, names=(name,))[name].sum().backward()
        touched = {n.split(".")[0] for n, p in agent.learner.named_parameters() if p.grad is not None and p.grad.any()}
        assert touched == {name}


def restated_update(learner: DiffusionDICE, adams: dict, batch, seed: int) -> None:
    """An independent implementation of one update, with an optimiser for each network."""

    def step(name: str, loss: Tensor) -> None:
        adams[name].zero_grad()
        loss.backward()
        adams[name].step()

    s, a = batch.obs, batch.action
    with torch.no_grad():
        qt = learner.target_critic(s, a).amin(0)
    v = learner.value(s)
    y = (qt - v) / 0.5
    star = torch.where(y >= 0, y**2 / 4 + y, torch.exp(y.clamp(max=1)) - 1)
    step("value", (star + v / 0.5).mean())
    with torch.no_grad():
        target = batch.reward + 0.99 * (1 - batch.terminated.float()) * learner.value(batch.next_obs)
    q1, q2 = learner.critic(s, a)
    step("critic", ((target - q1) ** 2 + (target - q2) ** 2).mean())
    step("ensemble", ((learner.ensemble(s, a) - target) ** 2).mean())
    with torch.no_grad():
        for old, new in zip(learner.target_critic.parameters(), learner.critic.parameters(), strict=True):
            old.mul_(0.995).add_(new, alpha=0.005)
        y = (learner.target_critic(s, a).amin(0) - learner.value(s)) / 0.5
        w = torch.where(y >= 0, y / 2 + 1, torch.exp(y.clamp(max=0))).clamp(1e-40, 100)[:, None]
    torch.manual_seed(seed)
    sigma = OURS.sample_sigma(len(s), "cpu")[:, None]
    z = torch.randn(len(s), 4, ACTION)
    g = learner.guidance(a[:, None] + sigma[..., None] * z, sigma, s[:, None])
    c = (-g).max().clamp(min=-1).detach()
    step("guidance", torch.exp(-c) * (w * torch.exp(-g) + g).mean())


def test_twenty_updates_are_the_published_sequence() -> None:
    """Against separate AdamWs stepped in the published order; seeds stacked, shared behaviour untouched."""
    batches = [make_batch(1, 32, seed=k) for k in range(20)]
    agent = make_agent(dice, learning_rate=1e-3, adam_eps=1e-8, weight_decay=1e-2, polyak=0.005)
    start = {name: tensor.clone() for name, tensor in agent.learner.state_dict().items()}
    fit(agent, batches, 20)
    reference = dice()
    reference.load_state_dict({n: v if n.startswith("behaviour") else v.squeeze(0) for n, v in start.items()})
    names = ("value", "critic", "ensemble", "guidance")
    adams = {n: torch.optim.AdamW(getattr(reference, n).parameters(), lr=1e-3, weight_decay=1e-2) for n in names}
    for step, batch in enumerate(batches):
        restated_update(reference, adams, batch.squeeze(0), derive_seed(0, "agent/noise", step, 0))
    trained = agent.learner.state_dict()
    for name, tensor in reference.state_dict().items():
        ours = trained[name] if name.startswith("behaviour") else trained[name].squeeze(0)
        torch.testing.assert_close(ours, tensor, rtol=1e-4, atol=2e-5)
        assert name.startswith("behaviour") == torch.equal(trained[name], start[name])


def test_three_seeds_share_one_behaviour_and_keep_their_own_critics() -> None:
    stack, batch = make_agent(dice, num_seeds=3, seed=5), make_batch(3, 6)
    shapes = {
        name: len(p) for name, p in stack.learner.named_parameters() if name.startswith(("behaviour", "guidance"))
    }
    assert shapes["behaviour.network.head.bias"] == ACTION and shapes["guidance.network.head.bias"] == 3
    losses = call_stacked(stack.learner, "losses", batch, names=("value", "critic", "ensemble"))
    for s in range(3):
        alone = make_agent(dice, seed=5, first=s)
        alone.learner.behaviour.load_state_dict(stack.learner.behaviour.state_dict())
        single = call_stacked(alone.learner, "losses", batch[s : s + 1], names=("value", "critic", "ensemble"))
        for name, loss in losses.items():
            torch.testing.assert_close(loss[s : s + 1], single[name])
        for method, more in [("log_prob", ()), ("score", (0.3,))]:
            several = getattr(stack.policy, method)(batch.obs, batch.action, *more)[s : s + 1]
            one = getattr(alone.policy, method)(batch.obs[s : s + 1], batch.action[s : s + 1], *more)
            torch.testing.assert_close(several, one, rtol=1e-4, atol=1e-4)
    actions = stack.policy.act(torch.zeros(3, 2, 5, OBS))
    assert actions.shape == (3, 2, 5, ACTION)
    assert actions.abs().max() <= 1 and not actions.requires_grad
    assert (actions != actions[:1, :1, :1]).any()  # every decision has its own noise


@pytest.mark.parametrize("learner", [dice, partial(Behaviour, behaviour)], ids=["dice", "behaviour"])
def test_resume_is_exact(learner: Callable, tmp_path: Path) -> None:
    batches = [make_batch(2, 16, seed=k) for k in range(10)]
    make = partial(make_agent, learner, 2, rewards=Shift(-1.0))
    straight, first, second = make(), make(), make()
    fit(straight, batches, 10)
    path = tmp_path / "last.ckpt"
    fit(first, batches[:5], 5).save_checkpoint(path)
    fit(second, batches[5:], 10, str(path))
    assert same(dict(straight.state_dict()), dict(second.state_dict()))


def test_rewards_are_seen_scaled() -> None:
    agent = make_agent(dice, rewards=ReturnRange(1000.0, False, 5), value_alarm="warn")
    reward = torch.tensor([1.0, 1.0, 3.0, 3.0])
    agent.fit_rewards(reward, torch.tensor([False, True, False, True]), torch.zeros(4, dtype=torch.bool))
    close(agent.seen_reward(reward), 250, 250, 750, 750)
    assert agent.largest_return == pytest.approx(750 / 0.01)


# --- the command ---

TINY = [
    *SMALL, "pretraining.updates=40", "pretraining.batch_size=32", "pretraining.width=16", "dice.guidance_hidden=[16,16]",
    "updates=30", "evaluation.every=1000", "evaluation.final_episodes=1", "agent.learner.num_steps=2",
    "agent.learner.candidates=2", "agent.learner.likelihood_steps=2", "agent=diffusion_dice_recorded",
]  # fmt: skip


@pytest.mark.usefixtures("drawn_by_nobody")
def test_train_with_pgd_and_alone(recording, tmp_path, monkeypatch, capsys) -> None:
    """One command each: behaviour model once for both, guidance of PGD's windows by the agent's own score."""
    assert pgd(monkeypatch, command(recording, tmp_path, "compare=[]", small=TINY)) == 0
    alone = ("compare=[]", "generator=none", "agent.learner.temperature=1.0", "agent.learner.decision=select")
    assert pgd(monkeypatch, command(recording, tmp_path, *alone, small=TINY)) == 0
    for generator in ("pgd", "none"):
        run = run_of(tmp_path, generator, "diffusion_dice_recorded")
        assert run.finished
        assert len([row for row in run.rows("ledger.jsonl") if row["purpose"] == "final"]) == 2
    cards = run_of(tmp_path, "pgd", "diffusion_dice_recorded").rows("health.jsonl")
    assert [summary["step"] for summary in cards] == [0, 20]
    assert all(summary["finite"] == 1 and math.isfinite(summary["log_likelihood_target"]) for summary in cards)
    output = capsys.readouterr().out
    assert (
        len(re.findall("training .* updates, batch size 32", output)) == 1
        and "behaviour model: trained already" in output
    )
    assert len(list((tmp_path / "behaviour").glob("*/*"))) == 1


@pytest.mark.parametrize(
    ("agent", "env"),
    [("diffusion_dice", "hopper-medium"), ("diffusion_dice_published", "walker2d-medium-expert"),
     ("diffusion_dice_antmaze", "antmaze-umaze"), ("diffusion_dice_antmaze_published", "antmaze-large-play"),
     ("diffusion_dice_recorded", "pen-human")],
)  # fmt: skip
def test_configs_build_the_agents(agent: str, env: str) -> None:
    from pgd_lightning.config.build import build

    config = compose_config("train", [f"agent={agent}", f"env={env}", "scale=paper", "seeds=1"])
    learner = build(config.agent).learner
    published = "published" in agent
    assert (learner.num_steps, learner.sampler.func) == ((15, dpmpp_2s) if published else (6, dpmpp_2m))
    assert learner.guidance_scale == {"walker2d-medium-expert": 2, "antmaze-large-play": 4}.get(env, 1)
    assert (learner.ensemble is None) == ("antmaze" in agent)
    assert config.agent.adam_eps == 1e-8 and config.agent.weight_decay == 1e-4
