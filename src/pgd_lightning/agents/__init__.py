"""Agents turn transitions into a policy: an algorithm is a :class:`Learner`, its training an :class:`Agent`."""

from pgd_lightning.agents.agent import Agent
from pgd_lightning.agents.learner import Learner

__all__ = ["Agent", "Learner"]
