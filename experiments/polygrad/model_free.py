"""Model-free baselines under PolyGRAD's evaluation: ``python model_free.py ALGORITHM TASK STEPS EVERY SEED OUT.json``.

ALGORITHM is ppo, trpo or a2c of Stable-Baselines3 (``pip install stable-baselines3 sb3-contrib``) at its default
settings, the library that the paper names. The simulator, its time limit, the start states and the mean action of the
evaluation are those of ``pgd polygrad``.
"""

import json
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.evaluation.rollout import rollout
from pgd_lightning.randomness import derive_seed
from pgd_lightning.simulators import make

ALGORITHMS = {"ppo": PPO, "trpo": TRPO, "a2c": A2C}


class Task(gymnasium.Env):
    """This package's simulator with a time limit, as Gymnasium has it."""

    def __init__(self, name: str, limit: int, seed: int) -> None:
        self.simulator, self.limit, self.number, self.start = make(name, "today"), limit, 0, seed
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (self.simulator.obs_dim,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1, 1, (self.simulator.action_dim,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        self.age, self.number = 0, self.number + 1
        obs = self.simulator.reset(derive_seed(self.start, "model-free episode", self.number))
        return obs.astype(np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated = self.simulator.step(np.asarray(action, dtype=np.float64))
        self.age += 1
        return obs.astype(np.float32), reward, terminated, self.age >= self.limit, {}


class Mean:
    """The mean action of a trained model, for observations with any leading axes."""

    device = torch.device("cpu")

    def __init__(self, model: Any) -> None:
        self.model = model

    def act(self, obs: torch.Tensor) -> torch.Tensor:
        flat, _ = self.model.predict(obs.reshape(-1, obs.shape[-1]).numpy(), deterministic=True)
        return torch.as_tensor(flat).reshape(*obs.shape[:-1], -1)


class Evaluations(BaseCallback):
    """A row of the result every so many steps."""

    def __init__(self, config: Any, every: int, rows: list[dict[str, float]]) -> None:
        super().__init__()
        self.config, self.every, self.rows, self.due = config, every, rows, 0

    def _on_step(self) -> bool:
        if self.num_timesteps >= self.due:
            self.due += self.every
            found = rollout(
                build(self.config.env), Mean(self.model), 1, self.config.evaluation.episodes,
                derive_seed(self.config.seed, "monitor"),
            )  # fmt: skip
            self.rows.append({"step": self.num_timesteps, "return": float(found.returns.mean())})
            print(self.rows[-1], flush=True)
        return True


def main(algorithm: str, task: str, steps: int, every: int, seed: int, out: str) -> None:
    torch.set_num_threads(1)
    config = compose_config("polygrad", [f"env={task}", f"seed={seed}", "scale=laptop"])
    env = Task(task, config.env.max_episode_steps, seed)
    model = ALGORITHMS[algorithm]("MlpPolicy", env, seed=seed, device="cpu", verbose=0)
    rows: list[dict[str, float]] = []
    model.learn(steps, callback=Evaluations(config, every, rows))
    Path(out).write_text(json.dumps({"algorithm": algorithm, "task": task, "seed": seed, "curve": rows}, indent=1))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(word) for word in sys.argv[3:6]), sys.argv[6])
