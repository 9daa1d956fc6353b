"""Where a file in D4RL's layout comes from: published, a substitute of a recipe of ours, or somebody's own."""

from collections.abc import Iterable, Mapping
from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import h5py

from pgd_lightning.data.d4rl.hdf5 import array, attribute, opened
from pgd_lightning.data.origin import ATTRIBUTES, Provenance, published
from pgd_lightning.environment import EnvSpec

RECIPE = ("recipe", "recipe_version", "recipe_seed")  # attributes


def file_hash(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()


def recipe(path: Path) -> tuple[dict[str, Any], int]:
    """The attributes of the recipe that recorded the file, {} for a file of another origin, and its number of rows."""
    with opened(path) as file:
        rewards = array(file, "rewards", path)
        return _attributes(file, RECIPE), 0 if rewards is None or not rewards.shape else rewards.shape[0]


def _attributes(file: h5py.File, names: Iterable[str]) -> dict[str, Any]:
    found = {name: attribute(file, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def provenance(path: Path, env: EnvSpec) -> Provenance:
    """Where the data come from, for run folders, titles and tables; ``label`` is the short form.

    A file is official only if its SHA-256 is the published one; where none is published, only its name says so, and
    the label adds "unverified". ``says``: what the file calls its environment, for :mod:`pgd_lightning.data.origin`.
    """
    digest = file_hash(path)
    with opened(path) as file:
        recipe = _attributes(file, RECIPE)
        says = {f"its attribute '{k}'": v for k, v in _attributes(file, ATTRIBUTES).items() if isinstance(v, str)}
    kind, label = _kind_and_label(path, env, digest, recipe)
    found = {"path": path.name, "sha256": digest, **recipe, **({"says": says} if says else {})}
    return cast(Provenance, found | {"kind": kind, "label": label})


def _kind_and_label(path: Path, env: EnvSpec, digest: str, recipe: Mapping[str, Any]) -> tuple[str, str]:
    if env.file is None:
        return "own environment", f"{path.name}, {env.name} (sha256 {digest[:8]})"
    if digest == env.file.sha256:
        return "official", f"{env.d4rl_id} (D4RL, sha256 {digest[:8]})"
    if recipe.get("recipe") == env.name:
        label = (
            f"{env.name} substitute, not D4RL (recipe v{recipe.get('recipe_version')}, seed "
            f"{recipe.get('recipe_seed')}, sha256 {digest[:8]})"
        )
        return "local recipe", label
    if env.file.sha256 is None and path.name == Path(env.file.path).name:
        return "unverified", f"{env.d4rl_id} (D4RL by name, unverified, sha256 {digest[:8]})"
    name = next((f"{other.d4rl_id} (D4RL)" for other in published(digest)), path.name)
    return "user file", f"{name} as {env.name}, not D4RL (sha256 {digest[:8]})"
