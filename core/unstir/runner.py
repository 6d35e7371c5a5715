"""The door from the core to a runner: ``unstir.run`` finds one by the entry-point group ``unstir.runner``."""

from __future__ import annotations

from importlib.metadata import entry_points
from typing import Any

from unstir.errors import UserError


def run(recipe: str, **options: Any) -> Any:
    """Run a recipe and return its run folder as an object.

    Args:
        recipe: name of a registered recipe (``"medical/sparse-view-ct"``) or path of a YAML file.
        **options: as on the command line (``data``, ``methods``, ``cases``, ``seed``, ``out``, ``overrides``, ``engine``...).

    Returns:
        The run: ``.table()`` (pandas, with intervals), ``.estimates[label]`` (xarray), ``.folder``.

    Raises:
        UserError: no runner is installed, or the recipe is not valid.
    """
    for point in entry_points(group="unstir.runner", name="run"):
        return point.load()(recipe, **options)
    raise UserError("no runner is installed: install the distribution 'unstir' (its entry point 'unstir.runner' is missing)")
