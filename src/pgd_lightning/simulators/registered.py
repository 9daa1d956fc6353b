"""Any environment that is registered with Gymnasium.

A task of this kind is written ``gym:ID`` or ``gym:MODULE:ID``, as :func:`gymnasium.make` takes it, with the arguments
of the environment behind it as JSON: ``gym:Ant-v5 {"include_cfrc_ext_in_observation": false}``.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

import gymnasium
import mujoco
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import FlattenObservation
from numpy.typing import NDArray

from pgd_lightning.environment import GYMNASIUM, ActionBox
from pgd_lightning.errors import UserError
from pgd_lightning.simulators import ogbench
from pgd_lightning.simulators.restoring import Restoring, missing, restoring_of, set_state
from pgd_lightning.simulators.simulator import Array, Simulator, State, checked

NO_LIMIT = -1  # of steps, as gymnasium.make has it: whoever steps an environment keeps its time limit


@dataclass(frozen=True)
class Facts:
    """What an environment says of itself."""

    obs_dim: int  # of its flat observations
    box: ActionBox
    max_episode_steps: int | None
    success: bool  # whether an episode ends where the task is done, and only there


def task_of(env_id: str, module: str | None, arguments: Mapping[str, Any]) -> str:
    """The task of the environment ``env_id``, which ``module`` registers, made with ``arguments``."""
    name = f"{module}:{env_id}" if module else env_id
    return f"{GYMNASIUM}{name}" + (f" {json.dumps(dict(arguments), sort_keys=True)}" if arguments else "")


def is_registered(env_id: str) -> bool:
    """Whether Gymnasium knows ``env_id``, once what stands before its colon is imported."""
    module, _, name = env_id.rpartition(":")
    try:
        if module:
            import_module(module)
        gymnasium.spec(name)
    except (gymnasium.error.Error, ImportError, ValueError):
        return False
    return True


@cache
def facts(task: str) -> Facts:
    """Dimensions, action box and time limit of ``task``. Raises UserError where it cannot be made or learned in."""
    env = opened(task)
    limit = gymnasium.spec(_parts(task)[0].rpartition(":")[2]).max_episode_steps
    env.close()
    obs_space: Any = env.observation_space
    return Facts(int(obs_space.shape[0]), _box(env.action_space), limit, ogbench.is_single_task(task))


def opened(task: str) -> gymnasium.Env[Any, Any]:
    """The environment of ``task`` without a time limit, its observations flat. Raises UserError as :func:`facts`."""
    name, arguments = _parts(task)
    module = name.rpartition(":")[0]
    try:
        if module:
            import_module(module)
        env: gymnasium.Env[Any, Any] = gymnasium.make(name, NO_LIMIT, disable_env_checker=True, **arguments)
    except ModuleNotFoundError as error:
        raise UserError(
            f"env.module={module or '…'} cannot be imported ({error}): install the package that {name} needs, or put "
            "the folder of its source into PYTHONPATH."
        ) from error
    except gymnasium.error.UnregisteredEnv as error:
        raise UserError(
            f"{error} env.id= is a name that is registered with Gymnasium, if need be by the package that env.module= "
            "names."
        ) from error
    except Exception as error:  # whatever the constructor of a user's environment raises
        raise UserError(f"gymnasium.make('{name}') fails: {type(error).__name__}: {error}") from error
    _require_box(env.action_space, name)
    if isinstance(env.observation_space, spaces.Box) and len(env.observation_space.shape) == 1:
        return env
    if not env.observation_space.is_np_flattenable:
        raise UserError(f"The observations of {name} are {env.observation_space}, which has no flat vector.")
    return FlattenObservation(env)


def _parts(task: str) -> tuple[str, dict[str, Any]]:
    """The name for gymnasium.make, and the arguments."""
    name, _, arguments = task.removeprefix(GYMNASIUM).partition(" ")
    return name, json.loads(arguments or "{}")


def _require_box(space: Any, name: str) -> None:
    if not isinstance(space, spaces.Box):
        raise UserError(f"The actions of {name} are {space}: the policies here act in a box (gymnasium.spaces.Box).")
    if not (space.is_bounded() and (space.high > space.low).all()):
        raise UserError(
            f"The actions of {name} are {space}, which is not bounded on all sides: register it with finite bounds, "
            "for instance with gymnasium.wrappers.ClipAction or RescaleAction around it."
        )


def _box(space: Any) -> ActionBox:
    low, high = (tuple(bound.astype(np.float64).ravel().tolist()) for bound in (space.low, space.high))
    return ActionBox(low, high)


class Registered(Simulator):
    """An environment of Gymnasium's registry. Actions in [-1, 1] are mapped to its box.

    Where the environment itself truncates an episode, it ends here too; in a single task of OGBench's it ends where
    ``info["success"]`` says so.
    """

    def __init__(self, task: str) -> None:
        self.task, self.env = task, opened(task)
        inner: Any = self.env.unwrapped
        self.model: Any = getattr(inner, "model", None)
        self.data: Any = getattr(inner, "data", None)
        self.space: Any = self.env.action_space
        self.box = _box(self.space)
        self.obs_dim, self.action_dim = facts(task).obs_dim, len(self.box.low)
        self.ends_in_success = facts(task).success
        engine = f"mujoco {mujoco.__version__}" if self._is_mujoco else f"gymnasium {gymnasium.__version__}"
        self.physics = f"{engine}, {task.removeprefix(GYMNASIUM)}"
        if isinstance(self.env, FlattenObservation):
            inside = self.env.env.observation_space
            parts = f" ({', '.join(inside)})" if isinstance(inside, spaces.Dict) else ""
            self.physics += f", observations flattened by Gymnasium's FlattenObservation{parts}"
        self.env.reset(seed=0)

    @property
    def _is_mujoco(self) -> bool:
        return isinstance(self.model, mujoco.MjModel)

    @property
    def _restoring(self) -> Restoring | str:
        return restoring(self.task)

    @property
    def unresettable(self) -> str | None:
        found = self._restoring
        return found if isinstance(found, str) else None

    @property
    def end_is_seen(self) -> bool:
        return self.unresettable is None

    def reset(self, seed: int) -> Array:
        with _numpy_seeded(seed % 2**32):
            return self._flat(self.env.reset(seed=seed % 2**32)[0])

    def step(self, action: Array) -> tuple[Array, float, bool]:
        inside = self.box.of_normalised(checked(action)).astype(self.space.dtype).reshape(self.space.shape)
        obs, reward, terminated, truncated, info = self.env.step(np.clip(inside, self.space.low, self.space.high))
        ended = info["success"] if self.ends_in_success else terminated or truncated
        return self._flat(obs), float(reward), bool(ended)

    def ended(self) -> bool | None:
        healthy = getattr(self.env.unwrapped, "is_healthy", None)
        return None if healthy is None else not healthy

    def state(self) -> State:
        """qpos and qvel; nothing of an environment that cannot be put into a state."""
        if not self._is_mujoco or missing(self.env):
            return {}
        return {"qpos": self.data.qpos.copy(), "qvel": self.data.qvel.copy()}

    def set_state(self, state: Mapping[str, Array]) -> Array:
        found = self._restoring
        set_state(self.env, state["qpos"], state["qvel"])
        return np.full(self.obs_dim, np.nan) if isinstance(found, str) else found.observe(self.env)

    def state_from_obs(self, obs: Array) -> tuple[State, bool]:
        found = self._restoring
        if isinstance(found, str):
            raise UserError(f"A state cannot be restored from an observation: {found}.")
        return found.state(obs)

    def _flat(self, obs: NDArray[Any]) -> Array:
        return np.asarray(obs, dtype=np.float64).ravel()


def relabelled(task: str, states: Mapping[str, NDArray[Any]]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """``(reward, success) [N]`` of recorded ``states`` in ``task``, see :func:`ogbench.relabelled`."""
    env = opened(task)
    with _numpy_seeded(0):
        found = ogbench.relabelled(env, states)
    env.close()
    return found


@contextmanager
def _numpy_seeded(seed: int) -> Iterator[None]:
    """Inside, NumPy's global generator starts from ``seed``: OGBench's mazes draw their start positions from it."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


@cache
def restoring(task: str) -> Restoring | str:
    """How states of ``task`` are restored from observations, or why they cannot be."""
    env = opened(task)
    if ogbench.teleports(env):
        return f"{task.removeprefix(GYMNASIUM)} moves who enters a teleport to a random place"
    try:
        return restoring_of(env, task.removeprefix(GYMNASIUM))
    finally:
        env.close()
