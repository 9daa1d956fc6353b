"""Every observation and action has a name and a unit, and joints have theirs by the simulator's own model."""

import re

import numpy as np
import pytest

from pgd_lightning.data.environments import environment, environments
from pgd_lightning.simulators import channel_names as names
from pgd_lightning.simulators import make
from pgd_lightning.simulators.channel_names import channels


@pytest.mark.parametrize("name", environments())
def test_every_dim_of_every_environment_has_a_name_and_a_unit(name):
    env = environment(name, "today")
    found = channels(env.task)
    assert (len(found.obs), len(found.action)) == (env.obs_dim, env.action_dim)
    for group in (found.obs, found.action):
        assert len(set(group)) == len(group)
        assert all(re.fullmatch(r"\S.*\S \[[^\]]+\]", text) for text in group)
    assert [text for kind, _, text in found.drawn if kind == "obs"] == list(found.telling)


ARM = {"pen": {}, "door": names.TURNS, "hammer": dict(list(names.TURNS.items())[:2]), "relocate": names.TURNS}
JOINTS = {
    "hopper": names.LEG,
    "halfcheetah": names.CHEETAH,
    "walker2d": names.LEG | names.LEFT_LEG,
    "ant": names.ANT,
    "antmaze-umaze": names.ANT,
    **{task: arm | names.HAND for task, arm in ARM.items()},
}


@pytest.mark.parametrize("task", JOINTS)
def test_an_angle_is_that_of_the_joint_it_is_named_after(task):
    simulator, found = make(task, "today"), channels(task).obs
    simulator.reset(0)
    rng = np.random.default_rng(0)
    for _ in range(3):
        obs, *_ = simulator.step(rng.uniform(-1, 1, simulator.action_dim))
    for joint, name in JOINTS[task].items():
        state = simulator.data.joint(joint)
        assert obs[found.index(f"{name} angle [rad]")] == pytest.approx(float(state.qpos[0])), joint
        if f"{name} velocity [rad/s]" in found:
            assert obs[found.index(f"{name} velocity [rad/s]")] == pytest.approx(float(state.qvel[0])), joint


@pytest.mark.parametrize("task", [*JOINTS, "maze2d-umaze", "kitchen"])
def test_an_action_moves_the_joint_it_is_named_after(task):
    """The actuators' joints in their order, by the names that observations give them."""
    known = {
        **names.SHIFTS, **names.TURNS, **names.HAND, **names.PANDA, **names.GRIPPER, **JOINTS.get(task, {}),
        "ball_x": "ball x", "ball_y": "ball y",
    }  # fmt: skip
    model = make(task, "today").model
    moved = [model.joint(model.actuator_trnid[i, 0]).name.removeprefix("robot:") for i in range(model.nu)]
    assert [text.rsplit(" ", 4)[0] for text in channels(task).action] == [known[joint] for joint in moved]


def test_the_kitchen_shows_its_joints_in_their_order():
    model = make("kitchen", "today").model
    joints = [model.joint(i).name.removeprefix("robot:") for i in range(model.njnt)]
    assert joints == [*names.PANDA, *names.GRIPPER, *names.SCENE, "kettle"]


def test_places_are_where_their_names_say():
    simulator, found = make("door", "today"), channels("door").obs
    obs = simulator.reset(0)
    places = {
        "palm": simulator.data.site("S_grasp").xpos,
        "handle": simulator.data.site("S_handle").xpos,
        "handle to palm": simulator.data.site("S_grasp").xpos - simulator.data.site("S_handle").xpos,
    }
    for what, place in places.items():
        assert [obs[found.index(f"{what} {axis} [m]")] for axis in "xyz"] == pytest.approx(place.tolist())
    assert obs[found.index("latch angle [rad]")] == pytest.approx(float(simulator.data.joint("latch").qpos[0]))
