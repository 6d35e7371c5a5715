"""A YAML document with the line of every key, so that an error can say where it is.

Keys are written with dots: ``task.views``, ``methods.dds.grid``, ``metrics.0``.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError

from unstir.errors import RecipeError


@dataclass
class Document:
    """What a recipe file says, and where it says it.

    Args:
        name: what the user calls it: a registered name or a path.
        path: the file, ``None`` for a recipe made in Python.
        content: plain dicts, lists and scalars.
        lines: line of each dotted key, from 1.
        said: dotted keys that came from elsewhere, as ``{"task.views": "--set task.views=0"}``.
    """

    name: str
    path: Path | None
    content: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    def where(self, key: str) -> str:
        """Say where a key stands: ``"recipe.yaml:7"``, the override that set it, or the nearest key above it."""
        overrides = [said for said in self.said if key == said or key.startswith(f"{said}.")]
        if overrides:
            return self.said[max(overrides, key=len)]
        while True:
            if key in self.lines and self.path is not None:
                return f"{self.path.name}:{self.lines[key]}"
            if not key:
                return self.path.name if self.path is not None else self.name
            key = key.rpartition(".")[0]

    def was_overridden(self, key: str) -> bool:
        """Does the key, or one above it, come from the command line?"""
        return any(key == said or key.startswith(f"{said}.") for said in self.said)


def read(path: Path, name: str | None = None) -> Document:
    """Read a YAML file whose top is a mapping.

    Raises:
        RecipeError: the file is missing, unreadable or not such YAML; names the line.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(f"recipe {path} does not exist") from None
    except IsADirectoryError:
        raise RecipeError(f"recipe {path} is a folder; give a YAML file or a registered name (unstir recipes lists them)") from None
    except UnicodeDecodeError:
        raise RecipeError(f"recipe {path} is not text in UTF-8") from None
    return parse(text, path, name or str(path))


def parse(text: str, path: Path | None, name: str) -> Document:
    """Parse the text of a recipe.

    Raises:
        RecipeError: not YAML, or its top is not a mapping.
    """
    where = path.name if path else name
    try:
        tree = YAML().load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        at = f"{where}:{mark.line + 1}" if mark else where
        raise RecipeError(f"{at} is not valid YAML: {(error.problem or str(error)).splitlines()[0]}") from None
    except YAMLError as error:
        raise RecipeError(f"{where} is not valid YAML: {str(error).splitlines()[0]}") from None
    if not isinstance(tree, Mapping):
        raise RecipeError(f"{where} is not a recipe: its top must be a mapping with 'task', 'data' and 'methods'")
    lines: dict[str, int] = {}
    content = _plain(tree, "", lines)
    return Document(name, path, content, lines)


def scalar(text: str) -> Any:
    """Read one value as YAML does (``8``, ``[8, 20]``, ``true``, ``karras:20``); what is not YAML is text."""
    try:
        return _plain(YAML().load(text), "", {}) if text.strip() else text
    except YAMLError:
        return text


def dump(content: Mapping[str, Any]) -> str:
    """Write plain content as YAML in the given order."""
    yaml = YAML()
    yaml.default_flow_style = None
    yaml.width = 120
    stream = io.StringIO()
    yaml.dump(dict(content), stream)
    return stream.getvalue()


def _plain(node: Any, key: str, lines: dict[str, int]) -> Any:
    if isinstance(node, Mapping):
        made = {}
        for name, value in node.items():
            inner = f"{key}.{name}" if key else str(name)
            if isinstance(node, CommentedMap) and name in node.lc.data:
                lines[inner] = node.lc.key(name)[0] + 1
            made[str(name)] = _plain(value, inner, lines)
        return made
    if isinstance(node, Sequence) and not isinstance(node, str | bytes):
        for index in range(len(node)):
            if isinstance(node, CommentedSeq) and index in (node.lc.data or {}):
                lines[f"{key}.{index}"] = node.lc.item(index)[0] + 1
        return [_plain(value, f"{key}.{index}", lines) for index, value in enumerate(node)]
    for plain in (bool, int, float, str):
        if isinstance(node, plain):
            return plain(node)
    return node if node is None else str(node)
