"""Finished agent runs that nobody trained: what a page over many runs reads of them."""

from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from pgd_lightning.config.compose import compose_config
from pgd_lightning.runs.run import Run

ENV = compose_config("train", ["env.ref_min_score=0", "env.ref_max_score=100"]).env  # a return is its own score
SETTINGS = {"env": ENV, "seeds": 5, "updates": 5000, "evaluation": {"final_episodes": 2}}


def make_run(root: Path, env: str, generator: str, scores: np.ndarray, label="a <stand-in>", **changes) -> Run:
    """A finished agent run whose seeds scored ``scores [S]``, two episodes each."""
    identity = {"agent": {"name": "iql"}, "generator": generator, "updates": 5000, **changes.pop("identity", {})}
    run = Run.at(str(root), "agent", env, f"iql-{generator}", identity, changes.pop("seed", 0))
    start = {"command": "pgd train", "machine": "x86_64, 2 cores", "code": "0.1.0", "time": "2026-11-21T00:00:00+0000"}
    run.update(
        state="finished", agent="iql", generator=generator, starts=[start],
        provenance={"label": label, "kind": "local recipe"}, **changes,
    )  # fmt: skip
    (run.folder / "config.yaml").write_text(OmegaConf.to_yaml(OmegaConf.create(SETTINGS)))
    run.append(
        "ledger.jsonl",
        [
            {"purpose": purpose, "step": step, "seed": seed, "index": i, "return": s + i, "score": s + i,
             "length": 5, "simulator": "mujoco 3.4.0, Hopper-v5"}
            for purpose, step in (("monitor", 2500), ("monitor", 5000), ("final", 5000))
            for seed, s in enumerate(scores)
            for i in range(2)
        ],
    )  # fmt: skip
    return run


def measured_by(run: Run, **env) -> Run:
    """The same run, in an environment of which these facts differ; every other episode did its task."""
    config = OmegaConf.load(run.folder / "config.yaml")
    OmegaConf.save(OmegaConf.merge(config, {"env": env}), run.folder / "config.yaml")
    run.append("ledger.jsonl", [{**row, "success": row["index"] == 1} for row in run.rows("ledger.jsonl")])
    return run
