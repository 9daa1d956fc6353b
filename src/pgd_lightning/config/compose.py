"""From a command line to one resolved config: Hydra at the edge, and sentences instead of tracebacks.

Neither torch nor Lightning is loaded for it.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgd_lightning.config import environments, ranges
from pgd_lightning.config.gpu import gpu_is_there
from pgd_lightning.config.quotes import parts, quoted, unquoted
from pgd_lightning.config.ranges import CONF
from pgd_lightning.config.ranges import of_group as options
from pgd_lightning.config.suggestions import unknown_key, unknown_option
from pgd_lightning.errors import UserError

OmegaConf.register_new_resolver("channels", lambda obs, action: int(obs) + int(action) + 2, replace=True)
OmegaConf.register_new_resolver("step_channels", lambda obs, action: 2 * int(obs) + int(action) + 2, replace=True)
OmegaConf.register_new_resolver("class_name", lambda target: str(target).rpartition(".")[2], replace=True)

HANDED = "PGD_LIGHTNING_HANDED"  # environment variable: the file that a rank reads instead of composing

GROUPS = {  # where a verb's options lie under another name
    "polygrad": {"env": "env/body@env", "scale": "online", "learner": "learner@online.learner"},
}


def compose_config(verb: str, overrides: list[str]) -> DictConfig:
    """As :func:`composed_config`. Raises UserError also where ``verb`` needs a setting that is not given."""
    config = composed_config(verb, overrides)
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"'pgd {verb}' needs {', '.join(f'{key}=…' for key in missing)}.")
    return config


def composed_config(verb: str, overrides: list[str]) -> DictConfig:
    """The resolved config of ``verb``. Raises UserError, with the nearest names, where an override does not fit."""
    with hydra_over_conf():
        try:
            config = compose(verb, overrides=composed(verb, overrides))
            _check_typed(verb, config, overrides)
            environments.complete(config)
            OmegaConf.resolve(config)
        except MissingConfigException as error:
            raise UserError(unknown_option(str(error))) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(unknown_key(verb, str(error) or str(error.__cause__))) from error
    settings: Any = OmegaConf.to_container(config)
    for key, value in ranges.leaves(verb, settings):
        ranges.check(verb, settings, key, value)
    return config


@contextmanager
def hydra_over_conf() -> Iterator[GlobalHydra]:
    """Hydra, initialised with the files of ``conf``."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield GlobalHydra.instance()


@dataclass(frozen=True)
class Chosen:
    """What a config was composed of."""

    options: dict[str, str]  # of every group, by the name that the group is typed under
    files: list[tuple[str, str]]  # of conf, without .yaml, and the place of their settings; a later one overrides


def choices(verb: str, overrides: list[str]) -> Chosen:
    """What the config of ``verb`` is composed of."""
    with hydra_over_conf() as state:
        found = state.config_loader().compute_defaults_list(verb, composed(verb, overrides), RunMode.RUN)
    typed = {name: short for short, name in GROUPS.get(verb, {}).items()}
    options = {typed.get(name, name): str(option) for name, option in found.overrides.known_choices.items()}
    files = [(str(part.config_path), str(part.package)) for part in found.defaults]
    return Chosen(
        {name: option for name, option in options.items() if group_of(verb, name)},
        [(path, place) for path, place in files if (CONF / f"{path}.yaml").is_file()],
    )


def handed() -> tuple[list[str], DictConfig] | None:
    """Overrides and resolved config that the launcher handed to this rank; None for a process of its own."""
    if HANDED not in os.environ:
        return None
    given = json.loads(Path(os.environ[HANDED]).read_text())
    sys.argv = given["argv"]  # what the user typed: run folders record it
    return given["overrides"], OmegaConf.create(given["config"])


def composed(verb: str, overrides: list[str]) -> list[str]:
    """``overrides`` with the default scale, the groups' own names and text in quotes, as Hydra gets them."""
    typed = [part for o in overrides for part in _of_environment(verb, o, overrides)]
    return [_for_hydra(verb, o) for o in [*default_scale(verb, overrides), *typed]]


def _of_environment(verb: str, override: str, overrides: list[str]) -> list[str]:
    """``override``, or what stands behind ``env=`` with a name of Gymnasium's, Minari's or OGBench's.

    The source of the data, where the name has one, is used unless another is given.
    """
    key, _, value = override.partition("=")
    name = unquoted(value)
    if key != "env" or group_of(verb, key) != "env" or name in options("env"):
        return [override]
    given = verb == "collect" or any(o.startswith("data.source=") for o in overrides)
    found = environments.named(name, options("env")) or [override]
    return [o for o in found if not (given and o.startswith("data.source="))]


def _for_hydra(verb: str, override: str) -> str:
    """One override. Raises UserError where it removes something, or chooses what its group does not have."""
    key, equals, value = override.partition("=")
    if not key or key.startswith("~"):
        raise UserError(f"'{override}' gives no setting a value: write key=value.")
    if key in ("model", "generator.model"):
        raise UserError(f"{override} does not fit: every model is there, and generator= says which one is used.")
    for short, name in GROUPS.get(verb, {}).items():
        if key == name.partition("@")[2] != short:
            raise UserError(f"{override} is written {short}={value}.")
    if group := group_of(verb, key):
        if value.strip("'\"") not in options(group):
            raise UserError(unknown_option(f"'{group}/{value}'"))
    elif {"text", "path"} & _kinds(verb, key) and value != "null":
        value = quoted(value, paths="path" in _kinds(verb, key), several=_is_list(verb, key))
    return f"{GROUPS.get(verb, {}).get(key, key)}{equals}{value}"


def group_of(verb: str, key: str) -> str:
    """The folder of ``conf`` whose options ``key=`` chooses among; empty where it is a setting."""
    name = GROUPS.get(verb, {}).get(key, key).partition("@")[0].lstrip("+")
    return name if name and (CONF / name).is_dir() else ""


def _kinds(verb: str, key: str) -> set[str]:
    return {option.removeprefix("list of ") for option in ranges.declared(verb, key.lstrip("+"))}


def _is_list(verb: str, key: str) -> bool:
    return any(option.startswith("list of ") for option in ranges.declared(verb, key))


def combinations(overrides: list[str]) -> list[list[str]]:
    """Every combination of the values of ``key=a,b`` (in Hydra's grammar: also ``range(0,5)``, ``choice(a,b)``).

    Where the setting is a path or text a comma alone separates; one that belongs to it stands within quotes.
    """
    return [list(point) for point in product(*map(_values, overrides))]


def _values(override: str) -> list[str]:
    key, _, value = override.partition("=")
    if {"text", "path"} & _kinds("train", key) and not (_is_list("train", key) and value.startswith("[")):
        return [f"{key}={unquoted(part)}" for part in parts(value)] or [override]
    try:
        parsed = OverridesParser.create().parse_override(override)
    except HydraException as error:
        raise UserError(f"A setting cannot be read: {str(error).splitlines()[0]}") from error
    return [f"{key}={point}" for point in parsed.sweep_string_iterator()] if parsed.is_sweep_override() else [override]


def _check_typed(verb: str, config: DictConfig, overrides: list[str]) -> None:
    """Raises UserError for a typed value that does not fit; a single value becomes a list where one is wanted.

    Before anything is computed from it, which would complain under another name.
    """
    settings: Any = OmegaConf.to_container(config)
    typed = (o.partition("=")[0].lstrip("+") for o in overrides)
    for key in (key for key in typed if not group_of(verb, key)):
        allowed = ranges.declared(verb, key)
        value: Any = OmegaConf.select(config, key)
        if OmegaConf.is_config(value):
            value = OmegaConf.to_container(value)
        group = isinstance(value, dict) and (not allowed or "settings" in allowed)
        if group or OmegaConf.is_missing(config, key):
            continue
        if isinstance(value, float) and value.is_integer() and any(o.startswith("whole") for o in allowed):
            value = int(value)  # 1e6
        if isinstance(value, str | int | float) and _is_list(verb, key):
            value = [value]
        ranges.check(verb, settings, key, value)
        _check_used(config, key, value)
        OmegaConf.update(config, key, value)


def _check_used(config: DictConfig, key: str, value: Any) -> None:
    """Raises UserError for passes over the data where a number of steps is what counts."""
    group, _, name = key.rpartition(".")
    steps = OmegaConf.select(config, f"{group}.steps") if name == "epochs" and value is not None else None
    if steps is not None:
        raise UserError(
            f"{key}={value} would not be used, as {group}.steps={steps} counts: set {group}.steps=null too."
        )


def default_scale(verb: str, overrides: list[str]) -> list[str]:
    """The published settings where there is a GPU, the laptop's elsewhere; a scale that was named stands."""
    head = str((CONF / f"{verb}.yaml").read_text())
    if not any(name in head for name in ("defaults: [base", "defaults: [train", "- online:")) or any(
        o.startswith("scale=") for o in overrides
    ):
        return []
    return [f"scale={'paper' if gpu_is_there() else 'laptop'}"]
