"""``pgd generate``: a synthetic set of a finished agent run, as an HDF5 file in D4RL's layout or a Minari dataset."""

import shutil
import tempfile
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.dataset import Dataset, dataset_of
from pgd_lightning.artifacts.generators import generator_of
from pgd_lightning.commands.convert import destination, no_infos
from pgd_lightning.config.saved import settings_of
from pgd_lightning.data import d4rl, minari_writer, sources
from pgd_lightning.data.outputs import require_new
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.randomness import derive_seed, stream
from pgd_lightning.runs.console import Counter, say
from pgd_lightning.runs.run import finished_agent
from pgd_lightning.training.fit import accelerator
from pgd_lightning.trajectory import Generator, Policy, Trajectory

WINDOWS_AT_ONCE = 512  # of each seed: what is in memory


def main(config: DictConfig, overrides: list[str]) -> None:
    """Generate ``windows`` for each seed of ``run`` into ``out``. Raises UserError where that is not possible."""
    out = destination(config.out, config.overwrite)
    run = finished_agent(config.run)
    settings = settings_of(run)
    if settings.generator.build is None:
        raise UserError(f"'{config.run}' was trained on real data only: give a run whose generator is not 'none'.")
    dataset = dataset_of(run, settings, config.data.source)
    require_new(out, config.overwrite, dataset.path)
    module = trained_agent(run, settings)
    module.to(accelerator(settings.trainer.accelerator))
    generator = generator_of(run, settings, dataset)
    assert generator is not None
    parts = generated(generator, module.policy, dataset.transitions.obs, settings.seeds, config.windows, config.seed)
    first = next(parts)  # a generator of single steps makes other windows than were asked for: look at some
    rows_each = first.batch_size[1:].numel() // min(WINDOWS_AT_ONCE, config.windows)
    parts, rows = chain([first], parts), settings.seeds * config.windows * rows_each
    attributes = {
        "description": f"synthetic windows of {run.record['method']}, {settings.seeds} seeds, not recorded data",
        "run": run.folder.name,
    }
    write(config.out, parts, rows, dataset, attributes, config.overwrite)
    say(f"written: {out}, {rows:,} steps in episodes of {first.batch_size[-1]} steps")


def generated(
    generator: Generator, policy: Policy, obs: Tensor, num_seeds: int, num_windows: int, seed: int
) -> Iterator[Trajectory]:
    """``num_windows`` windows for each seed, ``[S, n, T]`` at a time, from start states drawn among ``obs [B, O]``."""
    draw = stream(seed, "generate", "starts")
    with Counter("synthetic windows for each seed", num_windows, "windows") as progress:
        for done in range(0, num_windows, WINDOWS_AT_ONCE):
            num = min(WINDOWS_AT_ONCE, num_windows - done)
            starts = obs[torch.randint(len(obs), (num_seeds * num,), generator=draw)].reshape(num_seeds, num, -1)
            yield generator.generate(policy, starts.to(policy.device), derive_seed(seed, "generate", done))
            progress.show(done + num)


def write(
    out: str, parts: Iterable[Trajectory], rows: int, dataset: Dataset, attributes: dict[str, str], overwrite: bool
) -> None:
    """Write ``parts``, each ``[S, n, T]`` and ``rows`` steps in all, to ``out``.

    Raises UserError where that is not possible.
    """
    place = destination(out, overwrite)
    attributes = {**attributes, "source": dataset.label, "env": dataset.env.name}
    if out.startswith(sources.MINARI):
        write_minari(out, parts, attributes, rows, dataset.env, overwrite)
    else:
        d4rl.write(place, chunks(parts, dataset.env), attributes, rows, overwrite)


def write_minari(
    target: str, parts: Iterable[Trajectory], attributes: dict[str, str], rows: int, env: EnvSpec, overwrite: bool
) -> None:
    """The same rows as a Minari dataset, by way of an HDF5 file that is removed again."""
    folder = Path(tempfile.mkdtemp(prefix="pgd-"))
    try:
        d4rl.write(folder / "windows.hdf5", chunks(parts, env), attributes, rows)
        recording = d4rl.load(folder / "windows.hdf5", env, out_of_box="error", terminals="recorded")
        description = f"{attributes['description']}; {attributes['source']}"
        minari_writer.write(target, recording, env, description, no_infos, overwrite)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def chunks(parts: Iterable[Trajectory], env: EnvSpec) -> Iterator[dict[str, np.ndarray]]:
    """One chunk for each part and seed; a window ends in its own terminal or else in a timeout."""
    for windows in parts:
        for part in windows:
            last = np.zeros(part.batch_size, dtype=bool)
            last[:, -1] = True
            terminal = part.terminated.cpu().numpy()
            yield {
                "observations": part.obs.cpu().numpy().reshape(-1, part.obs.shape[-1]),
                "actions": env.own_actions(part.action.cpu().numpy().reshape(-1, part.action.shape[-1])),
                "rewards": part.reward.cpu().numpy().reshape(-1),
                "terminals": terminal.reshape(-1),
                "timeouts": (last & ~terminal).reshape(-1),
            }
