"""Episodes beside what critics expect of them."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from small_runs import agent

from pgd_lightning.data.environments import environment
from pgd_lightning.evaluation.ledgers import beside_the_critics, expectation
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.randomness import derive_seed
from pgd_lightning.report.summary import critics
from pgd_lightning.simulators import make

ENV = environment("hopper-medium", physics="today")


class Folding:
    """Two policies: one folds the hopper up, one does nothing; and their critic, who sees 2 r + 1."""

    device, discount = torch.device("cpu"), 0.9

    def act(self, obs):
        return torch.tensor([1.0, 0.0])[:, None, None].expand(*obs.shape[:-1], 3)

    def value(self, obs, action):
        return obs[..., 0] + action.sum(-1)

    def seen_reward(self, reward):
        return 2 * reward + 1


def test_what_is_earned_is_the_discounted_return_of_the_rewards_that_the_critics_see():
    both = Folding()
    found = rollout(ENV, both, 2, 3, seed=5, critic=both)
    simulator = make(ENV.task, ENV.physics)
    for learner, action in enumerate((np.ones(3), np.zeros(3))):
        for episode in range(3):
            start, earned, terminated = simulator.reset(derive_seed(5, "episode", episode)), 0.0, False
            for step in range(ENV.limit):
                if not terminated:
                    _, reward, terminated = simulator.step(action)
                    earned += 0.9**step * (2 * reward + 1)
            assert found.earned[learner, episode] == pytest.approx(earned, rel=1e-4)
            assert found.expected[learner, episode] == pytest.approx(start[0] + action.sum(), rel=1e-6)
    rows = found.ledger(ENV, 7, "final")
    assert rows[4]["earned"] == found.earned[1, 1]
    assert beside_the_critics(rows) == pytest.approx((found.expected.mean(), found.earned.mean()))


def test_nothing_is_compared_where_the_time_limit_cuts_too_much_off_or_there_is_no_critic():
    both, short = Folding(), replace(ENV, max_episode_steps=21)  # 0.9 ** 21 is 0.11
    for found in (rollout(short, both, 2, 3, seed=5, critic=both), rollout(short, both, 2, 3, seed=5)):
        rows = found.ledger(ENV, 7, "final")
        assert "expected" not in rows[0]
        assert beside_the_critics(rows) is None
    assert rollout(replace(short, max_episode_steps=22), both, 2, 3, seed=5, critic=both).earned is not None


@pytest.mark.parametrize("name", ["iql", "td3_bc", "diffusion_dice"])
def test_an_agent_with_critics_expects_the_mean_of_their_values(name):
    module, _ = agent(f"agent={name}", "generator=none")
    obs, action = torch.randn(2, 5, 11), torch.rand(2, 5, 3) * 2 - 1
    each = torch.stack([
        torch.func.functional_call(
            module.learner.critic, {name[7:]: value[seed] for name, value in module.learner.state_dict().items()
                                    if name.startswith("critic.")}, (module.normalised(obs)[seed], action[seed])
        ).mean(0)
        for seed in range(2)
    ])  # fmt: skip
    assert module.critic.discount == module.learner.discount
    torch.testing.assert_close(module.critic.value(obs, action), each)


@pytest.mark.parametrize("name", ["bc", "rebrac"])
def test_who_has_no_critics_or_penalises_what_they_say_expects_nothing(name):
    assert agent(f"agent={name}", "generator=none")[0].critic is None


def test_critics_without_a_penalty_expect_a_return():
    assert agent("agent=rebrac", "generator=none", "agent.learner.critic_penalty=0")[0].critic is not None


def test_expectations_are_said():
    said = "the critics expect a discounted return of 1,350.4 from an episode's start; 93.4 is earned"
    assert expectation((1350.4, 93.4)) == said
    assert critics({"critics": {"pgd": [1350.4, 93.4]}}) == [f"Guided data: {said}."]
    assert critics({}) == []
