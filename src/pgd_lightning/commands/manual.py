"""``pgd COMMAND --help``: an example, then what can be set, what each setting means, may be and is.

The meaning of a setting is the comment beside it in ``conf/``, what it may be stands in ``conf/ranges.yaml``, and its
value is that of the composed config. Only which settings are worth a first look is written here.
"""

import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from pgd_lightning.config import ranges
from pgd_lightning.config.compose import GROUPS, Chosen, group_of
from pgd_lightning.config.ranges import CONF, of_group, shown

SIZES = ("scale", "online")  # their files give other settings values, and say why, but mean nothing themselves
FEW = 8  # options that are listed one by one
NAME_WIDTH = 30
METHOD = ("env", "agent", "generator", "guidance", "guidance.coef", "sampler", "sampler.num_steps")
DATA = ("data.source", "data.horizon", "data.dir", "data.local_steps")
PRIOR = ("scale", "network", "network.features", "prior.steps", "prior.batch_size")
RUN = ("seed", "runs_dir", "trainer.accelerator", "trainer.devices", "trainer.precision", "logger.wandb")
TRAINING = ("updates", "evaluation.every", "evaluation.final_episodes", "checkpoint_every")
MIX = ("synthetic", "synthetic.lifetime", "synthetic.num_windows", "synthetic.synthetic_batch", "compare")
JOB = ("launcher.time", "launcher.partition", "launcher.account", "launcher.cpus_per_task", "launcher.submit")
WHOLE = {"method": METHOD, "synthetic data": MIX, "how long": (*TRAINING, *PRIOR, "seeds"), "data": DATA, "run": RUN}
FILE = ("run", "out", "overwrite")


@dataclass(frozen=True)
class Manual:
    """What ``pgd COMMAND --help`` shows of a verb: commands that work, and settings by topic."""

    examples: tuple[str, ...]
    settings: Mapping[str, tuple[str, ...]]


MANUALS = {
    "demo": Manual(
        ("pgd demo", "pgd demo demo.goal=[1,1] guidance.coef=2 out=runs/demo-weaker"),
        {
            "the policy": ("demo.goal", "demo.std", "env", "guidance", "guidance.coef", "sampler.num_steps"),
            "the prior": ("prior.steps", "network.features", "data.horizon", "data.local_steps"),
            "the picture": ("demo.windows", "demo.rows", "demo.starts", "demo.paths", "out", "overwrite"),
            "run": ("seed", "runs_dir", "demo.threads"),
        },
    ),
    "train": Manual(
        (
            "pgd train env=hopper-medium agent=td3_bc scale=smoke",
            "pgd train env=maze2d-umaze generator=unguided compare=[none] seeds=3 data.source=my.hdf5",
        ),
        WHOLE,
    ),
    "polygrad": Manual(
        ("pgd polygrad env=hopper learner=ppo scale=smoke",),
        {
            "method": ("env", "learner", "online.policy_change", "data.horizon", "physics"),
            "how long": ("scale", "online.steps", "online.prefill", "online.turn", "online.world_updates"),
            "run": RUN,
        },
    ),
    "prior": Manual(
        ("pgd prior env=hopper-medium scale=laptop prior.steps=10000",),
        {"method": ("env", "generator", "process"), "how long": PRIOR, "data": DATA, "run": RUN},
    ),
    "evaluate": Manual(
        ("pgd evaluate run=runs/agent/hopper-medium/iql-pgd-0123abcd/0 episodes=200",),
        {"settings": ("run", "episodes", "seed")},
    ),
    "generate": Manual(
        ("pgd generate run=runs/agent/hopper-medium/iql-pgd-0123abcd/0 out=mine.hdf5 windows=4096",),
        {"settings": (*FILE, "windows", "seed", "data.source")},
    ),
    "export": Manual(
        ("pgd export run=runs/agent/hopper-medium/iql-pgd-0123abcd/0 out=policy.onnx seed=2",),
        {"settings": (*FILE, "seed")},
    ),
    "collect": Manual(
        ("pgd collect env=hopper-medium steps=6000 seed=5",), {"settings": ("env", "steps", "seed", "out", "overwrite")}
    ),
    "check": Manual(
        ("pgd check env=hopper-medium data.source=some.hdf5",),
        {"settings": ("env", "data.source", "rows", "exact", "out", "overwrite")},
    ),
    "convert": Manual(
        ("pgd convert env=hopper-medium data.source=some.hdf5 out=minari:hopper/mine-v0",),
        {"settings": ("env", "data.source", "out", "overwrite")},
    ),
    "analyse": Manual(
        ("pgd analyse env=hopper-medium scale=smoke analysis.targets=[behaviour,agent]",),
        {
            "analysis": ("analysis.targets", "analysis.factors", "analysis.generators", "analysis.windows"),
            "method": METHOD,
            "how long": (*PRIOR, "seeds"),
            "data": DATA,
            "run": RUN,
        },
    ),
    "sweep": Manual(("pgd sweep env=hopper-medium,walker2d-medium agent=iql,td3_bc seed=0,1 scale=smoke",), WHOLE),
    "slurm": Manual(
        ("pgd slurm env=hopper-medium,walker2d-medium agent=iql,td3_bc seed=0,1 launcher.submit=false",),
        {"job": JOB, **WHOLE},
    ),
    "ls": Manual(("pgd ls runs_dir=runs state=failed",), {"settings": ("runs_dir", "state", "stale_after")}),
    "doctor": Manual(
        ("pgd doctor env=hopper-medium trainer.devices=2",),
        {"settings": ("env", "data.source", "free_gb", "runs_dir", "trainer.devices")},
    ),
    "report": Manual(
        ("pgd report runs=runs", "pgd report run=runs/agent/hopper-medium/iql-pgd-0123abcd/0"),
        {"settings": ("runs", "run", "where", "out", "overwrite", "data.source")},
    ),
    "dashboard": Manual(("pgd dashboard entity=my-team",), {"settings": ("entity", "logger.project")}),
}


def text(verb: str, about: str, config: DictConfig, chosen: Chosen, everything: bool) -> str:
    """The help of ``verb``, whose settings have the values of ``config``, which was composed of what is ``chosen``.

    ``everything``: all settings instead of those that are changed most.
    """
    said = [f"pgd {verb}: {about}", "", *(f"  {example}" for example in MANUALS[verb].examples)]
    settings: Any = OmegaConf.to_container(config)
    options = chosen.options
    topics = _all_topics(verb, settings, options) if everything else MANUALS[verb].settings
    meant = meanings(verb, chosen.files)
    for topic, keys in topics.items():
        said += ["", topic]
        for key in keys:
            value = options[key] if key in options else shown(_select(settings, key))
            said += entry(verb, key, meant.get(key, ""), value)
    more = f"pgd {verb} --help all shows every setting, pgd {verb} --cfg the whole config as YAML."
    return "\n".join([*said, "", *([] if everything else [more])]).rstrip()


def entry(verb: str, key: str, meaning: str, value: str) -> list[str]:
    """The lines of one setting."""
    described = f"{meaning}  [{allowed(verb, key)}]".strip()
    name = f"  {key}={value}"
    width = min(shutil.get_terminal_size((110, 40)).columns, 120)
    lines = textwrap.wrap(described, max(width - NAME_WIDTH, 40), break_on_hyphens=False) or [""]
    head = [f"{name:<{NAME_WIDTH}}{lines[0]}"] if len(name) < NAME_WIDTH else [name, f"{'':{NAME_WIDTH}}{lines[0]}"]
    return [*(line.rstrip() for line in head), *(f"{'':{NAME_WIDTH}}{line}" for line in lines[1:])]


def allowed(verb: str, key: str) -> str:
    """What may be typed behind ``key=``."""
    if group := group_of(verb, key):
        names = of_group(group)
        return f"{', '.join(names)}" if len(names) <= FEW else f"one of the {len(names)} in conf/{group}"
    return ranges.sentence(verb, key)


def _select(node: Any, key: str) -> Any:
    for part in key.split("."):
        node = node[part] if isinstance(node, Mapping) and part in node else ranges.UNSET
    return "…" if node == ranges.UNSET else node


def _all_topics(verb: str, settings: Mapping[str, Any], chosen: Mapping[str, str]) -> dict[str, list[str]]:
    topics: dict[str, list[str]] = {"files of conf that are chosen": list(chosen)}
    for key, _ in ranges.leaves(verb, settings):
        section = key.partition(".")[0] if "." in key else "at the top"
        topics.setdefault(section, []).append(key)
    return topics


def meanings(verb: str, files: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The comment beside every setting of ``verb`` by its name, in the ``files`` of which its config is composed."""
    found: dict[str, str] = {}
    for path, place in files:
        if path.partition("/")[0] not in SIZES:
            for key, comment in comments((CONF / f"{path}.yaml").read_text(encoding="utf-8")):
                found[f"{place}.{key}".lstrip(".")] = comment
    for short, name in GROUPS.get(verb, {}).items():
        found.setdefault(short, found.get(name, ""))
    return found


def comments(text: str) -> Iterator[tuple[str, str]]:
    """``(dotted key, comment)`` of every setting of a YAML file with a comment on its line."""
    lines = text.splitlines()
    for key, line, column in _ends(yaml.compose(text), ""):
        rest = lines[line][column:] if line < len(lines) else ""
        if found := re.match(r"[\s\]}]*#\s*(.+)", rest):
            yield key, found[1].rstrip(" ,")


def _ends(node: Any, prefix: str) -> Iterator[tuple[str, int, int]]:
    """Of every setting below ``node`` the place in the text behind its value, or behind its name if it is a group."""
    if isinstance(node, yaml.SequenceNode) and prefix == "defaults.":
        for item in node.value:
            yield from _ends(item, "")
    if not isinstance(node, yaml.MappingNode):
        return
    for name, value in node.value:
        key = f"{prefix}{name.value}".removeprefix("override ").removeprefix("/")
        block = isinstance(value, yaml.MappingNode) and not value.flow_style
        mark = name.end_mark if block else value.end_mark
        yield key, mark.line, mark.column + (1 if block else 0)
        yield from _ends(value, f"{key}.")
