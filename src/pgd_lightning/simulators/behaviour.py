"""The policy behind the hopper-medium stand-in: trained with TorchRL's PPO to the level that D4RL calls medium.

    python -m pgd_lightning.simulators.behaviour --task hopper --seed 0 --out weights.safetensors

is what produced the weights in ``behaviour_weights/``; their metadata holds the command and the level reached, and
``experiments/behaviour`` the learning curve.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tensordict import TensorDict
from tensordict.nn import ProbabilisticTensorDictModule, ProbabilisticTensorDictSequential, TensorDictModule
from torch import Tensor, nn
from torchrl.modules import IndependentNormal, ValueOperator
from torchrl.objectives import ClipPPOLoss
from torchrl.objectives.value import GAE

from pgd_lightning.simulators import make
from pgd_lightning.simulators.behaviour_policy import BehaviourPolicy
from pgd_lightning.simulators.simulator import Array


class Collector:
    """Steps of one policy in several simulators at once, restarted where they end."""

    def __init__(self, task: str, num: int, limit: int, seed: int) -> None:
        self.simulators = [make(task) for _ in range(num)]
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
            mean, std = policy(obs)
            action = mean + std * torch.randn_like(std)
            log_prob = torch.distributions.Normal(mean, std).log_prob(action).sum(-1)
            rows.append(self._step(obs, action, log_prob))
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


def train(task: str, seed: int, target: float, limit: int, max_steps: int, curve: Path) -> tuple[BehaviourPolicy, Any]:
    """PPO until 20 stochastic episodes average ``target``; the first policy that does is returned with its facts."""
    torch.manual_seed(seed)
    collector = Collector(task, num=8, limit=limit, seed=seed)
    obs_dim, action_dim = collector.simulators[0].obs_dim, collector.simulators[0].action_dim
    policy = BehaviourPolicy(obs_dim, action_dim, hidden=64)
    critic = nn.Sequential(nn.Linear(obs_dim, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1))
    actor = ProbabilisticTensorDictSequential(
        TensorDictModule(policy, ["observation"], ["loc", "scale"]),
        ProbabilisticTensorDictModule(
            ["loc", "scale"], ["action"], distribution_class=IndependentNormal, return_log_prob=True
        ),
    )
    value = ValueOperator(nn.Sequential(_Standardised(policy), critic), ["observation"])
    advantage = GAE(gamma=0.99, lmbda=0.95, value_network=value, average_gae=True)
    loss = ClipPPOLoss(actor, value, clip_epsilon=0.2, entropy_coeff=0.0, critic_coeff=0.5, loss_critic_type="l2")
    optimizer = torch.optim.Adam([*policy.parameters(), *critic.parameters()], lr=3e-4, eps=1e-5)
    rows, steps, began, count = [], 0, time.monotonic(), 1e-4
    while steps < max_steps:
        batch = collector.collect(policy, 256)
        steps += batch.numel()
        count = _update_statistics(policy, batch["observation"].flatten(0, 1), count)
        for _ in range(10):
            advantage(batch)
            flat = batch.reshape(-1)
            for index in torch.randperm(len(flat)).split(128):
                losses = loss(flat[index])
                optimizer.zero_grad()
                (losses["loss_objective"] + losses["loss_critic"]).backward()
                nn.utils.clip_grad_norm_([*policy.parameters(), *critic.parameters()], 0.5)
                optimizer.step()
        recent = float(np.mean(collector.returns[-20:])) if len(collector.returns) >= 20 else float("nan")
        rows.append({"steps": steps, "return": round(recent, 1), "seconds": round(time.monotonic() - began)})
        if recent >= target:
            level = evaluate(task, policy, limit, episodes=20, seed=seed + 1)
            print(f"{steps} steps: 20 fresh episodes average {level:.1f}", flush=True)
            if level >= target:
                break
        if len(rows) % 10 == 0:
            print(rows[-1], flush=True)
    with curve.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return policy, {"steps": steps, "return": round(evaluate(task, policy, limit, episodes=100, seed=seed + 2), 1)}


class _Standardised(nn.Module):
    """The policy's view of an observation, for a critic that shares its statistics."""

    def __init__(self, policy: BehaviourPolicy) -> None:
        super().__init__()
        self.policy = [policy]  # in a list: its parameters are not the critic's

    def forward(self, obs: Tensor) -> Tensor:
        return self.policy[0].standardised(obs)


@torch.no_grad()
def _update_statistics(policy: BehaviourPolicy, obs: Tensor, count: float) -> float:
    """Merge the mean and variance of ``obs [B, O]`` into the policy's (Chan et al., parallel variance)."""
    total, delta = count + len(obs), obs.mean(0) - policy.obs_mean
    var = policy.obs_var * count + obs.var(0, correction=0) * len(obs) + delta**2 * count * len(obs) / total
    policy.obs_mean.add_(delta * len(obs) / total)
    policy.obs_var.copy_(var / total)
    return total


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
    return float(np.mean(list(first.values())))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="hopper")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target", type=float, default=1400.0, help="return that counts as medium")
    parser.add_argument("--limit", type=int, default=1000, help="steps of an episode")
    parser.add_argument("--max-steps", type=int, default=3_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--curve", type=Path, required=True)
    args = parser.parse_args()
    torch.set_num_threads(1)
    policy, facts = train(args.task, args.seed, args.target, args.limit, args.max_steps, args.curve)
    command = (
        f"python -m pgd_lightning.simulators.behaviour --task {args.task} --seed {args.seed} --target {args.target}"
    )
    metadata = {"command": command, "physics": make(args.task).physics, "facts": json.dumps(facts)}
    save_file(policy.state_dict(), args.out, metadata=metadata)
    print(metadata)


if __name__ == "__main__":
    main()
