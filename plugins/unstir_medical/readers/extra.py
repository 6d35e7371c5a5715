"""Optional parsers of medical files: imported on use, with one sentence when they are missing."""

from __future__ import annotations

import importlib
from types import ModuleType

from unstir.errors import MissingExtra


def needs(module: str) -> ModuleType:
    """Import a parser of the extra ``medical``.

    Args:
        module: ``"nibabel"``, ``"pydicom"`` or ``"SimpleITK"``.

    Returns:
        The module.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"reading and writing medical files needs {module}: pip install 'unstir[medical]'") from error
