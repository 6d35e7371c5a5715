"""Which pieces do molecules have: BRICS fragments, and Bemis-Murcko scaffolds.

    Frag, Scaf = <c_g, c_r> / (|c_g| |c_r|),     c counts the pieces of all molecules of a set

A scaffold counts where it has at least two rings, as MOSES has it; of small molecules, many of which have one ring, one may count too.

Reference: Degen et al. 2008 (BRICS); Bemis and Murcko 1996; Polykovskiy et al. 2020 (MOSES), arXiv:1811.12823.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem, rdBase
from rdkit.Chem import BRICS
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy.sparse import csr_matrix

from unstir_molecules.each import each
from unstir_molecules.remembered import of_distinct

Array = NDArray[Any]
VERSION = 1
RINGS = 2
"""Fewest rings of a scaffold that counts, as MOSES has it."""


def brics(mol: Any) -> list[str]:
    """BRICS fragments of a molecule with their attachment points; the molecule itself where no bond can be cut.

    Args:
        mol: an RDKit molecule.

    Returns:
        Canonical SMILES, repeated as often as they occur.
    """
    return str(Chem.MolToSmiles(BRICS.BreakBRICSBonds(mol))).split(".")


def scaffold(mol: Any) -> tuple[str, int]:
    """Bemis-Murcko scaffold of a molecule: its rings and what links them.

    Args:
        mol: an RDKit molecule.

    Returns:
        Canonical SMILES ("" where there is no ring) and its number of rings.
    """
    try:
        core = MurckoScaffold.GetScaffoldForMol(mol)
    except (ValueError, RuntimeError):
        return "", 0
    return str(Chem.MolToSmiles(core)), int(core.GetRingInfo().NumRings())


def fragments_of(smiles: Sequence[str], *, keep: bool = False) -> list[list[str]]:
    """BRICS fragments of every molecule; distinct ones are cut once, and remembered.

    Args:
        smiles: SMILES, each a molecule.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.
    """
    return [found or [] for found in _cut("brics", brics, smiles, keep)]


def scaffolds_of(smiles: Sequence[str], rings: int = RINGS, *, keep: bool = False) -> list[list[str]]:
    """Scaffold of every molecule: a list of one, or of none where it has too few rings; distinct ones are cut once, and remembered.

    Args:
        smiles: SMILES, each a molecule.
        rings: fewest rings of a scaffold that counts.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.
    """
    return [[found[0]] if found and found[0] and found[1] >= rings else [] for found in _cut("scaffolds", scaffold, smiles, keep)]


def _cut(kind: str, how: Callable[[Any], Any], smiles: Sequence[str], keep: bool) -> list[Any]:
    """What a cut leaves of every molecule; as text, since files hold numbers alone."""
    made, place = of_distinct(kind, [VERSION, rdBase.rdkitVersion], smiles, lambda names: {"json": _text(each(how, names))}, keep=keep)
    found = json.loads(made["json"].tobytes())
    return [found[at] for at in place]


def _text(found: list[Any]) -> Array:
    return np.frombuffer(json.dumps(found).encode(), dtype=np.uint8)


def counts(sets: Sequence[Sequence[Iterable[str]]]) -> list[csr_matrix]:
    """Pieces of sets of molecules as matrices of counts over the same columns.

    Args:
        sets: for every set, the pieces of every molecule.

    Returns:
        A matrix (molecules, distinct pieces of all sets) of counts a set.
    """
    columns = {piece: column for column, piece in enumerate(sorted({piece for one in sets for mol in one for piece in mol}))}
    made = []
    for one in sets:
        rows = [row for row, mol in enumerate(one) for _ in mol]
        places = [columns[piece] for mol in one for piece in mol]
        made.append(csr_matrix((np.ones(len(rows)), (rows, places)), shape=(len(one), max(len(columns), 1))))
    return made


def cosine(ours: csr_matrix, theirs: csr_matrix) -> float:
    """Cosine of the total counts of two sets.

    Args:
        ours: (molecules, pieces) counts.
        theirs: (molecules, pieces) counts of the same pieces.

    Returns:
        0 to 1; NaN where a set has no piece.
    """
    left, right = (np.asarray(one.sum(0), dtype=np.float64).ravel() for one in (ours, theirs))
    size = float(np.linalg.norm(left) * np.linalg.norm(right))
    return float(left @ right) / size if size > 0 else float("nan")
