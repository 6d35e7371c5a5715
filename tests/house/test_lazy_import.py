"""What must stay light: ``import unstir`` and the verbs that only look import no torch. Modules are counted, not seconds."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = {"torch", "scipy", "matplotlib", "xarray", "pandas", "dask", "distributed", "lightning_fabric"}
HEAVY |= {"SimpleITK", "nibabel", "pydicom", "skimage"}


def loaded_by(code: str, *arguments: str) -> set[str]:
    """Run code in a fresh Python and give the top-level modules that are loaded at its end."""
    report = "import sys, json\nprint('\\n' + json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", f"{code}\n{report}", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def loaded_by_verb(*words: str) -> set[str]:
    code = """
import sys
from unstir_pipelines.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert not stop.code, stop.code
"""
    return loaded_by(code, *words)


DOORS = ["unstir", "unstir_pipelines", "unstir_data", "unstir.plugin", "unstir.registry"]
DOORS += ["unstir_medical", "unstir_timeseries", "unstir_molecules"]


@pytest.mark.parametrize("module", DOORS)
def test_importing_a_package_imports_nothing_heavy(module):
    assert loaded_by(f"import {module}") & HEAVY == set()


def test_import_unstir_loads_few_modules_beside_the_standard_library():
    ours = loaded_by("import unstir") - loaded_by("import importlib, typing, json")
    assert ours <= {"unstir", "__future__"}


@pytest.mark.parametrize(
    "words",
    [
        ("--help",),
        ("--version",),
        ("run", "--help"),
        ("train", "--help"),
        ("apply", "--help"),
        ("plugins",),
        ("plugins", "--json"),
        ("plugins", "--names", "methods"),
        ("recipes",),
        ("recipes", "--json"),
        ("data", "list"),
    ],
    ids=" ".join,
)
def test_a_verb_that_looks_imports_no_torch(words):
    assert loaded_by_verb(*words) & HEAVY == set()


def test_every_registered_name_points_at_something_that_is_there():
    """Read from the sources, without importing them."""
    code = """
import importlib.util
from pathlib import Path
from unstir import registry
missing = []
for kind in registry.KINDS:
    for name, reference in registry.names(kind).items():
        module, _, rest = reference.target.partition(":")
        spec = importlib.util.find_spec(module)
        is_file = kind in ("recipes", "checkpoints")
        if spec is None or (is_file and not (Path(spec.origin).parent / rest).exists()):
            missing.append(f"{kind} {name}: {reference.target}")
assert not missing, missing
"""
    assert loaded_by(code) & HEAVY == set()


def test_show_imports_no_torch_for_any_recipe_or_registered_name():
    """One process for all of them: whichever pulls torch in, it is found."""
    code = """
import contextlib, io, sys
from unstir import registry
from unstir_pipelines.cli import app
for kind in sorted(registry.KINDS):
    for name in registry.names(kind):
        if "/" not in name:
            continue
        with contextlib.redirect_stdout(io.StringIO()):
            assert app.call(["show", name]) == 0, name
        assert "torch" not in sys.modules, f"unstir show {name} ({kind}) imports torch"
"""
    assert "torch" not in loaded_by(code)
