"""A TorchRL agent that learns from real data and from windows guided by itself.

TD3+BC by TorchRL's own loss; every K updates the prior generates new windows, guided by the actor as it is then::

    python examples/torchrl_agent.py                  # about a quarter of an hour on two cores
    python examples/torchrl_agent.py --updates 200 --every 100 --scale smoke
"""

import argparse

import torch
from tensordict import TensorDict
from torch import nn
from torchrl.data import Bounded, LazyTensorStorage, TensorDictReplayBuffer
from torchrl.modules import MLP, Actor, ValueOperator
from torchrl.objectives import SoftUpdate, TD3BCLoss

import pgd_lightning as pgd


def replay_buffer(steps: TensorDict) -> TensorDictReplayBuffer:
    buffer = TensorDictReplayBuffer(storage=LazyTensorStorage(len(steps)), batch_size=128)
    buffer.extend(steps)
    return buffer


def main(env: str, updates: int, every: int, settings: dict[str, str], source: str | None = None) -> None:
    torch.manual_seed(0)
    data = pgd.load(source or env, env=env if source else None, settings=settings)
    prior = pgd.train_prior(data)
    obs_dim, action_dim = data.env.obs_dim, data.env.action_dim

    spec = Bounded(-torch.ones(action_dim), torch.ones(action_dim), (action_dim,))
    sizes = {"num_cells": [256, 256], "activation_class": nn.ReLU}
    actor = Actor(nn.Sequential(MLP(obs_dim, action_dim, **sizes), nn.Tanh()), spec=spec)
    critic = ValueOperator(MLP(obs_dim + action_dim, 1, **sizes), in_keys=["observation", "action"])
    loss = TD3BCLoss(actor, critic, action_spec=spec)
    loss.make_value_estimator(gamma=0.99)
    targets = SoftUpdate(loss, tau=0.005)
    actor_steps = torch.optim.Adam(loss.actor_network_params.flatten_keys().values(), lr=3e-4)
    critic_steps = torch.optim.Adam(loss.qvalue_network_params.flatten_keys().values(), lr=3e-4)

    real = replay_buffer(data.transitions.to_torchrl())
    for update in range(updates):
        if update % every == 0:
            windows = pgd.generate(prior, actor, windows=512, coef=10, seed=update)
            synthetic = replay_buffer(windows.transitions().to_torchrl())
            print(f"update {update}:", str(pgd.fidelity(windows, data, actor)).replace("\n", "; "))
        batch = torch.cat([real.sample(), synthetic.sample()])
        value_loss, _ = loss.qvalue_loss(batch)
        critic_steps.zero_grad()
        value_loss.backward()
        critic_steps.step()
        if update % 2 == 0:
            policy_loss, _ = loss.actor_loss(batch)
            actor_steps.zero_grad()
            policy_loss.backward()
            actor_steps.step()
            targets.step()
    print("returns:", pgd.evaluate(actor, data, episodes=5).returns.round(1).tolist())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--env", default="hopper-medium")
    parser.add_argument("--source", help="a recording in D4RL's layout, if it is not found by the name of env")
    parser.add_argument("--updates", type=int, default=20_000)
    parser.add_argument("--every", type=int, default=2_000, help="updates between two generations")
    parser.add_argument("--scale", default="laptop")
    given = parser.parse_args()
    main(given.env, given.updates, given.every, {"scale": given.scale}, given.source)
