"""Calibrated guidance where everything is known: standard normal windows, an exact denoiser, Gaussian policies."""

import math
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace

import pytest
import torch
from helpers.codecs import codec
from helpers.denoisers import zero_network
from torch import Tensor

from pgd_lightning.commands.analyse import sweep
from pgd_lightning.config.compose import compose_config
from pgd_lightning.diffusion.samplers import dpmpp_2m, euler_ancestral, heun
from pgd_lightning.errors import UserError
from pgd_lightning.generators.calibration import Calibrated, Search, gauge, likeness
from pgd_lightning.generators.guidance import Literal, Score
from pgd_lightning.generators.matching import Bounds, StdMatched
from pgd_lightning.generators.pgd import PGD
from pgd_lightning.runs import identity

STD = 0.05  # of the data's actions, around 0, where tanh is the identity
LITERAL = Literal(1.0, 0.3, denoised=True, normalise=True)
SAMPLERS = {"ancestral": euler_ancestral, "dpmpp_2m": dpmpp_2m, "heun": heun}


@dataclass
class Seeds:
    """A Gaussian for each seed, whatever the observation; ``std`` 0: it does not draw and counts as one of 1."""

    mean: Tensor  # [S]
    std: float

    device = torch.device("cpu")

    def act(self, obs):
        return self.mean.reshape(-1, *[1] * (obs.dim() - 1)).expand(*obs.shape[:-1], 2)

    def draw(self, obs, noise):
        return self.act(obs) + self.std * noise

    def normal(self, obs):
        mean = self.act(obs)
        return mean, torch.full_like(mean, self.std or 1.0)

    def score(self, obs, action, noise_variance=0.0):
        return (self.act(obs) - action) / ((self.std or 1.0) ** 2 + noise_variance)


POLICY = Seeds(torch.tensor([0.06, 0.1]), 0.03)


def generator(sampler, num_steps, guidance) -> PGD:
    change = codec(1, torch.zeros(2), torch.full((2,), STD))
    prior = SimpleNamespace(codec=change, ema=zero_network(), to=lambda device: None)
    return PGD(prior, sampler, num_steps, None, guidance, rows=8, batch_size=1000, precision="float32")


def calibrated(rule, strength, **settings) -> Calibrated:
    usual = {"least_std": 0.01, "windows": 128, "tries": 10, "within": 0.02}
    return Calibrated(rule, rule.coef, strength, **(usual | settings))


def product(mean: float, std: float, policy: Seeds, number: int) -> float:
    """Likeness in closed form of actions of N(mean, std^2)."""
    total = policy.std**2 + std**2
    return policy.std / math.sqrt(total) * math.exp(-((mean - float(policy.mean[number])) ** 2) / (2 * total))


def shares(windows, policy) -> list[float]:
    """Of the way from N(0, STD^2) to the policy, by closed forms of both ends."""
    kept = windows[..., :-1]
    values = likeness(kept.action, *policy.normal(kept.obs))
    ends = [(product(0, STD, policy, n), math.sqrt(0.5)) for n in range(len(values))]
    return [float((value - low) / (high - low)) for value, (low, high) in zip(values, ends, strict=True)]


@pytest.mark.parametrize("strength", [0.25, 0.6, 1.0])
@pytest.mark.parametrize("num_steps", [8, 32])
@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("rule", [LITERAL, Score(1.0)], ids=["literal", "score"])
def test_the_share_is_reached_whatever_the_rule_the_sampler_and_the_number_of_steps(rule, name, num_steps, strength):
    made = generator(SAMPLERS[name], num_steps, calibrated(rule, strength))
    windows = made.generate(POLICY, torch.zeros(2, 256, 1), seed=3)
    torch.testing.assert_close(made.used.share, torch.full((2,), strength), rtol=0, atol=0.02)
    if name != "ancestral" or num_steps == 32:  # few ancestral steps make data narrower than the closed form's
        assert shares(windows, POLICY) == pytest.approx([strength] * 2, abs=0.06)


@pytest.mark.parametrize("number", [0, 1])
def test_the_coefficient_of_the_exact_product_is_found(number):
    """Score guidance with coefficient 1 gives N(0, STD^2) times the policy; asked for its share, it is found again."""
    policy = Seeds(POLICY.mean[number : number + 1], POLICY.std)
    part = STD**2 / (STD**2 + policy.std**2)
    reached = product(part * float(policy.mean), math.sqrt(part) * policy.std, policy, 0)
    low = product(0, STD, policy, 0)
    share = (reached - low) / (math.sqrt(0.5) - low)
    made = generator(heun, 64, calibrated(Score(0.3), min(share, 1.0), windows=1024, within=0.002))
    made.generate(policy, torch.zeros(1, 1, 1), seed=0)
    assert float(made.used.coef) == pytest.approx(1.0, rel=0.1) or share > 1


def test_each_seed_has_its_own_coefficient_and_each_seed_and_policy_gives_the_same_again():
    starts = torch.zeros(2, 40, 1)
    made = generator(euler_ancestral, 16, calibrated(LITERAL, 0.5, windows=8))
    first, coef = made.generate(POLICY, starts, seed=1), made.used.coef
    assert coef[0] < coef[1]  # whose policy is farther away
    made.generate(Seeds(POLICY.mean.flip(0), 0.1), starts, seed=2)
    again = made.generate(POLICY, starts, seed=1)
    fresh = generator(euler_ancestral, 16, calibrated(LITERAL, 0.5, windows=8)).generate(POLICY, starts, seed=1)
    for other in (again, fresh):
        torch.testing.assert_close(other.action, first.action, rtol=0, atol=0)
    # What was found does not depend on how many windows are wanted, nor are the windows others than its rule makes.
    made.generate(POLICY, starts[:, :3], seed=1)
    torch.testing.assert_close(made.used.coef, coef, rtol=0, atol=0)
    plain = generator(euler_ancestral, 16, Literal(coef, 0.3, True, True)).generate(POLICY, starts, seed=1)
    torch.testing.assert_close(plain.action, first.action, rtol=0, atol=0)


def test_strength_0_and_no_policy_are_unguided():
    starts = torch.zeros(2, 5, 1)
    unguided = generator(heun, 8, None).generate(None, starts, seed=1)
    for strength, policy in ((0.0, POLICY), (1.0, None)):
        made = generator(heun, 8, calibrated(LITERAL, strength))
        torch.testing.assert_close(made.generate(policy, starts, seed=1).action, unguided.action, rtol=0, atol=0)
        assert made.used is None or made.used.record() == {"guidance_coef": [0, 0], "guidance_share": [0, 0]}


def test_a_policy_that_the_data_follow_already_is_not_climbed():
    """A wide Gaussian around the data: their actions are likelier under it than its own draws."""
    made = generator(heun, 8, calibrated(LITERAL, 1.0))
    made.generate(Seeds(torch.zeros(2), 0.2), torch.zeros(2, 5, 1), seed=1)
    assert made.used.record() == {"guidance_coef": [0, 0], "guidance_share": [None, None]}
    assert "unguided" in str(made.used)


def test_a_policy_that_does_not_draw_is_measured_with_the_least_deviation():
    obs = torch.zeros(2, 3, 1)
    for std, expected in ((0.0, 0.1), (0.03, 0.1), (0.3, 0.3)):
        assert (gauge(Seeds(POLICY.mean, std), obs, 0.1)[1] == expected).all()
    policy = Seeds(torch.tensor([0.08, 0.1]), 0.0)
    made = generator(euler_ancestral, 16, calibrated(LITERAL, 1.0, least_std=0.02))
    windows = made.generate(policy, torch.zeros(2, 64, 1), seed=1)
    far = (windows.action - policy.mean[:, None, None, None]).square().mean((1, 2, 3)).sqrt()
    assert (far < 0.03).all()
    assert made.used.share.tolist() == pytest.approx([1, 1], abs=0.02)


def test_what_cannot_be_reached_is_said(capsys):
    made = generator(heun, 8, calibrated(LITERAL, 1.0, tries=1))
    made.generate(POLICY, torch.zeros(2, 4, 1), seed=1)
    assert "warning: guidance.strength=1 was not reached: guidance coefficient 1" in capsys.readouterr().out


@pytest.mark.parametrize("first", [1e-3, 1.0, 300.0])
@pytest.mark.parametrize("wanted", [0.2, 0.5, 0.9])
@pytest.mark.parametrize("half", [0.05, 1.0, 40.0])
def test_the_search_finds_what_lies_below_a_peak(first, wanted, half):
    def value(coef):  # rises to about 1, then falls far below what there was, or to NaN
        return coef / (coef + half) if coef < 60 * half else -0.3 if coef < 1e4 else math.nan

    search = Search(first, 0.0, wanted, 0.02)
    while not search.done and len(search.tried) < 15:
        search.tell(value(search.coef))
    assert search.best == pytest.approx(half * wanted / (1 - wanted), rel=0.3)
    assert len(search.tried) <= (8 if 0.02 < half / first < 50 else 14)


def test_a_generator_with_a_search_of_its_own_takes_no_calibrated_guidance():
    with pytest.raises(UserError, match="guidance=literal or guidance=score"):
        StdMatched(None, partial(generator, heun, 8), calibrated(LITERAL, 1.0), Bounds(1e-3, 1), 4, 4, 0.1)


@pytest.mark.parametrize("name", ["calibrated", "calibrated_score"])
def test_all_its_settings_count_and_an_analysis_sweeps_its_strength(name):
    def composed(*overrides):
        return compose_config("train", ["scale=smoke", f"guidance={name}", *overrides])

    def agent(config):
        return identity.digest(identity.agent(config, "0" * 64))

    changes = ["strength=0.5", "least_std=0.2", "windows=8", "tries=4", "within=0.1", "coef=2"]
    runs = [agent(composed(f"guidance.{change}")) for change in changes]
    assert len({agent(composed()), *runs}) == 1 + len(changes)
    found = sweep(composed("guidance.strength=0.4", "analysis.factors=[0.5,1,2,4,8]"))
    assert found == [("guidance.strength", strength) for strength in (0.2, 0.4, 0.8, 1.0)]
    assert sweep(compose_config("train", ["guidance=score", "analysis.factors=[2]"])) == [("guidance.coef", 2.0)]
