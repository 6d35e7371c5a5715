"""Integer arrays into molecules: which atoms are charged, which bonds are too many, and the SMILES.

As GDSS does it:

    charges      bonds are added one by one, pairs (i, j), i > j, in row order; after each, the first atom whose sum of bond orders exceeds
                 what it may have is looked at: N, O or S above its usual valence by exactly one gets the charge +1
    correction   while there is such an atom, the first of them has its highest bond lowered by one (the oldest of equals; a lowered bond
                 is the youngest), or removed when single

Both are done on the sums alone, for all molecules at once: what an atom may have is asked of RDKit once for each kind of atom.

Reference: Jo, Lee and Hwang 2022 (GDSS), arXiv:2202.02514; Zang and Wang 2020 (MoFlow), arXiv:2006.10137.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from unstir_molecules.atoms import Vocabulary
from unstir_molecules.kekule import problem_of

Array = NDArray[Any]
Written = tuple[str | None, str, int]
Keep = Literal["longest", "largest", "all"]


def charged(kinds: Array, orders: Array, mask: Array, vocabulary: Vocabulary) -> Array:
    """Which atoms get the charge +1 while the bonds are added.

    Args:
        kinds: (B, N) kinds of atoms.
        orders: (B, N, N) bond orders, symmetric.
        mask: (B, N) atoms that are there.
        vocabulary: what the kinds are.

    Returns:
        (B, N) bool.
    """
    limits, usual = vocabulary.limits, vocabulary.usual
    may = np.array([name in ("N", "O", "S") for name in vocabulary.atoms])
    given = np.zeros(mask.shape, dtype=bool)
    rows = np.nonzero((may[kinds] & mask & (orders.sum(2) > limits[kinds, 0])).any(1))[0]
    sums, plus = np.zeros((len(rows), mask.shape[1]), dtype=np.int64), given[rows]
    kinds, orders = kinds[rows], orders[rows]
    for i in range(1, mask.shape[1]):
        for j in range(i):
            on = np.nonzero(orders[:, i, j])[0]
            if not len(on):
                continue
            sums[on, i] += orders[on, i, j]
            sums[on, j] += orders[on, i, j]
            over = sums[on] > limits[kinds[on], plus[on].astype(np.int64)]
            first = over.argmax(1)
            sort = kinds[on, first]
            hit = over.any(1) & may[sort] & (sums[on, first] == usual[sort] + 1)
            plus[on[hit], first[hit]] = True
    given[rows] = plus
    return given


def corrected(kinds: Array, orders: Array, plus: Array, vocabulary: Vocabulary) -> Array:
    """Bond orders that every atom can bear.

    Args:
        kinds: (B, N) kinds of atoms.
        orders: (B, N, N) bond orders, symmetric, 0 at absent atoms.
        plus: (B, N) bool, atoms with one positive charge more.
        vocabulary: what the kinds are.

    Returns:
        (B, N, N), where an atom had too many bonds lowered bond by bond.
    """
    most, made = vocabulary.limits[kinds, plus.astype(np.int64)], orders.copy()
    nodes = orders.shape[1]
    number = np.arange(nodes)
    age = np.maximum(number[:, None], number) * nodes + np.minimum(number[:, None], number)
    rows = np.nonzero((made.sum(2) > most).any(1))[0]
    ages, clock = np.repeat(age[None], len(rows), 0), nodes * nodes
    while len(rows):
        over = made[rows].sum(2) > most[rows]
        going = over.any(1)
        rows, ages, over = rows[going], ages[going], over[going]
        if not len(rows):
            break
        here, atom = np.arange(len(rows)), over.argmax(1)
        row = made[rows, atom]
        other = np.where(row == row.max(1, keepdims=True), -ages[here, atom], np.iinfo(np.int64).min).argmax(1)
        made[rows, atom, other] -= 1
        made[rows, other, atom] -= 1
        clock += 1
        ages[here, atom, other] = ages[here, other, atom] = clock
    return made


def assembled(kinds: Array, orders: Array, plus: Array, atoms: dict[tuple[int, bool], Any]) -> Any:
    """An RDKit molecule, not sanitised.

    Args:
        kinds: (n,) kinds of the atoms.
        orders: (n, n) bond orders.
        plus: (n,) bool, atoms with one positive charge more.
        atoms: an RDKit atom of each kind, without and with it (`pieces`).

    Returns:
        An RWMol.
    """
    from rdkit import Chem

    types = (Chem.BondType.ZERO, Chem.BondType.SINGLE, Chem.BondType.DOUBLE, Chem.BondType.TRIPLE)
    mol = Chem.RWMol()
    for kind, more in zip(kinds.tolist(), plus.tolist(), strict=True):
        mol.AddAtom(atoms[kind, more])
    starts, ends = np.nonzero(np.tril(orders))
    for i, j, order in zip(starts.tolist(), ends.tolist(), orders[starts, ends].tolist(), strict=True):
        mol.AddBond(i, j, types[order])
    return mol


def pieces(vocabulary: Vocabulary) -> dict[tuple[int, bool], Any]:
    """An RDKit atom of each kind, without and with one positive charge more.

    Args:
        vocabulary: the kinds.
    """
    from rdkit import Chem

    made = {}
    for kind, (symbol, charge) in enumerate(zip(vocabulary.symbols, vocabulary.charges, strict=True)):
        for more in (False, True):
            atom = Chem.Atom(symbol)
            atom.SetFormalCharge(charge + more)
            made[kind, more] = atom
    return made


def written(kinds: Array, orders: Array, plus: Array, sizes: Array, vocabulary: Vocabulary, keep: Keep) -> list[Written]:
    """SMILES of molecules given by arrays.

    Args:
        kinds: (B, N).
        orders: (B, N, N) bond orders.
        plus: (B, N) bool, atoms with one positive charge more.
        sizes: (B,) atoms of each; one of size 0 is "empty".
        vocabulary: what the kinds are.
        keep: which fragment.

    Returns:
        For each: its canonical SMILES without stereo (None where RDKit refuses it), the problem ("", "empty", "aromaticity",
        "valence", "disconnected") and how many fragments it was in.
    """
    from rdkit import rdBase

    atoms = pieces(vocabulary)
    found: list[Written] = []
    with rdBase.BlockLogs():
        for i, size in enumerate(sizes.tolist()):
            if not size:
                found.append((None, "empty", 0))
                continue
            found.append(_finished(assembled(kinds[i, :size], orders[i, :size, :size], plus[i, :size], atoms), keep))
    return found


def written_all(parts: Sequence[Any], vocabulary: Vocabulary, keep: Keep) -> list[Written]:
    """`written` of several batches, as one list.

    Args:
        parts: (kinds, orders, plus, sizes) of each batch.
        vocabulary: what the kinds are.
        keep: which fragment.
    """
    return [one for kinds, orders, plus, sizes in parts for one in written(kinds, orders, plus, sizes, vocabulary, keep)]


def _finished(mol: Any, keep: Keep) -> Written:
    from rdkit import Chem

    fragments = len(Chem.GetMolFrags(mol))
    if fragments > 1 and keep != "all":
        mol.UpdatePropertyCache(strict=False)
        mol = Chem.MolFromSmiles(kept(Chem.MolToSmiles(mol), keep), sanitize=False)
    whole = Chem.Mol(mol)
    if Chem.SanitizeMol(whole, catchErrors=True):
        return None, "aromaticity" if problem_of(mol) == "kekulise" else "valence", fragments
    return Chem.MolToSmiles(whole, isomericSmiles=False), "disconnected" if fragments > 1 else "", fragments


def kept(smiles: str, keep: Keep) -> str:
    """The fragment that is kept.

    Args:
        smiles: with or without dots.
        keep: "longest" is the longest string (the first of equals), "largest" most atoms (then the longest string), "all" everything.

    Returns:
        Its SMILES.
    """
    if keep == "all" or "." not in smiles:
        return smiles
    parts = smiles.split(".")
    if keep == "longest":
        return max(parts, key=len)
    from rdkit import Chem

    return max(parts, key=lambda part: (Chem.MolFromSmiles(part, sanitize=False).GetNumAtoms(), len(part)))
