"""The shape in which molecules cross the plugin's border: one ``xarray.Dataset`` of SMILES.

smiles      (sample) str, canonical without stereo; "" where no molecule could be made
valid       (sample) bool, did every atom pass valence before any correction?
corrected   (sample) bool, were bonds lowered?
problem     (sample) str, a key of `unstir_molecules.build.PROBLEMS`: of several faults the first
fragments   (sample) int, pieces before one of them was kept; absent where the molecules were not made of graphs
other       (sample), properties where there are any
attrs       key, and what else is known of the set
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError

if TYPE_CHECKING:
    from unstir_molecules.build import Built

OWN = ("smiles", "valid", "corrected", "problem")
"""Variables that every set has."""


def molecule_set(
    smiles: Sequence[str | None],
    valid: Sequence[bool] | NDArray[Any] | None = None,
    corrected: Sequence[bool] | NDArray[Any] | None = None,
    problem: Sequence[str] | None = None,
    *,
    key: str = "molecules",
    properties: Mapping[str, Sequence[Any] | NDArray[Any]] | None = None,
    attrs: Mapping[str, Any] | None = None,
) -> xr.Dataset:
    """A set of molecules.

    Args:
        smiles: canonical SMILES without stereo; None or "" where there is none.
        valid: which passed valence before any correction; those that have SMILES when None.
        corrected: which had bonds lowered; none when None.
        problem: what was wrong with each; "" when None.
        key: name of the set.
        properties: more variables, a value a molecule.
        attrs: more facts.

    Returns:
        The set; see the top of this module.

    Raises:
        DataError: the lengths disagree, or a property has the name of another variable.
    """
    texts = [text or "" for text in smiles]
    count = len(texts)
    flags = {
        "valid": np.array([bool(text) for text in texts], dtype=bool) if valid is None else np.asarray(valid, dtype=bool),
        "corrected": np.zeros(count, dtype=bool) if corrected is None else np.asarray(corrected, dtype=bool),
    }
    made = {"smiles": _texts(texts), **flags, "problem": _texts([""] * count if problem is None else list(problem))}
    for name, values in (properties or {}).items():
        if name in OWN:
            raise DataError(f"a property of molecules cannot be called {name!r}")
        array = np.asarray(values)
        made[name] = _texts(array.tolist()) if array.dtype.kind in "UO" else array
    for name, array in made.items():
        if array.shape != (count,):
            raise DataError(f"a set of {count} molecules has {name} of shape {array.shape}")
    return xr.Dataset({name: ("sample", array) for name, array in made.items()}, attrs={"key": key, **(attrs or {})})


def built_set(built: Sequence[Built], *, key: str = "molecules", attrs: Mapping[str, Any] | None = None) -> xr.Dataset:
    """A set of molecules that were made of graphs.

    Args:
        built: of `unstir_molecules.build.rebuilt`.
        key: name of the set.
        attrs: more facts.
    """
    flags = {name: [getattr(one, name) for one in built] for name in ("valid", "corrected", "problem")}
    pieces = {"fragments": np.array([one.fragments for one in built], dtype=np.int64)}
    return molecule_set([one.smiles for one in built], **flags, key=key, properties=pieces, attrs=attrs)


def smiles_of(molecules: xr.Dataset, *, made: bool = True) -> list[str]:
    """SMILES of a set.

    Args:
        molecules: the set.
        made: only those that could be made? Else "" stands for the others.

    Raises:
        DataError: this is no set of molecules.
    """
    if not isinstance(molecules, xr.Dataset) or "smiles" not in molecules or molecules["smiles"].dims != ("sample",):
        raise DataError("a set of molecules has the variable smiles along sample")
    texts = [str(text) for text in molecules["smiles"].values.tolist()]
    return [text for text in texts if text] if made else texts


def _texts(values: Sequence[Any]) -> NDArray[Any]:
    return np.array([str(value) for value in values], dtype=object) if len(values) else np.array([], dtype="<U1")
