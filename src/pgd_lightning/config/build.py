"""From a config to the objects that it names."""

from collections.abc import Iterator
from typing import Any

import hydra.utils
from hydra.errors import InstantiationException
from omegaconf import OmegaConf

from pgd_lightning.errors import UserError

TARGETS = ("pgd_lightning.", "lightning.pytorch.")
# Where the modules and classes are that configs of earlier runs name.
MOVED = {
    **{
        f"pgd_lightning.generators.{name}": f"pgd_lightning.generators.baselines.{name}"
        for name in ("autoregressive", "rssm", "synther", "transformer", "vae")
    },
    **{
        f"pgd_lightning.generators.{name}": "pgd_lightning.generators.baselines.pets"
        for name in ("ensemble", "baselines.ensemble")
    },
    "pgd_lightning.generators.polygrad": "pgd_lightning.generators.polygrad.imagination",
    "pgd_lightning.generators.world": "pgd_lightning.generators.polygrad.world",
    "pgd_lightning.generators.world_rollout": "pgd_lightning.generators.polygrad.rollout",
    "pgd_lightning.trajectory": "pgd_lightning.environment",  # of what configs name
    **{
        f"pgd_lightning.{room}.actor_critic.{name}": f"pgd_lightning.imagination.{file}.{name}"
        for room in ("agents", "imagination")
        for name, file in (("A2C", "a2c"), ("StepControl", "a2c"), ("PPO", "ppo"))
    },
}
RULE = "pgd_lightning.generators.guidance.Rule"


def build(config: Any) -> Any:
    """Instantiate a config whose every ``_target_`` lies in this package or Lightning.

    Raises UserError for any other target: a config that came with a checkpoint is data, not code to run; and whatever
    UserError a target raises, without what Hydra wraps around it.
    """
    config = _current(OmegaConf.to_container(config, resolve=True) if OmegaConf.is_config(config) else config)
    for target in _targets(config):
        if not str(target).startswith(TARGETS):
            raise UserError(f"The config names '{target}' as something to build; only {' and '.join(TARGETS)} are.")
    try:
        return hydra.utils.instantiate(config)
    except InstantiationException as error:
        if isinstance(error.__cause__, UserError):
            raise error.__cause__ from None
        raise


def _targets(node: Any) -> Iterator[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    if isinstance(node, dict) and "_target_" in node:
        yield node["_target_"]
    for child in children:
        yield from _targets(child)


def _current(node: Any) -> Any:
    """``node`` with the targets of earlier versions where they are now."""
    if isinstance(node, list):
        return [_current(child) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: place(value) if key == "_target_" else _current(value) for key, value in node.items()}
    return _guidance(node) if node.get("_target_") == RULE else node


def _guidance(rule: dict[str, Any]) -> dict[str, Any]:
    """The settings of PolyGRAD's guidance as earlier versions kept them, as they are now."""
    kept = {key: rule[key] for key in ("coef", "clip", "noise")}
    ablation = {key: rule[key] for key in ("kind", "point", "move_states")}
    if ablation == {"kind": "grad", "point": "denoised", "move_states": False}:
        return kept | {"_target_": "pgd_lightning.generators.guidance.OnPolicy"}
    return kept | ablation | {"_target_": "pgd_lightning.generators.polygrad.ablations.Ablated"}


def place(target: str) -> str:
    """Where the class is now that an earlier version found at the dotted ``target``."""
    module, _, name = target.rpartition(".")
    return MOVED.get(target) or f"{MOVED.get(module, module)}.{name}"
