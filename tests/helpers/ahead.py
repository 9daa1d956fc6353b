"""What a process asks another for, where the test starts both."""

import time

import torch

from pgd_lightning.agents.agent import Agent
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config


class Slow:
    """A generator that is not done for a long time."""

    def generate(self, policy, starts, seed):
        time.sleep(600)


def small_agent() -> Agent:
    agent = build(compose_config("train", ["env=maze2d-umaze", "scale=smoke"]).agent)
    agent.fit_normaliser(torch.randn(50, 4))
    return agent
