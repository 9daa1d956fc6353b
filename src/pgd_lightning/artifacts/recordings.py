"""This project's substitute datasets for D4RL files: recorded in the real simulator, in D4RL's layout."""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from glob import escape
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig

from pgd_lightning.data import d4rl
from pgd_lightning.data.outputs import expanded
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.locks import alone
from pgd_lightning.runs.console import Counter, say
from pgd_lightning.simulators.substitutes.recipes import RECIPES, Chunk, Recipe, random_actions


def substitute_path(config: DictConfig, env: EnvSpec, steps: int | None, seed: int) -> Path:
    """Where the substitute dataset of this environment, recipe version, size and seed lies."""
    recipe = recipe_of(env)
    folder = expanded(config.data.local_dir)
    return folder / f"{env.name}-local-v{recipe.version}-{recipe.num_steps if steps is None else steps}-{seed}.hdf5"


def substitute(config: DictConfig, env: EnvSpec) -> Path:
    """The recorded substitute, recorded now if it is not there. Raises UserError if its file holds something else."""
    steps, seed = config.data.local_steps, config.data.local_seed
    path = substitute_path(config, env, steps, seed)
    record(env, path, steps, seed)
    return path


def has_recipe(env: EnvSpec) -> bool:
    """Whether this project can record a substitute dataset for ``env``."""
    return env.name in RECIPES


def recipe_of(env: EnvSpec) -> Recipe:
    """The recipe for ``env``: of an environment of Gymnasium's random actions. Raises UserError if there is none."""
    if env.registered:
        return random_actions(env.task, env.limit)
    if not has_recipe(env):
        raise UserError(f"There is no recipe for '{env.name}'; recipes: {', '.join(sorted(RECIPES))}.")
    return RECIPES[env.name]


def record(env: EnvSpec, path: Path, steps: int | None, seed: int, overwrite: bool = False) -> bool:
    """Run the recipe and write it to ``path``, with its provenance as attributes; goes on where it was interrupted.

    False if ``path`` holds this recording already. One process records it, others wait and find it. Raises UserError
    if ``path`` holds anything else and ``overwrite`` is not set.
    """
    recipe = recipe_of(env)
    total = recipe.num_steps if steps is None else steps
    identity = {"recipe": env.name, "recipe_version": recipe.version, "recipe_seed": seed}
    if _holds(path, identity, total, overwrite):
        return False
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with alone(lock, lambda: say(f"waiting for another process that records {path}")) as sole:
            if _holds(path, identity, total, overwrite):
                return False
            attributes = identity | {"env": env.name, "description": recipe.description, "physics": recipe.physics()}
            for left in path.parent.glob(f".{escape(path.name)}.*.part") if sole else ():  # of a killed process
                left.unlink()
            kept = path.with_name(f".{path.name}.chunks")
            with Counter(f"recording {env.name} ({recipe.description})", total, "steps") as counter:
                chunks = (_own_actions(chunk, env) for chunk in _chunks(env.name, recipe, total, seed, kept, counter))
                d4rl.write(path, chunks, attributes, total, overwrite)
            shutil.rmtree(kept, ignore_errors=True)
            lock.unlink(missing_ok=True)  # whoever waits for it finds the file
    except OSError as error:
        raise UserError(f"Cannot write {path}: {error}. Choose a folder you may write to.") from error
    return True


def _own_actions(chunk: Chunk, env: EnvSpec) -> Chunk:
    """``chunk`` with actions as the environment takes them, whose density is another one."""
    if env.box is None:
        return chunk
    kept = {key: values for key, values in chunk.items() if key != "infos/action_log_probs"}
    return kept | {"actions": env.own_actions(chunk["actions"])}


def _holds(path: Path, identity: dict[str, Any], total: int, overwrite: bool) -> bool:
    """Whether ``path`` is the recording ``identity`` of ``total`` rows."""
    if overwrite or not path.exists():
        return False
    found, rows = d4rl.recipe(path)
    if {key: found.get(key) for key in identity} == identity and rows == total:
        return True
    what = f"{found['recipe']} with seed {found.get('recipe_seed')}" if "recipe" in found else "no recipe of ours"
    raise UserError(
        f"{path} holds {rows} steps of {what} and not {total} steps of {identity['recipe']} with seed "
        f"{identity['recipe_seed']} (recipe v{identity['recipe_version']}): choose another file, or have it "
        "replaced by pgd collect with overwrite=true."
    )


def _chunks(name: str, recipe: Recipe, total: int, seed: int, kept: Path, counter: Counter) -> Iterator[Chunk]:
    """The recording's chunks: those that an interrupted run left in ``kept``, then new ones, which are left there too.

    A chunk is a function of the recipe, its name and version, ``total`` and ``seed``, as each file confirms; leftovers
    of anything else are recorded over.
    """
    identity = json.dumps([name, recipe.version, total, seed, recipe.physics()])
    kept.mkdir(exist_ok=True)
    place: dict[str, Any] = {}
    number = 0
    while found := _read(kept / f"{number:05d}.npz", identity):
        chunk, place = found
        counter.show(place["rows"])
        number += 1
        yield chunk
    if place.get("rows") == total:
        return
    for chunk, reached in recipe.record(total, seed, place):
        part = kept / f".{number:05d}.{os.getpid()}"
        with suppress(FileNotFoundError):  # where there are no locks, another process may have finished and tidied up
            with part.open("wb") as file:
                np.savez(file, **chunk, __identity=identity, __place=json.dumps(reached))  # type: ignore[arg-type]
            part.replace(kept / f"{number:05d}.npz")
        counter.show(reached["rows"])
        number += 1
        yield chunk


def _read(path: Path, identity: str) -> tuple[Chunk, dict[str, Any]] | None:
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["__identity"]) != identity:
                return None
            return {k: file[k] for k in file.files if not k.startswith("__")}, json.loads(str(file["__place"]))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, or damaged: recorded again
        return None
