"""What policies earn in the simulator from recorded states and from an episode's start, beside what their critics say.

    python experiments/main_job/returns.py RUN ... > OUT.json

From each of ``STATES`` recorded states, spread evenly over the recording, and from as many start states of an episode,
the mean action is taken ``STEPS`` times: *earned* is the discounted sum of rewards, *per_step* the mean reward of the
second half of the way, *said* the critic's value of the first action. The recorded actions' own return from the same
states, as far as the recording goes on for ``STEPS``, stands as *recorded*. One value a learner.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.agents.seeds import call_stacked
from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.dataset import Dataset, dataset_of
from pgd_lightning.config.saved import settings_of
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.simulators import make, one_step
from pgd_lightning.trajectory import Transition

STATES, STEPS = 200, 500


@torch.no_grad()
def measured(folder: str) -> dict[str, Any]:
    run = finished_agent(folder)
    settings = settings_of(run)
    dataset = dataset_of(run, settings, settings.data.source)
    module = trained_agent(run, settings)
    module.set_reward_scale(0.0)
    simulator = make(dataset.env.task, dataset.env.physics)
    rows = torch.linspace(0, len(dataset.transitions) - 1, STATES).long()
    starts = {
        "recorded states": dataset.transitions[rows].obs.double().numpy(),
        "episode starts": np.stack([simulator.reset(seed) for seed in range(STATES)]),
    }
    found: dict[str, Any] = {"run": run.folder.parent.name, "discount": module.learner.discount}
    for name, obs in starts.items():
        discount, said = module.learner.discount, critic_says(module, obs)
        rewards = np.stack([rolled(simulator, module, obs, k) for k in range(module.num_seeds)])  # [S, STEPS, N]
        earned = np.einsum("stn,t->sn", rewards, discount ** np.arange(STEPS))
        found[name] = {
            "said": said.mean(-1).round(1).tolist(),
            "earned": earned.mean(-1).round(1).tolist(),
            "per_step": rewards[:, STEPS // 2 :].mean((1, 2)).round(2).tolist(),
        }
    found["recorded states"]["recorded"] = round(recorded_return(dataset, rows, module.learner.discount), 1)
    return found


def critic_says(module: Any, obs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The critic's value ``[S, N]`` of the policy's action in ``obs [N, O]``."""
    states = torch.as_tensor(obs, dtype=torch.float32).expand(module.num_seeds, *obs.shape)
    zeros = torch.zeros(states.shape[:-1])
    batch = Transition(
        obs=module.normalised(states), action=module.policy.act(states), reward=zeros, next_obs=states,
        terminated=zeros.bool(), batch_size=states.shape[:-1],
    )  # fmt: skip
    values: NDArray[np.float64] = call_stacked(module.learner, "values", batch).double().numpy()
    return values


def rolled(simulator: Any, module: Any, obs: NDArray[np.float64], learner: int) -> NDArray[np.float64]:
    """Rewards ``[STEPS, N]`` of the mean actions of ``learner`` from ``obs [N, O]``; 0 after an end."""
    rewards, running = [], np.ones(len(obs), dtype=bool)
    for _ in range(STEPS):
        states = torch.as_tensor(obs, dtype=torch.float32).expand(module.num_seeds, *obs.shape)
        action = module.policy.act(states)[learner].double().numpy()
        obs, reward, terminated, _, _ = one_step(simulator, obs, action)
        rewards.append(np.where(running, reward, 0.0))
        running &= ~terminated
    return np.stack(rewards)


def recorded_return(dataset: Dataset, rows: torch.Tensor, discount: float) -> float:
    """Mean discounted sum of the recorded rewards after ``rows``, where the episode lasts ``STEPS`` more."""
    recording = dataset.recording
    ends = recording.ends
    last = ends[torch.searchsorted(ends, rows)]
    kept = rows[last - rows >= STEPS]
    rewards = recording.reward[kept[:, None] + torch.arange(STEPS)].double().numpy()
    return float((rewards @ discount ** np.arange(STEPS)).mean())


if __name__ == "__main__":
    print("[\n" + ",\n".join(json.dumps(measured(folder)) for folder in sys.argv[1:]) + "\n]")
