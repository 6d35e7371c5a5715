"""Similarity of molecules by their fingerprints: to the nearest real one, and among themselves.

    T(a, b) = |a & b| / |a | b|,     SNN = mean_i max_j T(g_i, r_j),     IntDiv = 1 - mean_ij T(g_i, g_j)

Fingerprints are Morgan's, radius 2, 1024 bits; sums run over all pairs, a molecule with itself included, as MOSES has it.

Reference: Rogers and Hahn 2010; Polykovskiy et al. 2020 (MOSES), arXiv:1811.12823.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import rdBase
from rdkit.Chem import rdFingerprintGenerator

from unstir_molecules import remembered
from unstir_molecules.each import molecules

Array = NDArray[Any]
RADIUS, BITS = 2, 1024
BLOCK = 2000
"""Molecules of a block of a matrix product: two blocks and their products are a few tens of MB."""


@cache
def _generator() -> Any:
    return rdFingerprintGenerator.GetMorganGenerator(radius=RADIUS, fpSize=BITS)


def fingerprint(mol: Any) -> Array:
    """Morgan fingerprint of a molecule.

    Args:
        mol: an RDKit molecule.

    Returns:
        (1024,) uint8 of zeros and ones.
    """
    return np.asarray(_generator().GetFingerprintAsNumPy(mol))


def fingerprints(smiles: Iterable[str], *, keep: bool = False) -> Array:
    """Fingerprints of a set of molecules; distinct ones are looked at once, and remembered.

    Args:
        smiles: SMILES, each a molecule.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.

    Returns:
        (n, 1024) uint8 of zeros and ones.

    Raises:
        DataError: one is no molecule.
    """
    return np.unpackbits(remembered.rows("morgan", [RADIUS, BITS, rdBase.rdkitVersion], smiles, _packed, keep=keep), axis=1)


def _packed(names: list[str]) -> Array:
    bits = [np.packbits(fingerprint(mol)) for mol in molecules(names, "similarity")]
    return np.stack(bits) if bits else np.zeros((0, BITS // 8), np.uint8)


def tanimoto(a: Array, b: Array) -> float:
    """Tanimoto similarity of two fingerprints; 1 where neither has a bit.

    Args:
        a: (bits,) of zeros and ones.
        b: (bits,) of zeros and ones.
    """
    both = int(np.count_nonzero(a & b))
    either = int(np.count_nonzero(a | b))
    return both / either if either else 1.0


def _blocks(ours: Array, theirs: Array) -> Iterable[tuple[slice, slice, Array]]:
    """Tanimoto matrices (block, block) float64 of all pairs, by products of bit matrices, exact in float32 below 2^24 bits."""
    sizes = ours.sum(1, dtype=np.int64), theirs.sum(1, dtype=np.int64)
    for first in range(0, len(ours), BLOCK):
        rows = slice(first, first + BLOCK)
        left = ours[rows].astype(np.float32)
        for second in range(0, len(theirs), BLOCK):
            columns = slice(second, second + BLOCK)
            both = left @ theirs[columns].astype(np.float32).T
            either = sizes[0][rows, None] + sizes[1][None, columns] - both
            yield rows, columns, np.where(either > 0, both / np.where(either > 0, either, 1.0), 1.0)


def nearest(ours: Array, theirs: Array) -> tuple[Array, Array]:
    """The member of another set that is most like each molecule, the first of equals.

    Args:
        ours: (n, bits) fingerprints.
        theirs: (m, bits) fingerprints.

    Returns:
        Its number, (n,) int64, -1 where the other set is empty; and the similarity, (n,) float64 in [0, 1], NaN there.
    """
    place, found = np.full(len(ours), -1), np.full(len(ours), np.nan)
    for rows, columns, similar in _blocks(ours, theirs):
        at = similar.argmax(1)
        value = similar[np.arange(len(at)), at]
        better = ~(value <= found[rows])
        place[rows] = np.where(better, columns.start + at, place[rows])
        found[rows] = np.where(better, value, found[rows])
    return place, found


def nearest_similarity(ours: Array, theirs: Array) -> Array:
    """Similarity of every molecule to the nearest of another set; its mean is SNN.

    Args:
        ours: (n, bits) fingerprints.
        theirs: (m, bits) fingerprints.

    Returns:
        (n,) float64 in [0, 1]; NaN where the other set is empty.
    """
    return nearest(ours, theirs)[1]


def mean_similarity(ours: Array, theirs: Array) -> Array:
    """Mean similarity of every molecule to all of a set; one minus its mean is IntDiv where both are the same set.

    Args:
        ours: (n, bits) fingerprints.
        theirs: (m, bits) fingerprints.

    Returns:
        (n,) float64 in [0, 1]; NaN where the other set is empty.
    """
    total = np.zeros(len(ours))
    for rows, _, similar in _blocks(ours, theirs):
        total[rows] += similar.sum(1, dtype=np.float64)
    return total / len(theirs) if len(theirs) else np.full(len(ours), np.nan)
