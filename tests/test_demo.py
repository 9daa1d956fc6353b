"""``pgd demo``: the target policy is what it says, the story runs at a tiny size, and its sentence follows the numbers."""

import json
import sys

import numpy as np
import pytest
import torch
from helpers.undrawn import leave_undrawn

from pgd_lightning.__main__ import main
from pgd_lightning.commands import demo
from pgd_lightning.simulators import make, one_step
from pgd_lightning.simulators.maze import MAZES, free_cells
from pgd_lightning.simulators.substitutes.goal_policy import GoalPolicy

TINY = [
    "data.local_steps=2000", "data.cache=null", "network.features=16", "network.num_blocks=2", "prior.steps=20",
    "prior.batch_size=16", "prior.verdict.windows=4", "prior.verdict.rows=20", "sampler.num_steps=4", "demo.windows=12",
    "demo.rows=40", "demo.starts=2", "demo.paths=2",
]  # fmt: skip


def measured(towards, action_error, step_error):
    return demo.Measured(towards, action_error, -1.0, step_error)


@pytest.mark.parametrize("maze", MAZES)
def test_the_policy_gets_to_its_goal_from_every_cell(maze):
    cells = free_cells(maze)
    goal = tuple(int(i) for i in cells[-1])
    policy, simulator = GoalPolicy(maze, goal, 0.1), make(f"maze2d-{maze}", "today")
    obs = torch.cat([torch.as_tensor(cells, dtype=torch.float32) - 0.1, torch.zeros(len(cells), 2)], dim=-1)
    left = policy.way_left(obs[:, :2])
    for _ in range(900):
        after, *_ = one_step(simulator, obs.double().numpy(), policy.act(obs).double().numpy())
        obs = torch.as_tensor(after, dtype=torch.float32)
    assert (policy.way_left(obs[:, :2]) < 0.5).all()
    assert left.argmin() == len(cells) - 1
    assert torch.isnan(policy.way_left(torch.zeros(2)))


def test_the_score_is_the_gradient_of_the_log_density():
    policy = GoalPolicy("umaze", (3, 1), 0.3)
    obs = torch.tensor([[1.0, 1.1, 0.2, -0.3], [3.0, 2.9, -1.0, 0.5]])
    action = torch.tensor([[0.2, -0.7], [0.9, 0.1]], requires_grad=True)
    (gradient,) = torch.autograd.grad(policy.log_prob(obs, action).sum(), action)
    assert torch.allclose(policy.score(obs, action), gradient, atol=1e-5)
    mean, std = policy.normal(obs)
    assert torch.allclose(policy.score(obs, action, noise_variance=0.4), (mean - action) / (std**2 + 0.4))


@pytest.mark.parametrize(
    ("guided", "begins", "has"),
    [
        (measured(0.9, 0.1, 4e-5), "Guidance works here", "follow the simulator as well as unguided"),
        (measured(0.9, 0.1, 4e-4), "Guidance works here", "costs accuracy, but the error stays 8 times below"),
        (measured(0.9, 0.1, 4e-3), "Guidance works here", "do not follow the simulator"),
        (measured(0.55, 0.1, 4e-5), "Guidance failed here", "as well as unguided"),
        (measured(0.9, 0.8, 4e-5), "Guidance failed here", "0.8 in guided windows and 1 in unguided"),
    ],
)
def test_the_reading_follows_the_numbers(guided, begins, has):
    found = {demo.DATA: measured(0.55, 1, 0), demo.UNGUIDED: measured(0.5, 1, 3e-5), demo.GUIDED: guided}
    found[demo.POLICY] = measured(0.95, 0.05, 0)
    text = demo.reading(found, still=3e-3)
    assert text.startswith(begins)
    assert has in text


def command(monkeypatch, folder, *words):
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["pgd", "demo", *words])
    return main()


def test_the_story_runs_and_finds_its_prior_again(monkeypatch, tmp_path, capsys):
    assert command(monkeypatch, tmp_path, *TINY) == 0
    first = capsys.readouterr().out
    assert "prior: training" in first
    assert "next:    pgd train env=hopper-medium" in first
    folder = tmp_path / "runs" / "demo"
    content = json.loads((folder / "demo.json").read_text())
    assert list(content["demo"]) == [demo.DATA, demo.UNGUIDED, demo.GUIDED, demo.POLICY]
    assert content["demo"][demo.DATA]["step_error"] < 1e-9
    assert content["reading"] in first
    assert content["reading"].split(":")[0] in (folder / "index.html").read_text()
    assert 'src="data:image/png;base64,' in (folder / "index.html").read_text()
    assert "http" not in (folder / "index.html").read_text()
    assert all((folder / name).stat().st_size > 1000 for name in ("demo.png", "demo.svg"))

    leave_undrawn(monkeypatch.setattr)
    assert command(monkeypatch, tmp_path, *TINY, "demo.goal=[1,1]") == 0
    assert "prior: training" not in capsys.readouterr().out
    assert json.loads((folder / "demo.json").read_text())["demo"][demo.DATA] != content["demo"][demo.DATA]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["env=hopper-medium"], "The demo is about a maze"),
        (["demo.goal=[2,1]"], "demo.goal=[2, 1] is no free cell"),
        (["demo.goal=[9,9]"], "is no free cell"),
        (["generator=none"], "generator=none has nothing to show"),
        (["out=/dev/null/demo"], "Cannot write /dev/null/demo: Not a directory. Choose a folder"),
    ],
)
def test_what_makes_no_demo_gets_a_sentence(monkeypatch, tmp_path, capsys, words, said):
    assert command(monkeypatch, tmp_path, *TINY, *words) == 1
    assert said in capsys.readouterr().err


def test_drawn_are_the_windows_that_begin_nearest(monkeypatch):
    policy = GoalPolicy("umaze", (3, 1), 0.3)
    first = torch.tensor([[1.0, 1.0], [1.0, 1.2], [1.0, 3.0], [3.0, 3.0], [3.0, 1.0]])
    obs = torch.zeros(5, 3, 4)
    obs[:, 0, :2] = first
    windows = demo.Trajectory(obs, torch.zeros(5, 3, 2), torch.zeros(5, 3), torch.zeros(5, 3).bool(), batch_size=[5, 3])
    places = demo.spread_out(windows, policy, 3)
    assert places.tolist() == [[1.0, 1.0], [3.0, 3.0], [1.0, 3.0]], "never where the goal is"
    chosen = demo.nearest(windows, policy, places, 2).tolist()
    assert chosen[:3] == [0, 3, 2]
    assert 4 not in chosen
    assert len(chosen) == len(set(chosen))
    assert np.isfinite(chosen).all()
