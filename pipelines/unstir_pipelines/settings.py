"""What a recipe varies: each combination of values is a setting, ``{"task.views": 8}``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from unstir.errors import RecipeError

Setting = dict[str, Any]


def expand(vary: Mapping[str, Sequence[Any]]) -> list[Setting]:
    """Every combination of the varied keys, the last varying fastest; ``[{}]`` where nothing varies."""
    return [dict(zip(vary, values, strict=True)) for values in itertools.product(*vary.values())]


def put(content: dict[str, Any], key: str, value: Any) -> None:
    """Set a dotted key inside nested dicts (and lists, by index), making the dicts on the way.

    Raises:
        RecipeError: the key goes through something that holds no keys; says which.
    """
    *path, last = key.split(".")
    node: Any = content
    for depth, part in enumerate([*path, last]):
        is_last = depth == len(path)
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise RecipeError(f"{'.'.join(path[:depth])!r} is a list of {len(node)}: {part!r} is not one of its positions from 0")
            if is_last:
                node[int(part)] = value
            else:
                node = node[int(part)]
            continue
        if not isinstance(node, dict):
            raise RecipeError(f"cannot set {key!r}: {'.'.join(path[:depth])!r} holds {node!r}, which has no keys")
        if is_last:
            node[part] = value
        else:
            if node.get(part) is None:
                node[part] = {}
            node = node[part]


def folder_name(setting: Mapping[str, Any], keys: Iterable[str]) -> str:
    """A setting as the name of a folder: ``views=8``, ``views=8,noise=poisson``; empty where nothing varies.

    A varied key is shortened to its last words, as many as tell it from the other varied keys.
    """
    short = leaves(keys)
    return ",".join(f"{short[key]}={file_name(str(value))}" for key, value in setting.items())


def leaves(keys: Iterable[str]) -> dict[str, str]:
    """The shortest endings of dotted keys that tell them apart."""
    keys = list(keys)
    short = {}
    for key in keys:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            ending = ".".join(parts[-count:])
            if not any(other != key and f".{other}".endswith(f".{ending}") for other in keys):
                break
        short[key] = ending
    return short


def file_name(text: str) -> str:
    """A text as one safe part of a path; different texts give different names."""
    name = quote(text, safe="+,;:=@()[]~^&")
    return re.sub(r"^\.", "%2E", name) or "%"
