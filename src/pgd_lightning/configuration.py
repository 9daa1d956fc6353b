"""From a command line to one resolved config: Hydra at the edge, and sentences instead of tracebacks."""

from difflib import get_close_matches
from functools import cache
from importlib.resources import files
from itertools import product

import torch
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pgd_lightning.errors import UserError

OmegaConf.register_new_resolver("channels", lambda obs, action: int(obs) + int(action) + 2, replace=True)
OmegaConf.register_new_resolver("step_channels", lambda obs, action: 2 * int(obs) + int(action) + 2, replace=True)

CONF = files("pgd_lightning.conf")
AT_LEAST_1 = (
    "steps", "data.local_steps",
    "seeds", "updates", "prior.batch_size", "evaluation.every", "synthetic.lifetime",
    "world.batch_size", "online.steps", "online.turn", "online.world_updates", "online.imagined",
    "imagine.clone", "imagine.improve", "imagine.batch_size", "imagine.evaluate_every",
)  # fmt: skip
AT_LEAST = {
    **dict.fromkeys(AT_LEAST_1, 1),
    **dict.fromkeys(("ranks.simulators", "synthetic.lead", "imagine.warm_up"), 0),
    **dict.fromkeys(("data.horizon", "imagine.windows"), 2),  # one row holds no step, one window no deviation
}
GROUPS = {  # where a verb's options lie under another name
    "polygrad": {"env": "env/body@env", "scale": "online", "learner": "learner@online.learner"},
    "imagine": {"learner": "learner@imagine.learner"},
}


def compose_config(verb: str, overrides: list[str]) -> DictConfig:
    """The resolved config of ``verb``. Raises UserError, with the nearest names, where an override does not fit."""
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        try:
            config = compose(verb, overrides=composed(verb, overrides))
            OmegaConf.resolve(config)
            _check_numbers(verb, config, overrides)
        except MissingConfigException as error:
            raise UserError(_unknown_option(str(error))) from error
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(_unknown_key(verb, str(error) or str(error.__cause__))) from error
    missing = sorted(OmegaConf.missing_keys(config))
    if missing:
        raise UserError(f"'pgd {verb}' needs {', '.join(f'{key}=…' for key in missing)}.")
    return config


def composed(verb: str, overrides: list[str]) -> list[str]:
    """``overrides`` with the default scale and the groups' own names, as Hydra gets them."""
    names = GROUPS.get(verb, {})
    split = (o.partition("=") for o in [*default_scale(verb, overrides), *overrides])
    return [f"{names.get(key, key)}{equals}{value}" for key, equals, value in split]


def combinations(overrides: list[str]) -> list[list[str]]:
    """Every combination of the values of ``key=a,b`` (in Hydra's grammar: also ``range(0,5)``, ``choice(a,b)``)."""
    try:
        parsed = OverridesParser.create().parse_overrides(overrides)
    except HydraException as error:
        raise UserError(f"A setting cannot be read: {str(error).splitlines()[0]}") from error
    values = [
        [f"{o.key_or_group}={value}" for value in o.sweep_string_iterator()]
        if o.is_sweep_override()
        else [str(o.input_line)]
        for o in parsed
    ]
    return [list(point) for point in product(*values)]


def _check_numbers(verb: str, config: DictConfig, overrides: list[str]) -> None:
    """A number may not become a word, nor a size or a count negative."""
    defaults = _defaults(verb) if overrides else config
    for key in (o.split("=")[0].lstrip("+~") for o in overrides):
        value, before = OmegaConf.select(config, key), OmegaConf.select(defaults, key)
        number = isinstance(before, int | float) and not isinstance(before, bool)
        if number and (isinstance(value, str | bool) or (value is not None and before > 0 and value < 0)):
            raise UserError(f"{key}={value} does not fit: it is a number such as {before}.")
    for key, least in AT_LEAST.items():
        value = OmegaConf.select(config, key)
        if value is not None and (value < least or isinstance(value, float)):
            raise UserError(f"{key}={value} does not fit: it is a whole number, at least {least}.")
        if value is None and OmegaConf.select(defaults, key) is not None:
            raise UserError(f"{key}=null does not fit: it is a whole number, at least {least}.")


@cache
def _defaults(verb: str) -> DictConfig:
    return compose(verb, composed(verb, []))


def default_scale(verb: str, overrides: list[str]) -> list[str]:
    """The published settings where there is a GPU, the laptop's elsewhere; a scale that was named stands."""
    head = str((CONF / f"{verb}.yaml").read_text())
    if not any(name in head for name in ("defaults: [base", "defaults: [train", "- online:")) or any(
        o.startswith("scale=") for o in overrides
    ):
        return []
    return [f"scale={'paper' if torch.cuda.is_available() else 'laptop'}"]


def options(group: str) -> list[str]:
    """The names that ``group=`` accepts."""
    return sorted(p.name.removesuffix(".yaml") for p in (CONF / group).iterdir() if p.name.endswith(".yaml"))


def nearest(name: str, names: list[str]) -> str:
    """'did you mean …?', or the list of names if it can be read."""
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names)}." if len(names) < 100 else "'pgd VERB --cfg' shows all there are."


def _unknown_option(message: str) -> str:
    first = message.splitlines()[0]
    name = first.split("'")[-2] if "'" in first else first
    group, _, option = name.rpartition("/")
    if not group or not (CONF / group).is_dir():
        return f"{first} See 'pgd --help'."
    return f"There is no {group} '{option}': {nearest(option, options(group))}"


def _unknown_key(verb: str, message: str) -> str:
    first = message.splitlines()[0]
    key = next((word.strip("'\".") for word in first.split() if "." in word.strip("'\".") or "'" in word), "")
    config = OmegaConf.to_container(compose(verb), resolve=False)
    return f"{first.rstrip('.')}; {nearest(key, sorted(_keys(config)))}"


def _keys(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node if not str(key).startswith("_")]
    return own + [k for key, value in node.items() for k in _keys(value, f"{prefix}{key}.")]
