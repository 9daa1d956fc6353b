"""Every environment of conf/env, composed as a user would name it, against the facts of D4RL's catalogue."""

import csv
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.errors import HydraException
from hydra.utils import instantiate

from pgd_lightning.config.compose import CONF, compose_config
from pgd_lightning.data.environments import environment, environments
from pgd_lightning.environment import EnvSpec
from pgd_lightning.errors import UserError
from pgd_lightning.simulators import TASKS, make

LONGER = {"hammer": 600, "pen": 200, "relocate": 500, "door": 300}  # D4RL's -human-longhorizon
BASE = "http://rail.eecs.berkeley.edu/datasets/offline_rl/"
with (Path(__file__).parent / "facts" / "d4rl_catalogue.csv").open() as table:
    FACTS = {row["d4rl_id"]: row for row in csv.DictReader(table)}


@cache
def spec(name: str) -> EnvSpec:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return instantiate(compose("train", [f"env={name}", "scale=smoke"]).env)


def test_the_catalogue_and_the_folder_hold_the_same_sets():
    ids = sorted(spec(name).d4rl_id for name in environments())
    assert ids == sorted([*FACTS, *(f"{task}-human-longhorizon-v1" for task in LONGER)])
    assert len(FACTS) == 57


@pytest.mark.parametrize("name", environments())
def test_facts(name):
    env = spec(name)
    fact = FACTS[env.d4rl_id.replace("-longhorizon", "")]
    assert name == env.name
    assert name in (env.d4rl_id, env.d4rl_id.rpartition("-v")[0])
    assert BASE + env.file.path == fact["url"]
    assert str(env.file.bytes or "") == fact["file_bytes"]
    assert (env.file.sha256 or "") == fact["file_sha256"]
    assert (env.ref_min_score, env.ref_max_score) == (float(fact["ref_min_score"]), float(fact["ref_max_score"]))
    steps = LONGER[env.task] if name.endswith("longhorizon") else int(fact["max_episode_steps"])
    dims = (env.max_episode_steps, env.obs_dim, env.action_dim)
    assert dims == (steps, int(fact["obs_dim"]), int(fact["act_dim"]))
    assert name.startswith(env.task.partition("-")[0])


@pytest.mark.parametrize("task", TASKS)
def test_dimensions_are_the_simulators(task):
    simulator = make(task, "today")
    dims = {(env.obs_dim, env.action_dim) for env in map(spec, environments()) if env.task == task}
    assert dims == {(simulator.obs_dim, simulator.action_dim)}


@pytest.mark.parametrize("task", TASKS)
def test_only_tasks_that_terminate_can_end(task):
    """Thrown far off, lying in a heap, or at its goal, each simulator ends; those that say never do not."""
    (terminates,) = {env.terminates for env in map(spec, environments()) if env.task == task}
    simulator, rng = make(task, "today"), np.random.default_rng(0)
    simulator.reset(0)
    still, ended = np.zeros(simulator.action_dim), []
    for spread in (0.0, 0.3, 1.0, 3.0):
        state = simulator.state()
        state["qpos"] = state["qpos"] + spread * rng.normal(size=simulator.model.nq)
        if task.startswith("antmaze"):
            state["qpos"][:2] = simulator.goal
        if "open" in state:
            state["open"] = np.zeros_like(state["open"])
        simulator.set_state(state)
        ended.append(simulator.step(still)[2])
    assert any(ended) == terminates


def test_the_simulator_follows_the_physics():
    with initialize_config_dir(str(CONF), version_base="1.3"):
        env = instantiate(compose("train", ["env=ant-medium", "physics=d4rl", "scale=smoke"]).env)
    assert env.physics == "d4rl"
    assert spec("ant-medium").physics == "today"


@pytest.mark.parametrize(
    ("name", "value", "score"),
    [("hopper-medium", 2000, 62.0748939), ("halfcheetah-medium", 5000, 42.5300269), ("walker2d-random", 3000, 65.3144387),
     ("maze2d-umaze", 100, 55.1771611), ("maze2d-medium", 100, 32.8729282), ("maze2d-large", 100, 34.9059074)],
)  # fmt: skip
def test_golden_scores(name, value, score):
    assert spec(name).score(value) == pytest.approx(score, abs=1e-6)


def test_a_body_alone_is_no_environment():
    assert not {"hopper", "body"} & set(environments())
    with pytest.raises((HydraException, UserError)):
        spec("hopper")


@pytest.mark.parametrize("name", environments())
def test_the_same_without_hydra(name):
    assert environment(name, "today") == spec(name)


def test_an_unknown_environment_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean hopper-medium"):
        environment("hoper-medium", "today")


def test_a_workstation_trains_longer_and_by_the_published_rates():
    workstation, laptop, paper = (compose_config("train", [f"scale={s}"]) for s in ("workstation", "laptop", "paper"))
    assert laptop.updates < workstation.updates == paper.updates // 10
    assert workstation.prior.steps == "auto"
    assert all(workstation.learning[name] == paper.learning[name] for name in ("rate", "temperature", "batch_size"))
    for same in ("network", "sampler", "guidance", "seeds"):
        assert workstation[same] == laptop[same]
    online = [compose_config("polygrad", [f"scale={s}"]).online.steps for s in ("laptop", "workstation", "paper")]
    assert online == sorted(set(online))


@pytest.mark.parametrize(
    ("sampler", "steps"), [([], 16), (["sampler=euler_ancestral"], 16), (["sampler=heun_churn"], 256)]
)
def test_a_scale_leaves_a_chosen_sampler_its_own_number_of_steps(sampler, steps):
    """The published sampler with a few steps gives noise."""
    assert compose_config("train", ["scale=laptop", *sampler]).sampler.num_steps == steps
