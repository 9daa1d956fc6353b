"""What ``env=gym`` and ``env=none`` leave open: facts that the environment, or the recording alone, has to tell."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from pgd_lightning.data import sources
from pgd_lightning.environment import NO_SIMULATOR
from pgd_lightning.errors import UserError

VERSIONED = re.compile(r"[\w./:-]+-v\d+")  # a name of Gymnasium's; others are asked for by env=gym env.id=


def named(env: str, known: Sequence[str]) -> list[str] | None:
    """The overrides behind ``env=`` with a name that is none of ``known``, D4RL's; None for a name that means nothing.

    A dataset of Minari's (also behind ``minari:``) or a single task of OGBench's stands for its environment and its
    recording, any other name for an environment registered with Gymnasium.
    """
    env = env.removeprefix(sources.MINARI)
    if sources.PUBLISHED.fullmatch(env):
        return of_minari(env, known)
    if names := sources.single_task(env):
        return of_ogbench(env, *names)
    if not VERSIONED.fullmatch(env):  # looking it up loads Gymnasium
        return None
    from pgd_lightning.simulators import is_registered

    # D4RL's names are all in lower case: what is not is meant as Gymnasium's, whose message says what is close.
    meant = ":" in env or env != env.lower()
    return ["env=gym", f"env.id={env}"] if meant or is_registered(env) else None


def of_minari(name: str, known: Sequence[str]) -> list[str]:
    """The overrides behind the Minari dataset ``name``: one of ``known``, or the environment that it names itself.

    Raises UserError where it is of none that is known and is not there to say.
    """
    source = f"data.source={sources.MINARI}{name}"
    try:
        return [f"env={sources.minari_environment(name, known)}", source]
    except UserError:
        own = recorded_in(name)
        if not own:
            raise
    return [*own, source]


def recorded_in(name: str) -> list[str]:
    """The overrides of the Gymnasium environment in which the local Minari dataset ``name`` was recorded.

    With the set's own reference returns; empty where the set is not there or does not say.
    """
    try:
        metadata = json.loads((sources.minari_folder(name) / "data" / "metadata.json").read_text())
    except (UserError, OSError, ValueError):
        return []
    from pgd_lightning.data import origin  # which loads torch: answers that need no data come at once

    facts = origin.minari_facts(metadata)
    if "environment" not in facts:
        return []
    own = {"id": facts["environment"], "max_episode_steps": facts.get("max_episode_steps")}
    references = ("ref_min_score", "ref_max_score")
    own |= {key: facts[key] for key in references} if set(references) <= set(facts) else {}
    arguments = ",".join(f"{key}:{json.dumps(value)}" for key, value in facts.get("arguments", {}).items())
    named = [f"env.{key}={value}" for key, value in own.items() if value is not None]
    return ["env=gym", *named, *([f"env.arguments={{{arguments}}}"] if arguments else [])]


def of_ogbench(name: str, env_id: str, dataset: str) -> list[str]:
    """The overrides behind the dataset ``name``: its environment ``env_id`` and the recording ``dataset``.

    Raises UserError where OGBench is not installed or has no such environment.
    """
    from pgd_lightning.simulators import is_registered, ogbench

    ogbench.require()
    if name.startswith("visual-"):
        raise UserError(f"env={name}: datasets of images are not supported; take one of vectors, without visual-.")
    if not is_registered(f"{ogbench.MODULE}:{env_id}"):
        raise UserError(f"env={name}: OGBench has no environment {env_id}; it lists its names on its project page.")
    source = f"data.source={sources.OGBENCH}{dataset}"
    return ["env=gym", f"env.id={env_id}", f"env.module={ogbench.MODULE}", f"env.name={name}", source]


def complete(config: DictConfig) -> None:
    """Fill in ``config.env`` where it is open. Raises UserError where that is not possible.

    What names an environment (``id``, ``module``, ``arguments``) becomes its ``task``, so that a finished run's config
    says all.
    """
    env = config.get("env")
    if env is None or "obs_dim" not in env or env.obs_dim is not None:
        return
    found = without_environment(config) if env.task == NO_SIMULATOR else of_registry(env)
    settings: Any = OmegaConf.to_container(env)
    kept = {key: value for key, value in settings.items() if key not in ("id", "module", "arguments")}
    OmegaConf.update(config, "env", kept | found, merge=False, force_add=True)


def of_registry(env: DictConfig) -> dict[str, Any]:
    """The facts of a Gymnasium environment."""
    from pgd_lightning.simulators import facts, task_of

    if OmegaConf.is_missing(env, "id"):
        raise UserError("env=gym needs env.id=…, the name of an environment registered with Gymnasium.")
    arguments: Any = {} if env.arguments is None else OmegaConf.to_container(env.arguments)
    task = task_of(env.id, env.module, arguments)
    known = facts(task)
    limit = env.max_episode_steps or known.max_episode_steps
    if limit is None:
        raise UserError(f"{env.id} has no time limit: set env.max_episode_steps=….")
    return {
        "task": task,
        "name": env.name or env.id.rpartition(":")[2].replace("/", "-"),
        "obs_dim": known.obs_dim,
        "action_dim": len(known.box.low),
        "max_episode_steps": limit,
        **({"success": True} if known.success else {}),
        **bounds(known.box.low, known.box.high),
    }


def without_environment(config: DictConfig) -> dict[str, Any]:
    """The facts of a recording."""
    from pgd_lightning.data import d4rl, minari

    source, env = config.data.source, config.env
    if source in sources.OWN_WORDS:
        raise UserError("env=none needs data.source=…, the recording: there is no environment to know it by.")
    if sources.is_ogbench(source):
        raise UserError(f"{source} is in OGBench's layout, which has no rewards: {sources.SINGLE_TASKS}.")
    if source.startswith(sources.MINARI):
        path = sources.minari_folder(source)
        widths = minari.widths(path)
    else:
        path = sources.file(source)
        widths = d4rl.widths(path)
    low, high = (_for_each(env[key], widths[1], key) for key in ("action_low", "action_high"))
    if low or high:
        low, high = low or [-1.0] * widths[1], high or [1.0] * widths[1]
        if any(a >= b for a, b in zip(low, high, strict=True)):
            raise UserError("env.action_low is to be below env.action_high in every dimension.")
        box = bounds(low, high)
    else:
        box = bounds([-1.0], [1.0])
    return {"name": env.name or Path(path).stem, "obs_dim": widths[0], "action_dim": widths[1], **box}


def _for_each(value: Any, dim: int, key: str) -> list[float] | None:
    """``value`` for each of ``dim`` actions."""
    if value is None:
        return None
    values = [float(bound) for bound in value]
    if len(values) not in (1, dim):
        raise UserError(f"env.{key} has {len(values)} numbers for {dim} actions: give one, or one for each.")
    return values * dim if len(values) == 1 else values


def bounds(low: Any, high: Any) -> dict[str, list[float] | None]:
    """The bounds of actions, which are left out where they are [-1, 1]."""
    usual = all(bound == -1 for bound in low) and all(bound == 1 for bound in high)
    return {"action_low": None if usual else list(low), "action_high": None if usual else list(high)}
