"""From the name of an environment to its recording, cut into windows and steps, with its provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.collect import has_recipe, stand_in
from pgd_lightning.data import d4rl, legacy, minari
from pgd_lightning.data.cache import cache_key, cached
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import Windows, left_out, split_windows
from pgd_lightning.progress import say
from pgd_lightning.runs import build
from pgd_lightning.simulators import make
from pgd_lightning.trajectory import EnvSpec, Transition


@dataclass(frozen=True)
class Dataset:
    """A recording and what was found out about it."""

    env: EnvSpec
    recording: Recording
    provenance: dict[str, Any]
    train: Windows
    validation: Windows | None
    path: Path | None  # the HDF5 file, if it is one

    @property
    def label(self) -> str:
        """For titles of tables and figures: says what the data are, so that a stand-in never passes for D4RL."""
        return str(self.provenance["label"])

    @property
    def transitions(self) -> Transition:
        """Every real step that has a successor or ends in a terminal, ``[B]``.

        A view: its length, indexing and columns are a Transition's, but a batch is gathered when it is asked for.
        """
        return cast(Transition, self.recording.steps())

    @property
    def obs_std(self) -> Tensor:
        """Population deviation of each observation dim ``[O]``."""
        return self.recording.obs.std(0, correction=0)


def open_dataset(config: DictConfig) -> Dataset:
    """Find, check and cut the recording of ``config.env``; prints its data card."""
    env: EnvSpec = build(config.env)
    recording, provenance, path = read_recording(config, env)
    train, validation = split_windows(
        recording, config.data.horizon, config.data.stride, config.data.validation, config.seed
    )
    card = recording.card()
    say(f"data: {provenance['label']}")
    say(
        f"data: {card['episodes']} episodes, {card['steps']} steps, return {card['return_mean']:.1f} "
        f"({card['return_min']:.1f} to {card['return_max']:.1f}), {card['terminals']} terminals, "
        f"{card['timeouts']} timeouts, {len(train)} windows of {config.data.horizon}"
    )
    if card["terminals"] == 0:
        say("data: no terminals, so synthetic data will have none either")
    outside = left_out(recording, config.data.horizon, [part for part in (train, validation) if part])
    for note in (*recording.notes, *([outside] if outside else [])):
        say(f"data: {note}")
    simulator = make(env.task, env.physics)
    say(f"simulator: {simulator.physics}")
    if simulator.differs:
        say(f"simulator: compare scores with D4RL's with care: {simulator.differs}")
    return Dataset(env, recording, provenance, train, validation, path)


def read_recording(config: DictConfig, env: EnvSpec) -> tuple[Recording, dict[str, Any], Path | None]:
    """The recording that ``data.source`` names, through the cache, where it comes from, and its HDF5 file if it is one.

    Raises UserError, in one sentence, where it is not usable.
    """
    data = config.data
    reading = d4rl.Reading(data.out_of_box, data.rewards, data.missing_timeouts, data.terminals)
    if data.source == legacy.SOURCE:
        columns = legacy.fetch(env)
        provenance = legacy.provenance(columns, env)
        return legacy.load(columns, env, reading), provenance, None
    make: Callable[[], Recording]
    path = None
    if data.source.startswith(minari.PREFIX):
        folder = minari.locate(data.source)
        provenance = minari.provenance(folder, env)
        make = partial(minari.load, folder, env, reading)
    else:
        path = find_file(config, env)
        provenance = d4rl.provenance(path, env)
        make = partial(d4rl.load, path, env, **vars(reading))
    if data.cache is None:
        return make(), provenance, path
    facts = [env.task, env.obs_dim, env.action_dim, env.max_episode_steps, env.terminates]
    key = cache_key([provenance["sha256"], provenance["kind"] == "minari", vars(reading), facts])
    recording = cached(Path(data.cache).expanduser(), key, make, lambda text: say(f"data: {text}"))
    return recording, provenance, path


def find_file(config: DictConfig, env: EnvSpec) -> Path:
    """The file that ``data.source`` asks for; ``auto`` falls back to a stand-in of our own, loudly."""
    data = config.data
    if data.source == "local":
        return stand_in(config, env)
    try:
        return d4rl.locate(
            env, data.source if data.source != "auto" else "d4rl", Path(data.dir).expanduser(), data.base_url,
            timeout=data.timeout, retries=data.retries,
        )  # fmt: skip
    except d4rl.DataUnavailable as error:
        if data.source != "auto":
            raise
        if not has_recipe(env):
            raise
        say("!" * 100)
        say(f"!! {error}")
        say("!! Going on with a LOCAL STAND-IN recorded by this project. It is NOT D4RL: scores on it must not be")
        say(f"!! reported as {env.d4rl_id}. (data.source=d4rl makes this an error.)")
        say("!" * 100)
        return stand_in(config, env)
