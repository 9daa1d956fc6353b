"""Agents: golden arithmetic, TorchRL as oracle, the seed axis, the order of updates, alarms and exact resume.

python -m pytest tests/test_agents.py
"""

from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.agents import ACTION, HIDDEN, OBS, fit, make_agent, make_batch, same
from hypothesis import given, settings
from hypothesis import strategies as st
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import nn
from torchrl.modules import ProbabilisticActor
from torchrl.objectives import IQLLoss, TD3BCLoss, ValueEstimators

from pgd_lightning.agents import Learner
from pgd_lightning.agents.bc import BC
from pgd_lightning.agents.iql import IQL
from pgd_lightning.agents.rebrac import ReBRAC
from pgd_lightning.agents.schedules import SCHEDULES
from pgd_lightning.agents.seeds import call_stacked
from pgd_lightning.agents.td3_bc import TD3BC
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.networks.actors import DeterministicActor, GaussianActor
from pgd_lightning.networks.critics import StateValue, TwinQ
from pgd_lightning.networks.mlp import EnsembleMLP, mlp
from pgd_lightning.trajectory import Transition

iql = partial(IQL, OBS, ACTION, HIDDEN, discount=0.99, expectile=0.7, temperature=3.0, max_weight=100.0)
td3_bc = partial(TD3BC, OBS, ACTION, HIDDEN, discount=0.99, q_weight=2.5, noise_clip=0.5, critic_updates=2)
quiet_td3_bc = partial(td3_bc, policy_noise=0.0)
noisy_td3_bc = partial(td3_bc, policy_noise=0.2)
quiet_rebrac = partial(
    ReBRAC, OBS, ACTION, HIDDEN, discount=0.99, noise_clip=0.5, critic_updates=2, policy_noise=0.0, actor_penalty=0.1,
    critic_penalty=0.5,
)  # fmt: skip
bc = partial(BC, OBS, ACTION, HIDDEN)
LEARNERS = {"iql": iql, "td3_bc": noisy_td3_bc, "rebrac": partial(quiet_rebrac, policy_noise=0.2), "bc": bc}


def count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


# --- golden arithmetic and sizes ---


class Fixed(nn.Module):
    """A network that returns a given tensor for each obs tensor it knows by its first entry."""

    def __init__(self, *outputs: torch.Tensor) -> None:
        super().__init__()
        self.outputs = outputs

    def forward(self, obs: torch.Tensor, action: torch.Tensor | None = None) -> torch.Tensor:
        return self.outputs[int(obs[0, 0])]


def test_g17_iql_arithmetic() -> None:
    learner = iql()
    q = torch.tensor([[1.0, 2.0], [0.0, -1.0]]).T  # rows: critics; the check lists a pair per transition
    learner.target_critic = learner.critic = Fixed(q)
    learner.value = Fixed(torch.tensor([0.5, 0.2]), torch.tensor([0.3, -0.4]))
    batch = make_batch(2)
    batch.obs, batch.next_obs = torch.zeros(2, OBS), torch.ones(2, OBS)
    batch.reward, batch.terminated = torch.tensor([1.0, 0.0]), torch.tensor([False, True])
    losses = learner.losses(batch, ("value", "critic", "actor"))
    assert losses["value"].item() == pytest.approx(0.3035, abs=1e-6)
    assert losses["critic"].item() == pytest.approx(0.3956045, abs=1e-6)
    weights = learner.weights(torch.tensor([0.5, -1.2, 2.0]))
    torch.testing.assert_close(weights, torch.tensor([4.48168907, 0.02732372, 100.0]))
    assert iql().value_loss(torch.zeros(1)).item() == 0
    advantage = torch.zeros(1, requires_grad=True)
    assert learner.value_loss(advantage + 1e-3).item() == pytest.approx(0.7e-6, rel=1e-3)


def test_g17_gaussian_likelihood() -> None:
    actor = GaussianActor(1, 1, [8])
    actor.log_std.data.fill_(0.5).log_()
    actor.body[-1].bias.data.fill_(torch.atanh(torch.tensor(0.1)))
    log_prob = actor.log_prob(torch.zeros(1, 1), torch.full((1, 1), 0.3))
    assert -log_prob.item() == pytest.approx(0.30579135, abs=1e-6)


def test_g18_td3_bc_arithmetic_and_counts() -> None:
    assert noisy_td3_bc().q_scale(torch.tensor([1.0, -2.0, 3.0])).item() == pytest.approx(1.24999994, abs=1e-7)
    agent = make_agent(noisy_td3_bc, num_seeds=2)
    before = {k: v.clone() for k, v in agent.state_dict().items()}
    trainer = fit(agent, [make_batch(2, 8)], 1)
    assert trainer.global_step == 1
    state = trainer.optimizers[0].state
    for name, parameter in agent.learner.named_parameters():
        if name.startswith("target_"):
            online = "learner." + name.removeprefix("target_")
            assert torch.equal(parameter, before[online])
        else:
            assert state[parameter]["step"] == (1 if name.startswith("actor") else 2)


@pytest.mark.parametrize(
    ("obs_dim", "action_dim", "sizes"),
    [
        (11, 3, (69_635, 69_889, 69_638, 139_778, 69_121)),
        (17, 6, (71_942, 72_193, 71_948, 144_386, 70_657)),
        (4, 2, (67_586, 67_841, 67_588, 135_682, 67_329)),
        (45, 24, (83_736, 83_969, 83_760, 167_938, 77_825)),
    ],
)
def test_sizes(obs_dim: int, action_dim: int, sizes: tuple[int, ...]) -> None:
    wide = [256, 256]
    critic = count(TwinQ(obs_dim, action_dim, wide))
    actors = count(DeterministicActor(obs_dim, action_dim, wide)), count(GaussianActor(obs_dim, action_dim, wide))
    assert (actors[0], critic // 2, actors[1], critic, count(StateValue(obs_dim, wide))) == sizes


def test_initial_weights() -> None:
    torch.manual_seed(0)
    for weight in [mlp(64, [512], 1)[0].weight, EnsembleMLP(2, 64, [512]).layers[0].weight]:
        assert weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
        assert weight.abs().max().item() <= 2 * 64**-0.5 / 0.87962566
    assert not mlp(3, [4], 1)[0].bias.any()


# --- actors ---


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.booleans(), st.floats(-3, 1), st.floats(0, 2))
def test_score_is_the_gradient_of_log_prob(seed: int, gaussian: bool, log_std: float, spread: float) -> None:
    torch.manual_seed(seed)
    actor = (GaussianActor if gaussian else DeterministicActor)(OBS, ACTION, [8]).double()
    if gaussian:
        actor.log_std.data.fill_(log_std)
    batch = make_batch(3, 2, seed=seed).to(torch.float64)
    action = batch.action.requires_grad_()
    (gradient,) = torch.autograd.grad(actor.log_prob(batch.obs, action).sum(), action)
    torch.testing.assert_close(actor.score(batch.obs, action), gradient)
    variance = actor.normal(batch.obs)[1] ** 2
    torch.testing.assert_close(actor.score(batch.obs, action, spread), gradient * variance / (variance + spread))


def test_stacked_policy_is_each_seeds_actor() -> None:
    agent, batch = make_agent(iql, num_seeds=3, seed=5), make_batch(3, 6, 4)
    for s in range(3):
        alone = make_agent(iql, seed=5, first=s).policy
        obs, action = batch.obs[s : s + 1], batch.action[s : s + 1]
        for method, args in [("act", ()), ("log_prob", (action,)), ("score", (action, 0.3))]:
            stacked_args = [batch.action if a is action else a for a in args]
            stacked = getattr(agent.policy, method)(batch.obs, *stacked_args)[s : s + 1]
            torch.testing.assert_close(stacked, getattr(alone, method)(obs, *args))
    assert not agent.policy.act(batch.obs).requires_grad


def test_normaliser() -> None:
    obs = 5 + 3 * torch.randn(100, OBS)
    agent, plain = make_agent(bc, normalise_obs=True), make_agent(bc)
    agent.fit_normaliser(obs)
    plain.fit_normaliser(obs)
    seen = (obs - obs.mean(0)) / (obs.std(0, correction=0) + 1e-3)
    torch.testing.assert_close(agent.policy.act(obs[None]), plain.policy.act(seen[None]))
    assert torch.equal(plain.normalised(obs), obs)
    batch = make_batch(1, 8)
    fit(agent, [batch], 1)
    assert torch.equal(batch.obs, make_batch(1, 8).obs)  # the data stay as they were


# --- TorchRL as oracle ---


def torchrl_critics(critic: TwinQ) -> list[TensorDictModule]:
    """Each member of the pair as a plain perceptron of (observation, action)."""

    class Joint(nn.Module):
        def __init__(self, member: int) -> None:
            super().__init__()
            self.body = mlp(OBS + ACTION, HIDDEN, 1)
            for ours, theirs in zip(critic.pair.layers, self.body[::2], strict=True):
                theirs.weight.data.copy_(ours.weight[member].T)
                theirs.bias.data.copy_(ours.bias[member, 0])

        def forward(self, obs: torch.Tensor, action: torch.Tensor) -> torch.Tensor:
            return self.body(torch.cat([obs, action], -1))

    keys = {"in_keys": ["observation", "action"], "out_keys": ["state_action_value"]}
    return [TensorDictModule(Joint(member), **keys) for member in range(2)]


def test_iql_losses_are_torchrls() -> None:
    """TorchRL sums the critic loss over the pair where PGD takes the mean; nothing else differs."""
    torch.manual_seed(1)
    ours, batch = iql(), make_batch(32)
    ours.actor.log_std.data.uniform_(-1, 1)

    class Head(nn.Module):
        def forward(self, obs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return ours.actor.act(obs), ours.actor.log_std.exp().expand(*obs.shape[:-1], ACTION)

    class Column(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = ours.value

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.value(obs).unsqueeze(-1)

    actor = ProbabilisticActor(
        TensorDictModule(Head(), in_keys=["observation"], out_keys=["loc", "scale"]),
        in_keys=["loc", "scale"],
        distribution_class=lambda loc, scale: torch.distributions.Independent(
            torch.distributions.Normal(loc, scale), 1
        ),
    )
    value = TensorDictModule(Column(), in_keys=["observation"], out_keys=["state_value"])
    oracle = IQLLoss(actor, torchrl_critics(ours.critic), value, loss_function="l2", temperature=3.0, expectile=0.7)
    oracle.make_value_estimator(ValueEstimators.TD0, gamma=0.99)
    theirs = oracle(batch.to_torchrl())
    losses = ours.losses(batch, ("value", "critic", "actor"))
    torch.testing.assert_close(losses["value"], theirs["loss_value"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(2 * losses["critic"], theirs["loss_qvalue"], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(losses["actor"], theirs["loss_actor"], rtol=1e-5, atol=1e-5)


def test_td3_bc_losses_are_torchrls() -> None:
    """Equal in all but PGD's 1e-7 under lambda. The noise is the same: both draw it from the global generator."""
    torch.manual_seed(1)
    ours, batch = noisy_td3_bc(), make_batch(32)

    class Act(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = ours.actor.body

        def forward(self, obs: torch.Tensor) -> torch.Tensor:
            return self.body(obs).tanh()

    actor = TensorDictModule(Act(), in_keys=["observation"], out_keys=["action"])
    bounds = (-torch.ones(ACTION), torch.ones(ACTION))
    oracle = TD3BCLoss(actor, torchrl_critics(ours.critic), bounds=bounds, alpha=2.5, loss_function="l2")
    oracle.make_value_estimator(ValueEstimators.TD0, gamma=0.99)
    data: TensorDict = batch.to_torchrl()
    torch.manual_seed(2)
    theirs = {"critic": oracle.qvalue_loss(data)[0], "actor": oracle.actor_loss(data)[0]}
    torch.manual_seed(2)
    for name, loss in ours.losses(batch, ("critic", "actor")).items():
        torch.testing.assert_close(loss, theirs[name], rtol=1e-5, atol=1e-5)


# --- gradients, optimiser, seed axis ---


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("num_seeds", [1, 2])
def test_each_loss_touches_its_own_network_only(name: str, num_seeds: int) -> None:
    agent, batch = make_agent(LEARNERS[name], num_seeds), make_batch(num_seeds, 8)
    for loss_name in agent.learner.phases()[0]:
        agent.zero_grad(set_to_none=True)
        call_stacked(agent.learner, "losses", batch, names=(loss_name,))[loss_name].sum().backward()
        touched = {n for n, p in agent.learner.named_parameters() if p.grad is not None and p.grad.any()}
        assert {n.split(".")[0] for n in touched} == {loss_name}


class Alone(nn.Module):
    """The reference's order: one Adam for each network, stepped in turn on losses of before the step."""

    def __init__(self, learner: Learner) -> None:
        super().__init__()
        self.learner = learner
        names = {name for phase in learner.phases() for name in phase}
        self.adams = {n: torch.optim.Adam(getattr(learner, n).parameters(), lr=1e-3, eps=1e-5) for n in sorted(names)}

    def update(self, batch: Transition) -> None:
        with torch.no_grad():
            for target, online in self.learner.targets():
                for p, q in zip(target.parameters(), online.parameters(), strict=True):
                    p.copy_(0.9 * p + 0.1 * q)
        in_turn = [("actor",), ("critic",), ("critic",)]
        for names in in_turn if isinstance(self.learner, TD3BC) else self.learner.phases():
            losses = self.learner.losses(batch, names)
            gradients = {n: torch.autograd.grad(losses[n], list(getattr(self.learner, n).parameters())) for n in names}
            for name in names:
                for p, gradient in zip(getattr(self.learner, name).parameters(), gradients[name], strict=True):
                    p.grad = gradient
                self.adams[name].step()


@pytest.mark.parametrize("learner", [iql, quiet_td3_bc, quiet_rebrac, bc], ids=["iql", "td3_bc", "rebrac", "bc"])
def test_three_seeds_are_three_runs_of_the_reference_order(learner: partial) -> None:
    """The stack of 3, three runs of one seed, and several Adams in turn: the same weights after 20 updates."""
    batches = [make_batch(3, 16, seed=k) for k in range(20)]
    stack = make_agent(learner, num_seeds=3, seed=7)
    start = {k: v.clone() for k, v in stack.learner.state_dict().items()}
    fit(stack, batches, 20)
    for s in range(3):
        single = make_agent(learner, seed=7, first=s)
        reference = learner()
        reference.load_state_dict({k: v[s] for k, v in start.items()})
        assert same({k: v[s : s + 1] for k, v in start.items()}, dict(single.learner.state_dict()))
        fit(single, [batch[s : s + 1] for batch in batches], 20)
        alone = Alone(reference)
        for batch in batches:
            alone.update(batch[s])
        for name, stacked in stack.learner.state_dict().items():
            torch.testing.assert_close(stacked[s], single.learner.state_dict()[name][0], rtol=1e-4, atol=2e-5)
            torch.testing.assert_close(stacked[s], reference.state_dict()[name], rtol=1e-4, atol=2e-5)
    assert not same(start, dict(stack.learner.state_dict()))


def test_seeds_draw_their_own_noise() -> None:
    agent = make_agent(noisy_td3_bc, num_seeds=2)
    actions = call_stacked(agent.learner, "smoothed_action", torch.zeros(2, 8, OBS))
    assert (actions[0] != actions[1]).all()  # the actors agree at a zero observation: biases start at 0
    assert actions.abs().max() <= 0.5


# --- schedules, alarms, resume ---


def test_schedules() -> None:
    assert [SCHEDULES["constant"](k, 100) for k in (0, 50, 100)] == [1, 1, 1]
    assert [SCHEDULES["cosine"](k, 100) for k in (0, 50, 100)] == pytest.approx([1, 0.5, 0])
    assert [SCHEDULES["exponential"](k, 100) for k in (0, 5, 10, 55, 100)] == pytest.approx(
        [0.1, 0.55, 1, 10**-0.5, 0.1]
    )


def test_the_schedule_advances_once_an_update() -> None:
    trainer = fit(make_agent(noisy_td3_bc, lr_schedule="cosine"), [make_batch(1, 8)] * 10, 10)
    assert trainer.optimizers[0].param_groups[0]["lr"] == pytest.approx(0.5e-3)


def test_a_loss_that_is_not_finite_stops() -> None:
    batches = [make_batch(2, 8) for _ in range(10)]
    batches[9].reward[1, 3] = float("nan")
    with pytest.raises(UserError, match=r"critic loss of agent is nan at step 9 \(learner 1\)"):
        fit(make_agent(iql, num_seeds=2), batches, 10)


@pytest.mark.parametrize("value_alarm", ["stop", "warn"])
@pytest.mark.parametrize(("generated", "way_out"), [(True, "synthetic.synthetic_batch"), (False, "learning_rate")])
def test_value_alarm(value_alarm: str, generated: bool, way_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first update, which shows an untrained critic; its advice fits the run."""
    heard: list[str] = []
    monkeypatch.setattr("pgd_lightning.agents.agent.rank_zero_warn", heard.append)
    agent = make_agent(iql, num_seeds=2, value_alarm=value_alarm, value_alarm_floor=10.0)
    agent.generated = generated
    agent.set_reward_scale(1.0)
    agent.learner.critic.pair.layers[-1].bias.data[1] += 250  # below 3 * 100
    fit(agent, [make_batch(2, 8)] * 5, 5)
    agent.learner.critic.pair.layers[-1].bias.data[1] += 750
    fit(agent, [make_batch(2, 8)], 1)
    assert not heard
    if value_alarm == "stop":
        with pytest.raises(
            UserError, match=r"at step 4 \(learner 1\), but no return of this data exceeds 100 .*" + way_out
        ):
            fit(agent, [make_batch(2, 8)] * 5, 5)
    else:
        fit(agent, [make_batch(2, 8)] * 5, 5)
        assert way_out in heard[0]
        assert generated or "generator=none" not in heard[0]
        fit(agent, [make_batch(2, 8)] * 10, 10)
        assert len(heard) == 1
        agent.learner.critic.pair.layers[-1].bias.data[1] += 2000
        fit(agent, [make_batch(2, 8)] * 5, 5)
        assert len(heard) == 2


@pytest.mark.parametrize("size", [0.0, 1e-4])
def test_value_alarm_of_small_rewards(size: float) -> None:
    """Networks give values without any reward; those that no network starts from are still noticed."""
    agent, batch = make_agent(noisy_td3_bc, value_alarm_floor=10.0), make_batch(1, 8)
    batch.reward *= size
    agent.fit_rewards(batch.reward[0], batch.terminated[0], ~batch.terminated[0])
    fit(agent, [batch] * 20, 20)
    agent.learner.critic.pair.layers[-1].bias.data += 50
    with pytest.raises(UserError, match="the bound is 30"):
        fit(agent, [batch] * 5, 5)


def test_a_clone_has_no_value_to_watch() -> None:
    agent = make_agent(bc)
    agent.set_reward_scale(1.0)
    fit(agent, [make_batch(1, 8)] * 5, 5)
    assert agent.largest_return == float("inf")


def test_the_alarms_bound_is_the_configs_and_no_checkpoints() -> None:
    agent = make_agent(iql)
    older = agent.state_dict() | {"value_limit": torch.tensor(3.0)}
    make_agent(iql).load_state_dict(older)
    assert "value_limit" not in agent.state_dict()


def test_a_constant_observation_is_not_seen() -> None:
    """Nothing is learned of other values than the data's; divided by a tiny deviation they would be all that is seen."""
    obs = 5 + 3 * torch.randn(100, OBS, generator=torch.Generator().manual_seed(0))
    obs[:, 1] = 0.7 + 6e-8 * obs[:, 1].sign()
    agent = make_agent(bc, normalise_obs=True)
    agent.fit_normaliser(obs)
    elsewhere = obs.clone()
    elsewhere[:, 1] = -40
    assert torch.equal(agent.normalised(elsewhere), agent.normalised(obs))
    assert agent.normalised(obs)[:, 0].std() == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", LEARNERS)
def test_resume_is_exact(name: str, tmp_path: Path) -> None:
    """20 updates straight equal 10, a checkpoint, and 10 more, bit by bit."""
    batches = [make_batch(2, 16, seed=k) for k in range(20)]
    make = partial(make_agent, LEARNERS[name], 2, lr_schedule="exponential")
    straight, first, second = make(), make(), make()
    fit(straight, batches, 20)
    path = tmp_path / "last.ckpt"
    fit(first, batches[:10], 10).save_checkpoint(path)
    saved = torch.load(path, weights_only=True)
    assert "hyper_parameters" not in saved
    trainer = fit(second, batches[10:], 20, str(path))
    assert trainer.global_step == 20
    assert same(dict(straight.state_dict()), dict(second.state_dict()))


def test_configs_build_the_agents() -> None:
    for name in LEARNERS:
        agent = build(compose_config("train", [f"agent={name}", "scale=smoke"]).agent)
        assert agent.policy.act(torch.zeros(2, 5, 11)).shape == (2, 5, 3)
        assert agent.name == name


def test_matmul_precision_changes_an_update_by_rounding_and_nothing_else() -> None:
    exact, rounded = make_agent(iql, 2), make_agent(iql, 2, matmul_precision="medium")
    batch = make_batch(2, 64)
    for agent in (exact, rounded):
        fit(agent, [batch] * 5, 5)
    assert torch.get_float32_matmul_precision() == "highest"
    for name, tensor in exact.state_dict().items():
        torch.testing.assert_close(rounded.state_dict()[name], tensor, rtol=0.05, atol=0.01)
