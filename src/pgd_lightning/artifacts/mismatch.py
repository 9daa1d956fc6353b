"""Was a recording made in the environment that it is read as? What its rows say, and one step from some of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pgd_lightning.data import d4rl, ogbench, origin, sources
from pgd_lightning.data.d4rl.quirks import TimeLimitsAsEnds
from pgd_lightning.data.recording import Recording
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation import bodies
from pgd_lightning.runs.console import say
from pgd_lightning.simulators import make

LOOKED_AT = 20_000  # rows, at most


def of_its_body(
    read: Callable[[d4rl.Reading], Recording], reading: d4rl.Reading, env: EnvSpec,
    provenance: origin.Provenance, path: Path | None,
) -> Recording:  # fmt: skip
    """The recording, with a note if its rows do not look like those of ``env``.

    Raises UserError, with the notes printed before, where they are clearly of another task.
    """
    try:
        recording = read(reading)
    except TimeLimitsAsEnds:  # of another body they may well be ends
        require_body(read(replace(reading, terminals="recorded")), env, provenance, path)
        raise
    return require_body(recording, env, provenance, path)


def require_body(recording: Recording, env: EnvSpec, provenance: origin.Provenance, path: Path | None) -> Recording:
    """See :func:`of_its_body`."""
    number, found = looked_at(recording)
    if provenance["kind"] in ("official", "local recipe") or not len(number):
        return recording
    try:
        goal = infos(path, "goal", (2,), number.numpy()) if path and "maze" in env.task else None
        doubt = bodies.doubt(env.task, replace(found, goal=goal))
    except UserError:  # no simulator here, or goals that are no numbers: then nothing can be said
        return recording
    if doubt is None:
        return recording
    if doubt.tasks:
        for note in recording.notes:
            say(f"data: {note}")
        raise origin.wrong(provenance["path"], env, doubt.tasks, doubt.why)
    return replace(recording, notes=(*recording.notes, f"is this {env.task}? {doubt.why}"))


def steps_reproduced(
    recording: Recording, env: EnvSpec, provenance: origin.Provenance, path: Path | None, mismatch: str
) -> tuple[str, ...]:
    """Whether recorded steps follow from the registered environment ``env``, where its states can be set.

    Raises UserError, unless ``mismatch`` is ``note``, where they clearly do not.
    """
    number, found = looked_at(recording)
    if not len(number):
        return ()
    simulator = make(env.task, env.physics)
    states = {
        name: infos(path, name, np.shape(value), number.numpy()) if path else None
        for name, value in simulator.state().items()
    }
    known = {name: values for name, values in states.items() if values is not None}
    error = bodies.step_error(simulator, found, known if states and len(known) == len(states) else None)
    if error is None or error < bodies.WRONG:
        return ()
    why = (
        f"one step from recorded states of {provenance['path']} misses by {error:.0%} of what the step changes in "
        f"{env.name}"
    )
    if mismatch == "note":
        return (why,)
    raise UserError(
        f"{why}: name the environment that it was recorded in, with the arguments that it had (env.arguments=), or set "
        "data.mismatch=note to use it all the same."
    )


def looked_at(recording: Recording) -> tuple[Tensor, bodies.Rows]:
    """Rows with a successor, spread over the recording: their numbers ``[N]``, and what was recorded in them."""
    usable = recording.has_successor.nonzero().flatten()
    number = usable[torch.linspace(0, len(usable) - 1, min(len(usable), LOOKED_AT)).long()]
    columns = recording.obs[number], recording.action[number], recording.successors(number), recording.reward[number]
    return number, bodies.Rows(*(column.double().numpy() for column in columns))


def infos(path: Path, name: str, shape: tuple[int, ...], rows: NDArray[np.int64]) -> NDArray[np.float64] | None:
    """As :func:`pgd_lightning.data.d4rl.infos`, of a file in D4RL's or in OGBench's layout."""
    return (ogbench if sources.is_ogbench(path.name) else d4rl).infos(path, name, shape, rows)
