"""Molecules into integer arrays: kekulised, without hydrogens, kinds of atoms and bonds (u, v, order).

What arrays cannot say (a charge the vocabulary has not, an isotope, hydrogens that valence does not imply) is refused with its reason, so
that what is kept comes back exactly. No tensors here, so that worker processes start quickly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from unstir_molecules.atoms import Vocabulary, named

Array = NDArray[Any]

REASONS = {
    "empty": "no atoms",
    "unparsable": "no SMILES that RDKit can read",
    "valence": "an atom with more bonds than it may have",
    "kekulise": "an aromatic ring without places for its double bonds",
    "wildcard": "an atom that is no element (*)",
    "isotope": "an isotope",
    "hydrogens": "hydrogens or lone electrons that valence alone does not say",
    "charged": "a charged atom",
    "fragments": "more than one fragment",
    "atom": "an atom or bond that the vocabulary has not",
    "size": "more atoms than there is room for",
    "duplicate": "the same molecule once more",
}
"""Why a molecule is left out."""


class Flat(NamedTuple):
    """Molecules as flat arrays.

    Args:
        sizes: (n,) atoms of each molecule.
        kinds: their kinds, concatenated.
        counts: (n,) bonds of each.
        bonds: (bonds, 3) u, v, order, concatenated; u and v count within the molecule.
        lost: (place among what was asked, SMILES, reason) of those left out.
    """

    sizes: Array
    kinds: Array
    counts: Array
    bonds: Array
    lost: list[tuple[int, str, str]]


def is_mol(item: Any) -> bool:
    """Is it an RDKit molecule, and no text or hole of a table?

    Args:
        item: anything.
    """
    return hasattr(item, "GetNumAtoms")


def parsed(text: Any) -> tuple[Any | None, str]:
    """A molecule of a SMILES, sanitised, without explicit hydrogens.

    Args:
        text: the SMILES; None, and the NaN by which tables say that a cell is empty, are no atoms.

    Returns:
        The molecule and ""; or None and the reason, a key of `REASONS`.
    """
    from rdkit import Chem

    if not isinstance(text, str):
        return None, "empty" if text is None or text != text else "unparsable"
    if not text.strip():
        return None, "empty"
    mol = Chem.MolFromSmiles(text.strip())
    if mol is not None:
        return (mol, "") if mol.GetNumAtoms() else (None, "empty")
    rough = Chem.MolFromSmiles(text.strip(), sanitize=False)
    return None, "unparsable" if rough is None else problem_of(rough)


def problem_of(mol: Any) -> str:
    """Why RDKit does not sanitise a molecule.

    Args:
        mol: not sanitised.

    Returns:
        ``"valence"`` or ``"kekulise"``.
    """
    from rdkit import Chem

    types = [problem.GetType() for problem in Chem.DetectChemistryProblems(mol)]
    return "kekulise" if types and all("Kekulize" in one for one in types) else "valence"


def kekulised(item: Any) -> tuple[Any | None, str]:
    """A kekulised copy without hydrogens.

    Args:
        item: a SMILES or an RDKit molecule, which stays as it is.

    Returns:
        The copy and ""; or None and the reason, a key of `REASONS`.
    """
    from rdkit import Chem

    if not is_mol(item):
        mol, reason = parsed(item)
        if mol is None:
            return None, reason
    else:
        mol = Chem.Mol(item)
        if not mol.GetNumAtoms():
            return None, "empty"
        if Chem.SanitizeMol(mol, catchErrors=True):
            return None, problem_of(mol)
        mol = Chem.RemoveHs(mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol, ""


def fault(mol: Any, kinds: dict[str, int] | None = None, largest: int = 0, charged: bool = True) -> str:
    """What keeps a molecule from being said by the sort of its atoms and the order of its bonds alone.

    Args:
        mol: sanitised, without explicit hydrogens.
        kinds: names of the atoms there are; any when None.
        largest: most atoms; any number when 0.
        charged: are charges allowed where ``kinds`` does not speak?

    Returns:
        A key of `REASONS`, or "" when nothing does.
    """
    from rdkit import Chem

    atoms = list(mol.GetAtoms())
    if any(atom.GetAtomicNum() == 0 for atom in atoms):
        return "wildcard"
    if any(atom.GetIsotope() for atom in atoms):
        return "isotope"
    if any(atom.GetNumRadicalElectrons() or atom.GetAtomicNum() == 1 for atom in atoms):
        return "hydrogens"
    for atom in atoms:
        charge = atom.GetFormalCharge()
        if charge and (not charged if kinds is None else named(atom.GetSymbol(), charge) not in kinds):
            return "charged"
    if kinds is not None and any(named(atom.GetSymbol(), atom.GetFormalCharge()) not in kinds for atom in atoms):
        return "atom"
    if largest and len(atoms) > largest:
        return "size"
    return "fragments" if len(atoms) > 1 and len(Chem.GetMolFrags(mol)) > 1 else ""


def flattened(items: Sequence[Any], vocabulary: Vocabulary, size: int) -> Flat:
    """Arrays of molecules.

    Args:
        items: SMILES or RDKit molecules.
        vocabulary: the kinds there are.
        size: most atoms.

    Returns:
        Those that can be said exactly, in order, and the others with a reason.
    """
    from rdkit import rdBase

    kinds, numbers, top = {name: i for i, name in enumerate(vocabulary.atoms)}, _numbers(vocabulary), len(vocabulary.bonds) - 1
    sizes, atoms, counts, bonds, lost = [], [], [], [], []
    with rdBase.BlockLogs():
        for place, item in enumerate(items):
            mol, reason = kekulised(item)
            if mol is not None:
                sorts = [numbers.get((atom.GetAtomicNum(), atom.GetFormalCharge()), -1) for atom in mol.GetAtoms()]
                pairs = [(bond.GetBeginAtomIdx(), bond.GetEndAtomIdx(), bond.GetBondTypeAsDouble()) for bond in mol.GetBonds()]
                plain = isinstance(item, str) and "[" not in item and "." not in item  # such SMILES hide nothing
                doubted = not plain or -1 in sorts or len(sorts) > size
                reason = (fault(mol, kinds, size) or _hidden(mol)) if doubted else ""
                if not reason and any(order not in (1, 2, 3) or order > top for _, _, order in pairs):
                    reason = "atom"
            if reason:
                lost.append((place, _told(item), reason))
                continue
            atoms += sorts
            bonds += pairs
            sizes.append(len(sorts))
            counts.append(len(pairs))
    flat = np.array(bonds, dtype=np.int16).reshape(-1, 3)
    return Flat(np.array(sizes, np.int64), np.array(atoms, np.uint8), np.array(counts, np.int64), flat, lost)


def _numbers(vocabulary: Vocabulary) -> dict[tuple[int, int], int]:
    """Kind of each atomic number and charge."""
    from rdkit import Chem

    table = Chem.GetPeriodicTable()
    parts = enumerate(zip(vocabulary.symbols, vocabulary.charges, strict=True))
    return {(table.GetAtomicNumber(symbol), charge): kind for kind, (symbol, charge) in parts}


class Survey(NamedTuple):
    """What a set of molecules is made of.

    Args:
        counts: atoms of each name.
        sums: largest sum of bond orders of each.
        largest: atoms of the largest molecule.
        order: highest bond order.
    """

    counts: Counter[str]
    sums: dict[str, int]
    largest: int
    order: int


def surveyed(items: Sequence[Any], charges: bool) -> Survey:
    """What molecules are made of; those that cannot be read are passed over.

    Args:
        items: SMILES or RDKit molecules.
        charges: count molecules with charged atoms, too?
    """
    from rdkit import rdBase

    counts, seen, largest, top = Counter[str](), dict[str, int](), 0, 1
    with rdBase.BlockLogs():
        for item in items:
            mol, _ = kekulised(item)
            if mol is None or (not charges and any(atom.GetFormalCharge() for atom in mol.GetAtoms())):
                continue
            names, sums = [named(atom.GetSymbol(), atom.GetFormalCharge()) for atom in mol.GetAtoms()], [0] * mol.GetNumAtoms()
            for bond in mol.GetBonds():
                order = int(bond.GetBondTypeAsDouble())
                top = max(top, order)
                sums[bond.GetBeginAtomIdx()] += order
                sums[bond.GetEndAtomIdx()] += order
            counts.update(names)
            largest = max(largest, len(names))
            for name, value in zip(names, sums, strict=True):
                seen[name] = max(seen.get(name, 0), value)
    return Survey(counts, seen, largest, min(top, 3))


def _told(item: Any) -> str:
    from rdkit import Chem

    return Chem.MolToSmiles(item) if is_mol(item) else "" if item is None else str(item)


def _hidden(mol: Any) -> str:
    """ "hydrogens" where brackets give an atom other hydrogens than its bonds alone do."""
    if not any(atom.GetNoImplicit() for atom in mol.GetAtoms()):
        return ""
    from rdkit import Chem

    bare = Chem.Mol(mol)
    for atom in bare.GetAtoms():
        atom.SetNoImplicit(False)
        atom.SetNumExplicitHs(0)
    bare.UpdatePropertyCache(strict=False)
    same = all(one.GetTotalNumHs() == other.GetTotalNumHs() for one, other in zip(mol.GetAtoms(), bare.GetAtoms(), strict=True))
    return "" if same else "hydrogens"
