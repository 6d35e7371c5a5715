"""Names of a package that are imported when they are first asked for, so that importing the package costs nothing (PEP 562).

__getattr__, __dir__ = attach(__name__, {"Heun": "heun", "DDIM": "ancestral"})
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any


def attach(package: str, names: Mapping[str, str], modules: Sequence[str] = ()) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its ``__name__``.
        names: the module within the package that holds each name.
        modules: modules of the package that are names themselves.

    Returns:
        The two functions.
    """

    def get(name: str) -> Any:
        if name in names:
            return getattr(importlib.import_module(f"{package}.{names[name]}"), name)
        if name in modules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return get, lambda: sorted([*names, *modules])
