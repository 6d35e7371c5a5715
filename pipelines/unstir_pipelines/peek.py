"""The options of a registered class read from its source, without importing it: ``unstir show`` stays quick and needs no torch."""

from __future__ import annotations

import ast
import importlib.util
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@dataclass(frozen=True)
class Written:
    """An option as its source has it.

    Args:
        name: as written in a recipe.
        kind: the annotation.
        default: the default's source, ``None`` where a recipe must give the option.
    """

    name: str
    kind: str
    default: str | None


@dataclass(frozen=True)
class Peeked:
    """What the source of a class says: the first sentence of its docstring, and its options."""

    summary: str
    options: tuple[Written, ...]


def peek(target: str) -> Peeked | None:
    """Read a class.

    Args:
        target: ``"module:Class"``.

    Returns:
        What its source says; ``None`` where the source is not to be found.
    """
    module, _, name = target.partition(":")
    found = _find(module, name)
    if found is None:
        return None
    home, node = found
    doc = (ast.get_docstring(node) or "").strip().splitlines()
    if not isinstance(node, ast.ClassDef):
        return Peeked(doc[0] if doc else "", ())
    return Peeked(doc[0] if doc else "", tuple(_fields(home, node, 0).values()))


def spoken(annotation: ast.expr) -> str:
    """An annotation as a reader says it: ``int, at least 1``; ``'nearest' or 'mirror'``."""
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        return spoken(ast.parse(annotation.value, mode="eval").body)
    if not isinstance(annotation, ast.Subscript):
        return ast.unparse(annotation).removeprefix("typing.")
    name = ast.unparse(annotation.value).rpartition(".")[2]
    inner = annotation.slice.elts if isinstance(annotation.slice, ast.Tuple) else [annotation.slice]
    if name == "Literal":
        return " or ".join(ast.unparse(word) for word in inner)
    if name == "Annotated":
        words = {"ge": "at least", "gt": "more than", "le": "at most", "lt": "less than"}
        limits = [limit for call in inner[1:] if isinstance(call, ast.Call) for limit in call.keywords if limit.arg in words]
        return ", ".join([spoken(inner[0]), *(f"{words[str(limit.arg)]} {ast.unparse(limit.value)}" for limit in limits)])
    return ast.unparse(annotation)


def _fields(module: str, node: ast.ClassDef, depth: int) -> dict[str, Written]:
    fields: dict[str, Written] = {}
    for base in node.bases:
        found = _find(module, ast.unparse(base).split("[")[0]) if depth < 8 else None
        if found is not None and isinstance(found[1], ast.ClassDef):
            fields |= _fields(*found, depth + 1)  # type: ignore[arg-type]
    for line in node.body:
        if not isinstance(line, ast.AnnAssign) or not isinstance(line.target, ast.Name):
            continue
        if "ClassVar" in ast.unparse(line.annotation) or line.target.id.startswith("_"):
            continue
        if isinstance(line.value, ast.Call) and any(
            word.arg == "init" and ast.unparse(word.value) == "False" for word in line.value.keywords
        ):
            continue
        fields[line.target.id] = Written(line.target.id, spoken(_alias(module, line.annotation)), _default(line.value))
    return fields


def _alias(module: str, annotation: ast.expr) -> ast.expr:
    """What a name stands for where the module gives it one: ``Noise = Literal["none", "poisson"]``."""
    tree = _tree(module)
    if tree is not None and isinstance(annotation, ast.Name):
        for node in tree.body:
            if isinstance(node, ast.Assign) and any(isinstance(name, ast.Name) and name.id == annotation.id for name in node.targets):
                return node.value
    return annotation


def _default(value: ast.expr | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, ast.Call) and ast.unparse(value.func).rpartition(".")[2] == "field":
        for word in value.keywords:
            if word.arg == "default":
                return ast.unparse(word.value)
            if word.arg == "default_factory":
                text = ast.unparse(word.value)
                return {"list": "[]", "dict": "{}", "tuple": "()"}.get(text, text.removeprefix("lambda: "))
        return None
    return ast.unparse(value)


def _find(module: str, name: str, depth: int = 0) -> tuple[str, ast.ClassDef | ast.FunctionDef] | None:
    """The definition of a name, through imports."""
    tree = _tree(module)
    if tree is None or depth > 8:
        return None
    head, _, rest = name.partition(".")
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return module, node
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == head:
                    source = _absolute(module, node)
                    if rest:
                        return _find(f"{source}.{alias.name}", rest, depth + 1)
                    return _find(source, alias.name, depth + 1)
    return None


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    path = _path(module)
    parts = module.split(".")
    drop = node.level - 1 if path is not None and path.name == "__init__.py" else node.level
    return ".".join([*parts[: len(parts) - drop], *([node.module] if node.module else [])])


@cache
def _tree(module: str) -> ast.Module | None:
    path = _path(module)
    try:
        return None if path is None else ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None


@cache
def _path(module: str) -> Path | None:
    """The source file of a module; only packages above it are imported, and only the topmost, which lists names."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        base = Path(folder, *inner)
        for path in (base.with_suffix(".py"), base / "__init__.py"):
            if path.is_file():
                return path
    return None
