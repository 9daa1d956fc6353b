"""Codec, prior and PGD: golden transforms, schedules, averages, invariances."""

import pytest
import torch
from helpers.agents import fit
from helpers.codecs import random_windows, windows
from hypothesis import given
from hypothesis import strategies as st

from pgd_lightning.artifacts.models import warn_of_width
from pgd_lightning.config.compose import compose_config
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import dpmpp_2m, heun
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.guidance import Literal, Score
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.generators.window_model import warmup_cosine
from pgd_lightning.networks.temporal_unet import TemporalUNet


def test_arctanh_after_clipping():
    codec = TrajectoryCodec(1, 3, 0.999)
    rows = codec.rows(windows([[[0.0]]], [[[0.3, 0.7, -0.9995]]], [[0.0]], [[False]]))
    torch.testing.assert_close(rows[0, 0, 1:4], torch.tensor([0.30951960, 0.86730053, -3.80020117]), rtol=1e-5, atol=0)


def test_standardisation_is_of_the_population_and_keeps_constants():
    codec = TrajectoryCodec(2, 1, 0.999)
    obs = torch.tensor([[1.0, 5], [2, 5], [3, 5], [6, 5]])[None]
    codec.fit([windows(obs, torch.zeros(1, 4, 1), torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool))])
    torch.testing.assert_close(codec.mean[:2], torch.tensor([3.0, 5.0]))
    torch.testing.assert_close(codec.std[:2], torch.tensor([1.8708287, 0.0]))
    x = codec.encode(windows(obs, torch.zeros(1, 4, 1), torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool)))
    expected = torch.tensor([[-1.069045, 0], [-0.5345225, 0], [0, 0], [1.6035674, 0]])
    torch.testing.assert_close(x[0, :, :2], expected)


def test_decoding():
    codec = TrajectoryCodec(2, 1, 0.999)
    codec.mean.copy_(torch.tensor([1, -2, 0.1, 3, 0.01]))
    codec.std.copy_(torch.tensor([2, 0.5, 0.8, 1.5, 0.0994987]))
    x = torch.tensor([[0, 1, 0.5, -1, 4.9], [0.5, -1, -2, 2, 5.0], [1, 2, 3, 0, 9]])
    steps = codec.decode(x[None]).transitions()
    torch.testing.assert_close(steps.obs, torch.tensor([[1, -1.5], [2, -2.5]]))
    torch.testing.assert_close(steps.action, torch.tensor([[0.4621172], [-0.9051482]]))
    torch.testing.assert_close(steps.reward, torch.tensor([1.5, 6]))
    assert steps.terminated.tolist() == [False, True]
    torch.testing.assert_close(steps.next_obs, torch.tensor([[2, -2.5], [3, -1]]))


@given(st.integers(1, 5), st.integers(2, 6))
def test_decode_inverts_encode(num, rows):
    data = random_windows(num, rows)
    codec = TrajectoryCodec(3, 2, 0.999)
    codec.fit([data])
    back = codec.decode(codec.encode(data))
    torch.testing.assert_close(back.obs, data.obs, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(back.action, data.action.clamp(-0.999, 0.999), rtol=1e-4, atol=1e-4)
    assert (back.terminated == data.terminated).all()


def test_codec_statistics_do_not_depend_on_the_batches():
    data = random_windows(64, 5)
    whole, parts = TrajectoryCodec(3, 2, 0.999), TrajectoryCodec(3, 2, 0.999)
    whole.fit([data])
    parts.fit(data.split(7))
    torch.testing.assert_close(parts.mean, whole.mean)
    torch.testing.assert_close(parts.std, whole.std)
    torch.testing.assert_close(whole.std[:3], data.obs.flatten(0, 1).std(0, correction=0))


def test_terminal_window_keeps_its_end_if_asked():
    data = windows(
        torch.arange(8.0).view(2, 4, 1), torch.zeros(2, 4, 1), torch.arange(8.0).view(2, 4),
        torch.tensor([[False] * 3 + [True], [False] * 4]),
    )  # fmt: skip
    assert data.transitions().obs[:, 0].tolist() == [0, 1, 2, 4, 5, 6]
    assert not data.transitions().terminated.any()
    kept = data.transitions(keep_terminal=True)
    assert kept.obs[:, 0].tolist() == [1, 2, 3, 4, 5, 6]
    assert kept.terminated.tolist() == [False, False, True, False, False, False]
    assert kept.next_obs[:, 0].tolist() == [2, 3, 3, 5, 6, 7]


@pytest.mark.parametrize(
    ("step", "rate"),
    [(0, 2e-4), (50, 1.1e-3), (99, 1.982e-3), (100, 2e-3), (325, 1.70710678e-3), (550, 1e-3), (999, 6.0923422e-9),
     (1000, 0.0), (2000, 0.0)],
)  # fmt: skip
def test_learning_rate(step, rate):
    assert 2e-3 * warmup_cosine(step, 1000, 0.1) == pytest.approx(rate, rel=1e-6, abs=1e-15)


def small_prior(seed: int = 0) -> DiffusionPrior:
    torch.manual_seed(seed)
    denoiser = Denoiser(TemporalUNet(7, 16, 2, 8), EDM(1.0, 0.002, 80.0, 7.0, -1.2, 1.2))
    codec = TrajectoryCodec(3, 2, 0.999)
    codec.fit([random_windows(64, 8)])
    return DiffusionPrior(
        denoiser, codec, learning_rate=2e-3, warmup_start=0.1, ema_decay=0.995, ema_every=10, muon=False, ema_ramp=None,
        total_steps=30, log_every=10, seed=0,
    )  # fmt: skip


class Numbering(torch.optim.SGD):
    """Its k-th step sets every weight to k; what ``watched`` says before the next one is kept in ``seen``."""

    def __init__(self, parameters, watched):
        super().__init__(parameters, lr=1.0)
        self.watched, self.seen, self.number = watched, [], 0

    @torch.no_grad()
    def step(self, closure):
        closure()
        self.seen.append(self.watched())
        self.number += 1
        for parameter in self.param_groups[0]["params"]:
            parameter.fill_(float(self.number))


def test_training_averages_the_weights_from_the_initial_ones_on():
    """Weights that are k after update k, averaged every ten updates from their initial value 0."""
    prior = small_prior()
    for module in (prior.denoiser, prior.ema):
        for parameter in module.parameters():
            parameter.data.zero_()
    numbering = Numbering(prior.denoiser.parameters(), lambda: next(prior.ema.parameters()).flatten()[0].item())
    prior.optimizer = lambda: numbering
    fit(prior, [random_windows(2, 8)] * 31, 31)
    seen = [numbering.seen[k] for k in (9, 10, 19, 20, 30)]
    assert seen == pytest.approx([0, 0.05, 0.05, 0.14975, 0.29900125], rel=1e-5)


def test_a_ramped_average_looks_back_over_a_share_of_the_run():
    """Of weights equal to the step it lags a tenth of the run behind, until the decay is what limits it."""
    prior = small_prior()
    prior.ema_ramp = 10
    lag = {}
    for step in range(10, 4001, 10):
        for parameter in prior.denoiser.parameters():
            parameter.data.fill_(float(step))
        prior.average(step)
        lag[step] = step - next(prior.ema.parameters()).flatten()[0].item()
    assert [lag[step] / step for step in (1000, 2000, 4000)] == pytest.approx([0.1] * 3, rel=0.1)
    assert [prior.decay(step) for step in (10, 1000, 17_900, 100_000)] == pytest.approx(
        [2 / 11, 101 / 110, 0.995, 0.995]
    )


class Still:
    """A policy of S learners that always wants 0.5."""

    def act(self, obs):
        return torch.full((*obs.shape[:-1], 2), 0.5)

    def score(self, obs, action, noise_variance=0.0):
        assert obs.shape[:-1] == action.shape[:-1]
        return (0.5 - action) / (1 + noise_variance)


def generator(guidance, sampler=heun, precision="float32") -> PGD:
    return PGD(
        small_prior(), sampler, num_steps=8, churn=None, guidance=guidance, rows=8, batch_size=32, precision=precision
    )


STARTS = torch.zeros(2, 20, 3)
GUIDANCE = {"literal": Literal(coef=1.0, cosine=0.3, denoised=True, normalise=True), "score": Score(coef=1.0)}


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE.keys())
@pytest.mark.parametrize("sampler", [heun, dpmpp_2m])
def test_guidance_moves_actions_toward_the_policy(guidance, sampler):
    unguided = generator(guidance, sampler).generate(None, STARTS, seed=1)
    guided = generator(guidance, sampler).generate(Still(), STARTS, seed=1)
    assert unguided.batch_size == guided.batch_size == (2, 20, 8)
    assert (guided.action - 0.5).abs().mean() < 0.9 * (unguided.action - 0.5).abs().mean()


@pytest.mark.parametrize("guidance", GUIDANCE.values(), ids=GUIDANCE.keys())
def test_bfloat16_is_the_networks_alone(guidance):
    """Windows stay near those of float32; the policy and the solver see float32."""

    class Strict(Still):
        def score(self, obs, action, noise_variance=0.0):
            assert obs.dtype == action.dtype == torch.float32
            return super().score(obs, action, noise_variance)

    exact = generator(guidance).generate(Strict(), STARTS, seed=1)
    coarse = generator(guidance, precision="bfloat16").generate(Strict(), STARTS, seed=1)
    assert coarse.obs.dtype == torch.float32
    assert not torch.equal(exact.obs, coarse.obs)
    wrong = float((exact.obs - coarse.obs).abs().median() / exact.obs.std())
    assert wrong < 0.1  # eight steps of a random network; the effect on a trained one is in experiments/precision


def test_zero_coefficient_is_no_guidance_bit_for_bit():
    off = Literal(coef=0.0, cosine=0.3, denoised=True, normalise=True)
    plain = generator(None).generate(None, STARTS, seed=1)
    for other in (generator(off).generate(Still(), STARTS, 1), generator(off).generate(None, STARTS, 1)):
        assert torch.equal(plain.obs, other.obs)
        assert torch.equal(plain.action, other.action)


def test_windows_depend_on_the_seed_alone():
    one, same, other = (generator(None).generate(None, STARTS, seed=s) for s in (1, 1, 2))
    assert torch.equal(one.obs, same.obs)
    assert not torch.equal(one.obs, other.obs)


@pytest.mark.parametrize(
    ("scale", "more", "network", "sampler", "muon"),
    [("laptop", [], "TemporalResNet", "euler_ancestral", True), ("smoke", [], "TemporalResNet", "euler_ancestral", True),
     ("workstation", [], "TemporalResNet", "euler_ancestral", True), ("paper", [], "TemporalUNet", "heun_churn", False),
     ("laptop", ["network=temporal_unet", "sampler=dpmpp_2m"], "TemporalUNet", "dpmpp_2m", True)],
)  # fmt: skip
def test_the_published_network_and_sampler_stay_at_the_published_scale(scale, more, network, sampler, muon):
    config = compose_config("prior", [f"scale={scale}", *more])
    assert config.network._target_.endswith(f".{network}")
    assert (config.sampler.name, config.prior.muon) == (sampler, muon)


@pytest.mark.parametrize(("env", "said"), [("pen-expert", True), ("hopper-medium", False)])
def test_a_network_narrower_than_a_row_is_said(capsys, env, said):
    warn_of_width(compose_config("prior", [f"env={env}", "network.features=64"]))
    text = capsys.readouterr().out
    assert ("has 64 features for the 71 channels" in text) == said
    assert ("network.features=128" in text) == said
