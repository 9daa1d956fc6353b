"""SynthER, the variational autoencoder and models of single rows: golden numbers, closed forms, promises."""

import math

import pytest
import torch
from helpers.codecs import random_windows

from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.process import EDM
from pgd_lightning.diffusion.samplers import heun
from pgd_lightning.errors import UserError
from pgd_lightning.generators.baselines.autoregressive import Autoregressive, AutoregressiveModel
from pgd_lightning.generators.baselines.rssm import RSSM, Dreamed, RSSMModel
from pgd_lightning.generators.baselines.synther import SynthER, TransitionCodec, TransitionPrior
from pgd_lightning.generators.baselines.transformer import TransformerModel, TransformerRollout
from pgd_lightning.generators.baselines.vae import VAE, VAEModel, normal_divergence
from pgd_lightning.generators.codec import TrajectoryCodec
from pgd_lightning.generators.polygrad.world import WorldCodec
from pgd_lightning.networks.actors import DeterministicActor, GaussianActor
from pgd_lightning.networks.mixture import MixtureLayer
from pgd_lightning.networks.transition_mlp import TransitionMLP
from pgd_lightning.networks.window_gru import WindowGRU
from pgd_lightning.networks.window_transformer import WindowTransformer
from pgd_lightning.networks.window_vae import WindowVAE

TRAINED = {"learning_rate": 1e-3, "warmup_start": 0.1, "total_steps": 100, "log_every": 10, "seed": 0}
EDM_1 = EDM(1.0, 0.002, 80.0, 7.0, -1.2, 1.2)


def codec() -> TrajectoryCodec:
    fitted = TrajectoryCodec(3, 2, 0.999)
    fitted.fit([random_windows(64, 8)])
    return fitted


def synther_model(**changes) -> TransitionPrior:
    units = TransitionCodec(3, 2)
    units.fit([random_windows(64, 8).transitions().as_windows()])
    network = TransitionMLP(10, width=32, num_blocks=2, features=16, waves=16)
    settings = TRAINED | {
        "betas": (0.9, 0.99), "weight_decay": 0.0, "gradient_norm": 1.0, "ema_decay": 0.995, "ema_every": 10,
        "ema_after": 100, "ema_power": 2 / 3,
    }  # fmt: skip
    return TransitionPrior(denoiser=Denoiser(network, EDM_1), codec=units, **settings | changes)


def vae_model() -> VAEModel:
    return VAEModel(WindowVAE(8, 7, 3, latent=4, hidden=[16], min_std=1e-3), codec(), **TRAINED)


def autoregressive_model() -> AutoregressiveModel:
    return AutoregressiveModel(WindowGRU(3, 2, hidden=16, components=3), codec(), **TRAINED)


CONSTANT = {"learning_rate": 1e-3, "total_steps": 100, "log_every": 10, "seed": 0}


def transformer_model(rows: int = 8) -> TransformerModel:
    def network(**sizes):
        return WindowTransformer(rows, **sizes, features=16, num_blocks=2, heads=2, denoises=False)

    model = TransformerModel(network, 3, 2, behaviour_hidden=[16], **CONSTANT)
    model.fit_units([random_windows(64, 8)])
    return model


def rssm_model() -> RSSMModel:
    network = RSSM(3, 2, belief=16, blocks=4, hidden=16, latents=4, classes=4, depth=1, bins=21, unimix=0.01)
    units = WorldCodec(3, 2, clip_actions=True)
    units.fit([random_windows(64, 8)])
    return RSSMModel(
        network, units, behaviour_hidden=[16], free_nats=1.0, dynamics_weight=0.5, representation_weight=0.1, **CONSTANT
    )


MODELS = {
    "synther": synther_model,
    "vae": vae_model,
    "autoregressive": autoregressive_model,
    "transformer": transformer_model,
    "rssm": rssm_model,
}
GENERATORS = {
    "synther": lambda: SynthER(
        synther_model(), heun, num_steps=4, churn=None, rows=8, batch_size=50, precision="float32"
    ),
    "vae": lambda: VAE(vae_model()),
    "autoregressive": lambda: Autoregressive(autoregressive_model(), rows=8),
    "transformer": lambda: TransformerRollout(transformer_model(), rows=8),
    "rssm": lambda: Dreamed(rssm_model(), rows=8),
}
ROW_BY_ROW = ["autoregressive", "transformer", "rssm"]
STARTS = 10 + 3 * torch.randn(2, 20, 3, generator=torch.Generator().manual_seed(4))


class Still:
    """Acts 0.5 plus a tenth of its noise."""

    def draw(self, obs, noise):
        return 0.5 + 0.1 * noise


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("policy", [None, Still()], ids=["alone", "policy"])
def test_promises_of_a_generator(name, policy):
    """Shapes, units, the start and the seed; a set of transitions holds as many steps as one of windows."""
    torch.manual_seed(0)
    generator = GENERATORS[name]()
    one, same, other = (generator.generate(policy, STARTS, seed) for seed in (1, 1, 2))
    assert one.batch_size == ((2, 20 * 7, 2) if name == "synther" else (2, 20, 8))
    assert one.transitions().batch_size == (2, 20 * 7)
    assert one.terminated.dtype == torch.bool
    for values, shape in ((one.obs, (3,)), (one.action, (2,)), (one.reward, ())):
        assert values.isfinite().all()
        assert values.shape == (*one.batch_size, *shape)
    assert one.action.abs().max() <= 1
    assert torch.equal(one.obs, same.obs)
    assert torch.equal(one.action, same.action)
    assert not torch.equal(one.obs, other.obs)
    if name != "synther":
        assert torch.equal(one.obs[:, :, 0], STARTS)
    if name in ROW_BY_ROW and policy is not None:
        assert one.action.mean() == pytest.approx(0.5, abs=0.02)
        assert one.action.std() == pytest.approx(0.1, abs=0.02)


@pytest.mark.parametrize("name", MODELS)
def test_training_lowers_the_loss(name):
    torch.manual_seed(0)
    model = MODELS[name]()
    data = random_windows(64, 8)
    data = data.transitions().as_windows() if name == "synther" else data
    optimizer, losses = model.optimizer(), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(data)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_draws_of_actors():
    noise = torch.randn(5, 2)
    obs = torch.randn(5, 3)
    gaussian, deterministic = GaussianActor(3, 2, [8]), DeterministicActor(3, 2, [8])
    gaussian.log_std.data.fill_(math.log(0.2))
    torch.testing.assert_close(gaussian.draw(obs, noise), (gaussian.act(obs) + 0.2 * noise).clamp(-1, 1))
    assert torch.equal(deterministic.draw(obs, noise), deterministic.act(obs))


@pytest.mark.parametrize("name", ROW_BY_ROW)
def test_after_an_end_models_of_rows_begin_anew(name):
    torch.manual_seed(0)
    generator = GENERATORS[name]()
    net = generator.model.network
    with torch.no_grad():
        bias = {"autoregressive": lambda: net.terminal.bias, "transformer": lambda: net.head.bias[-1:]}
        bias.get(name, lambda: net.going_on.model[-1].bias)().fill_(1.0 if name == "rssm" else -1.0)
    windows = generator.generate(None, STARTS, seed=1)
    ended = windows.terminated[:, :, :-1]
    assert 0 < ended.float().mean() < 1
    assert torch.equal(windows.obs[:, :, 1:][ended], STARTS.unsqueeze(2).expand(-1, -1, 7, -1)[ended])


# --- SynthER ---


@pytest.mark.parametrize(
    ("channels", "width", "parameters"),
    [(27, 2048, 25_520_027), (42, 2048, 25_552_682), (12, 2048, 25_487_372), (27, 1024, 6_479_771),
     (42, 1024, 6_497_066), (12, 1024, 6_462_476)],
)  # fmt: skip
def test_sizes_of_synther(channels, width, parameters):
    with torch.device("meta"):
        network = TransitionMLP(channels, width, num_blocks=6, features=128, waves=16)
    assert sum(p.numel() for p in network.parameters()) == parameters
    assert network.time.frequencies.shape == (8,)


def test_time_features_of_synther():
    network = TransitionMLP(3, 8, 1, 4, 16)
    label = torch.tensor([0.3])
    inputs = network.time.inputs(label)
    angle = 2 * math.pi * 0.3 * network.time.frequencies
    torch.testing.assert_close(inputs[0], torch.cat([label, angle.sin(), angle.cos()]))


def test_units_of_synther():
    steps = random_windows(64, 8).transitions()
    units = TransitionCodec(3, 2)
    units.fit([steps.as_windows()])
    x = units.encode(steps.as_windows())
    assert x.shape == (len(steps), 1, 10)
    torch.testing.assert_close(x[:, 0, :9].mean(0), torch.zeros(9), rtol=0, atol=1e-4)
    torch.testing.assert_close(x[:, 0, :9].std(0, correction=0), torch.ones(9), rtol=1e-4, atol=0)
    assert torch.equal(x[:, 0, 9] > 0.5, steps.terminated)  # not standardised
    back = units.decode(x).transitions()
    for name in ("obs", "action", "reward", "next_obs"):
        torch.testing.assert_close(getattr(back, name), getattr(steps, name), rtol=1e-4, atol=1e-4)
    assert torch.equal(back.terminated, steps.terminated)
    assert torch.equal(units.decode(x).transitions(keep_terminal=True).terminated, steps.terminated)


def test_schedules_of_synther():
    model = synther_model(total_steps=1000)
    assert [model.rate(step) for step in (0, 500, 1000)] == pytest.approx([1.0, 0.5, 0.0])
    # a copy for a hundred updates, then 1 - (1 + n)^(-2/3), at most 0.995
    assert [model.decay(k) for k in (10, 100, 110, 1100, 10_000)] == pytest.approx(
        [0, 0, 1 - 11 ** (-2 / 3), 1 - 1001 ** (-2 / 3), 0.995]
    )


def test_gradients_of_synther_are_clipped():
    model = synther_model()
    for parameter in model.denoiser.parameters():
        parameter.grad = torch.full_like(parameter, 10.0)
    model.on_before_optimizer_step(model.optimizer())
    assert torch.stack([p.grad.norm() for p in model.denoiser.parameters()]).norm() == pytest.approx(1.0, rel=1e-4)


def test_transitions_as_windows_and_back():
    steps = random_windows(5, 4).transitions()
    back = steps.as_windows().transitions()
    for name in ("obs", "action", "reward", "next_obs", "terminated"):
        assert torch.equal(getattr(back, name), getattr(steps, name))


# --- the variational autoencoder ---


def test_divergence_of_normals():
    mean, log_std = torch.tensor([[0.5, -1.0]]), torch.tensor([[0.2, -0.7]])
    posterior = torch.distributions.Normal(mean, log_std.exp())
    expected = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0.0, 1.0)).sum(-1)
    torch.testing.assert_close(normal_divergence(mean, log_std), expected)


def test_bound_of_an_idle_autoencoder():
    """No latent, decoder 0, deviation 1: minus the log-likelihood of standard normal data, (1 + ln 2 pi) / 2 a number."""
    model = vae_model()
    for parameter in model.network.parameters():
        parameter.data.zero_()
    model.network.min_std = 0.0
    data = random_windows(64, 8)
    assert model.loss(data).item() == pytest.approx(0.5 * (1 + math.log(2 * math.pi)), rel=1e-3)


# --- the autoregressive model ---


def test_mixture_is_torchs_and_draws_from_itself():
    torch.manual_seed(0)
    layer, features, x = MixtureLayer(4, 2, 3), torch.randn(5, 4), torch.randn(5, 2)
    log_weight, mean, log_std = layer.parts(features)
    components = torch.distributions.Independent(torch.distributions.Normal(mean, log_std.exp()), 1)
    mixture = torch.distributions.MixtureSameFamily(torch.distributions.Categorical(logits=log_weight), components)
    torch.testing.assert_close(layer.log_prob(features, x), mixture.log_prob(x))
    draws = layer.sample(features[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    torch.testing.assert_close(draws.mean(0), mixture.mean[0], rtol=0, atol=0.05)
    torch.testing.assert_close(draws.var(0), mixture.variance[0], rtol=0.05, atol=0.02)


def test_memory_read_at_once_is_memory_read_row_by_row():
    net, obs, action = WindowGRU(3, 2, 16, 2), torch.randn(4, 6, 3), torch.randn(4, 6, 2)
    before, after = net.read(obs, action)
    memory = torch.zeros(4, 16)
    for row in range(6):
        torch.testing.assert_close(before[:, row], memory)
        memory = net.remember(memory, obs[:, row], action[:, row])
        torch.testing.assert_close(after[:, row], memory)


def test_no_row_sees_the_future():
    """The loss of a window whose last rows are changed differs only through those rows: earlier features are equal."""
    net, obs, action = WindowGRU(3, 2, 16, 2), torch.randn(1, 6, 3), torch.randn(1, 6, 2)
    changed = obs.clone()
    changed[:, 4:] += 1
    one, other = (net.read(o, action)[1][:, :4] for o in (obs, changed))
    assert torch.equal(one, other)


# --- the transformer that regresses rows ---


def test_size_of_the_published_transformer():
    """Hopper at 16 rows, with [s, r, d] and a in, [s, r, d] out: PolyGRAD's denoiser less what embeds the time."""
    denoiser, regressor = (WindowTransformer(16, 16, 13, 312, 6, 4, denoises=denoises) for denoises in (True, False))
    size, smaller = (sum(p.numel() for p in net.parameters()) for net in (denoiser, regressor))
    assert size == 7_242_781
    assert size - smaller == 2 * (312 * 312 + 312)


def test_rolled_out_row_by_row_the_transformer_says_what_it_says_of_the_last_rows():
    """Beyond its context too; without ends, and per window, because after an end a window remembers less."""
    torch.manual_seed(0)
    model = transformer_model(rows=6).double()
    with torch.no_grad():
        model.network.head.bias[-1] = -2.0
    model.eval()
    starts = torch.randn(20, 3, dtype=torch.double)
    windows = TransformerRollout(model, rows=12).generate(None, starts, seed=0)
    assert 0 < windows.terminated.float().mean() < 0.5
    units, checked = model.codec, 0
    for window in windows:
        since = 0
        for row in range(11):
            if window.terminated[row]:
                since = row + 1
                continue
            seen = slice(max(since, row - 4), row + 1)
            with torch.no_grad():
                read = model.network(units.inputs(window.obs[seen], window.action[seen]).unsqueeze(0))[0, -1]
            change = read[:-1] * units.out_std + units.out_mean
            torch.testing.assert_close(window.obs[row + 1], window.obs[row] + change[:-1])
            torch.testing.assert_close(window.reward[row], change[-1])
            checked += row - since > 5
    assert checked


def test_the_transformer_sees_no_later_row():
    model, windows = transformer_model(), random_windows(4, 8)
    changed = windows.clone()
    changed.obs[:, 5:] += 1.0
    one, other = (model.network(model.codec.inputs(w.obs, w.action))[:, :5] for w in (windows, changed))
    assert torch.equal(one, other)


# --- Dreamer's recurrent state-space model ---


def test_the_rssm_imagines_from_the_state_that_it_was_trained_in():
    """First posterior and the belief after one action, at once in training and step by step in imagination."""
    torch.manual_seed(0)
    model, windows = rssm_model(), random_windows(6, 8)
    net = model.network
    with torch.no_grad():
        out = net(model.windows(windows))
        _, belief = net.first(model.codec.encode_obs(windows.obs[:, 0]))
        torch.testing.assert_close(belief, out["next", "belief"][:, 0])
        state, taken = out["next", "state"][:, 0], model.codec.encode_action(windows.action[:, 0])
        logits, _, following = net.prior(state, belief, taken)
    torch.testing.assert_close(following, out["next", "belief"][:, 1])
    torch.testing.assert_close(logits, out["next", "prior_logits"][:, 1])


def test_loss_of_the_rssm_is_the_sum_of_its_parts():
    """An untrained reward head says bins alike; a squared error and a cross-entropy computed by hand."""
    torch.manual_seed(0)
    model, windows = rssm_model(), random_windows(6, 8)
    with torch.no_grad():
        torch.manual_seed(1)
        parts, _ = model.objective(model.windows(windows))
        torch.manual_seed(1)
        out = model.network(model.windows(windows))
        torch.manual_seed(1)
        loss = model.loss(windows)
    after = out["next"]
    error = (after["decoded"] - model.codec.encode_obs(windows.obs)).square().sum(-1).mean()
    assert parts["loss_model_reco"].item() == pytest.approx(error.item(), rel=1e-5)
    assert parts["loss_model_reward"].item() == pytest.approx(math.log(21), rel=1e-5)
    logit = after["continue_pred"].squeeze(-1)
    chance = torch.where(windows.terminated, (-logit).sigmoid(), logit.sigmoid())
    assert parts["loss_model_continue"].item() == pytest.approx(-chance.log().mean().item(), rel=1e-5)
    assert parts["loss_model_dynamic"].item() >= 0.5 * 1.0  # free nats
    acted = model.behaviour.log_prob(model.codec.encode_obs(windows.obs), windows.action).mean()
    assert loss.item() == pytest.approx(sum(p.item() for p in parts.values()) - acted.item(), rel=1e-5)


def test_sizes_that_do_not_divide_get_a_sentence():
    with pytest.raises(UserError, match=r"rssm.belief=20 is not a multiple of the 8 blocks"):
        RSSM(3, 2, belief=20, blocks=8, hidden=16, latents=4, classes=4, depth=1, bins=21, unimix=0.01)
    with pytest.raises(UserError, match="30 features are not a multiple of its 4 heads"):
        WindowTransformer(8, 5, 5, features=30, num_blocks=1, heads=4, denoises=False)
