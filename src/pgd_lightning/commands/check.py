"""``pgd check``: a summary of a recording, its one-step error under both physics, and a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from omegaconf import DictConfig

from pgd_lightning.artifacts.dataset import read_recording
from pgd_lightning.artifacts.mismatch import infos
from pgd_lightning.config.build import build
from pgd_lightning.data.d4rl import families
from pgd_lightning.data.origin import Provenance
from pgd_lightning.data.outputs import expanded, require_own
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.summary import examine
from pgd_lightning.data.windows import Windows, left_out, window_starts
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.fidelity import not_available
from pgd_lightning.evaluation.recorded_steps import Replay, replayed
from pgd_lightning.randomness import derive_seed
from pgd_lightning.report.data_figure import data_figure
from pgd_lightning.runs import identity
from pgd_lightning.runs.atomic import write_atomic
from pgd_lightning.runs.console import say
from pgd_lightning.simulators import PHYSICS, Simulator, make
from pgd_lightning.simulators.channel_names import channels_of

# relocate: files hold where the object is, its body stands where it was in the episode's first row
OBJECT_BASE = ("obj_pos", "obj_body_pos")


def main(config: DictConfig, overrides: list[str]) -> None:
    """Print the summary and write ``check.json`` and its figure. Raises UserError if the recording is not usable."""
    env: EnvSpec = build(config.env)
    recording, provenance, path = read_recording(config, env)
    asked, digest = identity.check(config, provenance["sha256"]), provenance["sha256"]
    name = f"{digest[:8]}-{identity.digest(asked)}"
    folder = expanded(config.out) if config.out else Path(config.checks_dir) / env.name / name
    require_own(
        folder, ("check.json", "check.png", "check.svg"), "check.json", lambda c: c.get("asked") == asked,
        config.overwrite,
    )  # fmt: skip
    summary = examine(recording, env)
    starts = window_starts(recording.terminated, recording.truncated, config.data.horizon, config.data.stride)
    outside = left_out(recording, config.data.horizon, [Windows(recording, starts, config.data.horizon)])
    summary["notes"] += [outside] if outside else []
    replays = compare_physics(config, env, recording, path)
    found = conclusion(replays, config.exact) if env.file is not None else reproduced(env, replays, config.exact)
    say(text(env, provenance, summary, replays, found))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        content = {"asked": asked, "provenance": provenance, "summary": summary, "one_step": replays, "verdict": found}
        write_atomic(folder / "check.json", json.dumps(content, indent=1, default=vars))
        lengths = (recording.ends - recording.starts + 1).numpy()
        names = channels_of(env)
        ranges = {"observation": (names.obs, summary["obs"]), "action": (names.action, summary["action"])}
        data_figure(recording.returns().numpy(), lengths, ranges, provenance["label"], folder / "check.png")
    except OSError as error:
        raise UserError(f"Cannot write to {folder} ({error}): set out=<a folder you may write to>.") from error
    say(f"\nwritten: {folder / 'check.json'}, {folder / 'check.png'}")


def compare_physics(
    config: DictConfig, env: EnvSpec, recording: Recording, path: Path | None
) -> dict[str, Replay | None]:
    """The same rows stepped once under each physics; empty if this task has no simulator."""
    rows = sampled_rows(recording, config.rows, derive_seed(config.seed, "check"))
    if not len(rows):
        return {}
    replays: dict[str, Replay | None] = {}
    for physics in (env.physics,) if env.file is None else PHYSICS:
        try:
            simulator = make(env.task, physics)
        except UserError as error:
            say(f"check: no one-step error: {error}")
            return {}
        replays[physics] = replay_rows(config, env, simulator, recording, path, rows)
    return replays


def sampled_rows(recording: Recording, number: int, seed: int) -> NDArray[np.int64]:
    """At most ``number`` rows, ascending: up to a tenth of them terminal, the others with a recorded successor."""
    rng, terminal = np.random.default_rng(seed), recording.terminated.numpy()
    ends = rng.permutation(np.flatnonzero(terminal))[: number // 10]
    others = rng.permutation(np.flatnonzero(recording.has_successor.numpy() & ~terminal))[: number - len(ends)]
    return np.sort(np.concatenate([ends, others]))


def replay_rows(
    config: DictConfig,
    env: EnvSpec,
    simulator: Simulator,
    recording: Recording,
    path: Path | None,
    rows: NDArray[np.int64],
) -> Replay | None:
    """``rows [N]`` of the recording stepped in ``simulator``, from the file's infos where it has them."""
    family = families.family(env.task)
    # antmaze's published script wrote infos after the step that a row is of; its observations are the whole state
    states = recorded_states(path, simulator, recording, rows) if path and family != "antmaze" else None
    index = rows
    if family == "maze2d" and config.data.rewards == "recorded":
        index = np.minimum(rows + 1, len(recording) - 1)  # there the reward of a step stands one row below it
    successors = recording.successors(torch.as_tensor(rows)).double().numpy()
    successors[~recording.has_successor[rows].numpy()] = np.nan
    return replayed(
        simulator, states,
        recording.obs[rows].double().numpy(), recording.action[rows].double().numpy(),
        successors, recording.reward[index].double().numpy(),
        recording.terminated[rows].numpy(),
    )  # fmt: skip


def recorded_states(
    path: Path, simulator: Simulator, recording: Recording, rows: NDArray[np.int64]
) -> dict[str, NDArray[np.float64]] | None:
    """The simulator's state at ``rows`` from the file's infos; None if it lacks a part of it."""
    if not simulator.state():
        return None
    states = {}
    starts = recording.starts.numpy()
    first = starts[np.searchsorted(starts, rows, side="right") - 1]
    for name, value in simulator.state().items():
        found = infos(path, name, np.shape(value), rows) if name != "obj_pos" else None
        if found is None and name in OBJECT_BASE:
            found = infos(path, "obj_pos", np.shape(value), first)
        if found is None:
            return None
        states[name] = found
    return states


def conclusion(replays: dict[str, Replay | None], exact: float) -> str:
    """In one line which physics the file was recorded in."""
    errors = {physics: replay.median for physics, replay in replays.items() if replay}
    if not errors:
        return "the file does not determine the simulator's states, so nothing can be said of its physics"
    matching = [physics for physics, error in errors.items() if error <= exact]
    if len(matching) == len(errors) > 1:
        return "recorded in this simulator: both physics reproduce it, which do not differ for these rows"
    if matching:
        return f"recorded under physics={matching[0]}: only that one reproduces it"
    nearest = min(errors, key=lambda physics: errors[physics])
    return f"recorded in neither physics: the nearer is {nearest}, with a median error of {errors[nearest]:.1e}"


def reproduced(env: EnvSpec, replays: dict[str, Replay | None], exact: float) -> str:
    """In one line whether an environment that is none of D4RL's reproduces the file."""
    replay = next(iter(replays.values()), None)
    if replay is None:
        return not_available(make(env.task, env.physics).unresettable or "the file has no rows to step")
    if replay.median <= exact:
        return f"{env.name} reproduces it"
    return f"{env.name} does not reproduce it: the median error is {replay.median:.1e}"


def text(
    env: EnvSpec, provenance: Provenance, summary: dict[str, Any], replays: dict[str, Replay | None], found: str
) -> str:
    """The summary for people."""
    returns, lengths = summary["returns"], summary["lengths"]
    lines = [
        provenance["label"],
        f"  {'origin':<22}{origin(env, provenance)}",
        f"  {'episodes':<22}{summary['episodes']} in {summary['steps']} rows, lengths {lengths['min']:.0f} to "
        f"{lengths['max']:.0f}, median {lengths['median']:.0f}",
        f"  {'return':<22}{returns['mean']:.1f} ± {returns['std']:.1f}, {returns['min']:.1f} to {returns['max']:.1f}; "
        f"{scores(env, summary)}",
        f"  {'ends':<22}{summary['terminals']} terminals, {summary['timeouts']} timeouts or cuts",
        f"  {'reward':<22}{summary['reward_min']:.4g} to {summary['reward_max']:.4g}",
        f"  {'observations':<22}{span(summary['obs'])}",
        f"  {'actions':<22}{span(summary['action'])}; {summary['clipped_actions']} numbers outside the box (clipped), "
        f"{summary['actions_at_the_box']} on it",
        f"  {'duplicates':<22}{summary['duplicate_rows']} rows, {summary['duplicate_episodes']} episodes",
        f"  {'successors':<22}{successors(summary)}",
    ]
    lines += [f"  {'note':<22}{note}" for note in summary["notes"]]
    if env.file is None:
        lines += [f"  {'one step':<22}{replay_line(replay)}" for replay in replays.values() if replay]
        return "\n".join([*lines, f"  {'environment':<22}{found}"])
    for physics, replay in replays.items():
        lines.append(f"  {'one step, ' + physics:<22}{replay_line(replay)}")
    return "\n".join([*lines, f"  {'physics':<22}{found}"])


def scores(env: EnvSpec, summary: dict[str, Any]) -> str:
    """The normalised scores behind the returns."""
    if env.success:
        return f"{summary['terminals']} steps in a state where the task is done"
    if not env.scored:
        return f"no score: {env.name} has no reference returns"
    low, high = (env.score(summary["returns"][end]) for end in ("min", "max"))
    return f"D4RL score {summary['score_mean']:.1f}, {low:.1f} to {high:.1f}"


def origin(env: EnvSpec, provenance: Provenance) -> str:
    """What the hash says."""
    digest = provenance["sha256"]
    if provenance["kind"] == "official":
        return f"the published D4RL file, sha256 {digest}"
    published = f", not the published {env.file.sha256[:8]}…" if env.file is not None and env.file.sha256 else ""
    return f"{provenance['kind']}, sha256 {digest}{published}"


def span(columns: dict[str, list[float]]) -> str:
    """Ranges of all dimensions in a line; each is in check.json and the picture."""
    fixed = sum(low == high for low, high in zip(columns["min"], columns["max"], strict=True))
    constant = f", {fixed} of them constant" if fixed else ""
    return f"{len(columns['min'])} numbers in {min(columns['min']):.4g} to {max(columns['max']):.4g}{constant}"


def successors(summary: dict[str, Any]) -> str:
    """Where they come from, and whether they agree with the following rows."""
    kind = "recorded at episode ends too" if summary["successors_recorded"] else "the following row"
    differ = summary["successors_inside_differ"]
    agree = "agree with the following row inside episodes"
    if differ:
        agree = f"{differ} inside episodes differ from the following row, by up to {summary['largest_difference']:.2g}"
    return f"{kind}; {agree}; {summary['rows_without_successor']} rows without"


def replay_line(replay: Replay | None) -> str:
    """One physics in a line."""
    if replay is None:
        return "observations alone do not determine the state, and the file has no infos/qpos, infos/qvel"
    return (
        f"error median {replay.median:.1e}, 99 % {replay.most:.1e}, max {replay.max:.1e} ({replay.rows} rows from "
        f"{replay.state}); reward median {replay.reward_median:.1e}, max {replay.reward_max:.1e}; "
        f"{terminals(replay)}"
    )


def terminals(replay: Replay) -> str:
    """How many recorded terminals the simulator confirms, and how many it adds."""
    added = f"; {replay.terminals_added} other rows end there" if replay.terminals_added else ""
    if not replay.terminals:
        return f"no recorded terminal among these rows{added}"
    return f"{replay.terminals_confirmed} of {replay.terminals} recorded terminals end in the simulator too{added}"
