"""Policies from Python: a run folder, a trained agent, or anything that acts."""

from pathlib import Path
from typing import Any

import torch

from pgd_lightning.agents.adapters import as_policy
from pgd_lightning.agents.policy import StackedPolicy
from pgd_lightning.artifacts.agent_modules import trained_for
from pgd_lightning.commands.api_data import Data
from pgd_lightning.config.saved import settings_of
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import seeded
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.trajectory import Policy


def as_target(policy: Any, data: Data) -> Policy:
    """``policy`` as a target of guidance for ``data``; a run folder stands for its trained agent.

    Raises UserError for something that cannot act, and for an agent of another environment.
    """
    if isinstance(policy, str | Path):
        run = finished_agent(str(policy))
        return trained_for(data.env, run, settings_of(run)).policy
    box = data.env.box
    bounds = () if box is None else (torch.tensor(box.low), torch.tensor(box.high))
    target = as_policy(policy, data.env.action_dim, *bounds)
    if isinstance(target, StackedPolicy):
        _require_same_dims(target, data.env)
    return target


def _require_same_dims(policy: StackedPolicy, env: EnvSpec) -> None:
    """Raises UserError where an agent of ours observes or does something else than ``env``."""
    obs = torch.zeros(policy.num_seeds, 1, env.obs_dim, device=policy.device)
    try:
        with seeded(0, "act"):  # some policies draw
            fits = policy.act(obs).shape[-1] == env.action_dim
    except RuntimeError:  # torch's word for matrices that do not match
        fits = False
    if not fits:
        raise UserError(
            f"The agent does not belong to these data: in {env.name} there are {env.obs_dim} observed values and "
            f"{env.action_dim} values of an action. Give the policy of an agent that was trained there."
        )


def seed_axes(target: Policy | None) -> tuple[int, ...]:
    """The leading axes of windows for ``target``: ``(S,)`` for an agent of ours, none for another policy."""
    return (target.num_seeds,) if isinstance(target, StackedPolicy) else ()
