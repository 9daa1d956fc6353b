"""Many simulators at once against the same ones row by row, in turns in one run: ``python benchmarks/simulators.py``.

Microseconds a step, of processor time (all threads) and of the clock, each the least of several rounds; the policies'
share is not in them. ``--threads`` is for one-step errors; an evaluation steps in the thread that asks.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from functools import cache

import numpy as np
import torch

from pgd_lightning.simulators import BODIES, make, one_step
from pgd_lightning.simulators.fleet import Fleet, Here, Together
from pgd_lightning.simulators.simulator import Array, Batched, one_step_by_row
from pgd_lightning.simulators.substitutes.policies import BehaviourPolicy, Ladder

Spent = tuple[float, float]


@cache
def medium(task: str) -> BehaviourPolicy:
    ladder = Ladder.load(task)
    return ladder.policies[ladder.medium]


@torch.no_grad()
def actions(task: str, obs: Array, rng: np.random.Generator) -> Array:
    """Of the shipped medium policy, with noise; in a maze, uniform."""
    if task not in BODIES:
        return rng.uniform(-1, 1, (len(obs), 2))
    mean = medium(task)(torch.as_tensor(obs, dtype=torch.float32))[0].tanh().double().numpy()
    return mean + rng.normal(0, 0.3, mean.shape)


def evaluation(fleet: Fleet, task: str, episodes: int, steps: int) -> tuple[Spent, Array]:
    """Time a step of ``episodes`` side by side, those that ended dropping out; the observations of all steps."""
    rng, going, obs = np.random.default_rng(0), np.arange(episodes), fleet.reset(range(episodes))
    spent, taken, seen = np.zeros(2), 0, [obs.copy()]
    for _ in range(steps):
        if not len(going):
            break
        chosen = actions(task, obs, rng)[going]
        before = np.array([time.process_time(), time.perf_counter()])
        obs[going], _, terminated = fleet.step(going, chosen)
        spent += [time.process_time() - before[0], time.perf_counter() - before[1]]
        taken += len(going)
        going = going[~terminated]
        seen.append(obs.copy())
    processor, clock = 1e6 * spent / taken
    return (float(processor), float(clock)), np.concatenate(seen)


def spent_on(work: Callable[[], object], steps: int) -> Spent:
    processor, clock = time.process_time(), time.perf_counter()
    work()
    return 1e6 * (time.process_time() - processor) / steps, 1e6 * (time.perf_counter() - clock) / steps


def least(rounds: Sequence[Spent]) -> Array:
    return np.array(rounds).min(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=[*BODIES, "maze2d-umaze"])
    parser.add_argument("--states", type=int, default=500, help="one real step from each")
    parser.add_argument("--episodes", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200, help="at most, of an episode")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    print(f"{'':24}{'row by row':>16}{'at once':>16}{'ratio':>14}   (processor, clock)")
    for task in options.tasks:
        simulator = make(task, "today")
        assert isinstance(simulator, Batched)
        fleets = {"single": Here(task, "today"), "together": Together(simulator)}
        runs = [
            {kind: evaluation(fleet, task, options.episodes, options.steps) for kind, fleet in fleets.items()}
            for _ in range(options.rounds)
        ]
        seen = runs[0]["single"][1]
        assert all(np.array_equal(seen, obs) for run in runs for _, obs in run.values())
        rng = np.random.default_rng(1)
        obs = seen[rng.permutation(len(seen))[: options.states]]
        action = actions(task, obs, rng)
        single, many = [], []
        for _ in range(options.rounds):
            single.append(spent_on(lambda: one_step_by_row(simulator, obs, action), len(obs)))  # noqa: B023
            many.append(spent_on(lambda: one_step(simulator, obs, action, options.threads), len(obs)))  # noqa: B023
        for what, row_by_row, at_once in (
            ("one step", least(single), least(many)),
            ("evaluation", *(least([run[kind][0] for run in runs]) for kind in fleets)),
        ):
            ratio = row_by_row / at_once
            columns = ("{:8.1f}{:8.1f}".format(*pair) for pair in (row_by_row, at_once))
            print(f"{task:13}{what:11}", *columns, "{:6.2f}{:6.2f}".format(*ratio), flush=True)


if __name__ == "__main__":
    main()
