"""Environments that a user might have, registered with Gymnasium when this module is imported."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

INF = float("inf")


class Reach(gymnasium.Env[Any, Any]):
    """A point in a plane that is pushed towards a goal: observations in a dictionary, actions in [0, 1] and [-3, 1]."""

    def __init__(self, low: tuple[float, float] = (0.0, -3.0), high: tuple[float, float] = (1.0, 1.0)) -> None:
        bounds = np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)
        self.action_space = spaces.Box(*bounds)
        vector = spaces.Box(-INF, INF, (2,), np.float64)
        self.observation_space = spaces.Dict({"place": vector, "goal": vector})

    def _seen(self) -> dict[str, Any]:
        return {"place": self.place.copy(), "goal": self.goal.copy()}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.goal = np.zeros(2), self.np_random.normal(size=2)
        return self._seen(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.place = self.place + 0.1 * np.asarray(action, dtype=np.float64)
        return self._seen(), -float(np.abs(self.place - self.goal).sum()), False, False, {}


class Moody(InvertedPendulumEnv):
    """Its reward depends on a number that no observation holds."""

    def reset_model(self) -> Any:
        self.mood = self.np_random.normal()
        return super().reset_model()

    def step(self, action: Any) -> Any:
        obs, _, terminated, truncated, info = super().step(action)
        return obs, self.mood, terminated, truncated, info


HERE = f"{__name__}:"
gymnasium.register("Reach-v0", f"{HERE}Reach", max_episode_steps=20)
gymnasium.register("Endless-v0", f"{HERE}Reach")
gymnasium.register("Unbounded-v0", f"{HERE}Reach", max_episode_steps=20, kwargs={"low": (0.0, -INF)})
gymnasium.register("Moody-v0", f"{HERE}Moody", max_episode_steps=50)
