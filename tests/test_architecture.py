"""Who may import whom (docs/design.md), what an import costs, and that the package on disk is the package installed."""

import ast
import configparser
import importlib
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

NOUNS = {"trajectory", "errors", "randomness", "channels"}
MATHS = {"diffusion", "networks"}
STAGES = {"data", "simulators", "generators", "agents", "evaluation"}

# What of this package a room may import besides itself; one that is not listed (row 2: runs, the verbs) may import all.
OURS = {
    **dict.fromkeys(NOUNS, NOUNS),
    **{room: {"errors", "randomness", "channels"} for room in MATHS},
    **dict.fromkeys(STAGES, NOUNS | MATHS),
    "evaluation": NOUNS | MATHS | {"simulators"},
}
# What row 0 may import besides the standard library.
THEIRS = {
    **{room: {"torch", "tensordict", "einops", "numpy"} for room in NOUNS},
    **{room: {"torch", "einops"} for room in MATHS},
}
# Libraries with one home. None: row 2 only.
HOMES: dict[str, set[str] | None] = {
    "gymnasium": {"simulators"},
    "mujoco": {"simulators"},
    "h5py": {"data"},
    "wandb": {"tracking"},
    "hydra": None,
    "omegaconf": None,
}
NAMELESS = {"utils", "util", "common", "core", "base", "helpers", "misc"}

FILES = sorted(SOURCE.rglob("*.py"))


def _room(file: Path) -> str:
    return file.relative_to(SOURCE).parts[0].removesuffix(".py")


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
        target = rest[0] if rest else ""
        forbidden = room in OURS and target not in OURS[room] | {room, "__version__"}
        return f"{room} may import only {sorted(OURS[room])} of this package" if forbidden else None
    if top in sys.stdlib_module_names:
        return None
    if room in THEIRS and top not in THEIRS[room]:
        return f"{room} may import only {sorted(THEIRS[room])}"
    if top in HOMES:
        homes = HOMES[top]
        allowed = room not in OURS if homes is None else room in homes
        return None if allowed else f"{top} belongs to {'the verbs' if homes is None else sorted(homes) or 'nobody'}"
    return None


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(SOURCE)))
def test_imports_go_one_way(file: Path) -> None:
    room = _room(file)
    offences = [
        f"{file.relative_to(ROOT)}:{line} imports {name}: {reason}"
        for name, line in _imports(file)
        if (reason := _offence(room, name))
    ]
    assert not offences, "\n".join(offences)


@pytest.mark.parametrize(
    ("room", "name", "allowed"),
    [
        ("diffusion", "torch.nn", True),
        ("diffusion", "lightning.pytorch", False),
        ("diffusion", "pgd_lightning.trajectory", False),
        ("agents", "pgd_lightning.networks.actors", True),
        ("agents", "pgd_lightning.generators.pgd", False),
        ("agents", "pgd_lightning.runs", False),
        ("evaluation", "pgd_lightning.simulators.make", True),
        ("simulators", "mujoco", True),
        ("evaluation", "gymnasium", False),
        ("train", "gymnasium", False),
        ("train", "hydra.utils", True),
        ("data", "omegaconf", False),
        ("train", "wandb", False),
        ("tracking", "wandb", True),
        ("train", "pgd_lightning.agents.iql", True),
    ],
)
def test_the_table_says_what_the_design_says(room: str, name: str, allowed: bool) -> None:
    assert (_offence(room, name) is None) == allowed


def test_every_module_has_a_name_that_says_something() -> None:
    assert not [file for file in FILES if NAMELESS & set(file.relative_to(SOURCE).with_suffix("").parts)]


def _python(code: str) -> str:
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    return result.stdout + result.stderr


def test_importing_the_package_prints_nothing() -> None:
    assert _python("import pgd_lightning") == ""


@pytest.mark.parametrize("room", ["data", "simulators"])
def test_reading_data_loads_no_framework(room: str) -> None:
    heavy = "{'lightning', 'pytorch_lightning', 'hydra', 'omegaconf', 'torchrl', 'wandb'}"
    assert _python(f"import sys, pgd_lightning.{room}\nprint(sorted({heavy} & set(sys.modules)))").strip() == "[]"


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
