"""Names are listed without importing anything, and resolved on first use."""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys

import pytest

from unstir import names, registry
from unstir.errors import PluginError, UnknownName
from unstir.plugin import hookspecs, protocols
from unstir.plugin.host import Host
from unstir.plugin.reference import KINDS, PARTS

LIBRARIES = ("torch", "numpy", "scipy", "xarray", "pandas", "matplotlib", "pydantic", "dask")

CORE = [(kind, name) for kind in KINDS for name in Host().names(kind)]


def in_a_fresh_interpreter(code: str) -> str:
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_listing_plugins_and_names_imports_no_library():
    code = f"""
import sys
from unstir import names, registry
for kind in registry.KINDS:
    registry.names(kind)
assert registry.plugins()
print([name for name in {LIBRARIES!r} if name in sys.modules])
"""
    assert in_a_fresh_interpreter(code) == "[]"


def test_the_protocols_and_the_contract_test_import_no_library():
    code = f"import sys, unstir.plugin.protocols, unstir.testing; print([name for name in {LIBRARIES!r} if name in sys.modules])"
    assert in_a_fresh_interpreter(code) == "[]"


def test_the_core_registers_its_parts_by_the_hooks_of_every_plugin():
    core = next(plugin for plugin in registry.plugins() if plugin.name == "core")
    assert (core.status, core.reason, core.distribution, core.api) == ("ok", "", "unstir", 1)
    assert {kind for kind, count in core.counts.items() if count} == PARTS


@pytest.mark.parametrize(("kind", "name"), CORE, ids=[f"{kind}-{name}" for kind, name in CORE])
def test_every_part_of_the_core_resolves(kind, name):
    assert registry.resolve(kind, name) is not None


@pytest.mark.parametrize(("kind", "plural"), [("solver", "solvers"), ("process", "processes")])
def test_every_short_name_is_registered_and_makes_the_same_thing(kind, plural):
    registered = registry.names(plural)
    assert set(names.known(kind)) <= set(registered)
    for name in names.known(kind):
        assert registry.resolve(plural, name)() == names.make(kind, name)


@pytest.mark.parametrize(
    ("kind", "base"),
    [
        ("processes", "unstir.process:Process"),
        ("solvers", "unstir.solver:Solver"),
        ("guides", "unstir.guide:Guide"),
        ("steers", "unstir.steer:Steer"),
        ("operators", "unstir.operator:Operator"),
    ],
)
def test_every_public_part_of_the_core_is_registered(kind, base):
    module, _, name = base.partition(":")
    package = importlib.import_module(module)
    public = [getattr(package, other) for other in package.__all__]
    parts = {part for part in public if inspect.isclass(part) and issubclass(part, getattr(package, name)) and not inspect.isabstract(part)}
    assert parts - {getattr(package, name)} <= {registry.resolve(kind, other) for other in Host().names(kind)}


def test_every_kind_has_its_hook_and_every_hook_a_sentence():
    hooks = {name: hook for name, hook in vars(hookspecs).items() if name.startswith("unstir_")}
    observers = {"unstir_run_started", "unstir_case_finished", "unstir_run_finished"}
    assert set(hooks) == observers | {f"unstir_{kind}" for kind in KINDS}
    for hook in hooks.values():
        assert re.fullmatch(r"[A-Z][^.]*\.", inspect.getdoc(hook)), hook


def test_every_protocol_says_what_its_methods_do():
    for name, noun in vars(protocols).items():
        if inspect.isclass(noun) and noun.__module__ == protocols.__name__:
            assert inspect.getdoc(noun), name
            for method, function in vars(noun).items():
                if inspect.isfunction(function) and (method == "__call__" or not method.startswith("_")):
                    assert inspect.getdoc(function), f"{name}.{method}"


def test_an_unknown_name_lists_the_nearest():
    name = next(iter(registry.names("solvers")))
    with pytest.raises(UnknownName, match=re.escape(f"there is no solver {name + 'x'!r}; did you mean")):
        registry.resolve("solvers", f"{name}x")
    with pytest.raises(UnknownName, match="there is no kind 'solver'; did you mean 'solvers'"):
        registry.names("solver")


def test_only_recipes_and_checkpoints_have_a_path():
    with pytest.raises(PluginError, match="a solver is not a file"):
        registry.path("solvers", next(iter(registry.names("solvers"))))


def test_what_was_found_is_kept_until_reset():
    before = registry.host()
    assert registry.host() is before
    registry.reset()
    assert registry.host() is not before
