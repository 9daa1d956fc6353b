"""What needs no torch answers without it: help, settings, lists of runs, and every sentence about what was typed."""

import json
import os
import shlex
import subprocess
import sys
import textwrap
from importlib.util import find_spec

import pytest
import torch
from omegaconf import OmegaConf

from pgd_lightning.__main__ import SEVERAL, VERBS
from pgd_lightning.commands import manual
from pgd_lightning.config.compose import choices, combinations, compose_config, composed_config
from pgd_lightning.config.gpu import gpu_is_there

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
        (["train", "-cn", "imagine"], "There is no command 'imagine'"),  # there was until 933488b
        (["train", "updats=3"], "updats"),
        (["train", "updates=-3"], "it is a whole number, at least 1"),
        (["train", "env=hoper-medium"], "did you mean hopper-medium"),
        (["train", "--colour"], "Unknown option --colour"),
        (["train", "data.source=nowhere.hdf5"], "There is no file nowhere.hdf5"),
        (["check", "data.source=minari:nobody/nothing-v0"], "There is no Minari dataset 'nobody/nothing-v0'"),
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
    named = {"stage": "agent", "env": "hopper-medium", "method": "iql-pgd", "seed": 0, "identity": {}}
    (folder / "run.json").write_text(json.dumps(named | {"state": "finished", "score": 12.34}))
    code, output, loaded = answer(["ls"], tmp_path)
    assert (code, loaded) == (0, [])
    assert "12.3" in output
    assert "1 finished" in output


def test_the_driver_says_what_torch_says():
    assert gpu_is_there() == torch.cuda.is_available()


def test_every_verb_is_a_module():
    assert all(find_spec(f"pgd_lightning.commands.{verb}") for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_each_example_of_a_verb_is_a_command(verb):
    for example in manual.MANUALS[verb].examples:
        program, named, *words = shlex.split(example)
        assert (program, named) == ("pgd", verb)
        for point in combinations(words) if verb in SEVERAL else [words]:
            compose_config(verb, point)


@pytest.mark.parametrize("verb", VERBS)
def test_what_a_verb_shows_of_its_settings_is_there_and_means_something(verb):
    config, chosen = composed_config(verb, []), choices(verb, [])
    meant = manual.meanings(verb, chosen.files)
    for key in (key for topic in manual.MANUALS[verb].settings.values() for key in topic):
        assert key in chosen.options or OmegaConf.is_missing(config, key) or exists(config, key), f"{verb} has no {key}"
        assert meant.get(key), f"conf says nothing of {key} of pgd {verb}: a comment beside it"
        assert manual.allowed(verb, key), f"{key} of pgd {verb} may be nothing"


def test_settings_mean_what_the_chosen_options_say():
    meant = manual.meanings("train", choices("train", ["guidance=on_policy", "agent=td3_bc"]).files)
    for key in ("guidance.clip", "guidance.noise", "agent.learner.q_weight"):
        assert meant[key]
    usual = manual.meanings("train", choices("train", []).files)
    assert meant["guidance.coef"] != usual["guidance.coef"]


def exists(config, key):
    *groups, name = key.split(".")
    node = OmegaConf.select(config, ".".join(groups)) if groups else config
    return name in node


def test_help_has_the_example_first_then_meaning_range_and_value(tmp_path):
    code, output, _ = answer(["train", "--help", "seeds=3", "env=maze2d-umaze", "scale=smoke"], tmp_path)
    assert code == 0
    lines = output.splitlines()
    assert lines[2].strip() == manual.MANUALS["train"].examples[0]
    (seeds,) = (line.split("  ", 2) for line in lines if line.startswith("  seeds="))
    assert "seeds=3" in seeds[1]
    assert "independent learners trained side by side" in seeds[2]
    assert "[a whole number, 1 to 10000]" in " ".join(output.split())
    assert "env=maze2d-umaze" in output
    assert "sampler=euler_ancestral" in output, "what the scale chooses"
    assert len(lines) < 90
    everything = answer(["train", "--help", "all"], tmp_path)[1]
    assert len(everything.splitlines()) > 300


@pytest.mark.parametrize(
    ("words", "said"), [(["env=hoper"], "There is no env 'hoper'"), (["al"], "'al' is not a setting")]
)
def test_help_about_what_there_is_not_gets_a_sentence(tmp_path, words, said):
    code, output, loaded = answer(["train", "--help", *words], tmp_path)
    assert (code, loaded) == (1, [])
    assert said in output


def test_comments_belong_to_the_setting_on_their_line():
    text = """
    a: 1        # one
    b:          # a group
      c: [x, y] # two, of
      d: "#no"  # three
      e: {f: 2, g: 3}   # beside several
    defaults:
      - h: i    # an option
    """
    found = dict(manual.comments(textwrap.dedent(text)))
    assert found == {
        "a": "one", "b": "a group", "b.c": "two, of", "b.d": "three", "b.e": "beside several", "b.e.g": "beside several",
        "h": "an option",
    }  # fmt: skip
