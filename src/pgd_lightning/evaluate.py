"""``pgd evaluate``: more episodes of a finished agent, on start states of their own."""

import json

from omegaconf import DictConfig

from pgd_lightning.dataset import open_dataset
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.models import build_agent, load_agent
from pgd_lightning.progress import say
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs import finished_agent, write_atomic


def main(config: DictConfig, overrides: list[str]) -> None:
    run = finished_agent(config.run)
    settings = run.load_config()
    dataset = open_dataset(settings)
    module = build_agent(settings, dataset)
    load_agent(module, run)
    seed = derive_seed(config.seed, "evaluate")
    result = rollout(dataset.env, module.policy, settings.seeds, config.episodes, seed, workers=config.ranks.simulators)
    name = f"evaluation-{config.seed}-{config.episodes}.json"
    write_atomic(run.folder / name, json.dumps(result.ledger(dataset.env, settings.updates, "final"), indent=1))
    scores = (
        100 * (result.returns - dataset.env.ref_min_score) / (dataset.env.ref_max_score - dataset.env.ref_min_score)
    )
    interval = seed_interval(scores)
    say(f"{run.record['method']} on {dataset.label}: score {interval}, return {result.returns.mean():.1f}")
    say(f"every episode: {run.folder / name}")
