"""``pgd evaluate``: more episodes of a finished agent, on start states of their own."""

import json

import numpy as np
from omegaconf import DictConfig

from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.data.outputs import expanded, make_folder, require_new
from pgd_lightning.environment import EnvSpec
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.evaluation.statistics import seed_interval
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
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
    label, returns = run.record["provenance"]["label"], seed_interval(result.returns)
    if env.success:
        success = seed_interval(np.where(result.ended, 100.0, 0.0))
        say(f"{run.record['method']} on {label}: success {success} %, return {returns.mean:.1f}")
    elif env.scored:
        interval = seed_interval(np.vectorize(env.score)(result.returns))
        say(f"{run.record['method']} on {label}: score {interval}, return {returns.mean:.1f}")
    else:
        say(f"{run.record['method']} on {label}: return {returns} (no score: {env.name} has no reference returns)")
    path = run.folder / f"evaluation-{config.seed}-{config.episodes}.json"
    if config.out is not None:
        path = expanded(config.out)
        make_folder(path.parent, path)
    write_atomic(path, json.dumps(result.ledger(env, settings.updates, "final"), indent=1))
    say(f"every episode: {path}")
