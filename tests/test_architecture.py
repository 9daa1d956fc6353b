"""Who may import whom (docs/design.md), what an import costs, and that the package on disk is the package installed."""

import ast
import configparser
import importlib
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "src" / "pgd_lightning"
CONF = ROOT / "conf"

FLOORS = [  # from the ground up: a room may import of this package what lies below its floor
    {"trajectory", "environment", "errors", "randomness", "channels", "locks"},
    {"diffusion", "networks", "data", "simulators", "runs"},
    {"agents", "generators", "evaluation", "config"},
    {"training", "imagination"},
    {"artifacts"},
    {"report"},
    {"commands", "__main__"},
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS, 1) for room in rooms}
# What a room may import besides the standard library and this package; one that is not listed: any library.
LIBRARIES = {
    **{room: {"torch", "tensordict", "einops", "numpy"} for room in FLOORS[0]},
    **{room: {"torch", "einops"} for room in ("diffusion", "networks")},
}
HOMES = {  # libraries that only these rooms import
    "gymnasium": {"simulators"},
    "mujoco": {"simulators"},
    "h5py": {"data"},
    "wandb": {"training"},
    "hydra": {"config"},
    "omegaconf": {"config", "artifacts", "commands"},
}
NAMELESS = {"utils", "util", "common", "core", "base", "helpers", "misc"}

FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
FILES = sorted(SOURCE.rglob("*.py"))


def _room(name: str) -> str:
    """Of a dotted name below the package; the program's entry belongs to the verbs."""
    room = name.split(".")[0]
    return "commands" if room == "__main__" else room


def _imports(file: Path) -> Iterator[tuple[str, int]]:
    """The full dotted names a file imports, those inside functions and ``TYPE_CHECKING`` too, with their lines."""
    package = ("pgd_lightning", *file.relative_to(SOURCE).parts[:-1])
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{module}.{alias.name}", node.lineno) for alias in node.names)


def _offence(room: str, name: str) -> str | None:
    """Why ``room`` may not import ``name``; None where it may."""
    top, *rest = name.split(".")
    if top == "pgd_lightning":
        target = _room(rest[0]) if rest else ""
        if target in FLOOR and target != room and FLOOR[target] >= FLOOR[room]:
            return f"{target} is on floor {FLOOR[target]}, {room} on floor {FLOOR[room]}"
    elif top not in sys.stdlib_module_names:
        if room in LIBRARIES and top not in LIBRARIES[room]:
            return f"{room} may import only {sorted(LIBRARIES[room])}"
        if room not in HOMES.get(top, {room}):
            return f"{top} belongs to {sorted(HOMES[top])}"
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_down(file: Path) -> None:
    name = ".".join(file.relative_to(SOURCE).with_suffix("").parts)
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports {imported}: {reason}"
        for imported, line in _imports(file)
        if name != "__init__" and (reason := _offence(_room(name), imported))
    ]
    assert not offences, "\n".join(offences)


def _takes_a_config(function: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> bool:
    arguments = [node for node in ast.walk(function.args) if isinstance(node, ast.arg)]
    return any("DictConfig" in ast.unparse(a.annotation) for a in arguments if a.annotation)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_only_rooms_that_know_the_config_take_it(file: Path) -> None:
    """All others say by name and type what they need."""
    room = _room(file.relative_to(SOURCE).with_suffix("").parts[0])
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, FUNCTIONS)]
    taking = [f"{file.name}:{node.lineno}" for node in functions if _takes_a_config(node)]
    assert not taking or room in HOMES["omegaconf"], ", ".join(taking)


def test_every_room_has_a_floor_and_the_design_shows_it() -> None:
    there = {path.stem for path in SOURCE.iterdir()} - {"__init__", "__pycache__", "conf"}
    assert there == set(FLOOR)
    rows = re.findall(r"^\| (\d) \| (.*?) \|", (ROOT / "docs" / "design.md").read_text(), flags=re.M)
    described = {int(floor): set(re.findall(r"`(\w+)/?`", rooms)) for floor, rooms in rows}
    assert described == dict(enumerate(FLOORS, 1))


def test_every_module_has_a_name_that_says_something() -> None:
    assert not [file for file in FILES if NAMELESS & set(file.relative_to(SOURCE).with_suffix("").parts)]


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_no_file_is_longer_than_250_lines() -> None:
    assert not [file.name for file in FILES if len(file.read_text().splitlines()) > 250]


def test_importing_the_package_prints_nothing() -> None:
    assert _python("import pgd_lightning") == ""


def test_simulators_load_no_framework() -> None:
    """The data's room: ``tests/test_sources.py``."""
    heavy = "{'lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'torchrl', 'wandb'}"
    assert _python(f"import sys, pgd_lightning.simulators\nprint(sorted({heavy} & set(sys.modules)))").strip() == "[]"


def test_setup_lists_every_package() -> None:
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg")
    on_disk = {".".join(init.parent.relative_to(SOURCE.parent).parts) for init in SOURCE.rglob("__init__.py")}
    assert set(setup["options"]["packages"].split()) == on_disk | {"pgd_lightning.conf"}
    assert (CONF / "__init__.py").exists(), "conf is a package, so that pkg://pgd_lightning.conf is found"


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        if "_target_" in node:
            yield node["_target_"]
        for value in node.values():
            yield from _targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _find(dotted: str) -> object:
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            found: object = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise ModuleNotFoundError(dotted)


@pytest.mark.parametrize("file", sorted(CONF.rglob("*.yaml")), ids=lambda file: str(file.relative_to(CONF)))
def test_configs_build_only_our_own_objects_and_lightnings(file: Path) -> None:
    for target in _targets(yaml.safe_load(file.read_text())):
        assert target.split(".")[0] in {"pgd_lightning", "lightning"}, f"{file.name}: {target}"
        assert callable(_find(target)), f"{file.name}: {target}"
