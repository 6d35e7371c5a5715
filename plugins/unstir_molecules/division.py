"""Which graphs of a set are for training and which for the test.

test = the first int(share x graphs), as GDSS has it, or as many drawn at random
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import xarray as xr

from unstir.errors import UserError
from unstir_molecules.graphs import Graphs

Split = Literal["first", "shuffled"]


def divided(graphs: Graphs, key: str, *, split: Split = "first", test: float = 0.2, seed: int = 0, attrs: Any = None) -> xr.Dataset:
    """A set of graphs that says which are for training and which for the test.

    Args:
        graphs: the set.
        key: names it.
        split: the test graphs are the ``"first"`` int(test x graphs) ones, or as many drawn at random (``"shuffled"``).
        test: share of test graphs.
        seed: of the draw.
        attrs: more facts.

    Raises:
        UserError: there is no such split, or a side of it would be empty.
    """
    if split not in get_args(Split):
        raise UserError(f"split must be one of {', '.join(get_args(Split))}, got {split!r}")
    held = int(test * len(graphs))
    if not 0 < held < len(graphs):
        raise UserError(f"a share of {test} of {len(graphs)} graphs leaves {held} for the test and {len(graphs) - held} for training")
    side = np.full(len(graphs), "train")
    chosen = np.arange(len(graphs)) if split == "first" else np.random.default_rng([seed, 0]).permutation(len(graphs))
    side[chosen[:held]] = "test"
    return graphs.dataset(key, split=side, attrs=attrs)
