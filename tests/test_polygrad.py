"""PolyGRAD against the golden values of its specification (numpy in float64; R: also produced by the official code)."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from pgd_lightning.artifacts.models import build_model
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config, options
from pgd_lightning.diffusion.conditional import WorldDenoiser
from pgd_lightning.diffusion.cosine import Cosine
from pgd_lightning.diffusion.denoiser import Denoiser
from pgd_lightning.diffusion.samplers import Step, ancestral, stepped
from pgd_lightning.errors import UserError
from pgd_lightning.generators.guidance import OnPolicy
from pgd_lightning.generators.polygrad.ablations import Ablated, posterior_mean
from pgd_lightning.generators.polygrad.imagination import StepLimit, imagine, with_resets
from pgd_lightning.generators.polygrad.rollout import StepWorldModel, WorldRollout
from pgd_lightning.generators.polygrad.world import WorldCodec, WorldModel
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.networks.window_mlp import WindowMLP
from pgd_lightning.networks.window_transformer import WindowTransformer
from pgd_lightning.trajectory import Trajectory


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def cosine(levels: int = 128, temperature: float = 1.0) -> Cosine:
    return Cosine(levels, temperature, max_beta=0.999)


# --- the process ---


@pytest.mark.parametrize(
    ("temperature", "level", "alphabar", "deviation", "c1", "c2"),
    [(1.0, 1, 0.99939773, 0.010627997, 0.75001882, 0.24998117), (1.0, 10, 0.98188803, 0.051253094, 0.17398954, 0.82600445),
     (1.0, 63, 0.5, 0.1528579, 0.034288349, 0.96370519), (1.0, 64, 0.48772939, 0.15476881, 0.033875199, 0.96399553),
     (1.0, 126, 1.5059065e-4, 0.86580803, 0.018407769, 0.49981176), (1.0, 127, 1.5059065e-7, 0.99942469, 0.012259269, 0.031618019),
     (0.1, 1, 0.99993972, 0.0033618295, 0.75001883, 0.24998117), (0.1, 10, 0.99817282, 0.016212328, 0.17399194, 0.826008),
     (0.1, 64, 0.93067787, 0.048991703, 0.034599933, 0.96537851), (0.1, 126, 0.41440875, 0.34049624, 0.15269905, 0.83465725),
     (0.1, 127, 4.1440875e-4, 0.76501516, 0.64336874, 0.018525699)],
)  # fmt: skip
def test_schedule_and_posterior(temperature, level, alphabar, deviation, c1, c2):
    """One step of euler_ancestral from t to t - 1 is DDPM's posterior: c1 x0 + c2 y and its deviation."""

    process = cosine(temperature=temperature)
    assert process.alphabar[level].item() == pytest.approx(alphabar, rel=1e-6)
    sigmas = process.sigmas.flip(0)[127 - level :]
    step = Step(0, *sigmas[:2], torch.zeros(1), torch.zeros(1), torch.zeros(1), torch.randn_like, sigmas.tolist())
    assert step.posterior_std.item() == pytest.approx(deviation, rel=1e-6)
    down = ancestral(sigmas[0], sigmas[1])[0]
    scale, scale_next = ((1 + sigma**2).rsqrt() for sigma in sigmas[:2])
    of_clean, of_state = (
        stepped(y / scale, x0, sigmas[0], down) * scale_next
        for x0, y in (torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0]))
    )
    assert (of_clean.item(), of_state.item()) == pytest.approx((c1, c2), rel=1e-6)


def test_schedule_of_16_levels():
    expected = [0.9903926, 0.9619398, 0.9157348, 0.8535534, 0.7777851, 0.6913417, 0.5975452, 0.5, 0.4024548, 0.3086583,
                0.2222149, 0.1464466, 0.0842652, 0.0380602, 0.0096074]  # fmt: skip
    torch.testing.assert_close(cosine(16).alphabar[:15], torch.tensor(expected), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(("temperature", "total"), [(1.0, 8.2753596), (0.1, 1.4013002)])
def test_noise_of_the_whole_chain(temperature, total):
    alphabar = cosine(temperature=temperature).alphabar
    beta = 1 - alphabar[1:] / alphabar[:-1]
    assert (beta * (1 - alphabar[:-1]) / (1 - alphabar[1:])).sum().item() == pytest.approx(total, rel=1e-7)


def test_levels_are_found_from_sigma_in_single_precision():
    for temperature in (1.0, 0.1):
        process = cosine(temperature=temperature)
        assert process.level(process.sigmas.float()).tolist() == list(range(128))
    assert process.level(process.schedule(32)[:-1])[[0, -1]].tolist() == [127, 0]


# --- units ---


def world_codec(obs_dim: int, action_dim: int, mean: list[float], std: list[float], clip: bool = False) -> WorldCodec:
    codec = WorldCodec(obs_dim, action_dim, clip)
    codec.set_statistics(torch.tensor(mean), torch.tensor(std))
    return codec


def trajectory(obs, action, reward, terminated) -> Trajectory:
    return Trajectory(obs=obs, action=action, reward=reward, terminated=terminated, batch_size=reward.shape)


def test_normaliser():
    codec = WorldCodec(2, 1, False)
    obs = torch.tensor([[1.0, 5], [2, 5], [3, 5], [6, 5]])[None]
    data = trajectory(obs, torch.zeros(1, 4, 1), torch.zeros(1, 4), torch.zeros(1, 4, dtype=torch.bool))
    codec.fit([data])
    x = codec.encode(data)
    torch.testing.assert_close(x[0, :, 0], torch.tensor([-1.0690444, -0.5345222, 0, 1.6035666]), rtol=1e-6, atol=1e-7)
    assert (x[0, :, 1:] == 0).all()
    assert codec.decode(torch.full((1, 1, 5), 0.7)).obs[0, 0, 1].item() == 5  # a constant


# --- sampler with injected noise ---


class Wave(nn.Module):
    """0.8 sin(x) + 0.3 a + 0.05 c - 0.02 t."""

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        free, action = x[..., :-1], x[..., -1:]
        return 0.8 * free.sin() + 0.3 * action + 0.05 * torch.arange(4.0) - 0.02 * label[:, None, None]


class Injected:
    """Draw number j has entries 1.4 sin(1 + i + 3 j); the reference draws state noise before action noise."""

    def __init__(self, actions_drawn: bool) -> None:
        self.actions_drawn, self.calls = actions_drawn, -1

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        number = self.calls
        if number >= 2 and self.actions_drawn:  # here a correction comes before the step's own noise
            number += 1 if number % 2 == 0 else -1
        return 1.4 * torch.sin(1 + torch.arange(float(x.numel())) + 3 * number).view(x.shape)


class Tanh:
    """N(tanh(0.4 o0 - 0.2 o1), 0.5^2)."""

    def normal(self, obs):
        mean = torch.tanh(0.4 * obs[..., :1] - 0.2 * obs[..., 1:2])
        return mean, torch.full_like(mean, 0.5)

    def score(self, obs, action, noise_variance=0.0):
        mean, std = self.normal(obs)
        return (mean - action) / (std**2 + noise_variance)


def on_policy(coef: float | Tensor, clip: float | None = 3.0, **ablation) -> OnPolicy:
    if not ablation:
        return OnPolicy(coef=coef, clip=clip, noise=1.0)
    return Ablated(
        **{"kind": "grad", "point": "denoised", "move_states": False} | ablation, coef=coef, clip=clip, noise=1.0
    )


@pytest.mark.parametrize(
    ("changes", "rows", "actions"),
    [({}, [[0.5, -0.4, 1.6197974, 1.6672893], [0.7425401, -0.8743221, -1.5240421, -0.4877067],
           [0.4281089, 1.0395476, 0.6484837, -0.0463357]], [2.0327309, 0.8003791, 0.2532389]),
     ({"clip": None}, [[0.5, -0.4, 1.5267894, 1.5851861], [-0.3853604, -0.9359364, -1.7385537, -1.0168497],
                       [0.1221059, 0.9409094, -0.7416805, -0.9424536]], [1.8024721, -0.2508421, -1.0579572]),
     ({"clip": 0.5}, [[0.5, -0.4, 1.2043925, 1.300228], [1.1597363, -0.8198957, -1.3594903, -0.0384699],
                      [1.0158371, 1.2464915, 1.2775221, 0.0696311]], [1.0390367, 1.1914535, 1.1529599]),
     ({"move_states": True}, [[0.5, -0.4, 1.6143544, 1.6674812], [0.7534592, 0.335856, -0.1249711, -0.2009928],
                              [-0.0975436, 0.6381125, 0.7750716, 0.3851143]], [2.0327309, 0.824811, 0.3782676]),
     ({"point": "posterior_mean"}, [[0.5, -0.4, 1.6154463, 1.6634378], [0.5158924, -0.8923415, -1.5882605, -0.630648],
                                    [0.6221236, 1.0653214, 0.9206128, 0.0236238]], [2.0216228, 0.5881773, 0.5838964]),
     ({"point": "posterior_mean", "clip": None}, [[0.5, -0.4, 1.5237211, 1.582467], [-0.332969, -0.9355567, -1.7459461, -1.0099821],
                                    [0.1226536, 0.9428385, -0.5423872, -0.769262]], [1.795079, -0.179444, -0.772038]),
     ({"kind": "none"}, [[0.5, -0.4, -0.6791036, -0.5752092], [-1.0895054, -1.0130719, -0.9002767, -0.7628205],
                         [-0.4617886, -0.3439688, -0.2263209, -0.0814357]], [-0.6545443, -0.9739965, -0.2129457])],
)  # fmt: skip
def test_imagination_with_injected_noise(changes, rows, actions):
    codec = world_codec(2, 1, [1, -2, 0, 0, 0.1], [2, 0.5, 1, 1, 0.8])
    denoiser = WorldDenoiser(Wave(), cosine(16), 2, 1)
    noise = Injected(actions_drawn=changes.get("kind") != "none")
    with torch.no_grad():
        x = imagine(
            denoiser, denoiser, codec, Tanh(), on_policy(0.02, **changes), StepLimit(0.25, 10),
            torch.tensor([[0.5, -0.4]]), 3, 16, noise,
        )  # fmt: skip
    torch.testing.assert_close(x[0, :, :4], torch.tensor(rows), rtol=1e-6, atol=2e-7)
    torch.testing.assert_close(codec.decode_action(x)[0, :, 0], torch.tensor(actions), rtol=1e-6, atol=2e-7)
    assert x[0, 0, :2].tolist() == [0.5, -0.4]


def test_the_posterior_mean_is_ddpms():
    """c1 x0 + c2 x_t in DDPM's own coordinates, where the first state has no noise (arXiv 2312.08533, ablations)."""
    process, codec = cosine(16), world_codec(2, 1, [0.0] * 5, [1.0] * 5)
    torch.manual_seed(0)
    vp, x0 = torch.randn(2, 3, 5), torch.randn(2, 3, 5)
    t = 7
    bar, before = process.alphabar[t], process.alphabar[t - 1]
    alpha = bar / before
    vp[..., 0, :2] = x0[..., 0, :2]
    expected = (before.sqrt() * (1 - alpha) * x0 + alpha.sqrt() * (1 - before) * vp) / (1 - bar)
    sigmas = ((1 - torch.stack([bar, before])) / torch.stack([bar, before])).sqrt()
    mean = stepped(vp / bar.sqrt(), x0, sigmas[0], ancestral(*sigmas)[0])
    step = Step(0, *sigmas[:2], vp / bar.sqrt(), x0, mean, torch.randn_like, sigmas.tolist())
    torch.testing.assert_close(posterior_mean(step, codec), expected)


# --- loss ---


def test_training_loss():
    denoiser = WorldDenoiser(Wave(), cosine(16), 2, 1)
    b, h, c = torch.meshgrid(torch.arange(2.0), torch.arange(3.0), torch.arange(4.0), indexing="ij")
    x0 = torch.cat([torch.sin(0.3 * h + 0.7 * c + b), torch.cos(0.4 * h + b)[..., :1]], dim=-1)
    noise = torch.zeros_like(x0)
    noise[..., :4] = 1.4 * torch.sin(1 + torch.arange(24.0)).view(2, 3, 4)
    losses = denoiser.losses(x0, denoiser.process.sigmas[[3, 12]], noise)
    assert losses.mean().item() == pytest.approx(0.40855644, abs=1e-8)


# --- how much of the world model is the prior ---


def test_the_world_model_is_the_prior_with_another_process_conditioning_and_mask():
    """A prior built of the same parts has the same loss, gradients, average and samples as a world model."""
    assert issubclass(WorldModel, DiffusionPrior)
    own = set(vars(WorldModel)) & {"loss", "training_step", "optimizer_step", "configure_optimizers", "optimizer"}
    assert not own
    common = {"learning_rate": 3e-4, "ema_decay": 0.99, "ema_every": 10, "total_steps": 30, "log_every": 10, "seed": 0}
    data = random_windows(64, 4)
    models = []
    for make in (lambda d, c: WorldModel(denoiser=d, codec=c, ema_after=0, **common),
                 lambda d, c: DiffusionPrior(d, c, warmup_start=1.0, muon=False, ema_ramp=None, **common)):  # fmt: skip
        torch.manual_seed(0)
        codec = WorldCodec(2, 1, False)
        codec.fit([data])
        models.append(make(WorldDenoiser(WindowMLP(4, 5, 4, 16, 2, 8, 16), cosine(16), 2, 1), codec))
        torch.manual_seed(1)
        models[-1].loss(data).backward()
    for ours, prior in zip(*(m.denoiser.parameters() for m in models), strict=True):
        torch.testing.assert_close(ours.grad, prior.grad, rtol=0, atol=0)


def random_windows(num: int, rows: int) -> Trajectory:
    g = torch.Generator().manual_seed(0)
    return trajectory(
        torch.randn(num, rows, 2, generator=g) * 2 + 1, torch.rand(num, rows, 1, generator=g) * 2 - 1,
        torch.randn(num, rows, generator=g), torch.rand(num, rows, generator=g) < 0.1,
    )  # fmt: skip


def test_without_anything_given_the_denoiser_is_the_priors():
    """No actions and no held state: the base class and the conditional one differ by nothing."""

    class Free(WorldDenoiser):
        predicted = property(lambda self: 5)

    network = nn.Linear(5, 5)
    own = Free(lambda_module(network), cosine(16), 0, 0)
    base = Denoiser(lambda_module(network), cosine(16))
    x, sigma = torch.randn(3, 4, 5), torch.tensor([0.1, 1.0, 3.0])
    torch.testing.assert_close(own(x, sigma), base(x, sigma))
    torch.testing.assert_close(own.losses(x, sigma, x.cos()), base.losses(x, sigma, x.cos()))


def lambda_module(network: nn.Module) -> nn.Module:
    class Wrapped(nn.Module):
        def forward(self, x, label):
            return network(x)

    return Wrapped()


# --- networks ---


def closed_form(parameter: nn.Module, k: int) -> None:
    weight = parameter.weight.data
    if isinstance(parameter, nn.LayerNorm):
        j = torch.arange(len(weight), dtype=torch.float64)
        weight.copy_(1 + 0.1 * torch.sin(j + k))
        parameter.bias.data.copy_(0.1 * torch.cos(j + k))
        return
    weight.copy_((torch.sin(1.7 * torch.arange(weight.numel()) + k) / math.sqrt(weight.shape[1])).view(weight.shape))
    if isinstance(parameter, nn.Linear):
        parameter.bias.data.copy_(0.1 * torch.cos(0.5 * torch.arange(len(weight)) + k))


def golden_input(rows: int) -> tuple[Tensor, Tensor]:
    h, c = torch.meshgrid(torch.arange(float(rows)), torch.arange(4.0), indexing="ij")
    x = torch.cat([torch.sin(0.3 * h + 0.7 * c), torch.cos(0.4 * h)[:, :1]], dim=-1)
    return x[None], torch.tensor([5.0])


def test_residual_network():
    network = WindowMLP(rows=3, channels=5, predicted=4, width=16, num_blocks=2, min_features=8, waves=16)
    network.time.frequencies.copy_(0.1 * torch.arange(1.0, 9))
    blocks = [layer for pair in zip(network.norms, network.blocks, strict=True) for layer in pair]
    layers = [network.time.layers[0], network.time.layers[2], network.project, network.widen, *blocks,
              network.last_norm, network.head]  # fmt: skip
    for k, layer in enumerate(layers):
        closed_form(layer, k)
    out = network(*golden_input(3))[0]
    expected = [[0.0396708, -0.042178, -0.2695049, 0.0717142], [0.0724214, -0.1395071, 0.1913474, 0.1857215],
                [-0.0980885, 0.1534397, 0.113009, -0.2240704]]  # fmt: skip
    torch.testing.assert_close(out, torch.tensor(expected), rtol=0, atol=1e-7)
    assert (out.sum().item(), out.abs().sum().item()) == pytest.approx((0.05397514, 1.60067307), abs=1e-7)


def test_transformer():
    network = WindowTransformer(rows=4, channels=5, predicted=4, features=16, num_blocks=2, heads=4, denoises=True)
    blocks = [getattr(b, n) for b in network.blocks for n in ("norm_a", "qkv", "project", "norm_b", "up", "down")]
    layers = [network.time.layers[0], network.time.layers[2], network.token, network.position, *blocks, network.head]
    for k, layer in enumerate(layers):
        closed_form(layer, k)
    x, label = golden_input(4)
    out = network(x, label)[0]
    torch.testing.assert_close(out[0], torch.tensor([0.3809415, -0.3964448, -0.1934691, 0.5062416]), rtol=0, atol=1e-7)
    torch.testing.assert_close(out[3], torch.tensor([0.6042934, -0.3573108, -0.4541014, 0.7153954]), rtol=0, atol=1e-7)
    assert (out.sum().item(), out.abs().sum().item()) == pytest.approx((-0.0962531, 6.65603437), abs=1e-6)
    x[:, 3] += 1
    torch.testing.assert_close(network(x, label)[0, :3], out[:3], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("rows", "obs", "action", "width", "parameters"),
    [(10, 11, 3, 1024, 6_664_450), (10, 17, 6, 1024, 6_893_710), (50, 11, 3, 2048, 29_475_082), (2, 11, 3, 1024, 6_493_722),
     (10, 11, 3, 256, 527_362), (32, 17, 6, 1024, 9_051_360)],
)  # fmt: skip
def test_parameters_of_the_residual_network(rows, obs, action, width, parameters):
    with torch.device("meta"):
        network = WindowMLP(rows, obs + action + 2, obs + 2, width, 6, 128, 16)
    assert sum(p.numel() for p in network.parameters()) == parameters


@pytest.mark.parametrize(("rows", "obs", "action", "parameters"), [(10, 11, 3, 7_240_909), (200, 17, 6, 7_304_875)])
def test_parameters_of_the_transformer(rows, obs, action, parameters):
    network = WindowTransformer(rows, obs + action + 2, obs + 2, 312, 6, 4, denoises=True)
    assert sum(p.numel() for p in network.parameters()) == parameters


class ExactStep(nn.Module):
    """Knows that s' = 0.9 s + 0.3 a and r = s + a, and that an episode ends above 2."""

    def forward(self, x, label):
        state, action = x[:, 0, :1], x[:, 0, -1:] / cosine(16).alphabar[label.long(), None].sqrt()
        ended = (state > 2).to(x.dtype)
        row = torch.cat([state, state + action, ended], dim=-1)
        return torch.stack([row, torch.cat([0.9 * state + 0.3 * action, 0 * row[:, 1:]], dim=-1)], dim=1)


def test_autoregressive_diffusion_steps_as_its_model_does():
    """Row after row, with actions of the policy; after an end the start again; the same seed gives the same bits."""
    codec = world_codec(1, 1, [0.0] * 4, [1.0] * 4)
    model = StepWorldModel(
        denoiser=WorldDenoiser(ExactStep(), cosine(16), 1, 1), codec=codec, ema_after=0, learning_rate=3e-4,
        ema_decay=0.99, ema_every=10, total_steps=30, log_every=10, seed=0,
    )  # fmt: skip
    generator = WorldRollout(model, on_policy(0.02), num_steps=16, rows=6)

    class Half:
        def draw(self, obs, noise):
            return 0.5 + 0.1 * noise

    starts = torch.linspace(-1.5, 2.5, 8, dtype=torch.get_default_dtype())[:, None]
    windows = generator.generate(Half(), starts, 3)
    assert windows.batch_size == (8, 6)
    expected = 0.9 * windows.obs[:, :-1] + 0.3 * windows.action[:, :-1]
    going_on = ~windows.terminated[:, :-1]
    torch.testing.assert_close(windows.obs[:, 1:][going_on], expected[going_on], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(windows.reward, (windows.obs + windows.action).squeeze(-1), rtol=1e-4, atol=1e-4)
    assert windows.terminated.any()
    ended = windows.terminated[:, :-1]
    torch.testing.assert_close(windows.obs[:, 1:][ended], starts[:, None].expand(-1, 5, -1)[ended])
    assert torch.equal(windows.action, generator.generate(Half(), starts, 3).action)
    assert windows.action.std() == pytest.approx(0.1, abs=0.03)
    assert generator.generate(None, starts, 3).action.isfinite().all()


def test_given_nan_imagination_says_where():
    codec = world_codec(2, 1, [0] * 5, [1] * 5)

    class Broken(nn.Module):
        def forward(self, x, label):
            return x[..., :-1] * (float("nan") if label[0] < 12 else 1.0)

    denoiser = WorldDenoiser(Broken(), cosine(16), 2, 1)
    with pytest.raises(UserError, match="denoising step 5 of 16: the world model predicted it"):
        imagine(denoiser, denoiser, codec, Tanh(), on_policy(0.02), None, torch.zeros(4, 2), 3, 16, torch.randn_like)


@pytest.mark.parametrize("verb", ["train", "polygrad"])
def test_the_transformer_is_a_choice_of_the_config(verb):
    env = "env=hopper-medium" if verb == "train" else "env=hopper"
    settings = [env, "data.horizon=10", "network@world.network=window_transformer"]
    model = build_model(compose_config(verb, settings), "world", 10)
    assert model.method == "polygrad-windowtransformer"
    assert sum(p.numel() for p in model.denoiser.network.parameters()) == 7_240_909


@pytest.mark.parametrize("name", [name for name in options("generator") if name != "none"])
def test_every_generator_of_the_config_can_be_made(name):
    """Each with the guidance that it names and no key of another one's."""
    config = compose_config("train", [f"generator={name}", "scale=smoke"])
    assert callable(build(config.generator.build))


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5))
def test_windows_begin_anew_after_their_end(ends):
    """Rows after an end are the first ones again: each successor is the start's or the row's own."""
    rows = 6
    number = torch.arange(float(rows)).expand(len(ends), rows)
    ended = number >= torch.tensor(ends).unsqueeze(-1)  # and it stays ended, as in padding
    windows = Trajectory(
        obs=number.unsqueeze(-1) + 10, action=number.unsqueeze(-1), reward=number + 20, terminated=ended,
        batch_size=ended.shape,
    )  # fmt: skip
    found = with_resets(windows)
    for window, end in zip(found, ends, strict=True):
        expected = [t % (end + 1) for t in range(rows)]
        assert window.action[:, 0].tolist() == expected
        assert window.obs[:, 0].tolist() == [10 + t for t in expected]
        assert window.reward.tolist() == [20 + t for t in expected]
        assert window.terminated.tolist() == [t == end for t in expected]
