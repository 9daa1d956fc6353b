"""What makes two runs the same: every setting that changes what is trained, and no other.

A run's identity is written to its ``run.json`` and names its folder. A setting that is not listed here counts, so
that a new one trains again rather than passing off an old result as its own. What only logs, saves, watches or measures
is listed: of a finished run it can be changed afterwards.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from hashlib import blake2b
from typing import Any

Config = Any  # a resolved config: mappings whose entries are attributes too

TRAINS_NOTHING = (  # patterns of dotted keys
    "*.log_every", "*.validate_every", "*.checkpoint_every",
    "agent.value_alarm", "agent.value_alarm_factor", "agent.value_alarm_floor", "prior.verdict",
    "online.tolerance", "generator.build.tolerance",
    "world.published", "score_coefs",   # tables that other settings are read from
    "agent.seed",                       # the run's folder is named by it
    "learning.large_batch*",            # synthetic.batch_size and synthetic_batch repeat them where they count
    "env.name", "env.d4rl_id", "env.dataset", "env.file", "env.ref_min_score", "env.ref_max_score", "env.success",
    "data.source", "data.download", "data.dir", "data.base_url", "data.timeout", "data.retries", "data.mismatch",
    "data.cache",
    "data.local_*",
    "trainer.accelerator", "trainer.devices", "trainer.strategy", "trainer.num_nodes", "trainer.compile",
)  # fmt: skip
# Settings that earlier versions lacked, where they change nothing.
NEWER = {"agent.matmul_precision": "highest", "learning.batch_size": 256}
GONE = {"synthetic": {"lead": 0}}  # settings that only earlier versions had, at the value that is left
# Classes that replaced an earlier one, with its name and the settings that it had besides.
_RULE = {"_target_": "Rule", "before": False, "current_action": True, "cosine": None, "raw": True, "normalise": False}
REPLACED = {"OnPolicy": _RULE | {"kind": "grad", "point": "denoised", "move_states": False}, "Ablated": _RULE}
NOT_ASKED = ("runs_dir", "logger", "ranks", "report", "plan", "compare", "checkpoint_every", "launcher")  # of a command
CUTTING = ("horizon", "stride", "validation")  # of data: windows, which an agent and a model of single steps never see
DENOISING = ("time_max", "spacing", "to_zero")  # of the behaviour model's process: only sampling sees them
BEHAVIOUR = "behaviour"
RECORDING = "recording"  # ``generator.model`` where windows of the recording itself take the place of a model's


def digest(identity: Any) -> str:
    """Eight hexadecimal digits that change with any value of ``identity``."""
    canonical = json.dumps(identity, sort_keys=True, default=str)
    return blake2b(canonical.encode(), digest_size=4).hexdigest()


def asked(config: Config) -> str:
    """The digest of all that a command asks for, measurements included: by it a sweep knows the runs of its points."""
    settings = sections(config, [str(key) for key in config if key not in NOT_ASKED])
    places = {key: config.data[key] for key in ("source", "local_steps", "local_seed")}
    return digest(settings | {"env": plain(config.env), "places": places})


def model(config: Config, section: str, file: str) -> dict[str, Any]:
    """The identity of the model that ``section`` describes, trained on the data of SHA-256 ``file``.

    How it is sampled counts with the generator that does it.
    """
    settings = sections(config, ["process", "network", section] if section == "prior" else [section])
    settings[section] = without(settings[section], ["sampling"])
    if config[section].get("steps") == "auto":
        settings[section]["validate_every"] = config[section].validate_every  # where it may end
    else:
        settings[section].pop("auto", None)
    cut = "held_out_steps" not in config[section]
    facts = {"env": without(env(config), ["physics"]), "data": reading(config, cut), "file": file}
    return settings | facts | sections(config, ["trainer"])


def behaviour(config: Config, file: str) -> dict[str, Any]:
    """The identity of the behaviour model that an agent such as Diffusion-DICE holds."""
    network = kept(config.agent.learner[BEHAVIOUR], f"agent.learner.{BEHAVIOUR}")
    network["process"] = without(network["process"], DENOISING)
    return sections(config, ["pretraining"]) | {
        "network": network,
        "normalise_obs": config.agent.normalise_obs,
        "data": reading(config, cut=False),
        "file": file,
    }


def condition_free(config: Config, file: str) -> dict[str, Any]:
    """The part of an agent's identity that all conditions of a comparison share: all but its synthetic data."""
    held = {BEHAVIOUR: behaviour(config, file)} if BEHAVIOUR in config.agent.learner else {}
    facts = {"env": env(config), "data": reading(config, cut=False), "file": file}
    trained = {"updates": config.updates, "batch_size": config.synthetic.batch_size}
    trainer = without(kept(config.trainer, "trainer"), ["precision"])  # agents are trained in float32
    return sections(config, ["agent"]) | facts | trained | {"trainer": trainer} | held


def agent(config: Config, file: str) -> dict[str, Any]:
    """The identity of an agent and its experience."""
    made: dict[str, Any] = {"generator": config.generator.name}
    if config.generator.build is not None:
        made["build"] = kept(config.generator.build, "generator.build")
        made["synthetic"] = without(kept(config.synthetic, "synthetic"), ["batch_size"]) | GONE["synthetic"]
        section = trained_section(config)
        made |= {section: model(config, section, file)} if section else {RECORDING: reading(config, cut=True)}
    return condition_free(config, file) | made


def trained_section(config: Config) -> str | None:
    """The section of the model behind the generator; None without one: real data alone, or windows of the recording."""
    generator = config.generator
    return None if generator.build is None or generator.model == RECORDING else str(generator.model)


def online(config: Config) -> dict[str, Any]:
    """The identity of PolyGRAD's learner in the simulator."""
    return sections(config, ["world", "online", "trainer"]) | {"env": env(config), "horizon": config.data.horizon}


def analysis(config: Config, file: str) -> dict[str, Any]:
    """The identity of an analysis, which trains and measures several agents and models on this data."""
    unasked = (*NOT_ASKED, "evaluation", "health")
    return sections(config, [str(key) for key in config if key not in unasked]) | {"file": file}


def check(config: Config, file: str) -> dict[str, Any]:
    """The identity of a check, which only reads and measures: how it does both, on this data."""
    measures = {name: config[name] for name in ("rows", "exact", "seed")}
    return measures | {"env": plain(config.env), "data": reading(config, cut=True), "file": file}


def env(config: Config) -> dict[str, Any]:
    """What of the environment changes what is read, trained or simulated; its folder has the name."""
    return dict(kept(config.env, "env"))


def reading(config: Config, cut: bool) -> dict[str, Any]:
    """How the recording is read and, if ``cut``, cut into windows; its own identity is its SHA-256."""
    return without(kept(config.data, "data"), () if cut else CUTTING)


def sections(config: Config, names: Sequence[str]) -> dict[str, Any]:
    """These sections of the config, without what trains nothing."""
    return {name: kept(config[name], name) for name in names}


def kept(node: Any, key: str) -> Any:
    """``node``, found under the dotted ``key``, without what trains nothing; a class counts by its own name alone."""
    node = plain(node)
    if isinstance(node, list):
        return [kept(child, key) for child in node]
    if not isinstance(node, dict):
        return int(node) if isinstance(node, float) and node.is_integer() else node  # 3 and 3.0 train alike
    settings = {
        name: str(child).rpartition(".")[2] if name == "_target_" else kept(child, f"{key}.{name}")
        for name, child in node.items()
        if not any(fnmatchcase(f"{key}.{name}", pattern) for pattern in TRAINS_NOTHING)
        and (f"{key}.{name}", child) not in NEWER.items()
    }
    return settings | REPLACED.get(settings.get("_target_", ""), {})


def plain(node: Any) -> Any:
    """Dictionaries and lists of whatever mappings and sequences ``node`` is made of."""
    if isinstance(node, Mapping):
        return {str(key): plain(value) for key, value in node.items()}
    if isinstance(node, Sequence) and not isinstance(node, str):
        return [plain(value) for value in node]
    return node


def without(settings: dict[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if key not in names}
