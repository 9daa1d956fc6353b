"""A batch, an agent of small networks, and a training of a few updates."""

import warnings
from collections.abc import Iterator
from functools import partial

import torch
from lightning import Trainer
from torch.utils.data import DataLoader, IterableDataset

from pgd_lightning.agents import Agent
from pgd_lightning.trajectory import Transition

OBS, ACTION, HIDDEN = 4, 2, [16, 16]


def make_batch(*lead: int, seed: int = 0) -> Transition:
    generator = torch.Generator().manual_seed(seed)
    draw = partial(torch.randn, generator=generator)
    return Transition(
        obs=draw(*lead, OBS),
        action=draw(*lead, ACTION).tanh(),
        reward=draw(*lead),
        next_obs=draw(*lead, OBS),
        terminated=torch.rand(*lead, generator=generator) < 0.2,
        next_action=draw(*lead, ACTION).tanh(),
        batch_size=list(lead),
    )


def make_agent(learner: object, num_seeds: int = 1, seed: int = 0, **changes: object) -> Agent:
    settings = {"name": "agent", "obs_dim": OBS, "normalise_obs": False, "learning_rate": 1e-3, "adam_eps": 1e-5}
    settings |= {"polyak": 0.1, "lr_schedule": "constant", "total_steps": 20, "log_every": 5}
    settings |= {"value_alarm": "stop", "value_alarm_factor": 3.0}
    return Agent(learner=learner, num_seeds=num_seeds, seed=seed, **(settings | changes))


class Stream(IterableDataset):
    """Batches without a length: Lightning would count a resumed epoch against it."""

    def __init__(self, batches: list[Transition]) -> None:
        self.batches = batches

    def __iter__(self) -> Iterator[Transition]:
        return iter(self.batches)


def fit(agent: Agent, batches: list, max_steps: int, checkpoint: str | None = None) -> Trainer:
    trainer = Trainer(
        accelerator="cpu",
        max_steps=max_steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(agent, DataLoader(Stream(batches), batch_size=None), ckpt_path=checkpoint, weights_only=True)
    return trainer


def same(left: dict, right: dict) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)
