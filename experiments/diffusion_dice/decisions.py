"""Guide only, select only, guide then select, and several K, of one finished agent: no training, only other decisions.

    python experiments/diffusion_dice/decisions.py RUN EPISODES OUT.json

RUN is the folder of a finished ``agent=diffusion_dice`` run; every row uses the same start states. Also measured: how
wrong the selecting critic is about actions by their distance from the data, as its spread over members.
"""

import json
import sys
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pgd_lightning.agents.seeds import call_stacked
from pgd_lightning.artifacts.agent_modules import build_agent, load_agent
from pgd_lightning.artifacts.dataset import Dataset, open_dataset
from pgd_lightning.config.saved import settings_of
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.runs.run import finished_agent

SEED = 2026
DECISIONS = {  # name: (K, s relative to the run's scale, selection)
    "behaviour alone": (1, 0.0, "max"),
    "guide only": (1, 1.0, "max"),
    "select only, K = 4": (4, 0.0, "max"),
    "guide then select, K = 4": (4, 1.0, "max"),
    "guide then select, K = 16": (16, 1.0, "max"),
    "guide then softmax, K = 4": (4, 1.0, "softmax"),
}
DISTANCES = (0.0, 0.1, 0.3, 1.0)


@torch.no_grad()
def critic_by_distance(agent: Any, dataset: Dataset) -> dict[str, dict[str, float]]:
    """Mean value and spread over the ensemble's members of data actions moved by noise of each size."""
    torch.manual_seed(SEED)
    steps = dataset.transitions[torch.randint(len(dataset.transitions), (2000,))]
    obs: Tensor = agent.normalised(steps.obs).expand(agent.num_seeds, -1, -1)
    rows = {}
    for size in DISTANCES:
        action = (steps.action + size * torch.randn_like(steps.action)).clamp(-1, 1).expand(agent.num_seeds, -1, -1)
        values = call_stacked(agent.learner, "ensemble", obs, action)  # [S, members, B]
        rows[str(size)] = {"value": values.mean().item(), "spread": values.std(1).mean().item()}
    return rows


def main(folder: str, episodes: str, out: str) -> None:
    run = finished_agent(folder)
    settings = settings_of(run)
    dataset = open_dataset(settings)
    agent = build_agent(settings, dataset)
    load_agent(agent, run)
    learner: Any = agent.learner
    scale = settings.agent.learner.guidance_scale
    table = {}
    for name, (candidates, share, selection) in DECISIONS.items():
        learner.num_candidates, learner.guidance_scale, learner.selection = candidates, share * scale, selection
        result = rollout(dataset.env, agent.policy, settings.seeds, int(episodes), SEED)
        scores = [dataset.env.score(float(value)) for value in result.returns.mean(1)]
        table[name] = {"score": sum(scores) / len(scores), "per_seed": scores}
        print(f"{name:<28}{table[name]['score']:>8.1f}   " + " ".join(f"{score:.1f}" for score in scores), flush=True)
    facts = {"data": dataset.label, "updates": settings.updates, "episodes_a_seed": int(episodes)}
    critic = critic_by_distance(agent, dataset) if learner.ensemble is not None else {}
    Path(out).write_text(json.dumps(facts | {"decisions": table, "critic_by_distance": critic}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
