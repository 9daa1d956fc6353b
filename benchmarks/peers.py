"""The same work done by this package and by its peers, in turns, in one run. Results: peers.json beside this file.

    python benchmarks/peers.py --jax PYTHON --d3rlpy PYTHON --sb3 PYTHON

PYTHON are interpreters with `jax flax optax`, `d3rlpy` and `stable-baselines3` installed (no dependencies of ours). The
JAX side is written here, not the official files: the U-Net, loss, optimizer and Heun sampler of the official PGD code,
jitted, once as that code has them (one window at a time under vmap: "jax") and once on whole batches ("jax batched").
"CORL-style" is IQL as CORL's single file has it: three optimizers and backward passes, losses read every update, the
soft update by a loop over parameters. d3rlpy and TorchRL run as their users run them: d3rlpy's update on its own replay
buffer; TorchRL's loss, target updater and replay buffer in the loop of its example. PPO is one pass over 2,048 steps in
minibatches of 256, both networks 256 x 256; ours has layer norms and ELU, Stable-Baselines3 tanh.

Every task is a process of its own with one thread, but for those of --together, whose Python needs what all of them
need and OMP_NUM_THREADS=1. Times are processor time, so that neighbours count little; the
median of what is repeated, and of the rounds, which alternate.
"""

import argparse
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ROWS, CHANNELS, OBS, ACTION, BATCH, PPO_STEPS = 32, 16, 11, 3, 256, 2048
ROUNDS = 3


def per_second(action: Callable[[], Any], seconds: float = 2.0) -> float:
    """Calls a second of processor time: the median over some ``seconds``, after two calls to compile and warm up."""
    for _ in range(2):
        action()
    times: list[float] = []
    while not times or sum(times) < seconds:
        began = time.process_time()
        action()
        times.append(time.process_time() - began)
    return 1 / statistics.median(times)


# --- this package ---


def our_denoiser(features: int) -> Any:
    from pgd_lightning.diffusion.denoiser import Denoiser
    from pgd_lightning.diffusion.process import EDM
    from pgd_lightning.networks.temporal_unet import TemporalUNet

    return Denoiser(TemporalUNet(CHANNELS, features, 3, 8), EDM(1.0, 0.002, 80.0, 7.0, -1.2, 1.2))


def ours_prior(features: int, batch: int) -> float:
    """Train steps a second."""
    import torch

    denoiser = our_denoiser(features)
    optimizer = torch.optim.Adam(denoiser.parameters(), fused=True)
    x = torch.randn(batch, ROWS, CHANNELS)

    def step() -> None:
        optimizer.zero_grad()
        denoiser.loss(x).backward()
        optimizer.step()

    return per_second(step)


def ours_heun(features: int, windows: int, steps: int) -> float:
    """Windows a second, deterministic Heun, 2 steps - 1 evaluations."""
    import torch

    from pgd_lightning.diffusion.samplers import heun

    denoiser = our_denoiser(features)
    x = 80 * torch.randn(windows, ROWS, CHANNELS)
    with torch.no_grad():
        return windows * per_second(lambda: heun(denoiser, x, denoiser.process.schedule(steps)))


def ours_iql(seeds: int, matmul_precision: str = "highest") -> float:
    """Updates of one seed a second, all seeds together, as the package's Lightning module makes them."""
    import torch

    from pgd_lightning.agents.iql import IQL
    from pgd_lightning.agents.seeds import call_stacked, stacked_learners
    from pgd_lightning.runs.operating_system import keep_memory
    from pgd_lightning.trajectory import Transition

    keep_memory()
    torch.set_float32_matmul_precision(matmul_precision)
    make = partial(IQL, OBS, ACTION, [256, 256], 0.99, 0.7, 3.0, 100.0)
    learners = stacked_learners(make, range(seeds))
    optimizer = torch.optim.AdamW([p for p in learners.parameters() if p.requires_grad], fused=True)
    shape = (100_000,)
    data = Transition(
        obs=torch.randn(*shape, OBS), action=torch.rand(*shape, ACTION), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, OBS), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip
    pairs = learners.targets()
    targets = [p for target, _ in pairs for p in target.parameters()]
    online = [p.detach() for _, module in pairs for p in module.parameters()]

    def update() -> None:
        batch = data[torch.randint(100_000, (seeds, BATCH))]
        optimizer.zero_grad(set_to_none=True)
        losses = call_stacked(learners, "losses", batch, names=learners.phases()[0])
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        torch._foreach_lerp_(targets, online, 0.005)

    return seeds * per_second(update)


def ours_ppo() -> float:
    """Gradient steps a second."""
    import torch

    from pgd_lightning.imagination.ppo import PPO
    from pgd_lightning.runs.operating_system import keep_memory
    from pgd_lightning.trajectory import Trajectory

    keep_memory()
    agent = PPO(
        epochs=1, minibatch=BATCH, clip=0.2, obs_dim=OBS, action_dim=ACTION, hidden=[256, 256], first_std=0.6,
        min_std=0.1, discount=0.99, decay=0.95, entropy=0.0, actor_rate=3e-4, critic_rate=3e-4, weight_decay=0.0,
        max_grad_norm=0.5, polyak=1.0,
    )  # fmt: skip
    shape = (PPO_STEPS // 8, 9)
    windows = Trajectory(
        obs=torch.randn(*shape, OBS), action=torch.rand(*shape, ACTION), reward=torch.randn(shape),
        terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    )  # fmt: skip
    optimizers = agent.optimizers()
    return PPO_STEPS // BATCH * per_second(lambda: agent.update(optimizers, windows))


# --- peers ---


def corl_style_iql() -> float:
    """Updates a second of IQL as single-file PyTorch implementations have it."""
    import copy

    import numpy as np
    import torch
    import torch.nn.functional as F
    from torch import nn
    from torch.distributions import Normal

    def network(inputs: int, outputs: int, last: list[nn.Module]) -> nn.Module:
        sizes = [nn.Linear(inputs, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, outputs), *last]
        return nn.Sequential(*sizes)

    actor, value = network(OBS, ACTION, [nn.Tanh()]), network(OBS, 1, [nn.Flatten(0)])
    log_std = nn.Parameter(torch.zeros(ACTION))
    critics = nn.ModuleList(network(OBS + ACTION, 1, [nn.Flatten(0)]) for _ in range(2))
    targets = copy.deepcopy(critics).requires_grad_(False)
    groups = ([*actor.parameters(), log_std], value.parameters(), critics.parameters())
    of_actor, of_value, of_critic = (torch.optim.Adam(group, lr=3e-4) for group in groups)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(of_actor, 1_000_000)
    columns = [torch.randn(100_000, size) for size in (OBS, ACTION, 1, OBS)] + [torch.zeros(100_000, 1)]
    logs: dict[str, float] = {}

    def step(optimizer: torch.optim.Optimizer, loss: torch.Tensor, name: str) -> None:
        logs[name] = loss.item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def update() -> None:
        rows = np.random.randint(0, 100_000, size=BATCH)
        obs, action, reward, next_obs, done = (column[rows] for column in columns)
        pair = torch.cat([obs, action], 1)
        with torch.no_grad():
            next_value = value(next_obs)
            target = torch.min(*(critic(pair) for critic in targets))
        advantage = target - value(obs)
        step(of_value, (torch.abs(0.7 - (advantage < 0).float()) * advantage**2).mean(), "value")
        goal = reward.squeeze(-1) + (1 - done.squeeze(-1)) * 0.99 * next_value
        step(of_critic, sum(F.mse_loss(critic(pair), goal) for critic in critics) / 2, "critic")
        for old, new in zip(targets.parameters(), critics.parameters(), strict=True):
            old.data.copy_(0.995 * old.data + 0.005 * new.data)
        weight = torch.exp(3.0 * advantage.detach()).clamp(max=100.0)
        density = Normal(actor(obs), torch.exp(log_std.clamp(-20.0, 2.0))).log_prob(action).sum(-1)
        step(of_actor, (weight * -density).mean(), "actor")
        schedule.step()

    return per_second(update)


def d3rlpy_iql() -> float:
    """Updates a second of d3rlpy's IQL at its published sizes, sampling from its replay buffer included."""
    import d3rlpy
    import numpy as np

    rng = np.random.default_rng(0)
    ends = np.zeros(100_000)
    ends[999::1000] = 1
    data = d3rlpy.dataset.MDPDataset(
        rng.normal(size=(100_000, OBS)).astype(np.float32), rng.uniform(-1, 1, (100_000, ACTION)).astype(np.float32),
        rng.normal(size=100_000).astype(np.float32), ends,
    )  # fmt: skip
    iql = d3rlpy.algos.IQLConfig(batch_size=BATCH, weight_temp=3.0).create(device=False)
    iql.build_with_dataset(data)
    return per_second(lambda: iql.update(data.sample_transition_batch(BATCH)))


def torchrl_iql() -> float:
    """Updates a second of TorchRL's IQL loss, optimizers, target updater and replay buffer, as in its example."""
    import torch
    from tensordict.nn import TensorDictModule
    from torch import nn
    from torchrl.data import LazyTensorStorage, TensorDictReplayBuffer
    from torchrl.modules import MLP, NormalParamExtractor, ProbabilisticActor, TanhNormal, ValueOperator
    from torchrl.objectives import IQLLoss, SoftUpdate, group_optimizers

    from pgd_lightning.trajectory import Transition

    shape = (100_000,)
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(100_000), batch_size=BATCH)
    buffer.extend(Transition(
        obs=torch.randn(*shape, OBS), action=torch.rand(*shape, ACTION), reward=torch.randn(shape),
        next_obs=torch.randn(*shape, OBS), terminated=torch.zeros(shape, dtype=torch.bool), batch_size=shape,
    ).to_torchrl())  # fmt: skip
    network = partial(MLP, num_cells=[256, 256], activation_class=nn.ReLU)
    head = nn.Sequential(network(in_features=OBS, out_features=2 * ACTION), NormalParamExtractor())
    actor = ProbabilisticActor(
        TensorDictModule(head, ["observation"], ["loc", "scale"]), in_keys=["loc", "scale"],
        distribution_class=TanhNormal, return_log_prob=False,
    )  # fmt: skip
    critic = ValueOperator(network(in_features=OBS + ACTION, out_features=1), ["observation", "action"])
    value = ValueOperator(network(in_features=OBS, out_features=1), ["observation"])
    loss = IQLLoss(actor, critic, value, loss_function="l2", temperature=3.0, expectile=0.7)
    loss.make_value_estimator(gamma=0.99)
    updater = SoftUpdate(loss, tau=0.005)
    parts = (loss.actor_network_params, loss.qvalue_network_params, loss.value_network_params)
    adams = (torch.optim.Adam(list(part.flatten_keys().values()), lr=3e-4) for part in parts)
    optimizer = group_optimizers(*adams)

    def update() -> None:
        losses = loss(buffer.sample())
        optimizer.zero_grad()
        (losses["loss_actor"] + losses["loss_qvalue"] + losses["loss_value"]).backward()
        optimizer.step()
        updater.step()

    return per_second(update)


def sb3_ppo() -> float:
    """Gradient steps a second of Stable-Baselines3's ``PPO.train`` on a full rollout buffer."""
    import gymnasium
    import numpy as np
    from stable_baselines3 import PPO

    class Noise(gymnasium.Env):  # type: ignore[misc, type-arg]
        """Random observations: what is measured is the update."""

        observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (OBS,))
        action_space = gymnasium.spaces.Box(-1, 1, (ACTION,))

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            return self.observation_space.sample(), {}

        def step(self, action: Any) -> Any:
            return self.observation_space.sample(), float(np.random.randn()), False, False, {}

    model = PPO(
        "MlpPolicy", Noise(), n_steps=PPO_STEPS, batch_size=BATCH, n_epochs=1, device="cpu",
        policy_kwargs={"net_arch": [256, 256]},
    )  # fmt: skip
    model.learn(PPO_STEPS)
    return PPO_STEPS // BATCH * per_second(model.train)


def jax_unet(features: int) -> Any:
    """The official U-Net's shape: three levels, GroupNorm of 8 groups, nearest upsampling.

    Of a window ``[T, C]`` with a noise level, or of a batch ``[N, T, C]`` with one each; groups are those of a row.
    """
    import jax
    import jax.numpy as jnp
    from flax import linen as nn

    class UNet(nn.Module):
        @nn.compact
        def __call__(self, x: Any, t: Any) -> Any:
            half = features // 8
            phase = t[..., None, None] * jnp.exp(-jnp.arange(half) * jnp.log(10_000) / (half - 1))
            time = nn.Dense(features)(jnp.concatenate([jnp.sin(phase), jnp.cos(phase)], -1))
            time = nn.silu(nn.Dense(features)(nn.silu(time)))

            def block(x: Any, width: int, kernel: int, timed: bool) -> Any:
                x = nn.Conv(width, (kernel,))(x)
                x = x + nn.Dense(width)(time) if timed else x
                return nn.relu(nn.GroupNorm(num_groups=8, reduction_axes=(-1,))(x))

            width, kept, out = [features, 2 * features, 4 * features], [], x.shape[-1]
            for size in width:
                x = block(block(x, size, 3, True), size, 3, False)
                kept.append(x)
                x = nn.max_pool(x, (2,), strides=(2,))
            x = kept[-1]
            for size, skip in zip(width[1::-1], kept[1::-1], strict=True):
                x = jax.image.resize(x, (*x.shape[:-2], skip.shape[-2], x.shape[-1]), method="nearest")
                x = jnp.concatenate([block(x, size, 2, True), skip], -1)
                x = block(block(x, size, 3, False), size, 3, False)
            return nn.Conv(out, (1,))(x)

    return UNet()


def jax_denoise(network: Any) -> Callable[[Any, Any, Any], Any]:
    import jax.numpy as jnp

    def denoise(weights: Any, x: Any, sigma: Any) -> Any:
        total = sigma**2 + 1
        level = jnp.broadcast_to(0.25 * jnp.log(sigma), (*x.shape[:-2], 1, 1))[..., 0, 0]
        out = network.apply(weights, x / jnp.sqrt(total), level)
        return x / total + sigma / jnp.sqrt(total) * out

    return denoise


def jax_prior(features: int, batch: int, batched: bool) -> float:
    """Train steps a second, ten of them in one jitted scan; one window at a time under vmap, or ``batched``."""
    import jax
    import jax.numpy as jnp
    import optax

    network = jax_unet(features)
    denoise = jax_denoise(network)
    weights = network.init(jax.random.PRNGKey(0), jnp.ones((ROWS, CHANNELS)), jnp.ones(()))
    optimizer = optax.adam(2e-3)
    data = jax.random.normal(jax.random.PRNGKey(1), (batch, ROWS, CHANNELS))
    inner = 10 if features < 512 else 1

    def window_loss(weights: Any, key: Any, window: Any) -> Any:
        of_sigma, of_noise = jax.random.split(key)
        sigma = jnp.exp(-1.2 + 1.2 * jax.random.normal(of_sigma))
        noisy = window + sigma * jax.random.normal(of_noise, window.shape)
        return (sigma**2 + 1) / sigma**2 * (denoise(weights, noisy, sigma) - window) ** 2

    def batch_loss(weights: Any, key: Any) -> Any:
        of_sigma, of_noise = jax.random.split(key)
        sigma = jnp.exp(-1.2 + 1.2 * jax.random.normal(of_sigma, (batch, 1, 1)))
        noisy = data + sigma * jax.random.normal(of_noise, data.shape)
        return jnp.mean((sigma**2 + 1) / sigma**2 * (denoise(weights, noisy, sigma) - data) ** 2)

    def loss(weights: Any, key: Any) -> Any:
        if batched:
            return batch_loss(weights, key)
        keys = jax.random.split(key, batch)
        return jnp.mean(jax.vmap(window_loss, in_axes=(None, 0, 0))(weights, keys, data))

    @jax.jit
    def steps(weights: Any, state: Any, key: Any) -> Any:
        def one(carry: Any, key: Any) -> Any:
            weights, state = carry
            value, gradient = jax.value_and_grad(loss)(weights, key)
            change, state = optimizer.update(gradient, state)
            return (optax.apply_updates(weights, change), state), value

        return jax.lax.scan(one, (weights, state), jax.random.split(key, inner))

    state = optimizer.init(weights)
    key = jax.random.PRNGKey(2)
    return inner * per_second(lambda: jax.block_until_ready(steps(weights, state, key)))


def jax_heun(features: int, windows: int, steps: int, batched: bool) -> float:
    """Windows a second of a deterministic Heun, the loop a jitted scan; one window at a time, or ``batched``."""
    import jax
    import jax.numpy as jnp

    network = jax_unet(features)
    denoise = jax_denoise(network)
    weights = network.init(jax.random.PRNGKey(0), jnp.ones((ROWS, CHANNELS)), jnp.ones(()))
    ends = 80.0 ** (1 / 7), 0.002 ** (1 / 7)
    sigmas = (ends[0] + jnp.arange(steps + 1) / (steps - 1) * (ends[1] - ends[0])) ** 7
    sigmas = sigmas.at[-1].set(0.0)

    def one(x: Any, pair: Any) -> Any:
        sigma, following = pair
        slope = (x - denoise(weights, x, sigma)) / sigma
        euler = x + (following - sigma) * slope
        second = (euler - denoise(weights, euler, jnp.maximum(following, 1e-9))) / jnp.maximum(following, 1e-9)
        return jnp.where(following > 0, x + 0.5 * (following - sigma) * (slope + second), euler), None

    def solve(x: Any) -> Any:
        return jax.lax.scan(one, x, (sigmas[:-1], sigmas[1:]))[0]

    sample = jax.jit(solve if batched else jax.vmap(solve))
    x = 80 * jax.random.normal(jax.random.PRNGKey(1), (windows, ROWS, CHANNELS))
    return windows * per_second(lambda: jax.block_until_ready(sample(x)))


TASKS: dict[str, Callable[[], float]] = {
    "ours prior F=128": partial(ours_prior, 128, 32),
    "jax prior F=128": partial(jax_prior, 128, 32, False),
    "jax batched prior F=128": partial(jax_prior, 128, 32, True),
    "ours prior F=1024": partial(ours_prior, 1024, 32),
    "jax batched prior F=1024": partial(jax_prior, 1024, 32, True),
    "ours Heun F=64": partial(ours_heun, 64, 256, 16),
    "jax Heun F=64": partial(jax_heun, 64, 256, 16, False),
    "jax batched Heun F=64": partial(jax_heun, 64, 256, 16, True),
    "ours IQL S=1": partial(ours_iql, 1),
    "ours IQL S=1, bfloat16 products": partial(ours_iql, 1, "medium"),
    "ours IQL S=5": partial(ours_iql, 5),
    "ours IQL S=5, bfloat16 products": partial(ours_iql, 5, "medium"),
    "ours IQL S=16": partial(ours_iql, 16),
    "CORL-style IQL": corl_style_iql,
    "d3rlpy IQL": d3rlpy_iql,
    "TorchRL IQL": torchrl_iql,
    "ours PPO": ours_ppo,
    "sb3 PPO": sb3_ppo,
}
PEERS = {  # of our tasks whose names begin so
    "ours prior F=128": ("jax prior F=128", "jax batched prior F=128"),
    "ours prior F=1024": ("jax batched prior F=1024",),
    "ours Heun": ("jax Heun F=64", "jax batched Heun F=64"),
    "ours IQL": ("CORL-style IQL", "d3rlpy IQL", "TorchRL IQL"),
    "ours PPO": ("sb3 PPO",),
}


def in_turns(names: list[str], rounds: int) -> dict[str, list[float]]:
    """Calls a second of these tasks' actions, 16 of each in turn, all in this process: neighbours slow all alike."""
    global per_second
    actions: list[Callable[[], Any]] = []
    per_second = lambda action: actions.append(action) or 1.0  # type: ignore[func-returns-value, assignment]  # noqa: E731
    for name in names:
        TASKS[name]()
    rates: dict[str, list[float]] = {name: [] for name in names}
    for _ in range(rounds):
        for name, action in zip(names, actions, strict=True):
            action()
            began = time.process_time()
            for _ in range(16):
                action()
            rates[name].append(16 / (time.process_time() - began))
    return rates


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jax", default=None, help="a Python with jax, flax and optax")
    parser.add_argument("--d3rlpy", default=None, help="a Python with d3rlpy")
    parser.add_argument("--sb3", default=None, help="a Python with stable-baselines3")
    parser.add_argument("--task", default=None, help="one of the tasks, in this process")
    parser.add_argument("--together", default=None, help="the tasks that this finds, in this process, in turns")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--without", default="^$", help="leave out tasks whose names this regular expression finds")
    given = parser.parse_args()
    if given.task:
        print(json.dumps(TASKS[given.task]()))
        return
    if given.together:
        found = in_turns([task for task in TASKS if re.search(given.together, task)], given.rounds)
        for task, values in found.items():
            print(f"{task:<34}{statistics.median(values):>10.2f}/s")
        return
    python = {"jax": given.jax, "d3rlpy": given.d3rlpy, "sb3": given.sb3}
    one_thread = os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    rates: dict[str, list[float]] = {}
    for number in range(given.rounds):
        for task in TASKS:
            interpreter = python.get(task.split()[0], sys.executable)
            if interpreter is None or re.search(given.without, task):
                continue
            command = [interpreter, __file__, "--task", task]
            done = subprocess.run(command, env=one_thread, capture_output=True, text=True, check=True)
            rates.setdefault(task, []).append(float(done.stdout.split("\n")[-2]))
            print(f"round {number + 1}: {task:<34}{rates[task][-1]:>10.2f}/s", flush=True)
    middle = {task: statistics.median(values) for task, values in rates.items()}
    pairs = [
        (ours, peer) for begin, peers in PEERS.items() for ours in middle if ours.startswith(begin) for peer in peers
    ]
    ratios = {f"{ours} / {peer}": round(middle[ours] / middle[peer], 2) for ours, peer in pairs if peer in middle}
    facts = {
        "date": time.strftime("%Y-%m-%d"), "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "threads": 1, "time": "processor", "load": os.getloadavg()[0], "rounds": rates, "ratios": ratios,
    }  # fmt: skip
    path = Path(__file__).with_name("peers.json")
    path.write_text(json.dumps(facts, indent=1) + "\n")
    for name, ratio in ratios.items():
        print(f"{name:<60}{ratio:>6}")
    print(f"\nwritten: {path}")


if __name__ == "__main__":
    main()
