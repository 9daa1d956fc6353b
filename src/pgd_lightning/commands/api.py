"""The framework from Python: what ``import pgd_lightning as pgd`` offers.

Each function composes the settings of the command line's verb (``conf/``), changes those that it is given and calls the
same parts, so that Python and command line find each other's runs and give the same numbers::

    data = pgd.load("hopper-medium")
    prior = pgd.train_prior(data, steps=20_000)
    windows = pgd.generate(prior, policy, windows=1024, coef=1.0)
    print(pgd.fidelity(windows, data, policy))

Shapes: N windows of T steps, O observation dims, A action dims; the policy of a run folder has S seeds and gives
windows ``[S, N, T]``, any other ``[N, T]``. Actions of :class:`~pgd_lightning.trajectory.Trajectory` lie in [-1, 1];
policies, recordings and what :func:`save` writes are in the environment's units.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.artifacts import agents
from pgd_lightning.artifacts.agent_modules import trained_agent
from pgd_lightning.artifacts.models import ready_prior
from pgd_lightning.commands.api_data import Data, Settings, typed
from pgd_lightning.commands.api_data import load as load
from pgd_lightning.commands.api_policy import as_target, seed_axes
from pgd_lightning.commands.generate import chunks, write
from pgd_lightning.commands.train import clone_config
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.analysis import Coverage
from pgd_lightning.evaluation.fidelity import finite, log_likelihood, median, persistence_error, step_errors
from pgd_lightning.evaluation.late_rewards import late_rewards
from pgd_lightning.evaluation.ledgers import final_scores
from pgd_lightning.evaluation.rollout import Episodes, rollout
from pgd_lightning.generators.prior import DiffusionPrior
from pgd_lightning.randomness import derive_seed
from pgd_lightning.runs.console import quieten
from pgd_lightning.runs.operating_system import keep_memory
from pgd_lightning.simulators import make
from pgd_lightning.training.fit import accelerator
from pgd_lightning.trajectory import Policy, Trajectory

quieten()  # as the command line does at its start
keep_memory()


def train_prior(
    data: Data, steps: int | str | None = None, seed: int = 0, settings: Settings | None = None
) -> DiffusionPrior:
    """The diffusion prior of ``data``, a LightningModule: found in its run folder, continued or trained now.

    ``steps`` is a number or ``"auto"``; None takes that of the scale. The run lies below ``runs_dir``
    (``settings={"runs_dir": …}``).
    """
    given = [] if steps is None else [f"prior.steps={steps}"]
    config = data.composed("prior", *given, f"seed={seed}", *typed(settings or {}))
    prior, _ = ready_prior(config, data.dataset)
    assert isinstance(prior, DiffusionPrior)
    prior.trained_on = data
    return prior


@torch.no_grad()
def generate(
    prior: DiffusionPrior,
    policy: Any = None,
    windows: int = 1024,
    coef: float | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Trajectory:
    """Windows ``[N, T]`` of the prior, guided by ``policy``; without one they follow the data.

    ``policy`` is anything that acts (see :func:`pgd_lightning.agents.adapters.as_policy`), or a run folder, of whose S
    seeds each guides N windows: ``[S, N, T]``. ``coef`` is the strength of guidance; which guidance and sampler it
    belongs to is in ``settings`` (``{"guidance": "score", "sampler.num_steps": 32}``).
    """
    data = getattr(prior, "trained_on", None)
    if not isinstance(data, Data):
        raise UserError("generate needs a prior of pgd_lightning.train_prior, which knows its data.")
    given = [] if coef is None else [f"guidance.coef={coef}"]
    config = data.composed("train", "generator=pgd", *given, *typed(settings or {}))
    target = None if policy is None else as_target(policy, data)
    device = accelerator(config.trainer.accelerator) if target is None else target.device
    starts = torch.zeros(*seed_axes(target), windows, config.env.obs_dim, device=device)
    made: Trajectory = build(config.generator.build)(prior).generate(target, starts, seed)
    return made.cpu()


@dataclass(frozen=True)
class Fidelity:
    """How faithful windows are. Errors are squared and averaged over dims, in variances of the data."""

    windows: int
    finite: float  # share of the windows
    log_likelihood: float | None  # mean log pi(a | s) of a step, summed over action dims; None without a policy
    one_step_error: float | None  # median over steps, against the simulator
    one_step_error_mean: float | None
    persistence_error: float  # median of predicting no change, in these windows
    reward_error: float | None  # median absolute error of the reward, against the simulator
    late_reward: float | None  # mean reward in the last quarter of the windows
    late_reward_policy: float | None  # the same of the policy itself, acting from the windows' first states
    data_distance: float  # median distance of a step to the nearest recorded one, in standard deviations
    outside_data: float  # share of the steps with an observation that has a value which the recording never reaches
    reset: str  # exact; approximate, where the observation hides a part of the state; or why there is none

    def __str__(self) -> str:
        return "\n".join(f"{name.replace('_', ' '):20} {_shown(value)}" for name, value in vars(self).items())


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


@torch.no_grad()
def fidelity(windows: Trajectory, data: Data, policy: Any = None, steps: int = 2000, seed: int = 0) -> Fidelity:
    """Measure ``windows [..., N, T]`` against the simulator, the recording and ``policy``.

    At most ``steps`` of their steps are tried in the simulator (PGD's workshop version, section 4.2).
    """
    good = finite(windows)
    if not good.any():
        raise UserError("fidelity: no window is finite, so there is nothing to measure.")
    kept, dataset = windows[good].cpu(), data.dataset
    likelihood = beside = None
    simulator = make(dataset.env.task, dataset.env.physics)
    if policy is not None:
        target = as_target(policy, data)
        likelihood = float(log_likelihood(target, windows.to(target.device))[good].mean())
        of_seeds = windows.reshape(*(seed_axes(target) or (1,)), -1, windows.batch_size[-1])
        beside = late_rewards(simulator, of_seeds, target, steps, seed)
    late, of_policy = beside or (None, None)
    errors = step_errors(simulator, kept, dataset.obs_std, steps, seed)
    reset = "approximate" if errors.approximate else "exact"
    made = kept.transitions()
    chosen = torch.as_tensor(np.random.default_rng(seed).permutation(len(made))[:steps])
    covered = Coverage(data.transitions, steps, seed)(made[chosen])
    return Fidelity(
        windows=int(good.sum()),
        finite=float(good.float().mean()),
        log_likelihood=likelihood,
        one_step_error=median(errors.dynamics),
        one_step_error_mean=float(errors.dynamics.mean()) if len(errors.dynamics) else None,
        persistence_error=persistence_error(kept, dataset.obs_std),
        reward_error=median(errors.reward),
        late_reward=late,
        late_reward_policy=of_policy,
        data_distance=covered["data_distance"],
        outside_data=covered["outside_box"],
        reset=f"not available, because {simulator.unresettable}" if simulator.unresettable else reset,
    )


def evaluate(policy: Any, data: Data, episodes: int = 10, seed: int = 0) -> Episodes:
    """Whole episodes of ``policy`` in the simulator: ``returns [S, E]``, ``lengths [S, E]``.

    Episodes begin as those of ``pgd evaluate`` with the same ``seed``.
    """
    target = as_target(policy, data)
    (num_seeds,) = seed_axes(target) or (1,)
    return rollout(data.dataset.env, target, num_seeds, episodes, derive_seed(seed, "evaluate"))


@dataclass(frozen=True)
class Trained:
    """A trained agent: the policy of its S seeds, its run folder, and the scores of its final episodes ``[S, E]``.

    Returns where the environment has no reference returns; none (E = 0) without an environment.
    """

    policy: Policy
    folder: Path
    scores: NDArray[np.float64]


def train_agent(
    data: Data,
    agent: str = "iql",
    generator: str = "pgd",
    updates: int | None = None,
    seeds: int | None = None,
    seed: int = 0,
    settings: Settings | None = None,
) -> Trained:
    """An agent of ours on real and synthetic data: found in its run folder, continued or trained now.

    ``agent`` and ``generator`` are those of the command line; ``generator="none"`` is real data alone.
    """
    numbers = {"updates": updates, "seeds": seeds, "seed": seed}
    given = [
        *data.settings, f"agent={agent}", f"generator={generator}",
        *(f"{name}={value}" for name, value in numbers.items() if value is not None), *typed(settings or {}),
    ]  # fmt: skip
    config = compose_config("train", given)
    behaviour = agents.behaviour_clone(clone_config(given, config), data.dataset)
    run = agents.train_agent(config, data.dataset, behaviour)
    module = trained_agent(run, config)
    rows = agents.final_rows(run, data.dataset)
    scores = final_scores(rows, config.evaluation.final_episodes).reshape(config.seeds, -1)
    return Trained(module.to(accelerator(config.trainer.accelerator)).policy, run.folder, scores)


def to_numpy(windows: Trajectory, data: Data) -> dict[str, NDArray[Any]]:
    """``windows [..., N, T]`` as arrays of ``N T`` steps in D4RL's layout; each window is an episode.

    Actions are in the units of the environment of ``data``.
    """
    return next(iter(chunks([windows.reshape(1, -1, windows.batch_size[-1])], data.env)))


def save(windows: Trajectory, out: str | Path, data: Data, overwrite: bool = False) -> None:
    """Write ``windows [..., N, T]`` to an HDF5 file in D4RL's layout or a Minari dataset ``minari:NAME``.

    Raises UserError for windows of another environment than that of ``data``, or that are not finite.
    """
    width = windows.obs.shape[-1], windows.action.shape[-1]
    if width != (data.env.obs_dim, data.env.action_dim):
        raise UserError(
            f"save: the windows have observations of {width[0]} and actions of {width[1]} values, and {data.env.name} "
            f"has {data.env.obs_dim} and {data.env.action_dim}: give the data that they were generated from."
        )
    broken = int((~finite(windows)).sum())
    if broken:
        raise UserError(f"save: {broken} of {windows.batch_size[:-1].numel()} windows are not finite: leave them out.")
    write(
        str(out), [windows.reshape(1, -1, windows.batch_size[-1])], windows.batch_size.numel(), data.dataset,
        {"description": "synthetic windows, not recorded data"}, overwrite,
    )  # fmt: skip
