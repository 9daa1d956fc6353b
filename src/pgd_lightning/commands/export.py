"""``pgd export``: the policy of a finished agent as an ONNX file, with a JSON file that describes it."""

from __future__ import annotations

import json
from hashlib import sha256
from typing import Any

from omegaconf import DictConfig

from pgd_lightning import __version__
from pgd_lightning.agents.agent import Agent
from pgd_lightning.agents.onnx_policy import BATCH, INPUT, OUTPUT, onnx_policy
from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.config.build import build
from pgd_lightning.config.saved import settings_of
from pgd_lightning.data.outputs import expanded, make_folder, require_new
from pgd_lightning.environment import ActionBox, EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.networks.actors import GaussianActor
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.checkpoints import last_checkpoint
from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import Run, finished_agent
from pgd_lightning.simulators.channel_names import BOX, channels_of


def main(config: DictConfig, overrides: list[str]) -> None:
    """Write ``out`` and, beside it, its contract. Raises UserError where that is not possible."""
    out = expanded(config.out)
    if out.suffix != ".onnx":
        raise UserError(f"out={config.out} is no .onnx file.")
    beside = out.with_suffix(".json")
    for path in (out, beside):
        require_new(path, config.overwrite)
    run = finished_agent(config.run)
    settings = settings_of(run)
    if config.seed >= settings.seeds:
        raise UserError(f"seed={config.seed} is not one of the run's {settings.seeds}, which are counted from 0.")
    module = trained_agent(run, settings)
    env: EnvSpec = build(settings.env)
    model = onnx_policy(module, config.seed, env.box)
    described = contract(module, run, settings, env, config.seed)
    described["file"] = {"name": out.name, "sha256": sha256(model).hexdigest()}
    make_folder(out.parent, out)
    write_atomic(out, model)
    write_atomic(beside, json.dumps(described, indent=1))
    say(f"written: {out} and {beside}, learner {config.seed} of {run.record['method']}")


def contract(module: Agent, run: Run, settings: DictConfig, env: EnvSpec, learner: int) -> dict[str, Any]:
    """What a user of the file must know: names, shapes and units, the box of actions, and what it was trained on."""
    named = channels_of(env)
    box = env.box or ActionBox((-1.0,) * env.action_dim, (1.0,) * env.action_dim)
    provenance = run.record["provenance"]
    return {
        "observation": {
            "name": INPUT, "dtype": "float32", "shape": [BATCH, env.obs_dim], "units": "the environment's",
            "channels": list(named.obs), "normalised": "inside the file" if module.normalise_obs else "no",
        },
        "action": {
            "name": OUTPUT, "dtype": "float32", "shape": [BATCH, env.action_dim],
            "channels": [name.removesuffix(f" {BOX}") for name in named.action],
            "low": list(box.low), "high": list(box.high),
            "kind": "mean" if isinstance(module.learner.actor, GaussianActor) else "deterministic",
        },
        "environment": {
            "name": env.name, "d4rl_id": env.d4rl_id, "task": env.task, "max_episode_steps": env.max_episode_steps,
            "physics": env.physics, "ref_min_score": env.ref_min_score, "ref_max_score": env.ref_max_score,
        },
        "trained": {
            "agent": settings.agent.name, "generator": settings.generator.name, "data": provenance["label"],
            "data_sha256": provenance["sha256"], "run": "/".join(run.folder.absolute().parts[-4:]),
            "seed": settings.seed, "learner": learner, "learner_seed": module.seeds[learner],
            "step": int(last_checkpoint(run).stem.partition("=")[2]), "pgd_lightning": __version__,
        },
    }  # fmt: skip
