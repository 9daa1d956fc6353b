"""The policies behind the substitute locomotion data: trained with TorchRL's PPO past the level that D4RL calls medium.

    python experiments/behaviour/train.py --task hopper --seed 0 --out weights --curve curves

is what produced the weights in ``simulators/substitutes/weights``; their metadata holds the command and the levels
reached, and this folder the learning curves.
"""

import argparse
import csv
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import TanhNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from pgd_lightning.simulators import make
from pgd_lightning.simulators.simulator import Array
from pgd_lightning.simulators.substitutes.policies import BehaviourPolicy, Ladder, rounded

MEDIUM = {"hopper": 1420.0, "halfcheetah": 4770.0, "walker2d": 2850.0, "ant": 3700.0}
"""Mean return of D4RL's medium-v2 sets (recalled figures; ours need not reach them)."""


class Collector:
    """Steps of one policy in several simulators at once, restarted where they end."""

    def __init__(self, task: str, num: int, limit: int, seed: int) -> None:
        self.simulators = [make(task, "today") for _ in range(num)]
        self.limit, self.seed, self.started = limit, seed, 0
        self.obs = np.stack([self._start(sim) for sim in self.simulators])
        self.age, self.earned = np.zeros(num, dtype=int), np.zeros(num)
        self.returns: list[float] = []

    def _start(self, simulator: Any) -> Array:
        self.started += 1
        return simulator.reset(self.seed * 1_000_003 + self.started)  # type: ignore[no-any-return]

    @torch.no_grad()
    def collect(self, policy: BehaviourPolicy, steps: int) -> TensorDict:
        """``[num, steps]`` in TorchRL's layout, with the log probability of each sampled action."""
        rows = []
        for _ in range(steps):
            obs = torch.as_tensor(self.obs, dtype=torch.float32)
            distribution = TanhNormal(*policy(obs))
            action = distribution.rsample()
            rows.append(self._step(obs, action, distribution.log_prob(action)))
        return torch.stack(rows, dim=1)  # type: ignore[return-value]

    def _step(self, obs: Tensor, action: Tensor, log_prob: Tensor) -> TensorDict:
        results = [sim.step(a) for sim, a in zip(self.simulators, action.double().numpy(), strict=True)]
        next_obs, reward, terminated = (np.array(x) for x in zip(*results, strict=True))
        self.age += 1
        self.earned += reward
        done = terminated | (self.age >= self.limit)
        self.obs = next_obs.copy()
        for i in done.nonzero()[0]:
            self.returns.append(float(self.earned[i]))
            self.obs[i], self.age[i], self.earned[i] = self._start(self.simulators[i]), 0, 0.0
        column = [torch.as_tensor(x).unsqueeze(-1) for x in (reward.astype(np.float32), terminated, done)]
        after = {
            "observation": torch.as_tensor(next_obs, dtype=torch.float32),
            "reward": column[0], "terminated": column[1], "done": column[2],
        }  # fmt: skip
        size = [len(obs)]
        return TensorDict(
            {"observation": obs, "action": action, "action_log_prob": log_prob, "next": TensorDict(after, size)}, size
        )


class Statistics:
    """Running mean and standard deviation of ``[N, D]`` (Chan et al., parallel variance)."""

    def __init__(self, dim: int) -> None:
        self.count, self.mean, self.var = 1e-4, torch.zeros(dim), torch.ones(dim)

    def update(self, rows: Tensor) -> None:
        total, delta = self.count + len(rows), rows.mean(0) - self.mean
        moments = self.var * self.count + rows.var(0, correction=0) * len(rows)
        self.var = (moments + delta**2 * self.count * len(rows) / total) / total
        self.mean, self.count = self.mean + delta * len(rows) / total, total


class PPO:
    """TorchRL's clipped PPO with GAE; observations standardised, rewards divided by the returns' standard deviation."""

    def __init__(self, task: str, seed: int, limit: int, max_steps: int) -> None:
        self.collector = Collector(task, num=16, limit=limit, seed=seed)
        simulator = self.collector.simulators[0]
        self.policy = BehaviourPolicy(simulator.obs_dim, simulator.action_dim, hidden=64)
        critic = nn.Sequential(
            nn.Linear(simulator.obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)
        )
        self.actor = ProbabilisticTensorDictSequential(
            TensorDictModule(self.policy, ["observation"], ["loc", "scale"]),
            ProbabilisticTensorDictModule(
                ["loc", "scale"], ["action"], distribution_class=TanhNormal, return_log_prob=True
            ),
        )
        value = ValueOperator(nn.Sequential(_Standardised(self.policy), critic), ["observation"])
        self.advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value, average_gae=True)
        self.loss = ClipPPOLoss(
            self.actor, value, clip_epsilon=0.2, entropy_coeff=0.0, critic_coeff=0.5, loss_critic_type="l2"
        )
        self.parameters = [*self.policy.parameters(), *critic.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=3e-4, eps=1e-5)
        self.max_steps, self.steps = max_steps, 0
        self.seen, self.earned = Statistics(simulator.obs_dim), Statistics(1)
        self.running = torch.zeros(16)

    def update(self) -> None:
        """Collect 16 x 128 steps and take 10 epochs of minibatches of 256 over them."""
        for group in self.optimizer.param_groups:
            group["lr"] = 3e-4 * (1 - 0.9 * self.steps / self.max_steps)
        batch = self.collector.collect(self.policy, 128)
        self.steps += batch.numel()
        self.seen.update(batch["observation"].flatten(0, 1))
        with torch.no_grad():
            self.policy.obs_mean.copy_(self.seen.mean)
            self.policy.obs_std.copy_(self.seen.var.sqrt())
        batch["next", "reward"] = batch["next", "reward"] / self._return_deviation(batch)
        for _ in range(10):
            self.advantage(batch)
            flat = batch.reshape(-1)
            for index in torch.randperm(len(flat)).split(256):
                losses = self.loss(flat[index])
                self.optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_(self.parameters, 0.5)
                self.optimizer.step()

    def _return_deviation(self, batch: TensorDict) -> Tensor:
        """Of the discounted reward sums so far, over all simulators."""
        sums = []
        for reward, done in zip(batch["next", "reward"].unbind(1), batch["next", "done"].unbind(1), strict=True):
            self.running = self.running * 0.99 + reward.squeeze(-1)
            sums.append(self.running)
            self.running = self.running * ~done.squeeze(-1)
        self.earned.update(torch.cat(sums).unsqueeze(-1))
        return self.earned.var.sqrt() + 1e-8


def train(task: str, seed: int, limit: int, max_steps: int, curve: Path) -> Ladder:
    """A ladder: six policies up to D4RL's medium level and six beyond it, the last of which is the best one seen.

    Medium is the policy nearest to that level, or to two fifths of the best return in a run that never reaches it.
    """
    torch.manual_seed(seed)
    ppo = PPO(task, seed, limit, max_steps)
    kept: list[tuple[int, float, BehaviourPolicy]] = []
    rows: list[dict[str, Any]] = []
    began, every = time.monotonic(), max_steps // 100
    while ppo.steps < max_steps:
        ppo.update()
        if ppo.steps >= len(kept) * every:
            policy = rounded(ppo.policy)
            level = evaluate(task, policy, limit, episodes=10, seed=seed + 1)
            kept.append((ppo.steps, level, policy))
            rows.append({"steps": ppo.steps, "return": round(level, 1), "seconds": round(time.monotonic() - began)})
            print(rows[-1], flush=True)
            _write(curve, rows)
    levels = np.array([level for _, level, _ in kept])
    expert = int(levels.argmax())
    target = MEDIUM[task] if levels.max() >= MEDIUM[task] else 0.4 * levels.max()
    medium = int(np.abs(levels[: expert + 1] - target).argmin())
    places = sorted(
        {*np.linspace(0, medium, 6).round().astype(int), *np.linspace(medium, expert, 6).round().astype(int)}
    )
    policies = [kept[place][2] for place in places]
    stages = [
        {
            "steps": kept[place][0],
            "return": round(evaluate(task, kept[place][2], limit, episodes=40, seed=seed + 2), 1),
        }
        for place in places
    ]
    return Ladder(policies, stages, places.index(medium), places.index(expert))


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


class _Standardised(nn.Module):
    """The policy's view of an observation, for a critic that shares its statistics."""

    def __init__(self, policy: BehaviourPolicy) -> None:
        super().__init__()
        self.policy = [policy]  # in a list: its parameters are not the critic's

    def forward(self, obs: Tensor) -> Tensor:
        return self.policy[0].standardised(obs)


def evaluate(task: str, policy: BehaviourPolicy, limit: int, episodes: int, seed: int) -> float:
    """Mean return of whole episodes with sampled actions."""
    collector = Collector(task, num=episodes, limit=limit, seed=seed)
    first: dict[int, float] = {}
    for _ in range(limit):
        before = len(collector.returns)
        batch = collector.collect(policy, 1)
        ended = batch["next", "done"][:, 0, 0].nonzero().squeeze(-1).tolist()
        for place, value in zip(ended, collector.returns[before:], strict=True):
            first.setdefault(place, value)
        if len(first) == episodes:
            break
    return float(np.mean(list(first.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="hopper", choices=sorted(MEDIUM))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=int, default=1000, help="steps of an episode")
    parser.add_argument("--max-steps", type=int, default=2_000_000)
    parser.add_argument("--out", type=Path, required=True, help="folder for the weights")
    parser.add_argument("--curve", type=Path, required=True, help="folder for the learning curve")
    args = parser.parse_args()
    torch.set_num_threads(1)
    ladder = train(args.task, args.seed, args.limit, args.max_steps, args.curve / f"{args.task}.csv")
    command = (
        f"python experiments/behaviour/train.py --task {args.task} --seed {args.seed} --max-steps {args.max_steps}"
    )
    ladder = Ladder(ladder.policies, ladder.stages, ladder.medium, ladder.expert, command)
    ladder.save(args.out / f"{args.task}.safetensors", make(args.task, "today").physics)
    print(ladder.stages, "medium:", ladder.medium, "expert:", ladder.expert)


if __name__ == "__main__":
    main()
