"""``pgd generate``: a synthetic set of a finished agent run, as an HDF5 file in D4RL's layout."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from omegaconf import DictConfig

from pgd_lightning.data import d4rl
from pgd_lightning.dataset import open_dataset
from pgd_lightning.errors import UserError
from pgd_lightning.experience import ready_generator
from pgd_lightning.models import build_agent, load_agent
from pgd_lightning.progress import say
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs import finished_agent
from pgd_lightning.trajectory import Trajectory


def main(config: DictConfig, overrides: list[str]) -> None:
    run = finished_agent(config.run)
    settings = run.load_config()
    if settings.generator.build is None:
        raise UserError(f"'{config.run}' was trained on real data only: give a run whose generator is not 'none'.")
    dataset = open_dataset(settings)
    module = build_agent(settings, dataset)
    load_agent(module, run)
    generator = ready_generator(settings, dataset)
    assert generator is not None
    starts = dataset.transitions.obs[: config.windows].expand(settings.seeds, -1, -1)
    windows = generator.generate(module.policy, starts, derive_seed(config.seed, "generate"))
    steps = windows.batch_size.numel()
    attributes = {
        "description": f"synthetic windows of {run.record['method']}, {settings.seeds} seeds, not recorded data",
        "source": dataset.label,
        "run": run.folder.name,
    }
    d4rl.write(Path(config.out), chunks(windows), attributes, steps)
    say(f"{steps} rows in windows of {settings.data.horizon}, each its own episode: {config.out}")


def chunks(windows: Trajectory) -> Iterator[dict[str, np.ndarray]]:
    """One chunk a seed; a window ends in its own terminal or else in a timeout."""
    for part in windows:
        last = np.zeros(part.batch_size, dtype=bool)
        last[:, -1] = True
        terminal = part.terminated.cpu().numpy()
        yield {
            "observations": part.obs.cpu().numpy().reshape(-1, part.obs.shape[-1]),
            "actions": part.action.cpu().numpy().reshape(-1, part.action.shape[-1]),
            "rewards": part.reward.cpu().numpy().reshape(-1),
            "terminals": terminal.reshape(-1),
            "timeouts": (last & ~terminal).reshape(-1),
        }
