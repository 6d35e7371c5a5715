"""The command line ``unstir``: thin verbs over the rest of the package."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["main"]

if TYPE_CHECKING:
    from unstir_pipelines.cli.app import main as main


def __getattr__(name: str) -> Any:
    if name == "main":
        from unstir_pipelines.cli.app import main

        return main
    raise AttributeError(f"module 'unstir_pipelines.cli' has no attribute {name!r}")
