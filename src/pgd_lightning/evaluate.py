"""``pgd evaluate``: more episodes of a finished agent, on start states of their own."""

import json

import numpy as np
from omegaconf import DictConfig

from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.models import load_agent
from pgd_lightning.progress import say
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs import build, finished_agent, write_atomic
from pgd_lightning.trajectory import EnvSpec


def main(config: DictConfig, overrides: list[str]) -> None:
    run = finished_agent(config.run)
    settings = run.load_config()
    env: EnvSpec = build(settings.env)
    module = build(settings.agent)  # its checkpoint holds what it knows of the data
    load_agent(module, run)
    seed = derive_seed(config.seed, "evaluate")
    result = rollout(env, module.policy, settings.seeds, config.episodes, seed, workers=config.ranks.simulators)
    name = f"evaluation-{config.seed}-{config.episodes}.json"
    write_atomic(run.folder / name, json.dumps(result.ledger(env, settings.updates, "final"), indent=1))
    interval = seed_interval(np.vectorize(env.score)(result.returns))
    label = run.record["provenance"]["label"]
    say(f"{run.record['method']} on {label}: score {interval}, return {result.returns.mean():.1f}")
    say(f"every episode: {run.folder / name}")
