"""``unstir new-plugin NAME``: a working plugin on generated data, to be changed piece by piece."""

from __future__ import annotations

import importlib.util
import re
import tempfile
from pathlib import Path

from unstir import registry
from unstir.errors import UserError

SKELETON = Path(__file__).with_name("skeleton")
_NAME = re.compile(r"[a-z][a-z0-9]*(?:-[a-z0-9]+)*")


def create(name: str, folder: Path) -> list[Path]:
    """Write the skeleton of plugin ``name`` to ``folder/name``, whole or not at all.

    Args:
        name: the plugin and its domain: lower-case letters and digits, words joined by hyphens.
        folder: where the new folder goes.

    Returns:
        The files written, ``pyproject.toml`` first.

    Raises:
        UserError: the name is not allowed or taken, or the folder exists.
    """
    if not _NAME.fullmatch(name):
        raise UserError(f"plugin name {name!r} is not allowed: use lower-case letters and digits, words joined by hyphens, as 'my-domain'")
    _refuse_taken(name)
    target = folder / name
    if target.exists():
        raise UserError(f"{target} exists already: choose another name, or remove it")
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder: create it first")
    package = f"unstir_{name.replace('-', '_')}"
    sources = [path for path in sorted(SKELETON.rglob("*")) if path.is_file() and "__pycache__" not in path.parts]
    names = [_rename(path.relative_to(SKELETON).as_posix(), name, package) for path in sources]
    try:
        with tempfile.TemporaryDirectory(prefix=f".{name}-", dir=folder) as scratch:
            made = Path(scratch) / name
            for source, relative in zip(sources, names, strict=True):
                path = made / relative
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(_rename(source.read_text(encoding="utf-8"), name, package), encoding="utf-8")
            made.rename(target)
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}") from error
    return [target / relative for relative in sorted(names, key=_reading_order)]


def _refuse_taken(name: str) -> None:
    for plugin in registry.plugins():
        if plugin.name == name:
            raise UserError(f"plugin name {name!r} is taken by {plugin.distribution} {plugin.version}: choose another")
    if importlib.util.find_spec(f"unstir_{name.replace('-', '_')}") is not None:
        raise UserError(f"plugin name {name!r} is taken: a package unstir_{name.replace('-', '_')} is installed already")


def _rename(text: str, name: str, package: str) -> str:
    return text.replace("unstir_skeleton", package).replace("skeleton", name)


def _reading_order(relative: str) -> tuple[int, str]:
    order = ["pyproject.toml", "__init__.py", "task.py", "methods.py", "prior.py", "metrics.py", "first.yaml", "generated.yaml"]
    file = relative.rpartition("/")[2]
    return (order.index(file) if file in order else len(order), relative)
