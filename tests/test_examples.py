"""The examples run as a reader runs them, on a small recording."""

import os
import runpy
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.commands import SMALL

import pgd_lightning as pgd

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.fixture
def settings(copied) -> dict[str, str]:
    pairs = (setting.split("=", 1) for setting in SMALL)
    return {key: value for key, value in pairs if key != "env"} | {"runs_dir": str(copied)}


def test_a_torchrl_agent_guides_the_windows_that_it_learns_from(recording, settings, capsys):
    main = runpy.run_path(str(EXAMPLES / "torchrl_agent.py"))["main"]
    main("maze2d-umaze", updates=4, every=2, settings=settings, source=str(recording))
    said = capsys.readouterr().out
    assert said.count("log likelihood") == 2
    assert "returns: [[" in said


def test_an_agent_of_ours(recording, settings, capsys):
    main = runpy.run_path(str(EXAMPLES / "own_agent.py"))["main"]
    main("maze2d-umaze", settings | {"updates": "20", "seeds": "2"}, source=str(recording))
    said = capsys.readouterr().out
    assert "real data: " in said and "real and guided data: " in said
    assert said.count("one step error mean") == 2


@pytest.mark.slow
@pytest.mark.skipif("D3RLPY_PYTHON" not in os.environ, reason="D3RLPY_PYTHON= names no interpreter that has d3rlpy")
def test_an_agent_of_d3rlpys(recording, settings, tmp_path):
    """Trained there on real and on guided data that were saved here, evaluated here."""
    data = pgd.load(recording, env="maze2d-umaze", settings=settings)
    windows = pgd.generate(pgd.train_prior(data), lambda obs: obs[:, :2].tanh(), windows=8, coef=10)
    pgd.save(windows, tmp_path / "synthetic.hdf5", data)
    policy = tmp_path / "policy.pt"
    files = [str(recording), str(tmp_path / "synthetic.hdf5")]
    command = [os.environ["D3RLPY_PYTHON"], str(EXAMPLES / "d3rlpy_agent.py"), str(policy), *files, "--updates", "20"]
    subprocess.run(command, check=True, cwd=tmp_path)
    assert pgd.evaluate(torch.jit.load(str(policy)), data, episodes=2).returns.shape == (1, 2)
