"""What was worked out of sets of molecules and graphs, by the content of the set: in the process, and on disk where the set is kept.

A distance looks at the same test set for every method of a run, and at the same training set in every run: what it sees in these is worked
out once. Files lie in the user's cache folder; their names hold a hash of the set, of what is looked at and of the versions that do it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.plugin.kept import Arrays, Shelf, fingerprint
from unstir_data import fetch
from unstir_molecules.graphs import Graphs

Array = NDArray[Any]
WORTH = 200
"""Distinct molecules from which a set is worth a file."""
CELLS = 1_000_000
"""Pairs of nodes from which a set of graphs is worth a file."""


def folder() -> Path:
    """Where files lie: ``statistics`` beside the cache of fetched data."""
    return fetch.cache_folder().parent / "statistics"


_shelf = Shelf(lambda: folder(), "statistics")


def forget() -> None:
    """Let go of what is in the process; files stay."""
    _shelf.forget()


def of_distinct(
    kind: str, version: Any, smiles: Iterable[str], make: Callable[[list[str]], Arrays], *, keep: bool = False
) -> tuple[Arrays, Array]:
    """What is seen in the distinct molecules of a set.

    Args:
        kind: what is looked at, as files are named.
        version: what else it depends on: versions of programs, options.
        smiles: the set; repeats are looked at once.
        make: looks at distinct SMILES in their order.
        keep: is this a set that comes again in other runs? Then it has a file where it is large enough.

    Returns:
        What ``make`` gave, not to be written to, and (n,) the places of the molecules among the distinct ones.
    """
    names, place = np.unique(np.asarray(list(smiles), dtype=str), return_inverse=True)
    listed = [str(name) for name in names]
    name = f"{kind}-{fingerprint({'version': version, 'smiles': listed})}"
    return _shelf.of(name, lambda: make(listed), on_disk=keep and len(listed) >= WORTH), place


def rows(kind: str, version: Any, smiles: Iterable[str], make: Callable[[list[str]], Array], *, keep: bool = False) -> Array:
    """A row of numbers a molecule.

    Args:
        kind: what is looked at, as files are named.
        version: what else it depends on: versions of programs, options.
        smiles: the set; repeats are looked at once.
        make: the rows of distinct SMILES, in their order.
        keep: as of `of_distinct`.

    Returns:
        (n, width), a copy.
    """
    found, place = of_distinct(kind, version, smiles, lambda names: {"rows": make(names)}, keep=keep)
    return found["rows"][place]


def of_graphs(kind: str, graphs: Graphs, make: Callable[[], Array], *, keep: bool = False) -> Array:
    """An array that is made of a set of graphs.

    Args:
        kind: what is looked at, as files are named.
        graphs: the set.
        make: makes it.
        keep: is this a set that comes again in other runs? Then it has a file where it is large enough.

    Returns:
        The array, not to be written to.
    """
    large = int((graphs.nodes.astype(np.int64) ** 2).sum()) >= CELLS
    made = _shelf.of(f"{kind}-{graphs.digest[:32]}", lambda: {"rows": make()}, on_disk=keep and large)["rows"]
    made.flags.writeable = False
    return made
