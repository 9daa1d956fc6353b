"""Channels that are constant in the data, but for rounding: decoded to their constant, and no part of any loss."""

from copy import deepcopy
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pgd_lightning.artifacts.dataset import Dataset
from pgd_lightning.artifacts.models import build_model, load_model, training_set
from pgd_lightning.channels import divisor, mean_and_std, weights
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import PaddedWindows, split_windows
from pgd_lightning.generators.baselines.synther import TransitionCodec
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.polygrad.world import WorldCodec
from pgd_lightning.runs.run import Run

MODELLESS = {"none", "recorded"}
GENERATORS = sorted({p.stem for p in (Path(__file__).parents[1] / "conf" / "generator").glob("*.yaml")} - MODELLESS)
CONSTANT = [3, 5, 7]  # observations: to the bit, one float32 apart, rounding around 0
SMALL = [
    "env=hopper-medium", "scale=smoke", "data.horizon=8", "network.features=16", "sampler.num_steps=3",
    *(f"{model}.sampling.num_steps=3" for model in ("synther", "world", "step_world")),
]  # fmt: skip


@cache
def constant_dataset() -> Dataset:
    """20 episodes of 20 rows that end in no terminal, with a constant reward of 0.5 and a constant action of 0.25."""
    random = torch.Generator().manual_seed(0)
    obs, action = torch.randn(400, 11, generator=random), torch.rand(400, 3, generator=random) * 2 - 1
    obs[:, 3], obs[:, 5], obs[:, 7] = 0.7, 0.7 + 6e-8 * obs[:, 5].sign(), 1e-8 * obs[:, 7]
    action[:, 1] = 0.25
    never, cut = torch.zeros(400, dtype=torch.bool), torch.arange(400) % 20 == 19
    recording = Recording(
        obs, action, torch.full((400,), 0.5), never, cut, ~cut, cut.nonzero().squeeze(-1), obs[cut], 0
    )
    train, held_out = split_windows(recording, 8, 1, 0.1, 0)
    config = compose_config("train", SMALL)
    return Dataset(build(config.env), recording, {"sha256": "none", "label": "made"}, train, held_out, None)


class Gaussian:
    """N(-0.5, 0.3^2) in every dim, of S learners."""

    device = torch.device("cpu")

    def normal(self, obs):
        return torch.full((*obs.shape[:-1], 3), -0.5), torch.full((*obs.shape[:-1], 3), 0.3)

    def draw(self, obs, noise):
        return -0.5 + 0.3 * noise

    def score(self, obs, action, noise_variance=0.0):
        return (-0.5 - action) / (0.09 + noise_variance)


@cache
def fitted(name):
    """The generator's model, which knows its units and nothing else, and its config and training set."""
    config = compose_config("train", [*SMALL, f"generator={name}"])
    model = build_model(config, config.generator.model, 10)
    train, _ = training_set(config, config.generator.model, constant_dataset())
    model.fit_units((train.rows if isinstance(train, PaddedWindows) else train).batches(64))
    return model, config, train


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("policy", [None, Gaussian()], ids=["alone", "policy"])
def test_every_generator_gives_constants_back(name, policy):
    """Before any training: what the data decide is not left to a network."""
    model, config, _ = fitted(name)
    starts = constant_dataset().recording.obs[:40].view(2, 20, 11)
    made = build(config.generator.build)(model).generate(policy, starts, 0).transitions()
    expected = torch.tensor([0.7, 0.7, 0.0]).expand(*made.batch_size, 3)
    for obs in (made.obs, made.next_obs):
        torch.testing.assert_close(obs[..., CONSTANT], expected, rtol=0, atol=1e-6)
        assert (obs[..., 0].std(-1) > 0.05).all()
    assert not made.terminated.any()
    if name != "mopo":  # whose reward is less its penalty
        torch.testing.assert_close(made.reward, torch.full_like(made.reward, 0.5))
    of_policy = policy is not None and name in {"autoregressive", "autoregressive_diffusion", "mopo", "pets", "rssm", "transformer"}  # fmt: skip
    if not of_policy:
        torch.testing.assert_close(made.action[..., 1], torch.full_like(made.action[..., 1], 0.25))


LEARNED_OF_CONSTANTS = {  # parameters that nothing but a constant channel would train
    "vae": lambda model: model.network.log_std.grad[[*CONSTANT, 12, 14, 15]],
    "autoregressive": lambda model: model.network.outcome.layer.bias.grad[5:].view(5, 2, 12)[..., [*CONSTANT, 11]],
    "pets": lambda model: model.network.layers[-1].bias.grad[:, 0, [*CONSTANT, 11, *(c + 12 for c in CONSTANT), 23]],
    "transformer": lambda model: model.behaviour.log_std.grad[1],
    "rssm": lambda model: model.behaviour.log_std.grad[1],
}


@pytest.mark.parametrize("name", LEARNED_OF_CONSTANTS)
def test_no_density_of_a_constant_is_trained(name):
    """It has no bound, and would outweigh all else."""
    model, _, train = deepcopy(fitted(name))
    torch.manual_seed(0)
    model.loss(train[torch.arange(16)]).backward()
    assert (LEARNED_OF_CONSTANTS[name](model) == 0).all()


@pytest.mark.parametrize("name", ["pgd", "synther", "polygrad", "autoregressive_diffusion"])
def test_a_diffused_constant_costs_nothing_and_is_shown_no_noise(name):
    """Whatever the network says of it."""
    model, _, train = deepcopy(fitted(name))
    batch, network = train[torch.arange(16)], model.denoiser.network
    seen = []

    class Spoiled(torch.nn.Module):
        def __init__(self, amount):
            super().__init__()
            self.amount = amount

        def forward(self, x, c_noise):
            seen.append(x)
            out = network(x, c_noise)
            return out + self.amount * (1 - model.codec.varies)[: out.shape[-1]]

    losses = []
    for amount in (0.0, 1e3):
        torch.manual_seed(0)
        model.denoiser.network = Spoiled(amount)
        losses.append(model.loss(batch).item())
    assert losses[0] == losses[1] > 0
    assert (seen[0] * (1 - model.codec.varies) == 0).all()


@pytest.mark.parametrize("units", [TrajectoryCodec(2, 1, 0.999), WorldCodec(2, 1, True), TransitionCodec(2, 1)])
def test_constants_of_older_checkpoints_are_found(units):
    """They had standard deviation 1 (PolyGRAD's 1e-6); SynthER's terminals have 1 and vary."""
    unit = 1e-6 if isinstance(units, WorldCodec) else 1.0
    units.std.copy_(torch.linspace(0.2, 0.8, units.channels))
    units.std[1] = units.std[-1] = unit
    old = units.state_dict()
    old._metadata[""]["version"] = 1
    units.load_state_dict(old)
    assert units.varies.tolist() == [1, 0, *[1] * (units.channels - 3), float(isinstance(units, TransitionCodec))]
    units.std.fill_(unit)  # a version that says so is taken at its word
    units.load_state_dict(units.state_dict())
    assert units.varies.all()


def test_an_older_ensemble_is_read(tmp_path):
    """Without the rate of terminals, which it then draws as it did."""
    model, _, _ = deepcopy(fitted("pets"))
    state = model.state_dict()
    del state["codec.terminal_rate"]
    run = Run.at(str(tmp_path), "ensemble", "hopper-medium", "pets", {}, 0)
    run.update(provenance={"sha256": "none", "label": "made"})
    run.checkpoints.mkdir()
    torch.save({"state_dict": state}, run.checkpoints / "last.ckpt")
    load_model(model, run, constant_dataset())
    assert model.codec.terminal_rate == 0.5


@given(st.floats(-1e4, 1e4, width=32), st.integers(2, 50), st.floats(-12, 3).map(lambda x: 10.0**x), st.integers(0, 9))
def test_a_channel_varies_if_it_is_more_than_rounding(constant, number, size, seed):
    """Exact constants never do; a reward of any size does, and of an observation what float32 can tell apart."""
    values = torch.full((number, 2), constant)
    assert (mean_and_std(values)[1] == 0).all()
    noise = size * torch.randn(number, generator=torch.Generator().manual_seed(seed))
    noise -= noise.mean()
    values = torch.stack([constant + noise, noise], dim=-1)
    std = mean_and_std(values)[1]
    assert (std[1] > 0) == (noise.std(correction=0) > 1e-6)
    assert mean_and_std(values, smallest=0.0)[1][1] > 0
    assert (std[0] > 0) == (values[:, 0].std(correction=0) > 1e-6 * max(abs(values[:, 0].mean()), 1))


def test_a_constant_is_standardised_to_0_and_weighs_nothing():
    std = torch.tensor([2.0, 0.0])
    assert (torch.tensor([4.0, 1e9]) / divisor(std)).tolist() == [2, 0]
    assert weights((std > 0).float()).tolist() == [2, 0]
    assert weights(torch.zeros(2)).tolist() == [0, 0]
    assert weights(1.0) == 1
