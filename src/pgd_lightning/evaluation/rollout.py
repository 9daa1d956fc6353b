"""Episodes of a policy in the real simulator."""

from dataclasses import dataclass
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.evaluation.ledgers import EpisodeRow
from pgd_lightning.randomness import derive_seed, seed_global
from pgd_lightning.simulators import make
from pgd_lightning.simulators.fleet import fleet
from pgd_lightning.trajectory import Critic, Policy

CUT = 0.1  # of the discounted return, that may lie beyond the time limit


@dataclass(frozen=True)
class Episodes:
    """What ``num_seeds`` policies earned in ``num_episodes`` each."""

    returns: NDArray[np.float64]  # [S, E]
    lengths: NDArray[np.int64]  # [S, E] steps
    numbers: range  # of the E episodes
    physics: str  # simulator and version
    ended: NDArray[np.bool_]  # [S, E] by the simulator, not by the time limit
    expected: NDArray[np.float64] | None = None  # [S, E] the critics' value of the first action
    earned: NDArray[np.float64] | None = None  # [S, E] discounted return of the rewards that the critics see

    def ledger(self, env: EnvSpec, step: int, purpose: str, first_seed: int = 0) -> list[EpisodeRow]:
        """One row an episode, as the run's ledger keeps them; the S policies are those of ``first_seed`` and on."""
        rows = [
            {
                "purpose": purpose,
                "step": step,
                "seed": first_seed + s,
                "index": self.numbers[e],
                "return": float(self.returns[s, e]),
                "score": env.score(float(self.returns[s, e]), bool(self.ended[s, e])),
                **({"success": bool(self.ended[s, e])} if env.success else {}),
                "length": int(self.lengths[s, e]),
                **self._beside_the_critics(s, e),
                "simulator": self.physics,
            }
            for s, e in np.ndindex(*self.returns.shape)
        ]
        return cast(list[EpisodeRow], rows)

    def _beside_the_critics(self, s: int, e: int) -> dict[str, float]:
        if self.expected is None or self.earned is None:
            return {}
        return {"expected": float(self.expected[s, e]), "earned": float(self.earned[s, e])}


@torch.no_grad()
def rollout(
    env: EnvSpec,
    policy: Policy,
    num_seeds: int,
    num_episodes: int,
    seed: int,
    share: tuple[int, int] = (0, 1),
    first: int = 0,
    critic: Critic | None = None,
) -> Episodes:
    """Run the S policies of ``policy`` for ``num_episodes`` whole episodes each, all of them side by side.

    Episodes before ``first`` are left out, as run another time. With a ``share`` (k, n) only every n-th of the rest is
    run, from the k-th on: of n processes each takes its own.

    Every episode runs to its termination or ``env.max_episode_steps``; none is dropped or started beyond the number
    asked for, so short ones are not favoured. Episode e starts from the same state for every policy. With a ``critic``
    of the policies, what it expects of an episode's first action stands beside what the episode earned, discounted;
    not where the time limit cuts off more than ``CUT`` of it.

    Raises UserError where there is no environment, and on a non-finite action: a broken policy is a failed run, never
    repaired.
    """
    if not env.simulated:
        raise UserError(
            "Evaluation needs an environment, and env=none has none: name one with env=, for instance env=gym "
            "env.id=Pendulum-v1."
        )
    seed_global(seed, "policy", *([first] if first else []))  # what a stochastic policy draws
    numbers = range(first + share[0], num_episodes, share[1])
    if not numbers:
        raise UserError(f"{num_episodes} evaluation episodes cannot be spread over {share[1]} processes: ask for more.")
    simulators = fleet(env.task, env.physics)
    obs = simulators.reset([derive_seed(seed, "episode", e) for e in numbers] * num_seeds)  # [S * E, O]
    shape = num_seeds, len(numbers)
    if critic is not None and critic.discount**env.limit > CUT:
        critic = None
    returns, lengths = np.zeros(len(obs)), np.zeros(len(obs), dtype=np.int64)
    expected, earned = None, np.zeros(len(obs))
    ended = np.zeros(len(obs), dtype=bool)
    going = np.arange(len(obs))
    while len(going):
        seen = torch.as_tensor(obs, dtype=torch.float32, device=policy.device).unflatten(0, shape)
        chosen = policy.act(seen)
        if critic is not None and expected is None:
            expected = critic.value(seen, chosen).cpu().double().numpy()
        action = chosen.flatten(0, 1).cpu().numpy()[going]
        if not np.isfinite(action).all():
            broken = going[~np.isfinite(action).all(-1)][0]
            raise UserError(
                f"The policy of seed {broken // len(numbers)} gave a non-finite action at step {lengths[broken]} of an "
                "evaluation episode: the run has failed; look at its losses and start again with another learning rate."
            )
        obs[going], reward, terminated = simulators.step(going, action)
        returns[going] += reward
        if critic is not None:
            earned[going] += critic.discount ** lengths[going] * critic.seen_reward(torch.as_tensor(reward)).numpy()
        lengths[going] += 1
        ended[going] = terminated
        going = going[~(terminated | (lengths[going] >= env.limit))]
    return Episodes(
        returns.reshape(shape), lengths.reshape(shape), numbers, simulators.physics, ended.reshape(shape),
        expected, None if expected is None else earned.reshape(shape),
    )  # fmt: skip


@torch.no_grad()
def episode_states(env: EnvSpec, policy: Policy, num_seeds: int, seed: int) -> NDArray[np.float64]:
    """Positions qpos ``[steps, nq]`` of one episode of the first seed's policy, to be drawn."""
    simulator = make(env.task, env.physics)
    obs, states = simulator.reset(seed), []
    for _ in range(env.limit):
        states.append(simulator.state()["qpos"])
        same = torch.as_tensor(obs, dtype=torch.float32, device=policy.device).expand(num_seeds, 1, -1)
        obs, _, terminated = simulator.step(policy.act(same)[0, 0].cpu().numpy())
        if terminated:
            break
    return np.stack(states)
