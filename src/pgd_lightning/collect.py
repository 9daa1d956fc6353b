"""``pgd collect``: record this project's stand-in for a D4RL file in the real simulator, in D4RL's layout."""

from pathlib import Path

from omegaconf import DictConfig

from pgd_lightning.data import d4rl
from pgd_lightning.errors import UserError
from pgd_lightning.progress import say
from pgd_lightning.runs import build
from pgd_lightning.simulators.recipes import RECIPES, Recipe
from pgd_lightning.trajectory import EnvSpec


def main(config: DictConfig, overrides: list[str]) -> None:
    env: EnvSpec = build(config.env)
    path = Path(config.out) if config.out else stand_in_path(config, env)
    record(env, path, config.steps or config.data.local_steps, config.data.local_seed)
    recording = d4rl.load(path, env, out_of_box=config.data.out_of_box)
    for key, value in recording.card().items():
        say(f"{key:>16}  {value}")
    say(f"\nwritten: {path}\nnext:    pgd train env={env.name} data.source={path}")


def stand_in_path(config: DictConfig, env: EnvSpec) -> Path:
    """Where the stand-in of this environment, recipe version, size and seed lies."""
    recipe = recipe_of(env)
    steps = config.data.local_steps or recipe.num_steps
    return Path(config.data.local_dir) / f"{env.name}-local-v{recipe.version}-{steps}-{config.data.local_seed}.hdf5"


def stand_in(config: DictConfig, env: EnvSpec) -> Path:
    """The recorded stand-in, recorded now if it is not there yet."""
    path = stand_in_path(config, env)
    if not path.exists():
        record(env, path, config.data.local_steps, config.data.local_seed)
    return path


def has_recipe(env: EnvSpec) -> bool:
    """Whether this project can record a stand-in for ``env``."""
    return env.name in RECIPES


def recipe_of(env: EnvSpec) -> Recipe:
    """The recipe for ``env``. Raises UserError if this project has none."""
    if not has_recipe(env):
        raise UserError(f"There is no recipe for '{env.name}'; recipes: {', '.join(sorted(RECIPES))}.")
    return RECIPES[env.name]


def record(env: EnvSpec, path: Path, steps: int | None, seed: int) -> None:
    """Run the recipe and stream it to ``path``, with its provenance as attributes."""
    recipe = recipe_of(env)
    total = steps or recipe.num_steps
    say(f"recording {total} steps of {env.name} ({recipe.description})")
    path.parent.mkdir(parents=True, exist_ok=True)
    attributes = {
        "recipe": env.name,
        "recipe_version": recipe.version,
        "recipe_seed": seed,
        "description": recipe.description,
        "physics": recipe.physics(),
    }
    d4rl.write(path, recipe.record(total, seed), attributes, total)
