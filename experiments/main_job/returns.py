"""What policies earn in the simulator from recorded states and from an episode's start, beside what their critics say.

    python experiments/main_job/returns.py RUN ... > OUT.json

From each of ``STATES`` recorded states, spread evenly over the recording, and from as many start states of an episode,
the mean action is taken ``STEPS`` times: *earned* is the discounted sum of rewards, *per_step* the mean reward of the
second half of the way, *expected* the critics' value of the first action. *recorded* is the recorded actions' own
return from the same states, where the episode lasts ``STEPS`` more. One value a learner. Where the run generates,
*late* is the mean reward in the last quarter of ``WINDOWS`` windows a learner under the final policy, and that of the
policy itself from the windows' first states on.
"""

import json
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.artifacts.agent_modules import build_agent, load_agent
from pgd_lightning.artifacts.dataset import Dataset, dataset_of
from pgd_lightning.artifacts.generators import generator_of
from pgd_lightning.config.saved import settings_of
from pgd_lightning.evaluation.late_rewards import late_rewards
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.simulators import make, one_step

STATES, STEPS, WINDOWS, SEED = 200, 500, 128, 7


@torch.no_grad()
def measured(folder: str) -> dict[str, Any]:
    run = finished_agent(folder)
    settings = settings_of(run)
    dataset = dataset_of(run, settings, settings.data.source)
    module = build_agent(settings, dataset)
    load_agent(module, run)
    simulator = make(dataset.env.task, dataset.env.physics)
    rows = torch.linspace(0, len(dataset.transitions) - 1, STATES).long()
    starts = {
        "recorded states": dataset.transitions[rows].obs.double().numpy(),
        "episode starts": np.stack([simulator.reset(seed) for seed in range(STATES)]),
    }
    found: dict[str, Any] = {
        "env": settings.env.name, "run": run.folder.parent.name, "seed": settings.seed, "discount": module.discount,
        "num_windows": settings.synthetic.num_windows, "q_weight": settings.agent.learner.get("q_weight"),
    }  # fmt: skip
    for name, obs in starts.items():
        discount = module.learner.discount
        states = torch.as_tensor(obs, dtype=torch.float32).expand(module.num_seeds, *obs.shape)
        expected = module.value(states, module.policy.act(states))
        rewards = np.stack([rolled(simulator, module, obs, k) for k in range(module.num_seeds)])  # [S, STEPS, N]
        seen = module.seen_reward(torch.as_tensor(rewards)).numpy()
        earned = np.einsum("stn,t->sn", seen, discount ** np.arange(STEPS))
        found[name] = {
            "expected": expected.double().mean(-1).numpy().round(1).tolist(),
            "earned": earned.mean(-1).round(1).tolist(),
            "per_step": rewards[:, STEPS // 2 :].mean((1, 2)).round(2).tolist(),
        }
    found["recorded states"]["recorded"] = recorded_return(dataset, rows, module)
    generator = generator_of(run, settings, dataset)
    if generator is not None:
        first = torch.zeros(module.num_seeds, WINDOWS, dataset.env.obs_dim)
        windows = generator.generate(module.policy, first, SEED)
        late = late_rewards(simulator, windows, module.policy, windows.numel(), SEED)
        found["late"] = late and [round(value, 2) for value in late]
    return found


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


def recorded_return(dataset: Dataset, numbers: torch.Tensor, module: Any) -> float | None:
    """Mean discounted return of recorded rewards from steps ``numbers`` on, where the episode lasts ``STEPS`` more."""
    steps, recording = dataset.transitions, dataset.recording
    rows = numbers if steps.rows is None else steps.rows[numbers]
    kept = rows[recording.ends[torch.searchsorted(recording.ends, rows)] - rows >= STEPS]
    rewards = module.seen_reward(recording.reward[kept[:, None] + torch.arange(STEPS)]).double().numpy()
    return round(float((rewards @ module.discount ** np.arange(STEPS)).mean()), 1) if len(kept) else None


if __name__ == "__main__":
    print("[\n" + ",\n".join(json.dumps(measured(folder)) for folder in sys.argv[1:]) + "\n]")
