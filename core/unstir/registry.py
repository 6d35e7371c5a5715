"""Every name that plugins and the core register, and the way from a name to the object: imported on first use.

registry.names("tasks")                          # {"medical/sparse-view-ct": Reference(...)}
registry.resolve("solvers", "dpm++2m")           # the object
registry.path("recipes", "medical/sparse-view-ct")   # a pathlib.Path
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from unstir.errors import MissingExtra
from unstir.plugin import host as _hosts
from unstir.plugin.host import Host, PluginInfo
from unstir.plugin.reference import FILES, KINDS, Reference

__all__ = ["FILES", "KINDS", "PluginInfo", "Reference"]
__all__ += ["call", "card", "host", "missing_extra", "names", "path", "plugins", "reference", "reset", "resolve"]


@cache
def host() -> Host:
    """The host of this process, made once of what is installed."""
    return Host.discover()


def names(kind: str) -> dict[str, Reference]:
    """What is registered under a kind (``"tasks"``, ``"solvers"``...), the core's first; imports no library.

    Raises:
        UnknownName: there is no such kind.
    """
    return host().names(kind)


def reference(kind: str, name: str) -> Reference:
    """What one name stands for, without importing it.

    Raises:
        UnknownName: nothing of that kind has the name; lists the nearest three.
        PluginError: two plugins claim it; names both distributions.
    """
    return host().reference(kind, name)


def resolve(kind: str, name: str) -> Any:
    """Import what a name stands for (a path for recipes and checkpoints).

    Raises:
        UnknownName: nothing of that kind has the name; lists the nearest three.
        MissingExtra: an optional library is not installed; gives the pip command.
        PluginError: the reference points nowhere, or two plugins claim the name.
    """
    return host().resolve(kind, name)


def path(kind: str, name: str) -> Path:
    """The file of a recipe or the folder of a checkpoint.

    Raises:
        UnknownName: nothing of that kind has the name; lists the nearest three.
        PluginError: the file does not exist, or two plugins claim the name.
    """
    return host().path(kind, name)


def card(name: str) -> Path:
    """The card of a registered dataset: ``cards/CARD.yaml`` in the package that holds it, else in ``unstir_data``.

    Args:
        name: of the dataset.

    Raises:
        PluginError: there is no such file.
    """
    return host().card(name)


def plugins(*, strict: bool = False) -> list[PluginInfo]:
    """Every plugin found, the broken ones with the reason, the core first.

    Args:
        strict: is any fault of any plugin fatal?

    Raises:
        PluginError: ``strict``, and a plugin is broken or faulty; one line each.
    """
    if strict:
        host().require_sound()
    return host().plugins()


def call(event: str, **arguments: Any) -> None:
    """Tell every observer; one that fails is mentioned once.

    Args:
        event: ``"run_started"``, ``"case_finished"`` or ``"run_finished"``.
        arguments: what its hook takes, by name.
    """
    host().call(event, **arguments)


def missing_extra(kind: str, name: str, error: ModuleNotFoundError) -> MissingExtra | None:
    """Translate a module missing while ``name`` is at work into what to install; ``None`` when it is the plugin's own fault.

    Args:
        kind: of the name.
        name: registered name.
        error: what Python raised.
    """
    return _hosts.missing_extra(reference(kind, name), error)


def reset() -> None:
    """Forget what was found, so that the next call looks again."""
    host.cache_clear()
