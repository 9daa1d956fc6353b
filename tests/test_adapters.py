"""Policies of users and other libraries as targets of guidance."""

import numpy as np
import pytest
import torch
from tensordict.nn import TensorDictModule
from torch import nn
from torch.distributions import AffineTransform, Beta, Independent, Normal, TransformedDistribution
from torchrl.modules import NormalParamExtractor, ProbabilisticActor, TanhNormal

from pgd_lightning.agents.adapters import as_policy
from pgd_lightning.agents.online_policy import MIN_STD
from pgd_lightning.errors import UserError

OBS, ACTION = 3, 2
WEIGHT = torch.tensor([[0.2, -0.1, 0.3], [0.05, 0.4, -0.2]])
STD = torch.tensor([0.3, 0.5])


def mean(obs):
    return obs @ WEIGHT.T


def of(function, **box):
    return as_policy(function, ACTION, **box)


@pytest.fixture
def obs():
    return torch.randn(2, 5, OBS, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def action():
    return 2 * torch.rand(2, 5, ACTION, generator=torch.Generator().manual_seed(1)) - 1


def is_gaussian(policy, obs, action, expected_mean, expected_std):
    """All that a policy promises, against a Gaussian's closed forms."""
    reference = Normal(expected_mean, expected_std)
    torch.testing.assert_close(policy.act(obs), expected_mean.clamp(-1, 1))
    torch.testing.assert_close(policy.log_prob(obs, action), reference.log_prob(action).sum(-1))
    torch.testing.assert_close(policy.score(obs, action), (expected_mean - action) / expected_std**2)
    torch.testing.assert_close(policy.score(obs, action, 0.7), (expected_mean - action) / (expected_std**2 + 0.7))
    for found, expected in zip(policy.normal(obs), (expected_mean, expected_std.expand_as(expected_mean)), strict=True):
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_function_that_returns_a_gaussian(wrapped, obs, action):
    def policy(seen):
        assert seen.shape == (10, OBS)
        own = Normal(mean(seen), STD.expand(len(seen), -1))
        return Independent(own, 1) if wrapped else own

    is_gaussian(of(policy), obs, action, mean(obs), STD)
    noise = torch.full_like(action, 0.5)
    torch.testing.assert_close(of(policy).draw(obs, noise), (mean(obs) + 0.5 * STD).clamp(-1, 1))


@pytest.mark.parametrize("convert", [lambda t: t, lambda t: t.numpy()])
def test_a_function_that_returns_actions_is_a_unit_gaussian_that_does_not_draw(convert, obs, action):
    policy = of(lambda seen: convert(mean(seen)))
    is_gaussian(policy, obs, action, mean(obs), torch.ones(ACTION))
    torch.testing.assert_close(policy.draw(obs, torch.ones_like(action)), mean(obs).clamp(-1, 1))


def test_a_policy_with_another_box_counts_in_minus_one_to_one(obs, action):
    low, high = torch.tensor([0.0, -2.0]), torch.tensor([1.0, 2.0])
    middle, half = (high + low) / 2, (high - low) / 2
    policy = of(lambda seen: Normal(middle + half * mean(seen), half * STD), low=low, high=high)
    is_gaussian(policy, obs, action, mean(obs), STD)


def test_a_squashed_gaussian_is_linearised_at_its_mean(obs, action):
    policy = of(lambda seen: TanhNormal(mean(seen), STD.expand(len(seen), -1)))
    squashed = mean(obs).tanh()
    std = (STD * (1 - squashed**2)).clamp(min=MIN_STD)
    is_gaussian(policy, obs, action, squashed, std)
    shifted = of(lambda seen: TransformedDistribution(Normal(mean(seen), STD), [AffineTransform(0.1, 0.5)]))
    is_gaussian(shifted, obs, action, 0.1 + 0.5 * mean(obs), 0.5 * STD)


def test_any_other_distribution_is_differentiated(obs, action):
    """A Beta on [0, 1]: its score in [-1, 1] is (alpha - 1) / a - (beta - 1) / (1 - a) times the half-width."""
    low, high = torch.zeros(ACTION), torch.ones(ACTION)
    policy = of(
        lambda seen: Beta(torch.full((len(seen), ACTION), 3.0), torch.full((len(seen), ACTION), 2.0)),
        low=low,
        high=high,
    )
    outwards = (action + 1) / 2
    torch.testing.assert_close(
        policy.score(obs, action), 0.5 * (2 / outwards - 1 / (1 - outwards)), rtol=1e-4, atol=1e-4
    )
    expected = Beta(torch.tensor(3.0), torch.tensor(2.0)).log_prob(outwards).sum(-1) + ACTION * np.log(0.5)
    torch.testing.assert_close(policy.log_prob(obs, action), expected, rtol=1e-4, atol=1e-4)
    std = 2 * (6 / (25 * 6)) ** 0.5
    torch.testing.assert_close(policy.score(obs, action, 0.3), (2 * 0.6 - 1 - action) / (std**2 + 0.3))
    assert policy.draw(obs, action).abs().max() <= 1
    assert policy.score(obs, torch.full_like(action, 1.5)).isfinite().all()  # outside of its support


def test_a_torchrl_actor(obs, action):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(OBS, 2 * ACTION), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(network, ["observation"], ["loc", "scale"]), ["loc", "scale"], distribution_class=TanhNormal
    )
    loc, scale = network(obs)
    expected = loc.tanh().detach(), (scale * (1 - loc.tanh() ** 2)).clamp(min=MIN_STD).detach()
    with torch.no_grad():
        is_gaussian(of(actor), obs, action, *expected)
    plain = TensorDictModule(nn.Sequential(nn.Linear(OBS, ACTION), nn.Tanh()), ["observation"], ["action"])
    with torch.no_grad():
        torch.testing.assert_close(of(plain).act(obs), plain.module(obs))


@pytest.mark.parametrize("recurrent", [False, True])
def test_an_object_that_predicts(recurrent, obs):
    class Algorithm:
        def predict(self, seen):
            assert isinstance(seen, np.ndarray)
            answer = (seen @ WEIGHT.numpy().T).astype(np.float64)
            return (answer, None) if recurrent else answer

    torch.testing.assert_close(of(Algorithm()).act(obs), mean(obs).clamp(-1, 1))


def test_a_policy_of_ours_stays_itself():
    class Ours:
        def act(self): ...
        def draw(self): ...
        def log_prob(self): ...
        def score(self): ...
        def normal(self): ...

    ours = Ours()
    assert of(ours) is ours


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        (3, "^A int is no policy"),
        (lambda seen: "left", "^The policy returned a str: expected"),
        (lambda seen: mean(seen) * torch.nan, r"^The policy answers \[nan, nan\] to the observation \["),
        (lambda seen: Normal(mean(seen), 1e-20), "standard deviations above 1e-06"),
        (
            lambda seen: mean(seen)[:, :1],
            r"^For 10 observations the policy returned actions of shape \(10, 1\): expected \(10, 2\)",
        ),
    ],
)
def test_what_cannot_act_is_refused_in_a_sentence(policy, sentence, obs):
    with pytest.raises(UserError, match=sentence):
        of(policy).act(obs)
