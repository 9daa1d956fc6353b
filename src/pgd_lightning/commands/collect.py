"""``pgd collect``: record this project's substitute dataset for a D4RL file."""

from omegaconf import DictConfig

from pgd_lightning.artifacts.recordings import recipe_of, record, substitute_path
from pgd_lightning.config.build import build
from pgd_lightning.data import d4rl
from pgd_lightning.data.outputs import expanded
from pgd_lightning.environment import EnvSpec
from pgd_lightning.runs.console import say
from pgd_lightning.runs.provenance import program


def main(config: DictConfig, overrides: list[str]) -> None:
    """Record ``steps`` with ``seed`` into ``out``. Raises UserError where that is not possible or replaces a file."""
    env: EnvSpec = build(config.env)
    path = expanded(config.out) if config.out else substitute_path(config, env, config.steps, config.seed)
    if not record(env, path, config.steps, config.seed, config.overwrite):
        say(f"recorded already: {path}")
    recording = d4rl.load(path, env, out_of_box=config.data.out_of_box)
    for key, value in recording.summary().items():
        say(f"{key:>16}  {value}")
    if known := recipe_of(env).d4rl_return:
        say(f"{'D4RL':>16}  mean return of {env.d4rl_id}: about {known:.0f}")
    say(f"\nwritten: {path}\nnext:    {program()} train env={env.option} data.source={path}")
