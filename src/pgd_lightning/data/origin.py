"""What a recording says of the environment that it was recorded in, and whether that is the one it is read as."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, NotRequired, TypedDict

from pgd_lightning.data.environments import environment, environments
from pgd_lightning.environment import GYMNASIUM, EnvSpec
from pgd_lightning.errors import UserError

ATTRIBUTES = ("env", "env_id", "env_name", "environment", "task", "d4rl_id", "recipe")  # of files, ours and others'
BODIES = ("hopper", "halfcheetah", "walker2d", "ant", "door", "pen", "hammer", "relocate")
SIZES = ("umaze", "medium", "large")
LONGEST = 100_000  # characters of an environment's description


class Provenance(TypedDict):
    """Where a recording comes from, as run folders keep it."""

    path: str | None  # name of the file or of the dataset
    sha256: str
    kind: str  # official, unverified, user file, own environment, local recipe, legacy package or minari
    label: str  # for titles of tables and figures
    recipe: NotRequired[str]  # of a substitute dataset
    recipe_version: NotRequired[object]
    recipe_seed: NotRequired[object]
    says: NotRequired[dict[str, str]]  # where the recording names an environment -> what it says
    minari: NotRequired[dict[str, Any]]  # see :func:`minari_facts`
    minari_id: NotRequired[str]


@cache
def known() -> dict[str, EnvSpec]:
    """All environments of ``conf/env`` by name."""
    return {name: environment(name, "today") for name in environments()}


def published(digest: str) -> list[EnvSpec]:
    """The environments whose published file has this SHA-256."""
    return [env for env in known().values() if env.file is not None and env.file.sha256 == digest]


def of_task(task: str) -> str:
    """How to choose an environment of ``task``: ``env=walker2d-expert or another env= of walker2d``."""
    names = [env.name for env in known().values() if env.task == task]
    return f"env={names[0]}" if len(names) == 1 else f"env={names[0]} or another env= of {task}"


def task_named(text: str) -> str | None:
    """The task that an environment's name means (``Walker2d-v4``, ``walker2d-medium-v2``, ``PointMaze_UMaze-v3``, …).

    None for a name of none or of several tasks.
    """
    words = re.findall(r"[a-z0-9]+", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text).lower())
    joined = "".join(words)
    if "antmaze" in joined or "pointmaze" in joined or "maze2d" in joined:
        sizes = [size for size in SIZES if size in joined.replace("antmaze", "").replace("pointmaze", "")]
        dense = "-dense" if "dense" in joined and "antmaze" not in joined else ""
        return f"{'antmaze' if 'antmaze' in joined else 'maze2d'}-{sizes[0]}{dense}" if len(sizes) == 1 else None
    if "kitchen" in joined:
        names = [task for word, task in KITCHENS.items() if word in words]
        return names[0] if len(names) == 1 else None
    found = [body for body in BODIES if body in words or (body == "halfcheetah" and body in joined)]
    return found[0] if len(found) == 1 else None


KITCHENS = {"complete": "kitchen", "partial": "kitchen", "mixed": "kitchen-mixed"}


def compared(env: EnvSpec, provenance: Provenance) -> list[str]:
    """Sentences on what the recording says beside what it is read as, ``env``.

    Its published hash, what its attributes call its environment, and Minari's facts. Raises UserError where any of
    them means another task.
    """
    name = provenance["path"]
    others = [] if provenance["kind"] == "official" else published(provenance["sha256"])
    says: dict[str, tuple[str | None, str]] = {
        f"it is the published {other.d4rl_id}": (other.task, other.name) for other in others
    }
    says |= {f"{where} says '{text}'": (task_named(text), text) for where, text in provenance.get("says", {}).items()}
    for why, (task, said) in says.items():
        if task and (ours := of_registered(env)) and task != ours:
            raise wrong(name, env, [task], why, said)
    named = [other.d4rl_id for other in others] or [
        text for text in provenance.get("says", {}).values() if text in known() and text != env.name
    ]
    notes = [f"this is {text}, read as {env.name}" for text in dict.fromkeys(named)]
    if facts := provenance.get("minari"):
        notes.append(f"the Minari dataset says: {_facts(facts)}; used instead: {_used(env)}")
    return notes


def of_registered(env: EnvSpec) -> str | None:
    """The task of ``env``; of another environment than D4RL's the one that its name means, None if it means none."""
    if not env.simulated:
        return None
    return task_named(env.task.removeprefix(GYMNASIUM)) if env.registered else env.task


def wrong(name: str | None, env: EnvSpec, tasks: Sequence[str], why: str, said: str = "") -> UserError:
    """The refusal of a recording of one of ``tasks``, perhaps of the environment ``said``, that is read as ``env``."""
    choices = f"env={said}" if said in known() else "; or ".join(of_task(task) for task in tasks)
    return UserError(f"{name} was recorded in {' or '.join(tasks)}, not in {env.task}: {why}. Set {choices}.")


def score_constants(env: EnvSpec, provenance: Provenance) -> str:
    """For tables: the returns that count as scores 0 and 100, and Minari's own where the data have them.

    Empty where returns are not normalised.
    """
    if not env.scored:
        return ""
    facts = provenance.get("minari") or {}
    own = "; the Minari set's own are not used" if {"ref_min_score", "ref_max_score"} & set(facts) else ""
    own = "; scores by the Minari set's own stand apart" if minari_references(provenance) else own
    changed = env.file is None or _changed(env, "ref_min_score", "ref_max_score") is not None
    whose = "as set by env.*" if changed else f"D4RL's for {env.task}"
    return f"{_range(env.ref_min_score, env.ref_max_score)} ({whose}{own})"


def minari_references(provenance: Provenance) -> tuple[float, float] | None:
    """The returns that a Minari set itself counts as scores 0 and 100; None where it does not say both, or falsely."""
    facts = provenance.get("minari") or {}
    low, high = facts.get("ref_min_score"), facts.get("ref_max_score")
    return (low, high) if low is not None and high is not None and low < high else None


def _changed(env: EnvSpec, *names: str) -> str | None:
    """The first of ``names`` in which ``env`` is not what ``conf/env`` says of the environment of its name."""
    usual = known().get(env.name)
    return next((name for name in names if usual is None or getattr(usual, name) != getattr(env, name)), None)


def minari_facts(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What a Minari set says of its environment: ``environment``, its ``arguments``, ``evaluated_in``,
    ``max_episode_steps``, scores.

    Only what is there and makes sense.
    """
    recorded, evaluated = (_spec(metadata.get(key)) for key in ("env_spec", "eval_env_spec"))
    limit = evaluated.get("max_episode_steps") or recorded.get("max_episode_steps")
    found = {
        "environment": recorded.get("id"),
        "evaluated_in": evaluated.get("id"),
        "arguments": recorded.get("kwargs") or None,
        "max_episode_steps": limit if isinstance(limit, int) else None,
        **{key: _number(metadata.get(key)) for key in ("ref_min_score", "ref_max_score")},
    }
    return {key: value for key, value in found.items() if value is not None}


def _spec(text: Any) -> dict[str, Any]:
    """``id`` and the rest of a Gymnasium environment's description, {} if it is none."""
    try:
        found = json.loads(text) if isinstance(text, str) and len(text) < LONGEST else None
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("id"), str) else {}


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _facts(facts: Mapping[str, Any]) -> str:
    parts = [f"environment {facts['environment']}"] if "environment" in facts else []
    if facts.get("evaluated_in", facts.get("environment")) != facts.get("environment"):
        parts.append(f"evaluated in {facts['evaluated_in']}")
    if "max_episode_steps" in facts:
        parts.append(f"at most {facts['max_episode_steps']} steps an episode")
    if "ref_min_score" in facts or "ref_max_score" in facts:
        low, high = facts.get("ref_min_score"), facts.get("ref_max_score")
        parts.append(f"scores 0 and 100 at returns {_range(low, high)}")
    return ", ".join(parts)


def _used(env: EnvSpec) -> str:
    constants = _range(env.ref_min_score, env.ref_max_score)
    if env.file is None:
        limit = "no known limit" if env.max_episode_steps is None else f"at most {env.max_episode_steps} steps"
        scores = f", scores 0 and 100 at returns {constants}" if env.scored else ""
        return f"{env.name}, {limit} an episode{scores}"
    changed = _changed(env, "max_episode_steps", "ref_min_score", "ref_max_score")
    whose = f"{env.task} as D4RL has it" if changed is None else f"{env.task} with env.{changed} as set"
    return f"{whose}, at most {env.max_episode_steps} steps an episode, scores 0 and 100 at returns {constants}"


def _range(low: float | None, high: float | None) -> str:
    return " and ".join("unknown" if value is None else f"{value:g}" for value in (low, high))
