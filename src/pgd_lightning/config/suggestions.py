"""What is said of a name that no setting and no option has."""

from difflib import get_close_matches

from hydra import compose
from omegaconf import OmegaConf

from pgd_lightning.config.ranges import CONF
from pgd_lightning.config.ranges import of_group as options


def nearest(name: str, names: list[str]) -> str:
    """'did you mean …?', or the list of names if it can be read."""
    close = get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"there are {', '.join(names)}." if len(names) < 100 else "'pgd COMMAND --cfg' shows all there are."


def unknown_option(message: str) -> str:
    first = message.splitlines()[0]
    name = first.split("'")[-2] if "'" in first else first
    group, _, option = name.rpartition("/")
    if not group or not (CONF / group).is_dir():
        return f"{first} See 'pgd --help'."
    more = " Environments of Gymnasium have their names there, such as env=Pusher-v5." if group == "env" else ""
    return f"There is no {group} '{option}': {nearest(option, options(group))}{more}"


def unknown_key(verb: str, message: str) -> str:
    first = message.splitlines()[0]
    if first.startswith("Ambiguous value"):
        return f"{first.split(chr(39))[1]}: a list is written [a,b]; pgd sweep and pgd slurm take a,b as two points."
    key = next((word.strip("'\".") for word in first.split() if "." in word.strip("'\".") or "'" in word), "")
    config = OmegaConf.to_container(compose(verb), resolve=False)
    first = f"There is no setting '{key}'" if first.startswith("Could not override") else first.rstrip(".")
    return f"{first}; {nearest(key, sorted(_keys(config)))}"


def _keys(node: object, prefix: str = "") -> list[str]:
    if not isinstance(node, dict):
        return []
    own = [f"{prefix}{key}" for key in node if not str(key).startswith("_")]
    return own + [k for key, value in node.items() for k in _keys(value, f"{prefix}{key}.")]
