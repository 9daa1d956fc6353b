"""From the name of an environment to its recording, cut into windows and steps, with its provenance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.artifacts.mismatch import of_its_body, steps_reproduced
from pgd_lightning.artifacts.recordings import has_recipe, recipe_of, substitute
from pgd_lightning.channels import mean_and_std
from pgd_lightning.config.build import build
from pgd_lightning.data import d4rl, minari, minari_remote, ogbench, origin, sources
from pgd_lightning.data.d4rl import package as legacy
from pgd_lightning.data.d4rl.cache import cache_key, cached
from pgd_lightning.data.d4rl.families import family
from pgd_lightning.data.outputs import expanded
from pgd_lightning.data.recording import Recording
from pgd_lightning.data.windows import Windows, left_out, split_windows
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.runs.console import say
from pgd_lightning.runs.run import Run
from pgd_lightning.simulators import make, relabelled
from pgd_lightning.trajectory import Transition


@dataclass(frozen=True)
class Dataset:
    """A recording with its provenance, cut into windows."""

    env: EnvSpec
    recording: Recording
    provenance: origin.Provenance
    train: Windows
    validation: Windows | None
    path: Path | None  # the file, if it is one

    @property
    def label(self) -> str:
        """For titles of tables and figures: says what the data are, so that a substitute never passes for D4RL."""
        return self.provenance["label"]

    @property
    def file(self) -> str:
        """The SHA-256 by which runs know their data."""
        return self.provenance["sha256"]

    @property
    def transitions(self) -> Transition:
        """Every real step that has a successor or ends in a terminal, ``[B]``.

        A view: its length, indexing and columns are a Transition's, but a batch is gathered when it is asked for.
        """
        return cast(Transition, self.recording.steps())

    @property
    def obs_std(self) -> Tensor:
        """Population standard deviation of each observation dim ``[O]``, 0 where it is constant."""
        return mean_and_std(self.recording.obs)[1]


def dataset_of(run: Run, settings: DictConfig, source: str | None) -> Dataset:
    """The recording that the finished ``run`` learned from: ``source`` if it is given, else where it was found then.

    Raises UserError if what is found there is something else.
    """
    there = run.record.get("recording")
    if source is not None or (there is not None and Path(there).exists()):
        settings.data.source = source if source is not None else there
    label = run.record["provenance"]["label"]
    try:
        dataset = open_dataset(settings)
    except UserError as error:
        raise UserError(
            f"{error} {run.folder} was trained on {label}: data.source=… says where that is now."
        ) from error
    if dataset.file != run.record["provenance"]["sha256"]:
        raise UserError(
            f"{run.folder} was trained on {label}, and this is {dataset.label}: data.source=… says where the first is."
        )
    return dataset


def open_dataset(config: DictConfig) -> Dataset:
    """Find, check and cut the recording of ``config.env``; prints its summary."""
    env: EnvSpec = build(config.env)
    recording, provenance, path = read_recording(config, env)
    train, validation = cut(config, env, recording)
    summary = recording.summary()
    say(f"data: {provenance['label']}")
    say(
        f"data: {summary['steps']:,} steps in {summary['episodes']:,} episodes, "
        f"mean return {summary['return_mean']:.1f} ({summary['return_min']:.1f} to {summary['return_max']:.1f}), "
        f"{counted(summary['terminals'], 'terminal')}, {counted(summary['timeouts'], 'timeout')}; "
        f"{len(train):,} training windows of {config.data.horizon} steps"
    )
    if summary["terminals"] == 0:
        say("data: the recording has no terminals, so synthetic data will have none", once=True)
    parts = [part for part in (train, validation) if part and part.recording is recording]
    outside = left_out(recording, config.data.horizon, parts)
    for note in (*recording.notes, *([outside] if outside else [])):
        say(f"data: {note}")
    simulator = make(env.task, env.physics)
    say(f"simulator: {simulator.physics if env.simulated else 'none (env=none): agents are not evaluated'}")
    if recorded_by_d4rl(provenance["kind"]) and family(env.task) == "gym" and env.physics == "today":
        say(
            f"simulator: D4RL recorded this file when the parts of {env.task}'s body had other masses. Scores that are "
            "to stand beside published ones need physics=d4rl"
        )
    if simulator.differs:
        say(f"simulator: it differs from D4RL's, so compare scores with care: {simulator.differs}")
    return Dataset(env, recording, provenance, train, validation, path)


def recorded_by_d4rl(kind: str) -> bool:
    """Whether a recording is D4RL's own, as far as can be known."""
    return kind in ("official", "unverified", "legacy package")


def cut(config: DictConfig, env: EnvSpec, recording: Recording) -> tuple[Windows, Windows | None]:
    """Windows to train on and held out: of a share of the episodes, or of OGBench's file of held-out trajectories."""
    data = config.data
    path = ogbench.held_out(sources.ogbench_file(data.source)) if sources.is_ogbench(data.source) else None
    if path is None or data.validation == 0:
        return split_windows(recording, data.horizon, data.stride, data.validation, config.seed)
    train, _ = split_windows(recording, data.horizon, data.stride, 0.0, config.seed)
    others = ogbench.load(path, env, reading_of(config), partial(relabelled, env.task))
    say(f"data: the held-out windows are those of {path.name}")
    found, _ = split_windows(others, data.horizon, data.stride, 0.0, config.seed)
    return train, found if len(found) else None


def counted(number: int, noun: str) -> str:
    """``1 terminal``, ``2 terminals``."""
    return f"{number:,} {noun}" + ("" if number == 1 else "s")


def read_recording(config: DictConfig, env: EnvSpec) -> tuple[Recording, origin.Provenance, Path | None]:
    """The recording that ``data.source`` names, through the cache, where it comes from, and its file if it is one.

    Raises UserError, in one sentence, where it is not usable.
    """
    data, reading = config.data, reading_of(config)
    if data.source == sources.PACKAGE:
        columns = legacy.fetch(env)
        provenance = legacy.provenance(columns, env)
        return legacy.load(columns, env, reading), provenance, None
    read: Callable[[d4rl.Reading], Recording]
    path = None
    if data.source.startswith(sources.MINARI):
        folder = minari_remote.folder_of(data.source, data.download, say)
        provenance = minari.provenance(folder, env)
        read = partial(minari.load, folder, env)
    elif sources.is_ogbench(data.source):
        if not env.success:
            raise UserError(f"{data.source} is in OGBench's layout, which has no rewards: {sources.SINGLE_TASKS}.")
        path = ogbench.file_of(data.source, data.download, say)
        provenance = ogbench.provenance(path, env)
        read = partial(ogbench.load, path, env, relabel=partial(relabelled, env.task))
    else:
        path = find_file(config, env)
        provenance = d4rl.provenance(path, env)
        read = partial(load_file, path, env)
    said = tuple(origin.compared(env, provenance))
    load = partial(of_its_body, read, reading, env, provenance, path)
    if data.cache is None:
        recording = load()
    else:
        facts = [env.task, env.obs_dim, env.action_dim, env.max_episode_steps, env.terminates]
        facts += [] if env.box is None else [vars(env.box)]
        key = cache_key([provenance["sha256"], provenance["kind"] == "minari", vars(reading), facts])
        recording = cached(expanded(data.cache), key, load, lambda text: say(f"data: {text}"))
    if env.registered:
        said += steps_reproduced(recording, env, provenance, path, data.mismatch)
    return replace(recording, notes=(*said, *recording.notes)), provenance, path


def reading_of(config: DictConfig) -> d4rl.Reading:
    """How the file is read."""
    data = config.data
    return d4rl.Reading(data.out_of_box, data.rewards, data.missing_timeouts, data.terminals)


def load_file(path: Path, env: EnvSpec, reading: d4rl.Reading) -> Recording:
    """As :func:`pgd_lightning.data.minari.load` of a Minari dataset."""
    return d4rl.load(path, env, **vars(reading))


def find_file(config: DictConfig, env: EnvSpec) -> Path:
    """The file that ``data.source`` asks for; ``auto`` falls back to a substitute of our own, and says so."""
    data = config.data
    if data.source == "local":
        return substitute(config, env)
    try:
        return d4rl.locate(
            env, data.source if data.source != "auto" else "d4rl", expanded(data.dir), data.base_url,
            timeout=data.timeout, retries=data.retries,
        )  # fmt: skip
    except d4rl.DataUnavailable as error:
        if data.source != "auto" or not has_recipe(env):
            raise
        say(
            f"data: {error}\ndata: A substitute dataset is used instead, recorded here by a policy of this project "
            f"({recipe_of(env).description}). Scores on it cannot be compared with published ones of {env.d4rl_id}. "
            "Set data.source=d4rl to stop instead."
        )
        return substitute(config, env)
