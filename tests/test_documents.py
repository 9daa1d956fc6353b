"""README, guides and the experiments' scripts: links lead somewhere, and commands are ones that the program takes."""

import os
import re
import runpy
import shlex
import shutil
import subprocess
from functools import cache
from pathlib import Path

import pytest
from helpers.commands import SMALL

from pgd_lightning.config.compose import combinations, compose_config
from pgd_lightning.data import d4rl, sources
from pgd_lightning.simulators.substitutes.recipes import RECIPES

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted(ROOT.glob("experiments/*/run.sh"))
PAGES = sorted([ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("experiments/**/*.md")])
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.M | re.S)
INDENTED = re.compile(r"^    (.*)$", re.M)


def blocks(page: Path, language: str) -> list[str]:
    return [body for kind, body in BLOCK.findall(page.read_text()) if kind == language]


def commands(page: Path) -> list[str]:
    """The lines that begin with a command of ours, without their comments; several stand on a line three blanks apart."""
    text = "\n".join([*blocks(page, ""), *INDENTED.findall(BLOCK.sub("", page.read_text()))]).replace("\\\n", " ")
    parts = (part.strip() for line in text.split("\n") for part in re.split(r"\s{3,}|\s#\s", line))
    found = [part for part in parts if re.match(r"(make|(\.venv/bin/)?pgd) ", part)]
    return [line for line in found if not re.search(r"\$\w|<\w+>", line)]  # these the reader fills in


COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


def words_of(line: str) -> list[str]:
    """What ``pgd`` gets of a command; make is asked what it would run."""
    words = shlex.split(line)
    if words[0] == "make":
        done = subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, capture_output=True, text=True, check=True)
        words = shlex.split(next((run for run in done.stdout.split("\n") if "/bin/pgd " in run), "pgd"))
    return words[1:]


@pytest.mark.parametrize(("page", "line"), COMMANDS, ids=[f"{page.name}: {line}" for page, line in COMMANDS])
def test_a_command_in_a_document_is_one_that_the_program_takes(page, line):
    takes(words_of(line) or ["--help"])


def takes(words: list[str]) -> None:
    verb, *rest = words
    if "-cn" in rest:
        verb = rest.pop(rest.index("-cn") + 1)
    overrides = [word for word in rest if not word.startswith("-")]
    if any(sources.single_task(word.partition("=")[2]) for word in overrides):
        pytest.importorskip("ogbench", reason="OGBench is missing: pip install ogbench")
    if verb.startswith("-"):  # make test, pgd --help
        return
    for point in combinations(overrides) if verb in ("sweep", "slurm") else [overrides]:
        composes(verb, *point)


@cache
def composes(verb: str, *overrides: str) -> None:
    compose_config(verb, list(overrides))


def test_documents_have_commands():
    """Those of the experiments stand in their scripts."""
    scripts = [
        call
        for script in SCRIPTS
        for call in re.findall(r"\bpgd (?:train|prior|analyse|check|collect) ", script.read_text())
    ]
    assert len(COMMANDS) > 35
    assert len(COMMANDS) + len(scripts) > 70


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


SAYS = """#!/usr/bin/env bash
printf '%q ' "${0##*/}" "$@"
echo
"""


@pytest.fixture(scope="module")
def stubbed(tmp_path_factory) -> Path:
    """A copy of the experiments' scripts, and programs that only say how they were called."""
    folder = tmp_path_factory.mktemp("clone")
    files = ["experiments/parts.sh", "experiments/prior/plan.yaml", *(str(path.relative_to(ROOT)) for path in SCRIPTS)]
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, folder / file)
    (folder / "bin").mkdir()
    for name, text in {"pgd": SAYS, "python": SAYS, "ls": "#!/usr/bin/env bash\necho a-run\n"}.items():
        (folder / "bin" / name).write_text(text)
        (folder / "bin" / name).chmod(0o755)
    return folder


@cache
def parts(folder: str) -> list[str]:
    """What the script of an experiment lists, without ``all``."""
    listed = subprocess.run([ROOT / "experiments" / folder / "run.sh"], capture_output=True, text=True, check=True)
    *lines, last = listed.stdout.splitlines()
    assert last.startswith("all: ")
    assert all(re.match(r"\w+ +\S", line) for line in lines)  # a name and what it costs
    return [line.split()[0] for line in lines]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.parent.name)
def test_an_experiment_can_be_repeated(script, stubbed):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)
    assert parts(script.parent.name)
    setting = os.environ | {"PATH": f"{stubbed / 'bin'}{os.pathsep}{os.environ['PATH']}", "PEN": "pen.hdf5"}
    said = subprocess.run(
        [stubbed / script.relative_to(ROOT), "all"], env=setting, capture_output=True, text=True, check=True
    )
    assert not said.stderr
    for program, *words in map(shlex.split, said.stdout.splitlines()):
        if program == "pgd":
            takes([re.sub(r"^seed=\d+$", "seed=0", word) for word in words])
        else:
            assert program == "python" and (words[0] == "-m" or (ROOT / words[0]).exists())


def test_parts_that_are_named_are_there():
    called = [call for page in PAGES for call in re.findall(r"(\w+)/run\.sh((?: \w+)*)", page.read_text())]
    assert len(called) > 30
    for folder, names in called:
        assert set(names.split()) <= {"all", *parts(folder)}, folder
    assert subprocess.run([SCRIPTS[0], "some-other"], capture_output=True).returncode == 2


def test_the_page_of_experiments_is_what_their_questions_say():
    written, page = runpy.run_path(str(ROOT / "experiments" / "page.py")), ROOT / "experiments" / "README.md"
    assert written["page"](page.read_text()) == page.read_text(), "python experiments/page.py"
    assert sorted(written["FOLDERS"]) == [script.parent.name for script in SCRIPTS]
    assert {file.parent.name for file in ROOT.glob("experiments/*/*")} == set(written["FOLDERS"])
    earlier = re.search(r"`(network=[^`]*)`", page.read_text())[1].split()
    command = ["bash", "-c", '. "$0" && echo $EARLIER', ROOT / "experiments" / "parts.sh"]
    sourced = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ["scale=laptop", *earlier] == sourced.stdout.split()


SMALLER = {  # what is typed differently here, so that it takes seconds
    'pgd.load("hopper-medium")': 'pgd.load(path, env="hopper-medium", settings=settings)',
    "steps=20_000": "steps=20", "windows=1024": "windows=8", '"synthetic.hdf5"': "out",
}  # fmt: skip


@pytest.mark.parametrize("name", ["README.md", "docs/data.md", "docs/python.md", "docs/extending.md"])
def test_python_in_the_guides_runs(name, tmp_path):
    path = tmp_path / "some.hdf5"
    d4rl.write(path, (chunk for chunk, _ in RECIPES["hopper-medium"].record(2000, 0, {})), {}, 2000)
    settings = dict(setting.split("=", 1) for setting in SMALL if not setting.startswith("env="))
    given = {"path": path, "out": tmp_path / "out.hdf5", "settings": settings | {"runs_dir": str(tmp_path / "runs")}}
    found = blocks(ROOT / name, "python")
    assert found
    for body in found:
        for typed, smaller in SMALLER.items():
            body = body.replace(typed, smaller)
        exec(compile(body, name, "exec"), given)


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split("\n")) <= 121
