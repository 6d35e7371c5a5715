"""Docstrings of public names: a sentence for each; arguments, options and errors of what is offered to users spoken of."""

from __future__ import annotations

import ast
import functools
import importlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unstir import registry
from unstir.errors import UnstirError

ROOT = Path(__file__).parents[2]
PLUGINS = ("plugins/unstir_medical", "plugins/unstir_timeseries", "plugins/unstir_molecules")
PLACES = ("core/unstir", *PLUGINS, "pipelines/unstir_pipelines", "data/unstir_data")
PACKAGES = [ROOT / part for part in PLACES]
FILES = [path for package in PACKAGES for path in sorted(package.rglob("*.py")) if "skeleton" not in path.parts]
Public = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
DOORS = ["unstir", "unstir_pipelines", "unstir_data"]
DOORS += [
    f"unstir.{part}"
    for part in ("certify", "denoiser", "guide", "nn", "operator", "plugin", "posterior", "process", "solver", "starts", "steer", "train")
]
MODULES = [
    "unstir.checkpoint",
    "unstir.choose",
    "unstir.flow_likelihood",
    "unstir.grid",
    "unstir.inversion",
    "unstir.noise",
    "unstir.noise_law",
    "unstir.registry",
    "unstir.samples",
    "unstir.search",
    "unstir.space",
    "unstir.testing",
]
MODULES += ["unstir_data.cards", "unstir_data.fetch", "unstir_pipelines.api"]
"""Modules that are doors themselves."""
SAME_EVERYWHERE = {"self", "x", "x0", "t", "condition", "progress", "seed", "message", "args", "kwargs"}
"""Arguments that mean the same in every signature; the architecture defines them once."""


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def public(body: list[ast.stmt]) -> Iterator[Public]:
    """Public classes and functions of a module or class, without setters and overloads."""
    for node in body:
        if isinstance(node, Public) and not node.name.startswith("_"):
            marks = {ast.unparse(mark) for mark in node.decorator_list}
            if not any(mark == "overload" or mark.endswith(".setter") for mark in marks):
                yield node
                if isinstance(node, ast.ClassDef):
                    yield from public(node.body)


def offered() -> dict[str, Any]:
    """Classes and functions that a package lists, a module of its own defines, or a plugin registers, by their full names."""
    found: dict[str, Any] = {}
    for door in DOORS:
        module = importlib.import_module(door)
        things = {name: getattr(module, name) for name in module.__all__}
        found |= {f"{thing.__module__}.{thing.__qualname__}": thing for thing in things.values() if callable(thing) and _is_ours(thing)}
    for home in MODULES:
        things = vars(importlib.import_module(home))
        found |= {
            f"{home}.{name}": thing
            for name, thing in things.items()
            if not name.startswith("_") and callable(thing) and getattr(thing, "__module__", "") == home
        }
    for kind in sorted(set(registry.KINDS) - {"recipes", "checkpoints"}):
        for name in registry.names(kind):
            thing = registry.resolve(kind, name)
            if callable(thing) and _is_ours(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def _is_ours(thing: Any) -> bool:
    return hasattr(thing, "__qualname__") and getattr(thing, "__module__", "").partition(".")[0].startswith("unstir")


def text(thing: Any) -> str:
    """The docstring; of a class also those of the classes it extends, whose options it has."""
    if inspect.isclass(thing):
        return "\n".join(cls.__doc__ or "" for cls in thing.__mro__ if _is_ours(cls))
    return thing.__doc__ or ""


def arguments(thing: Any) -> list[str]:
    found = inspect.signature(thing).parameters.values()
    return [one.name for one in found if not one.name.startswith("_") and one.name not in SAME_EVERYWHERE]


def speaks_of(doc: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", doc) is not None


OFFERED = offered()


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_module_and_public_name_says_in_a_sentence_what_it_is(path):
    tree = ast.parse(path.read_text())
    silent = [f"{path.name}:{node.lineno} {node.name}" for node in public(tree.body) if not (ast.get_docstring(node) or "").strip()]
    assert silent == []
    assert re.search(r"[.:](\s|$)", ast.get_docstring(tree) or "")


def is_error(thing):
    """Errors are raised by unstir, not by its users."""
    return inspect.isclass(thing) and issubclass(thing, UnstirError)


@pytest.mark.parametrize("name", [name for name, thing in OFFERED.items() if not is_error(thing)])
def test_what_is_offered_speaks_of_every_argument(name):
    thing = OFFERED[name]
    doc = text(thing)
    given = [] if "are those of :func:" in doc else arguments(thing)
    assert [argument for argument in given if not speaks_of(doc, argument)] == []


@pytest.mark.parametrize("name", [name for name, thing in OFFERED.items() if inspect.isfunction(thing)])
def test_a_function_that_is_offered_says_what_it_raises(name):
    tree = ast.parse(textwrap.dedent(inspect.getsource(OFFERED[name])))
    raised = [node.exc.func for node in ast.walk(tree) if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call)]
    kinds = {kind.id for kind in raised if isinstance(kind, ast.Name)} - {"AttributeError"}
    assert {kind for kind in kinds if not speaks_of(text(OFFERED[name]), kind)} == set()


PARTS = [(kind, name) for kind in ("processes", "solvers", "guides", "steers", "operators") for name in registry.names(kind)]


@pytest.mark.parametrize(("kind", "name"), PARTS)
def test_every_registered_part_shows_its_equation(kind: str, name: str) -> None:
    part = registry.resolve(kind, name)
    part = type(part()) if isinstance(part, functools.partial) else part
    shown = f"{part.__doc__}\n{importlib.import_module(part.__module__).__doc__}"
    assert re.search(r"=|<-|~|argmin|\bsum\b", shown), f"{part.__name__} and its module say no equation"
