"""Which pieces do molecules have: BRICS fragments, and Bemis-Murcko scaffolds.

    Frag, Scaf = <c_g, c_r> / (|c_g| |c_r|),     c counts the pieces of all molecules of a set

A scaffold counts where it has at least two rings, as MOSES has it; of small molecules, many of which have one ring, one may count too.

Reference: Degen et al. 2008 (BRICS); Bemis and Murcko 1996; Polykovskiy et al. 2020 (MOSES), arXiv:1811.12823.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import Chem
from rdkit.Chem import BRICS
from rdkit.Chem.Scaffolds import MurckoScaffold
from scipy.sparse import csr_matrix

from unstir_molecules.each import each

Array = NDArray[Any]
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


def fragments_of(smiles: Sequence[str]) -> list[list[str]]:
    """BRICS fragments of every molecule.

    Args:
        smiles: SMILES, each a molecule.
    """
    return [found or [] for found in each(brics, smiles)]


def scaffolds_of(smiles: Sequence[str], rings: int = RINGS) -> list[list[str]]:
    """Scaffold of every molecule: a list of one, or of none where it has too few rings.

    Args:
        smiles: SMILES, each a molecule.
        rings: fewest rings of a scaffold that counts.
    """
    return [[found[0]] if found and found[0] and found[1] >= rings else [] for found in each(scaffold, smiles)]


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
