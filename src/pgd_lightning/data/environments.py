"""Facts of an environment by its name, for those who want data and simulators without Hydra."""

from difflib import get_close_matches
from importlib.resources import files
from typing import Any

import yaml

from pgd_lightning.environment import DataFile, EnvSpec
from pgd_lightning.errors import UserError

CONF = files("pgd_lightning.conf") / "env"
OPEN = ("gym", "none")  # any environment of Gymnasium's, and a recording without one


def environments() -> list[str]:
    """D4RL's names, which :func:`environment` and ``env=`` know."""
    names = (path.name.removesuffix(".yaml") for path in CONF.iterdir() if path.name.endswith(".yaml"))
    return sorted(name for name in names if name not in OPEN)


def environment(name: str, physics: str) -> EnvSpec:
    """The environment ``name`` of ``conf/env``, e.g. ``hopper-medium``, in a simulator of ``physics`` (today, d4rl).

    Raises UserError for another name.
    """
    if name not in environments():
        close = get_close_matches(name, environments(), n=3, cutoff=0.5)
        raise UserError(f"There is no environment '{name}': did you mean {' or '.join(close) or environments()[0]}?")
    own: dict[str, Any] = yaml.safe_load((CONF / f"{name}.yaml").read_text())
    (body, *_) = own.pop("defaults")
    facts = yaml.safe_load((CONF / f"{body.partition('@')[0]}.yaml").read_text()) | own | {"physics": physics}
    del facts["_target_"]
    return EnvSpec(**facts | {"file": DataFile(**own["file"])})
