"""What is typed after a verb: every value fits what is declared for it or gets a sentence, and text is taken as typed."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
import pytest
import yaml
from helpers.commands import pgd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from pgd_lightning.__main__ import VERBS, fail
from pgd_lightning.config import ranges
from pgd_lightning.config.compose import CONF, _for_hydra, combinations, compose_config
from pgd_lightning.errors import UserError
from pgd_lightning.report.figures import strip

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {
    "dashboard": ["entity=x"],
    "evaluate": ["run=x"],
    "generate": ["run=x"],
    "export": ["run=x"],
    "convert": ["out=x"],
}
NUMBERS = [name for name, entry in ranges.declarations().items() if entry.startswith(("whole", "number"))]
PLACES = {"learner": "online.learner", "env/body": "env", "agent/rewards": "agent.rewards"}
AWKWARD = "a=b,c #d[e]{f}&g!h;i'j\"k\\l(m)~ü$n:%*?|<>.hdf5"


def files() -> list[Path]:
    return sorted(path for path in Path(str(CONF)).rglob("*.yaml") if path.name != "ranges.yaml")


def content(path: Path) -> dict:
    """Its settings, where they stand in a whole config."""
    text = path.read_text()
    folder = str(path.relative_to(str(CONF)).parent)
    place = PLACES.get(folder, folder.split("/")[0])
    if package := re.match(r"# @package (\w+)", text):
        place = package[1]
    node = {key: value for key, value in yaml.safe_load(text).items() if key != "defaults"}
    for part in [] if place in (".", "_global_") else reversed(place.split(".")):
        node = {part: node}
    return node


def without_references(node):
    """Interpolations and missing values are somebody else's."""
    if isinstance(node, dict):
        return {key: without_references(value) for key, value in node.items()}
    return ranges.UNSET if isinstance(node, str) and "${" in node else node


@pytest.mark.parametrize("path", files(), ids=lambda path: str(path.relative_to(str(CONF))))
def test_every_setting_of_every_file_is_declared_and_its_value_fits(path):
    verb = path.stem if path.parent == Path(str(CONF)) else "train"
    settings = without_references(content(path))
    for key, value in ranges.leaves(verb, settings):
        assert ranges.declared(verb, key), f"{key} of {path} is not in conf/ranges.yaml"
        ranges.check(verb, settings, key, value)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_defaults_that_fit(verb):
    compose_config(verb, NEEDED.get(verb, []))


def nodes(node: dict, prefix: str) -> Iterator[str]:
    """Settings and groups of settings, by their full names."""
    for name, value in node.items():
        yield f"{prefix}.{name}"
        if isinstance(value, dict):
            yield from nodes(value, f"{prefix}.{name}")


def test_every_entry_is_of_a_setting():
    there = {key for path in files() for key in nodes(content(path), f".{path.stem}")}
    entries = {name.partition(".")[2] if name.split(".")[0] in VERBS else name for name in ranges.declarations()}
    gone = {name for name in entries if not any(fnmatchcase(key, f"*.{name}") for key in there)}
    assert gone == {"env.success"}, "that one is found out where the environment is made"


def test_every_entry_can_be_read():
    kinds = {*ranges.KINDS, "empty", "null"}
    for name, entry in ranges.declarations().items():
        for option in ranges.declared("", name):
            one = ranges.SEVERAL.sub(r"\2", option)
            words = re.fullmatch(r"[\w-]+", one)
            known = one in kinds or ranges.Interval.read(one, lambda name: (name, None)) or ranges.CONDITION.match(one)
            assert known or words or one.startswith("option of "), f"{name}: {entry}"
            assert not one.startswith("option of ") or ranges.of_group(one.removeprefix("option of "))


@given(st.sampled_from(NUMBERS), st.one_of(st.floats(), st.integers(), st.text(), st.booleans(), st.none()))
def test_a_number_within_its_range_is_taken_and_anything_else_gets_a_sentence(name, value):
    first = ranges.declared("", name)[0]
    interval = ranges.Interval.read(first, lambda name: (name, None))
    try:
        ranges.check("", {}, name, value)
    except UserError as error:
        assert str(error).startswith(f"{name}={ranges.shown(value)} does not fit: ")
        assert str(interval) in str(error) or str(ranges.LARGEST) in str(error)
        return
    if isinstance(value, int | float) and not isinstance(value, bool):
        assert interval.low <= value <= interval.high
        assert math.isfinite(value)
        assert isinstance(value, int) or first.startswith("number")
    else:
        assert ranges.shown(value) in ("null", "auto")
        assert len(ranges.declared("", name)) > 1


@pytest.mark.parametrize(
    ("option", "inside", "outside", "said"),
    [
        ("whole [1, inf)", [1, 10**9], [0, -1, 1.0, 1.5, math.nan, math.inf, None, "2", True, [2]],
         "a whole number, at least 1"),
        ("number (0, 1]", [1e-300, 0.5, 1], [0, -1.0, 1.0001, math.nan, math.inf, False], "a number, above 0, at most 1"),
        ("number [0, 1)", [0, 0.999], [1, -1e-9], "a number, at least 0, below 1"),
        ("number (-inf, inf)", [-1e300, 0], [-math.inf, math.inf, math.nan], "a number"),
        ("whole [0, most]", [0, 7], [8], "a whole number, 0 to most=7"),
        ("whole [1, 99] multiple of most", [7, 14], [6], "a whole number, 1 to 99, a multiple of most=7"),
        ("whole [0, absent]", [10**12], [-1], "a whole number, at least 0"),
    ],
)  # fmt: skip
def test_a_range_is_what_it_says(option, inside, outside, said):
    interval = ranges.Interval.read(option, lambda name: (name, {"most": 7}.get(name)))
    assert str(interval) == said
    assert all(value in interval for value in inside)
    assert not any(value in interval for value in outside)


@pytest.fixture(scope="module")
def whole():
    """A config with an agent that has many numbers."""
    return OmegaConf.to_container(
        compose_config("train", ["agent=diffusion_dice", "generator=polygrad", "scale=smoke"])
    )


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "word", True, [], 10**30])
def test_no_number_of_a_config_may_be_anything_else(whole, value):
    numbers = [k for k, v in ranges.leaves("train", whole) if isinstance(v, int | float) and not isinstance(v, bool)]
    assert len(numbers) > 200
    for key in numbers:
        with pytest.raises(UserError, match=f"^{re.escape(key)}=.* does not fit: "):
            ranges.check("train", whole, key, value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("sampler.num_steps=0", "it is a whole number, 1 to"),
        ("prior.ema_decay=2", "it is a number, at least 0, below 1"),
        ("prior.learning_rate=0", "it is a number, above 0, at most 1"),
        ("data.stride=0", "at least 1"),
        ("prior.steps=1.5", "it is a whole number, at least 1"),
        ("prior.steps=null", "null while prior.epochs is not"),
        ("guidance.coef=nan", "it is a number, at least 0"),
        ("learning.rate=nan", "it is a number, above 0, at most 1"),
        ("seed=-1", "at least 0"),
        ("scale=null", "There is no scale 'null': there are laptop, paper, smoke"),
        ("compare=[none,foo]", "none, pets, pgd"),
        ("compare=none,pgd", "a list is written [a,b]"),
        ("trainer.devices=0", "1 to 1024, auto or -1"),
        ("transformer.features=30", "a multiple of transformer.model.network.heads=4"),
        ("process.sigma_min=90", "below process.sigma_max=80.0"),
        ("env.obs_dim=word", "it is a whole number"),
        ("prior=3", "no setting of that name that takes a value"),
        ("+prior.speed=3", "no setting of that name that takes a value"),
        ("~compare=none", "write key=value"),
        ("=3", "write key=value"),
        ("model=vae", "generator= says which one is used"),
        ("generator.model=vae", "generator= says which one is used"),
        ("generator.build=null", "null while generator.model is null too"),
        ("runs_dir=null", "it is a path"),
        ("runs_dir=", "it is a path"),
        ("agent.learner.hidden=[]", "each a whole number"),
        ("synthetic.mixing=stir", "it is blend or alternate"),
        ("synthetic.synthetic_batch=999", "0 to synthetic.batch_size=256"),
        ("sampler.precision=half", "it is float32 or bfloat16"),
        ("ranks.agents=windows", "it is seeds or rows"),
        ("trainer.compile=fast", "max-autotune"),
    ],
)  # fmt: skip
def test_a_setting_that_means_nothing_gets_a_sentence_with_its_range(setting, said):
    with pytest.raises(UserError) as raised:
        compose_config("train", ["scale=smoke", setting])
    assert said in str(raised.value)
    assert "\n" not in str(raised.value)
    assert setting.split("=")[0].lstrip("+") in str(raised.value)


@pytest.mark.parametrize(
    ("chosen", "setting", "said"),
    [
        (["generator=pets"], "generator.build.propagation=ts2", "ts1 or ts_inf"),
        (["guidance=on_policy_ablated"], "guidance.kind=wild", "grad, sample or none"),
        (["guidance=on_policy_ablated"], "guidance.point=here", "denoised or posterior_mean"),
    ],
)
def test_a_choice_of_one_method_gets_a_sentence_too(chosen, setting, said):
    with pytest.raises(UserError, match=f"^{re.escape(setting)} does not fit: it is {said}"):
        compose_config("train", ["scale=smoke", *chosen, setting])


@pytest.mark.parametrize("section", ["prior", "ensemble"])
def test_passes_over_the_data_are_not_ignored(section):
    """A number of steps, which most scales set, would count instead."""
    with pytest.raises(UserError, match=rf"would not be used, as {section}.steps=\d+ counts"):
        compose_config("train", ["scale=smoke", f"{section}.epochs=3"])
    both = compose_config("train", ["scale=smoke", f"{section}.steps=null", f"{section}.epochs=3"])
    assert (both[section].steps, both[section].epochs) == (None, 3)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("could not create a primitive"),
        OSError("Unable to allocate 1.2 TiB for an array"),
    ],
)
def test_too_little_memory_is_a_sentence(error, capsys):
    assert fail(error) == 1
    said = capsys.readouterr().err
    assert "The memory does not suffice: lower sampler.batch_size" in said
    assert "alloc_cpu" not in said


def test_single_values_and_round_numbers_are_taken_for_what_they_mean():
    typed = ["compare=unguided", "analysis.factors=2", "agent.learner.hidden=32", "updates=1e3", "runs_dir=007"]
    config = compose_config("train", [*typed, "logger.project=2024", "data.cache=null", "scale=smoke"])
    assert (config.compare, config.analysis.factors, config.agent.learner.hidden) == (["unguided"], [2], [32])
    assert (config.updates, config.runs_dir, config.logger.project) == (1000, "007", "2024")
    assert isinstance(config.updates, int)
    assert config.data.cache is None


PLAIN = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0$"), min_size=1)


def parsed(verb, override):
    return OverridesParser.create().parse_override(_for_hydra(verb, override)).value()


@given(PLAIN)
def test_text_is_taken_as_it_is_typed(text):
    quoted = len(text) > 1 and text[0] in "'\"" and text[0] == text[-1]
    if text != "null" and not quoted and not text.startswith("~"):
        assert parsed("train", f"data.source={text}") == text
        assert parsed("slurm", f"launcher.partition={text}") == text


@given(st.lists(PLAIN.filter(lambda text: text.strip() == text and not set("'\"\\") & set(text)), min_size=1))
def test_a_comma_separates_paths_of_a_sweep_unless_it_stands_within_quotes(texts):
    typed = ",".join(f'"{text}"' if "," in text else text for text in texts)
    assert combinations([f"data.source={typed}", "seed=0"]) == [[f"data.source={text}", "seed=0"] for text in texts]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("run=~/x,y", f"{Path.home()}/x,y"),
        ("run=~nobody-of-that-name/x", "./~nobody-of-that-name/x"),
        ("run='\"a b\"'", '"a b"'),
        ("run='null'", "null"),
    ],
)
def test_home_folders_and_quotes(setting, value):
    assert parsed("report", setting) == value


def test_a_list_of_paths_is_one_path_or_several_in_brackets():
    one = compose_config("report", ["runs=a,b=(c)&d"]).runs
    several = compose_config("report", ["runs=[a b, 'c,d' ,~/e]"]).runs
    assert (one, several) == (["a,b=(c)&d"], ["a b", "c,d", f"{Path.home()}/e"])


def test_a_folder_with_an_awkward_name_is_found(monkeypatch, tmp_path, capsys):
    (tmp_path / AWKWARD).mkdir()
    assert pgd(monkeypatch, ["ls", f"runs_dir={tmp_path / AWKWARD}"]) == 1
    assert capsys.readouterr().err == f"\nerror: There are no runs in '{tmp_path / AWKWARD}': give their folder, "\
        "runs_dir=<folder>.\n"  # fmt: skip


@pytest.mark.skipif(shutil.which("make") is None, reason="no make here")
def test_make_hands_on_what_was_typed(tmp_path):
    (tmp_path / "pgd").write_text(f"#!{sys.executable}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n")
    (tmp_path / "pgd").chmod(0o755)
    (tmp_path / "python").symlink_to(sys.executable)

    def made(*variables):
        command = ["make", "-s", "-o", ".venv/.installed", "generate", f"BIN={tmp_path}", *variables]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        return json.loads(done.stdout.splitlines()[-1]), done.stderr

    typed = AWKWARD.replace("$", "")  # make's own
    assert made(f"DATA={typed}", "RUN=it's") == (["generate", f"data.source={typed}", "run=it's"], "")
    assert made("ARGS=out=a&b;c 'x=y z' #d *") == (["generate", "out=a&b;c", "x=y z", "#d", "*"], "")
    assert made("ARGS=out=it's windows=4") == (["generate", "out=it's", "windows=4"], "")


def python(code, **changes):
    """A process of its own that runs ``code`` with pgd's entry as ``entry``."""
    code = f"import os, sys, pgd_lightning.__main__ as entry\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, **changes)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 75), (signal.SIGUSR1, 75)])
def test_a_signal_before_a_verb_begins_ends_it_without_a_traceback(number, code):
    done = python(
        "import signal\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"  # make test & ignores it
        f"import pgd_lightning.runs.console as console\nconsole.quieten = lambda: os.kill(os.getpid(), {int(number)})\n"
        "sys.argv = ['pgd', 'ls']\nsys.exit(entry.main())"
    )
    assert done.returncode == code
    assert len(done.stderr.strip().splitlines()) == 1
    assert "the same command" in done.stderr


def test_a_background_job_goes_on_ignoring_what_its_shell_ignores():
    done = python(
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "entry.command = lambda: os.kill(os.getpid(), signal.SIGINT) or 3\nsys.exit(entry.main())"
    )
    assert (done.returncode, done.stderr) == (3, "")


def test_a_reader_that_goes_ends_nothing():
    read, write = os.pipe()
    os.close(read)
    code = "sys.argv = ['pgd', '--help']\nassert entry.main() == 0\nprint('x' * 100000, flush=True)\nos.write(2, b'on')"
    done = subprocess.run(
        [sys.executable, "-c", f"import os, sys, pgd_lightning.__main__ as entry\n{code}"],
        stdout=write, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "on")


def test_a_closed_output_ends_nothing():
    command = f'"{sys.executable}" -m pgd_lightning --help >&-'
    done = subprocess.run(command, shell=True, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("surroundings", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
                                          {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}])  # fmt: skip
def test_an_ascii_terminal_ends_nothing_and_files_are_utf8(surroundings):
    done = subprocess.run([sys.executable, "-m", "pgd_lightning", "--help"], env=os.environ | surroundings,
                          capture_output=True)  # fmt: skip
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"example: pgd train" in done.stdout


def test_empty_environment_variables_count_as_unset():
    code = "entry.operating_system.prepare()\nprint(sorted(name for name, value in os.environ.items() if not value))"
    names = ("D4RL_DATASET_DIR", "XDG_CACHE_HOME", "WANDB_MODE", "MUJOCO_GL", "SLURM_STEP_NUM_TASKS")
    done = python(code, env=os.environ | dict.fromkeys((*names, "CUDA_VISIBLE_DEVICES"), ""))
    assert done.stdout == "['CUDA_VISIBLE_DEVICES']\n"  # there it means: no GPU


@pytest.mark.parametrize(("accelerator", "said"), [("tpu", "does not fit"), ("mps", "no GPU of Apple's")])
def test_an_accelerator_that_is_not_there_is_a_sentence(monkeypatch, tmp_path, capsys, accelerator, said):
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    arguments = ["prior", "env=maze2d-umaze", f"runs_dir={tmp_path}", f"trainer.accelerator={accelerator}"]
    assert pgd(monkeypatch, arguments) == 1
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_smallest_number_of_frames_is_a_picture(tmp_path):
    assert strip([np.zeros((4, 4, 3), np.uint8)], "one", tmp_path / "one.png").stat().st_size > 0
