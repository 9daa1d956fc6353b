"""``pgd evaluate``: more episodes of a finished agent, on start states of their own."""

import json

from omegaconf import DictConfig

from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.data.outputs import expanded, make_folder, require_new
from pgd_lightning.environment import EnvSpec
from pgd_lightning.evaluation.ledgers import scores_of
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.runs.names import MEASURES
from pgd_lightning.runs.run import finished_agent


def main(config: DictConfig, overrides: list[str]) -> None:
    """Print the score, and write every episode to ``out`` or beside the run. Raises UserError where that cannot be."""
    if config.out is not None:
        require_new(expanded(config.out), config.overwrite)
    run = finished_agent(config.run)
    settings = settings_of(run)
    env: EnvSpec = build(settings.env)
    module = trained_agent(run, settings)
    seed = derive_seed(config.seed, "evaluate")
    result = rollout(env, module.policy, settings.seeds, config.episodes, seed)
    rows = result.ledger(env, settings.updates, "final")
    said = MEASURES[env.measure].said(seed_interval(scores_of(rows, "final")))
    beside = f", return {result.returns.mean():.1f}"
    if env.measure == "return":
        beside = f" (no score: {env.name} has no reference returns)"
    say(f"{run.record['method']} on {run.record['provenance']['label']}: {said}{beside}")
    path = run.folder / f"evaluation-{config.seed}-{config.episodes}.json"
    if config.out is not None:
        path = expanded(config.out)
        make_folder(path.parent, path)
    write_atomic(path, json.dumps(rows, indent=1))
    say(f"every episode: {path}")
