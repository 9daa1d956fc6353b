"""What needs no torch answers without it: help, settings, lists of runs, and every sentence about what was typed."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest
import torch

from pgd_lightning.__main__ import VERBS
from pgd_lightning.gpu import gpu_is_there

HEAVY = ("torch", "lightning", "tensordict", "torchrl", "wandb", "gymnasium", "mujoco", "scipy", "matplotlib", "h5py")
ASK = """
import sys
from pgd_lightning.__main__ import main
code = main()
print("loaded", *sorted(set(sys.argv[0].split(",")) & set(sys.modules)))
sys.exit(code)
"""


def answer(words, folder):
    """Exit code, output and the heavy libraries loaded, of one command in a process of its own."""
    code = ASK.replace("code = main()", f"sys.argv = [{','.join(HEAVY)!r}, *{words!r}]; code = main()")
    env = os.environ | {"PYTHONUTF8": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, cwd=folder, env=env
    )
    *_, last = done.stdout.splitlines()
    return done.returncode, done.stdout + done.stderr, last.removeprefix("loaded").split()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "usage: pgd"),
        (["--help"], "usage: pgd"),
        (["train", "--help"], "pgd train"),
        (["train", "--cfg", "env=maze2d-umaze"], "task: maze2d-umaze"),
        (["polygrad", "--cfg"], "online:"),
        (["sweep", "--cfg", "seed=0,1"], "seed: 0"),
        (["ls", "runs_dir=nowhere"], "There are no runs in 'nowhere'"),
        (["trian"], "did you mean train"),
        (["train", "updats=3"], "updats"),
        (["train", "updates=-3"], "it is a whole number, at least 1"),
        (["train", "env=hoper-medium"], "did you mean hopper-medium"),
        (["train", "--colour"], "Unknown option --colour"),
        (["train", "data.source=nowhere.hdf5"], "There is no file nowhere.hdf5"),
        (["check", "data.source=minari:nobody/nothing-v0"], "There is no Minari data set 'nobody/nothing-v0'"),
        (["evaluate", "run=nowhere"], "There is no run in 'nowhere'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_an_answer_loads_no_framework(tmp_path, words, said):
    code, output, loaded = answer(words, tmp_path)
    assert said in output
    assert not loaded
    assert code == ("error:" in output)


def test_runs_are_listed_without_a_framework(tmp_path):
    folder = tmp_path / "runs" / "agent" / "hopper-medium" / "iql-pgd-0" / "0"
    folder.mkdir(parents=True)
    (folder / "run.json").write_text('{"state": "finished", "score": 12.34, "stage": "agent"}')
    code, output, loaded = answer(["ls"], tmp_path)
    assert (code, loaded) == (0, [])
    assert "12.3" in output
    assert "1 finished" in output


def test_the_driver_says_what_torch_says():
    assert gpu_is_there() == torch.cuda.is_available()


def test_every_verb_is_a_module():
    assert all(find_spec(f"pgd_lightning.{verb}") for verb in VERBS)
