"""The examples run as a reader runs them, on a small recording."""

import runpy
from pathlib import Path

import pytest
from helpers.commands import SMALL

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
