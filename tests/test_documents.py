"""README and guides: their links lead somewhere, and their commands are ones that the program takes."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from helpers.commands import SMALL

from pgd_lightning.config.compose import combinations, compose_config
from pgd_lightning.data import d4rl, sources
from pgd_lightning.simulators.substitutes.recipes import RECIPES

ROOT = Path(__file__).parents[1]
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
    verb, *rest = words_of(line) or ["--help"]
    if "-cn" in rest:
        verb = rest.pop(rest.index("-cn") + 1)
    overrides = [word for word in rest if not word.startswith("-")]
    if any(sources.single_task(word.partition("=")[2]) for word in overrides):
        pytest.importorskip("ogbench", reason="OGBench is missing: pip install ogbench")
    if verb.startswith("-"):  # make test, pgd --help
        return
    for point in combinations(overrides) if verb in ("sweep", "slurm") else [overrides]:
        compose_config(verb, point)


def test_documents_have_commands():
    assert len(COMMANDS) > 40


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        assert target.startswith("http") or (page.parent / target).exists(), target


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
