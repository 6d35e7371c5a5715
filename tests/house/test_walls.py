"""The walls: who may import whom, what a package's door may cost, and how big a file may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = {
    "unstir": ROOT / "core" / "unstir",
    "unstir_medical": ROOT / "plugins" / "unstir_medical",
    "unstir_timeseries": ROOT / "plugins" / "unstir_timeseries",
    "unstir_molecules": ROOT / "plugins" / "unstir_molecules",
    "unstir_pipelines": ROOT / "pipelines" / "unstir_pipelines",
    "unstir_data": ROOT / "data" / "unstir_data",
}
MAY_IMPORT = {
    "unstir": {"unstir"},
    "unstir_medical": {"unstir", "unstir_data", "unstir_medical"},
    "unstir_timeseries": {"unstir", "unstir_data", "unstir_timeseries"},
    "unstir_molecules": {"unstir", "unstir_data", "unstir_molecules"},
    "unstir_pipelines": {"unstir", "unstir_data", "unstir_pipelines"},
    "unstir_data": {"unstir", "unstir_data"},
}
DOOR = {*PACKAGES, "__future__", "importlib", "typing"}
"""What an ``__init__`` may import when it runs: names, and the means to be lazy about them."""
CORE_LINES = 420
"""About 400 lines a file of the core."""
VAGUE = {"utils", "util", "helpers", "helper", "common", "misc"}


def files(package: str) -> list[Path]:
    """Python files of a package; the skeleton is a template of somebody else's package."""
    return [path for path in sorted(PACKAGES[package].rglob("*.py")) if "skeleton" not in path.parts]


ALL = [path for package in PACKAGES for path in files(package)]


def imports(path: Path, *, at_import: bool = False) -> set[str]:
    """Modules that a file imports, whole dotted names; ``at_import`` leaves out what stands in functions and under TYPE_CHECKING."""
    found: set[str] = set()
    waiting: list[ast.AST] = [ast.parse(path.read_text(), str(path))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            found.add(str(node.module))
        elif at_import and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        elif at_import and isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
        else:
            waiting += ast.iter_child_nodes(node)
    return found


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_import_linter_finds_every_wall_standing():
    linter = Path(sys.executable).parent / "lint-imports"
    if not linter.exists():
        pytest.skip("import-linter is not installed beside this Python")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "0 broken" in done.stdout


def test_every_package_has_its_wall_in_the_linter():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    assert set(contracts["root_packages"]) == set(PACKAGES)
    assert {source for contract in contracts["contracts"] for source in contract.get("source_modules", ())} == set(PACKAGES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_whom_it_may(package):
    """Also inside functions and for type checkers: a wall with a door in it is no wall."""
    strangers = {}
    for path in files(package):
        ours = {name.partition(".")[0] for name in imports(path)} & set(PACKAGES)
        if ours - MAY_IMPORT[package]:
            strangers[named(path)] = ours - MAY_IMPORT[package]
    assert strangers == {}


@pytest.mark.parametrize("path", [path for path in ALL if path.name == "__init__.py"], ids=named)
def test_a_door_imports_nothing_heavy(path):
    assert {name.partition(".")[0] for name in imports(path, at_import=True)} <= DOOR


@pytest.mark.parametrize("path", [path for path in ALL if path.name == "__init__.py"], ids=named)
def test_a_door_lists_names_and_has_no_logic_of_its_own(path):
    is_plugin = path.parents[1].name == "plugins"
    functions = {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}
    assert {name for name in functions if not (is_plugin and name.startswith("unstir_"))} <= {"__getattr__", "__dir__"}


@pytest.mark.parametrize("path", files("unstir"), ids=named)
def test_a_file_of_the_core_stays_small(path):
    assert len(path.read_text().splitlines()) <= CORE_LINES


def test_the_loop_stays_one_file_under_two_hundred_lines():
    assert len((PACKAGES["unstir"] / "loop.py").read_text().splitlines()) < 200


def test_no_file_has_a_vague_name():
    assert [named(path) for path in ALL if {part.removesuffix(".py").strip("_") for part in path.parts} & VAGUE] == []


def test_the_core_speaks_of_no_domain():
    """Names of the core's modules, classes, functions and parameters hold no word of a domain."""
    words = {"ct", "mri", "sinogram", "hounsfield", "patient", "molecule", "speech", "weather", "driving", "pose", "forecast"}
    spoken = {}
    for path in files("unstir"):
        tree = ast.parse(path.read_text())
        names = {path.stem}
        names |= {node.name for node in ast.walk(tree) if isinstance(node, ast.ClassDef | ast.FunctionDef)}
        names |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
        if found := {name for name in names if words & set(name.lower().strip("_").split("_"))}:
            spoken[named(path)] = found
    assert spoken == {}


def test_nothing_is_left_undone():
    marks = ("TO" + "DO", "FIX" + "ME", "X" * 3)
    left = [f"{named(path)}: {mark}" for path in ALL for mark in marks if mark in path.read_text()]
    assert left == []
