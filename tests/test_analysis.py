"""The rows of an analysis: densities and distances in closed form, the simulator's floor, and rows that are wrong."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pgd_lightning.agents.online_policy import OnlinePolicy
from pgd_lightning.commands import analyse
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.analysis import Analyst, BehaviourDensity, Coverage, bootstrap
from pgd_lightning.evaluation.fidelity import (
    DataDistance,
    ends_judged,
    open_loop_errors,
    step_errors,
    transition_errors,
)
from pgd_lightning.evaluation.health import health_line, health_summary
from pgd_lightning.evaluation.late_rewards import late_rewards
from pgd_lightning.report.analysis_figure import analysis_figure
from pgd_lightning.report.analysis_table import table
from pgd_lightning.simulators import make
from pgd_lightning.simulators.substitutes.policies import Ladder
from pgd_lightning.trajectory import Trajectory, Transition


def gaussian_steps(num, seed=0, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    obs = torch.randn(num, 3, generator=generator) * torch.tensor([1.0, 5.0, 0.0]) + shift
    return Transition(
        obs=obs, action=torch.randn(num, 2, generator=generator).clamp(-3, 3) / 3, reward=torch.zeros(num),
        next_obs=obs, terminated=torch.zeros(num, dtype=torch.bool), batch_size=[num],
    )  # fmt: skip


def recorded(task, num, horizon=8):
    """``[num, horizon]`` windows of the medium policy, straight from the simulator, in float64."""
    simulator = make(task, "today")
    policy = OnlinePolicy(Ladder.load(task).policies[-1])
    rows = []
    for window in range(num):
        obs = simulator.reset(window)
        for _ in range(horizon):
            action = policy.act(torch.as_tensor(obs, dtype=torch.float32)).double().numpy()
            next_obs, reward, terminated = simulator.step(action)
            rows.append((obs, action, reward, terminated))
            obs = next_obs
    columns = [torch.as_tensor(np.array(c)).unflatten(0, (num, horizon)) for c in zip(*rows, strict=True)]
    return Trajectory(
        obs=columns[0], action=columns[1], reward=columns[2], terminated=columns[3], batch_size=[num, horizon]
    ), simulator


def test_behaviour_density_of_a_gaussian():
    """One component on independent normals: its mean log density is the negative entropy, in standard deviations."""
    density = BehaviourDensity(gaussian_steps(4000), components=1, max_rows=4000, seed=0)
    assert not density.varies[2]
    assert density.held_out == pytest.approx(-4 * 0.5 * math.log(2 * math.pi * math.e), abs=0.25)  # 400 rows: 0.07
    far = density(gaussian_steps(100, shift=3.0)).mean()
    assert far < density.held_out - 3


def test_coverage_of_copies_strangers_and_collapse():
    real = gaussian_steps(500)
    coverage = Coverage(real, 500, 0)
    copies = coverage(real[:200])
    assert copies["data_distance"] == pytest.approx(0, abs=1e-6)
    assert copies["outside_box"] == 0
    strangers = coverage(gaussian_steps(200, seed=1, shift=50.0))
    assert strangers["outside_box"] == 1
    bold = real[:200].clone()
    bold.action.fill_(1.0)  # a clipped Gaussian's, at states of the data
    assert coverage(bold)["outside_box"] == 0
    assert strangers["data_distance"] > 5
    collapsed = coverage(real[:1].expand(200).clone())
    assert collapsed["sample_distance"] == pytest.approx(0, abs=1e-6)
    assert collapsed["coverage"] > copies["coverage"]


@pytest.mark.parametrize("task", ["hopper", "walker2d"])
def test_real_windows_are_at_the_floor_and_a_shifted_successor_is_caught(task):
    windows, simulator = recorded(task, 30)
    std = windows.obs.flatten(0, 1).std(0)
    analyst = Analyst(
        simulator, std, BehaviourDensity(windows.transitions(), 2, 200, 0), Coverage(windows.transitions(), 200, 0),
        max_rows=150, seed=0,
    )  # fmt: skip
    policy = OnlinePolicy(Ladder.load(task).policies[-1])
    single = windows.apply(lambda t: t.float() if t.is_floating_point() else t)
    row = analyst.row(single.unsqueeze(0), policy)
    assert row["dynamics_error_median"] < 1e-10
    assert row["reward_error"] < 1e-3
    assert row["starts_after_end"] == 0
    assert (row["false_terminals"], row["missed_terminals"]) == (0, 0)
    assert row["others_checked"] == row["rows_stepped"] > 50
    assert row["terminal_agreement"] is None  # there is no terminal to agree on
    assert row["return_real"] == pytest.approx(row["return_generated"], rel=1e-3)
    assert row["reset"] == "exact"
    assert row["late_reward"] > 0.3 and row["late_reward_policy"] > 0.3
    assert len(row["by_position"]) == 7
    steps = single.obs[:, :-1]
    assert row["log_likelihood"] == pytest.approx(  # every action is the mean: the density's height
        float(policy.log_prob(steps.unsqueeze(0), policy.act(steps.unsqueeze(0))).mean()), rel=1e-3
    )
    shifted = single.clone()
    shifted.obs = torch.cat([single.obs[:, 1:], single.obs[:, :1]], dim=1)
    assert analyst.row(shifted.unsqueeze(0), policy)["dynamics_error_median"] > 1e-3


def test_windows_that_are_not_finite_are_counted_out():
    windows, simulator = recorded("hopper", 6)
    windows = windows.apply(lambda t: t.float() if t.is_floating_point() else t)
    windows.obs[2, 3, 0] = torch.nan
    steps = windows[:2].transitions()
    analyst = Analyst(simulator, torch.ones(11), BehaviourDensity(steps, 1, 100, 0), Coverage(steps, 100, 0), 50, 0)
    policy = OnlinePolicy(Ladder.load("hopper").policies[0])
    assert analyst.row(windows.unsqueeze(0), policy)["finite"] == pytest.approx(5 / 6)
    windows.obs[:] = torch.nan
    assert analyst.row(windows.unsqueeze(0), policy) == {"windows": 0, "finite": 0.0}


def test_rows_that_hide_their_state_are_all_used_and_labelled():
    """Walker2d rows at the velocity clip: were none exact, the approximate reset of all counts."""
    windows, simulator = recorded("walker2d", 3)
    steps = windows.transitions()
    steps.obs[:, -1] = 10.0
    errors = transition_errors(simulator, steps, torch.ones(17))
    assert errors.approximate
    assert len(errors.dynamics) == len(steps)
    steps.obs[0, -1] = 1.0
    mixed = transition_errors(simulator, steps, torch.ones(17))
    assert not mixed.approximate
    assert (len(mixed.dynamics), mixed.skipped) == (1, len(steps) - 1)


def fallen(task="hopper", seed=0):
    """Windows of random actions until the body falls, with the simulator's flags: ``[N, 2]``, each row a step."""
    simulator, rng, rows = make(task, "today"), np.random.default_rng(seed), []
    for start in range(6):
        obs, ended = simulator.reset(start), False
        while not ended:
            action = rng.uniform(-1, 1, simulator.action_dim)
            after, reward, ended = simulator.step(action)
            rows += [(obs, action, reward, ended), (after, np.zeros_like(action), 0.0, False)]
            obs = after
    columns = [torch.as_tensor(np.array(c)).unflatten(0, (-1, 2)) for c in zip(*rows, strict=True)]
    return Trajectory(
        obs=columns[0].float(), action=columns[1].float(), reward=columns[2].float(), terminated=columns[3],
        batch_size=columns[2].shape,
    ), simulator  # fmt: skip


def judged(simulator, windows, max_rows=10_000):
    errors = step_errors(simulator, windows, torch.ones(windows.obs.shape[-1]), max_rows, 0)
    return ends_judged(simulator, windows, errors, max_rows, 0)


@pytest.mark.parametrize("max_rows", [10_000, 40])
@pytest.mark.parametrize("task", ["hopper", "walker2d"])
def test_ends_of_real_steps_are_the_simulators(task, max_rows):
    """Also where single steps stand as windows of two rows, whose second is none: the state after an end starts none."""
    windows, simulator = fallen(task)
    found = judged(simulator, windows, max_rows)
    assert found["starts_after_end"] == 0
    assert found["terminal_agreement"] == 1
    assert (found["false_terminals"], found["missed_terminals"]) == (0, 0)
    assert 1 <= found["terminals_checked"] <= 6  # walker2d's velocities are often clipped when it falls


def test_an_open_loop_follows_the_simulator_to_the_end_of_the_episode():
    """Recorded windows that fall: no error until then; a state moved by two deviations errs by four over the dims."""
    windows, simulator = fallen()
    std = torch.full(windows.obs.shape[-1:], 0.5)
    errors = open_loop_errors(simulator, windows, std)
    ended = windows.terminated.int().cumsum(-1) - windows.terminated.int() > 0
    assert np.array_equal(np.isnan(errors), ended.numpy())
    assert np.nanmax(errors) < 1e-8
    moved = windows.clone()
    moved.obs[:, 1, 0] += 1
    errors = open_loop_errors(simulator, moved, std)[~ended[:, 1].numpy(), 1]
    assert errors == pytest.approx(4 / windows.obs.shape[-1], rel=1e-4)


class Acting:
    """S learners that take ``action``, moved by ``spread`` times the noise."""

    device = torch.device("cpu")

    def __init__(self, action, spread=0.0):
        self.action, self.spread, self.noises = action, spread, []

    def draw(self, obs, noise):
        self.noises.append(noise)
        return self.action(obs) + self.spread * noise


def test_windows_of_the_policy_itself_pay_what_it_earns():
    windows, simulator = recorded("halfcheetah", 12, horizon=9)
    policy = OnlinePolicy(Ladder.load("halfcheetah").policies[-1])
    target, two = Acting(policy.act), windows.reshape(2, 6, 9)
    of_all = two.reward[..., 6:8].mean().item()
    assert late_rewards(simulator, two, target, 2 * 6 * 8, seed=0) == pytest.approx((of_all, of_all), rel=1e-3)
    paid, earned = late_rewards(simulator, two, target, 2 * 5 * 8, seed=0)
    assert target.noises[-1].shape == (2, 5, 6)  # of each learner's windows five
    assert paid == pytest.approx(earned, rel=1e-3)
    better = two.clone()
    better.reward[..., 6:] += 1
    paid, earned = late_rewards(simulator, better, target, 80, seed=0)
    assert paid - earned == pytest.approx(1, rel=1e-2)


def test_windows_that_are_followed_are_drawn_among_all():
    """Of windows in the order of a recording the first would be those of its first policies."""
    windows, simulator = recorded("hopper", 2, horizon=9)
    many = torch.cat([windows[:1]] * 60)
    many.reward[:] = torch.arange(60.0)[:, None]
    still = Acting(lambda obs: 0 * obs[..., :3])
    found = [late_rewards(simulator, many[None], still, 20 * 8, seed)[0] for seed in range(5)]
    assert np.mean(found) == pytest.approx(29.5, abs=8)
    assert len(set(found)) == 5


def test_a_stochastic_policy_draws_anew_at_each_step_and_repeats_by_the_seed():
    windows, simulator = recorded("halfcheetah", 4, horizon=9)
    runs = [Acting(lambda obs: 0 * obs[..., :6], spread=0.5) for _ in range(3)]
    found = [late_rewards(simulator, windows[None], run, 100, seed) for run, seed in zip(runs, (0, 0, 1), strict=True)]
    assert found[0] == found[1] != found[2]
    first = runs[0].noises
    assert len(first) == 8 and not torch.equal(first[0], first[1])


def test_neither_earns_after_its_end():
    """A hopper that folds up falls, and windows that do not show it pay on."""
    simulator = make("hopper", "today")
    start = torch.as_tensor(simulator.reset(0))
    rewards, terminated = [], False
    while not terminated:
        _, reward, terminated = simulator.step(np.ones(3))
        rewards.append(reward)
    assert len(rewards) < 90
    windows = Trajectory(
        obs=start.expand(1, 4, 121, 11).clone(), action=torch.zeros(1, 4, 121, 3), reward=torch.ones(1, 4, 121),
        terminated=torch.zeros(1, 4, 121, dtype=torch.bool), batch_size=[1, 4, 121],
    )  # fmt: skip
    windows.obs[0, 1, 5] = torch.nan  # left out
    windows.reward[0, 2, 7] = torch.nan
    folding = Acting(lambda obs: 0 * obs[..., :3] + 1)
    assert late_rewards(simulator, windows, folding, 4 * 120, seed=0) == (1, 0)
    windows.terminated[..., 99] = True
    assert late_rewards(simulator, windows, folding, 4 * 120, seed=0) == (pytest.approx(10 / 30), 0)
    short = windows[..., : len(rewards) + 1]
    last = len(rewards) // 4
    paid, earned = late_rewards(simulator, short, folding, 4 * 120, seed=0)
    assert (paid, earned) == (1, pytest.approx(np.mean(rewards[-last:]), abs=0.1))


def test_nobody_is_followed_where_no_state_can_be_set_or_windows_lead_nowhere():
    windows, simulator = recorded("hopper", 2)
    still = Acting(lambda obs: 0 * obs[..., :3])
    nothing = windows.clone()
    nothing.action[:, 3] = torch.nan
    assert late_rewards(simulator, nothing[None], still, 100, seed=0) is None
    assert late_rewards(simulator, windows[None, :, :4], still, 100, seed=0) is None
    assert late_rewards(SimpleNamespace(unresettable="it hides"), windows[None], still, 100, seed=0) is None
    clipped = windows.clone()
    clipped.obs[:, 0, -1] = 10
    assert late_rewards(simulator, clipped[None], still, 100, seed=0) is None
    clipped[0] = windows[0]
    alone, one = (late_rewards(simulator, some[None], still, 100, seed=0) for some in (windows[:1], clipped))
    assert one == pytest.approx(alone)


def test_missed_and_false_terminals_and_starts_after_the_end_are_counted():
    windows, simulator = fallen()
    number = len(windows)
    missed = windows.clone()
    missed.terminated[:] = False
    found = judged(simulator, missed)
    assert (found["missed_terminals"], found["terminals_checked"]) == (6, 0)
    assert found["terminal_agreement"] == pytest.approx(1 - 6 / found["others_checked"])
    false = windows[~windows.terminated.any(-1)]
    false.terminated[:10, 0] = True
    found = judged(simulator, false)
    assert (found["false_terminals"], found["terminals_checked"], found["missed_terminals"]) == (10, 10, 0)
    assert found["terminal_agreement"] == pytest.approx(1 - 10 / (number - 6))
    late = windows.clone()  # going on where each episode has ended
    ended = windows[windows.terminated.any(-1)].obs[:, 1]
    late.obs[:30, 0] = ended.repeat(5, 1)
    found = judged(simulator, late)
    assert found["starts_after_end"] == pytest.approx(30 / number)
    few = judged(simulator, late, max_rows=number // 2)
    assert few["starts_after_end"] == pytest.approx(30 / number, abs=0.08)


def test_nothing_is_said_of_ends_where_there_is_nothing_to_compare():
    nothing = {"starts_after_end": None, "terminal_agreement": None}
    windows, simulator = recorded("halfcheetah", 2)  # it cannot end
    found = judged(simulator, windows)
    assert {key: found[key] for key in nothing} == nothing
    windows.terminated[0, 3] = True
    found = judged(simulator, windows)
    assert (found["starts_after_end"], found["false_terminals"]) == (None, 1)
    assert found["terminal_agreement"] == pytest.approx(13 / 14)
    simulator = make("antmaze-umaze", "today")  # whose goal no observation shows
    obs = torch.as_tensor(simulator.reset(0)).expand(2, 3, -1)
    windows = Trajectory(
        obs=obs, action=torch.zeros(2, 3, 8), reward=torch.zeros(2, 3), terminated=torch.ones(2, 3, dtype=torch.bool),
        batch_size=[2, 3],
    )  # fmt: skip
    assert set(judged(simulator, windows).values()) == {None}


def test_a_set_of_terminals_or_of_no_finite_window_has_a_health_summary():
    """What there is nothing to measure of is left out of the summary and of the line."""
    windows, simulator = fallen()
    std, policy = torch.ones(11), OnlinePolicy(Ladder.load("hopper").policies[0])
    distance = DataDistance(windows.transitions(), 100, 0)
    ends = windows[windows.terminated.any(-1)][None]
    summary = health_summary(ends, policy, policy, simulator, std, distance, 50, 0)
    assert (summary["dynamics_error"], summary["terminals"], summary["terminal_agreement"]) == (None, 0.5, 1)
    assert "one-step error" not in health_line(summary)
    assert "terminals" not in health_line(summary)  # none of 6 is wrong
    assert "does not terminate at 2 of 6 terminals" in health_line(summary | {"false_terminals": 2})
    ends.obs[:] = torch.nan
    summary = health_summary(ends, policy, policy, simulator, std, distance, 50, 0)
    assert summary["finite"] == 0
    assert health_line(summary).endswith("0.0% of windows are finite")


def test_a_set_of_terminals_alone_has_a_row_and_a_picture(tmp_path):
    """No row of it goes on, so there is no error to show; its starts and ends are judged all the same."""
    windows, simulator = fallen()
    ends = windows[windows.terminated.any(-1)]
    steps = windows.transitions()
    analyst = Analyst(simulator, torch.ones(11), BehaviourDensity(steps, 1, 100, 0), Coverage(steps, 100, 0), 50, 0)
    found = analyst.row(ends[None], OnlinePolicy(Ladder.load("hopper").policies[0]))
    assert (found["dynamics_error_median"], found["dynamics_error_interval"], found["reward_error"]) == (None,) * 3
    row = {
        "target": "runs/agent/hopper-medium/a",
        "generator": "pgd",
        "guidance_coef": 0.0,
        "label": "pgd x 0",
        **found,
    }
    text = table([row], "a title", analyst, None)
    assert "no row to step" in text
    assert f"0 of {found['terminals_checked']}" in text
    assert "…um/a" not in text
    assert "…r-medium/a" in text
    assert analysis_figure([row], "a title", tmp_path / "a.png").stat().st_size > 1000
    some = row | {"dynamics_error_median": 0.1, "dynamics_error_interval": [0.1, 0.1], "by_position": [0.1, 0.1]}
    assert analysis_figure([some], "guidance of strength 0 alone", tmp_path / "b.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (["analysis.generators=[none]"], "makes no windows"),
        (["analysis.targets=[ppo:x]"], "the ladder of hopper has .* stages"),
        (["analysis.targets=[ppo:-1]"], "the ladder of hopper has .* stages"),
        (["analysis.targets=ppo:99"], "the ladder of hopper has .* stages"),
        (["analysis.targets=[ppo]", "env=maze2d-umaze"], "PPO policies of .*hopper.* and none of maze2d-umaze"),
        (["analysis.targets=[behaviour,runs/no/run]"], "There is no run in"),
        (["analysis.density_rows=2"], "at least 10"),
    ],
)
def test_what_an_analysis_cannot_do_is_said_before_anything_is_trained(settings, sentence, monkeypatch):
    monkeypatch.setattr(analyse, "open_dataset", lambda config: pytest.fail("began"))
    with pytest.raises(UserError, match=sentence):
        analyse.main(compose_config("analyse", ["env=hopper-medium", *settings]), [])


def test_distances_and_errors_of_constants_are_in_the_environments_units():
    """The population's standard deviation of a constant comes out as rounding: no unit to divide by."""
    steps = gaussian_steps(200)
    steps.obs[:, 2] = 0.7 + 6e-8 * torch.randn(200, generator=torch.Generator().manual_seed(0))
    distance = DataDistance(steps, 200, 0)
    moved = steps[:50].clone()
    moved.obs[:, 2] += 0.3
    assert np.median(distance(moved)) == pytest.approx(0.3, abs=1e-3)
    assert not BehaviourDensity(steps, 1, 200, 0).varies[2]


def test_bootstrap_interval_holds_the_mean_of_normals():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    low, high = bootstrap(values, np.mean, 0)
    assert low < values.mean() < high
    assert high - low == pytest.approx(2 * 1.96 / 20, rel=0.15)


def test_online_policy_score_is_the_gradient_of_its_density():
    policy = OnlinePolicy(Ladder.load("hopper").policies[-1])
    obs = torch.randn(1, 7, 11)
    action = torch.rand(1, 7, 3).mul(2).sub(1).requires_grad_()
    (gradient,) = torch.autograd.grad(policy.log_prob(obs, action).sum(), action)
    torch.testing.assert_close(policy.score(obs, action.detach()), gradient, rtol=1e-4, atol=1e-4)
