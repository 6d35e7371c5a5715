"""References: what kinds of things a plugin registers, under which names, and how it points at them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

KINDS: dict[str, str] = {
    "data": "dataset",
    "forward_models": "forward model",
    "tasks": "task",
    "methods": "method",
    "metrics": "metric",
    "figures": "figure",
    "networks": "network",
    "processes": "process",
    "solvers": "solver",
    "guides": "guide",
    "steers": "steer",
    "operators": "operator",
    "recipes": "recipe",
    "checkpoints": "checkpoint",
    "apply": "command",
}
"""Every kind of thing a plugin registers, and the word for one of it."""

PARTS = frozenset({"networks", "processes", "solvers", "guides", "steers", "operators"})
"""Kinds whose names may stand without a domain, as ``dpm++2m``."""

FILES = frozenset({"recipes", "checkpoints"})
"""Kinds that are files of a package, not attributes of a module."""

_WORD = r"[a-z0-9]+(?:-[a-z0-9]+)*"
_NAME = re.compile(rf"[a-z](?:[a-z0-9-]*[a-z0-9])?/{_WORD}")
_PART = re.compile(r"[a-z0-9][a-z0-9+]*(?:-[a-z0-9+]+)*")
_TARGET = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_PACKAGE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*")


@dataclass(frozen=True)
class Reference:
    """What a name stands for, before anything is imported.

    Args:
        name: ``"domain/thing"``, or a bare name for a part of the core.
        target: ``"module:attribute"``, or ``"package:relative/path"`` for a file.
        plugin: name of the plugin that registered it.
        distribution: the installed distribution that brings the plugin.
    """

    name: str
    target: str
    plugin: str
    distribution: str


def valid_name(kind: str, name: str) -> bool:
    """Is this a name that may be registered under ``kind``?"""
    return bool(_NAME.fullmatch(name) or (kind in PARTS and _PART.fullmatch(name)))


def fault(kind: str, name: Any, target: Any) -> str:
    """Say what is wrong with one entry that a hook returned; empty when nothing is."""
    if not isinstance(name, str) or not isinstance(target, str):
        return f"unstir_{kind} must map names to references, both strings, got {name!r}: {target!r}"
    if not valid_name(kind, name):
        shape = "domain/thing, lower-case with hyphens" + (", or a bare word" if kind in PARTS else "")
        return f"{KINDS[kind]} name {name!r} is not allowed: write {shape}"
    if kind not in FILES:
        return "" if _TARGET.fullmatch(target) else f"{KINDS[kind]} {name!r} must refer to 'module:attribute', got {target!r}"
    package, _, relative = target.partition(":")
    path = PurePosixPath(relative)
    inside = bool(relative) and not path.is_absolute() and ".." not in path.parts and "\\" not in relative
    return "" if inside and _PACKAGE.fullmatch(package) else f"{KINDS[kind]} {name!r} must refer to 'package:relative/path', got {target!r}"
