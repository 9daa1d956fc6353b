"""``pgd export``: what the file computes is what the policy does, and the file beside it says so."""

import ast
import json
import runpy
import sys
from functools import partial
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.agents import ACTION, HIDDEN, OBS, make_agent
from helpers.commands import pgd, run_of

from pgd_lightning.agents.bc import BC
from pgd_lightning.agents.iql import IQL
from pgd_lightning.agents.onnx_policy import onnx_policy
from pgd_lightning.agents.rebrac import ReBRAC
from pgd_lightning.agents.td3_bc import TD3BC
from pgd_lightning.artifacts.agent_modules import load_agent
from pgd_lightning.config.build import build
from pgd_lightning.config.compose import compose_config
from pgd_lightning.config.saved import settings_of
from pgd_lightning.environment import ActionBox
from pgd_lightning.errors import UserError
from pgd_lightning.simulators.channel_names import channels

ROOT = Path(__file__).resolve().parents[1]
td3 = {"discount": 0.99, "policy_noise": 0.2, "noise_clip": 0.5, "critic_updates": 2}
LEARNERS = {
    "iql": partial(IQL, OBS, ACTION, HIDDEN, discount=0.99, expectile=0.7, temperature=3.0, max_weight=100.0),
    "td3_bc": partial(TD3BC, OBS, ACTION, HIDDEN, q_weight=2.5, **td3),
    "rebrac": partial(ReBRAC, OBS, ACTION, HIDDEN, actor_penalty=0.1, critic_penalty=0.1, **td3),
    "bc": partial(BC, OBS, ACTION, HIDDEN),
}


@pytest.fixture(scope="module")
def runtime():
    pytest.importorskip("onnx", reason="onnx is not installed: pip install onnx")
    return pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install onnxruntime")


@pytest.mark.parametrize("name", LEARNERS)
@pytest.mark.parametrize("normalise_obs", [False, True])
def test_the_file_acts_as_each_learner(name, normalise_obs, runtime):
    torch.manual_seed(0)
    agent = make_agent(LEARNERS[name], num_seeds=3, normalise_obs=normalise_obs)
    for parameter in agent.learner.actor.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    agent.fit_normaliser(5 + 3 * torch.randn(100, OBS))
    obs = 5 + 3 * torch.randn(7, OBS)
    acted = agent.policy.act(obs.expand(3, -1, -1)).numpy()
    assert np.abs(acted[0] - acted[1]).max() > 0.01
    for learner in range(3):
        session = runtime.InferenceSession(onnx_policy(agent, learner))
        for rows in (7, 1):
            (action,) = session.run(None, {"observation": obs[:rows].numpy()})
            np.testing.assert_allclose(action, acted[learner, :rows], rtol=1e-5, atol=1e-6)
        (taken,), (given,) = session.get_inputs(), session.get_outputs()
        assert (taken.name, taken.shape, taken.type) == ("observation", ["batch", OBS], "tensor(float)")
        assert (given.name, given.shape, given.type) == ("action", ["batch", ACTION], "tensor(float)")


def test_actions_are_in_the_box_of_the_environment(runtime):
    agent, obs = make_agent(LEARNERS["td3_bc"], num_seeds=1), torch.randn(5, OBS)
    low, high = (0.0, -2.0, -1.0)[:ACTION], (1.0, 2.0, 3.0)[:ACTION]
    box = ActionBox(low, high)
    (action,) = runtime.InferenceSession(onnx_policy(agent, 0, box)).run(None, {"observation": obs.numpy()})
    np.testing.assert_allclose(action, box.of_normalised(agent.policy.act(obs[None])[0].numpy()), rtol=1e-5, atol=1e-6)


def test_a_policy_that_samples_is_not_exported():
    agent = build(compose_config("train", ["agent=diffusion_dice", "scale=smoke"]).agent)
    with pytest.raises(UserError, match="diffusion_dice samples its actions from a diffusion model"):
        onnx_policy(agent, 0)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match="pip install onnx$"):
        onnx_policy(make_agent(LEARNERS["bc"]), 0)


def test_a_finished_run_is_exported_with_its_contract(finished, tmp_path, monkeypatch, runtime, capsys):
    run, out = run_of(finished, "pgd"), tmp_path / "new" / "maze.onnx"
    assert pgd(monkeypatch, ["export", f"run={run.folder}", f"out={out}", "seed=1"]) == 0
    said = json.loads(out.with_suffix(".json").read_text())
    assert said["file"] == {"name": "maze.onnx", "sha256": sha256(out.read_bytes()).hexdigest()}
    assert said["observation"]["channels"] == list(channels("maze2d-umaze").obs)
    assert said["observation"]["shape"] == ["batch", 4]
    assert said["action"]["low"] == [-1.0, -1.0]
    assert said["action"]["kind"] == "mean"
    assert said["environment"]["name"] == "maze2d-umaze"
    trained = said["trained"]
    assert (trained["agent"], trained["generator"], trained["learner"], trained["step"]) == ("iql", "pgd", 1, 60)
    assert trained["learner_seed"] == run.record["learners"][1]
    assert trained["data_sha256"] == run.record["provenance"]["sha256"]
    assert trained["run"] == f"agent/maze2d-umaze/{run.folder.parent.name}/0"
    agent = build(settings_of(run).agent)
    load_agent(agent, run)
    obs = torch.randn(9, 4)
    (action,) = runtime.InferenceSession(out).run(None, {"observation": obs.numpy()})
    np.testing.assert_allclose(action, agent.policy.act(obs.expand(2, -1, -1))[1].numpy(), rtol=1e-5, atol=1e-6)
    assert pgd(monkeypatch, ["export", f"run={run.folder}", f"out={out}"]) == 1
    assert "overwrite=true" in capsys.readouterr().err
    assert pgd(monkeypatch, ["export", f"run={run.folder}", f"out={out}", "seed=2", "overwrite=true"]) == 1
    assert "seed=2 is not one of the run's 2" in capsys.readouterr().err
    assert pgd(monkeypatch, ["export", f"run={run.folder}", "out=policy.pt"]) == 1
    assert "is no .onnx file" in capsys.readouterr().err


def test_the_example_acts_without_torch(tmp_path, monkeypatch, runtime, capsys):
    agent = make_agent(partial(BC, 11, 3, [8]), obs_dim=11)
    (tmp_path / "policy.onnx").write_bytes(onnx_policy(agent, 0))
    monkeypatch.setattr(sys, "argv", ["act.py", str(tmp_path / "policy.onnx"), "Hopper-v5"])
    script = ROOT / "examples" / "act.py"
    imported = {name.name for node in ast.walk(ast.parse(script.read_text())) for name in getattr(node, "names", [])}
    assert imported == {"sys", "gymnasium", "numpy", "onnxruntime"}
    runpy.run_path(str(script))
    assert capsys.readouterr().out.startswith("return ")
