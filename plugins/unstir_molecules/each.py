"""A function of every molecule of a set, in order: each distinct SMILES is asked once, in several processes where there are many."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

from rdkit import Chem, rdBase

from unstir_molecules.processes import mapped

FEWEST = 2000
"""Distinct molecules up to which no other process is worth its start."""
CHUNK = 500


def molecule(smiles: str) -> Any:
    """The molecule of a SMILES, ``None`` where there is none; silent.

    Args:
        smiles: one SMILES, "" for none.

    Returns:
        A sanitised RDKit molecule, or ``None``.
    """
    if not smiles:
        return None
    with rdBase.BlockLogs():
        return Chem.MolFromSmiles(smiles)


def each(function: Callable[[Any], Any], smiles: Iterable[str], *, workers: int = 0) -> list[Any]:
    """What a function says of every molecule.

    Args:
        function: of a module, of an RDKit molecule.
        smiles: SMILES, "" for none.
        workers: processes for a large set; 0 for as many as there are cores.

    Returns:
        Results in the order of ``smiles``; ``None`` where there is no molecule.
    """
    asked = list(smiles)
    distinct = sorted({one for one in asked if one})
    found = [one for part in mapped(partial(_asked, function), distinct, workers=workers, chunk=CHUNK, small=FEWEST) for one in part]
    known = dict(zip(distinct, found, strict=True))
    return [known.get(one) for one in asked]


def _asked(function: Callable[[Any], Any], smiles: Sequence[str]) -> list[Any]:
    return [None if (mol := molecule(one)) is None else function(mol) for one in smiles]
