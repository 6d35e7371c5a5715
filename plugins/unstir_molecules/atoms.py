"""The words in which a model speaks of molecules: which atoms, which bonds, how many atoms at most.

Kekulised, without hydrogens: hydrogens are what valence leaves free, and a ring's double bonds have places. An atom may carry a charge in
its name ("N+", "O-", "N+2"), so that a vocabulary of charged atoms loses no nitro group; the published vocabularies have none.

Reference: Jo, Lee and Hwang 2022 (GDSS), arXiv:2202.02514, for the two presets.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import CheckpointError, UserError

BONDS = ("none", "single", "double", "triple")
"""Kinds of bonds; a kind's number is its order."""
_NAME = re.compile(r"([A-Z][a-z]?)(?:([+-])([1-9]?))?")


@dataclass(frozen=True)
class Vocabulary:
    """Kinds of atoms and bonds of a set of molecules.

    Args:
        atoms: names of the atoms by falling count: an element, with a charge where it has one ("C", "N+", "O-").
        bonds: names of the bonds; the first is "none".
        largest: N, atoms of the largest molecule.
        valencies: largest sum of bond orders of each atom: as seen in the data, else what RDKit allows.

    Raises:
        UserError: an atom that no element has, one that comes twice, bonds other than `BONDS`, or no room for an atom.
    """

    atoms: tuple[str, ...]
    bonds: tuple[str, ...] = BONDS
    largest: int = 9
    valencies: Mapping[str, int] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "atoms", tuple(self.atoms))
        object.__setattr__(self, "bonds", tuple(self.bonds))
        if not self.atoms:
            raise UserError("a vocabulary needs at least one atom")
        for name in self.atoms:
            symbol_of(name)
        if len(set(self.atoms)) != len(self.atoms):
            raise UserError(f"an atom comes twice in {list(self.atoms)}")
        if self.bonds != BONDS[: len(self.bonds)] or len(self.bonds) < 2:
            raise UserError(f"bonds must be {', '.join(BONDS)} or the first of them, got {', '.join(map(str, self.bonds))}")
        if self.largest < 1:
            raise UserError(f"largest must be at least 1, got {self.largest}")
        seen = {name: int(value) for name, value in self.valencies.items()}
        object.__setattr__(self, "valencies", {name: seen[name] if name in seen else limit(name) for name in self.atoms})

    @classmethod
    def of(cls, mols: Iterable[Any], charges: bool = False) -> Vocabulary:
        """The vocabulary of a set of molecules.

        Args:
            mols: RDKit molecules or SMILES (many are read in several processes); what cannot be read, and hydrogens, are passed over.
            charges: also the charged atoms, as kinds of their own? Else molecules that have any are lost to it.

        Returns:
            Atoms by falling count (equal counts by name), the largest size, and the valencies seen.

        Raises:
            UserError: no molecule was left to learn from.
        """
        from unstir_molecules.each import mapped
        from unstir_molecules.kekule import surveyed

        items = list(mols)
        texts = all(isinstance(item, str) for item in items)
        found = mapped(partial(surveyed, charges=charges), items, workers=0 if texts else 1)
        counts: Counter[str] = sum((part.counts for part in found), Counter())
        if not counts:
            raise UserError("no molecule is left to make a vocabulary from" + ("" if charges else " (charged ones need charges: true)"))
        seen = {name: max(part.sums.get(name, 0) for part in found) for name in counts}
        largest, order = max(part.largest for part in found), max(part.order for part in found)
        atoms = tuple(sorted(counts, key=lambda name: (-counts[name], name)))
        return cls(atoms, BONDS[: order + 1], largest, seen)

    @property
    def kinds(self) -> int:
        """K, how many kinds of atoms there are."""
        return len(self.atoms)

    @property
    def symbols(self) -> tuple[str, ...]:
        """Element of each kind of atom."""
        return tuple(symbol_of(name)[0] for name in self.atoms)

    @property
    def charges(self) -> tuple[int, ...]:
        """Formal charge of each kind of atom."""
        return tuple(symbol_of(name)[1] for name in self.atoms)

    @property
    def limits(self) -> NDArray[np.int64]:
        """(K, 2) largest sum of bond orders that RDKit allows each kind, as it is and with one positive charge more."""
        return np.array([[limit(name), limit(named(symbol, charge + 1))] for name, symbol, charge in self._parts()])

    @property
    def usual(self) -> NDArray[np.int64]:
        """(K,) usual valence of each kind's element: C 4, N 3, O 2, F 1, P 3, S 2, Cl 1, Br 1, I 1."""
        from rdkit import Chem

        table = Chem.GetPeriodicTable()
        return np.array([table.GetDefaultValence(symbol) for symbol in self.symbols])

    def _parts(self) -> list[tuple[str, str, int]]:
        return [(name, *symbol_of(name)) for name in self.atoms]

    def as_dict(self) -> dict[str, Any]:
        """What JSON can hold; `of_dict` reads it."""
        return {"atoms": list(self.atoms), "bonds": list(self.bonds), "largest": self.largest, "valencies": dict(self.valencies)}

    @classmethod
    def of_dict(cls, facts: Mapping[str, Any]) -> Vocabulary:
        """The vocabulary that `as_dict` wrote.

        Args:
            facts: the dict.

        Raises:
            CheckpointError: a part is missing or wrong.
        """
        try:
            return cls(tuple(facts["atoms"]), tuple(facts["bonds"]), int(facts["largest"]), dict(facts["valencies"]))
        except (KeyError, TypeError, ValueError, UserError) as error:
            raise CheckpointError(f"this is no vocabulary of molecules: {error}") from error


def named(symbol: str, charge: int) -> str:
    """Name of an atom: ``named("N", 1) == "N+"``.

    Args:
        symbol: of the element.
        charge: formal charge.
    """
    return symbol + ("+" if charge > 0 else "-") * bool(charge) + (str(abs(charge)) if abs(charge) > 1 else "")


def symbol_of(name: str) -> tuple[str, int]:
    """Element and charge of an atom's name: ``symbol_of("O-") == ("O", -1)``.

    Args:
        name: of the atom.

    Raises:
        UserError: it is no such name.
    """
    found = _NAME.fullmatch(str(name))
    if not found or found[1] not in _elements():
        raise UserError(f"an atom is an element with or without a charge, as C, N+ or O-, got {name!r}")
    size = int(found[3] or 1) if found[2] else 0
    return found[1], -size if found[2] == "-" else size


@cache
def _elements() -> frozenset[str]:
    symbols = "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru Rh"
    more = "Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn"
    return frozenset(f"{symbols} {more}".split())


@cache
def limit(name: str) -> int:
    """Largest sum of bond orders that RDKit allows an atom.

    Args:
        name: of the atom, with its charge ("N+": 4).

    Returns:
        0 to 8; 8 where RDKit sets no limit, as for metals.
    """
    from rdkit import Chem, rdBase

    symbol, charge = symbol_of(name)
    atom = Chem.Atom(symbol)
    atom.SetFormalCharge(charge)
    atom.SetNoImplicit(True)
    mol = Chem.RWMol()
    mol.AddAtom(atom)
    with rdBase.BlockLogs():
        for value in range(8, 0, -1):
            mol.GetAtomWithIdx(0).SetNumExplicitHs(value)
            if not Chem.DetectChemistryProblems(mol):
                return value
    return 0


QM9 = Vocabulary(("C", "N", "O", "F"), largest=9, valencies={"C": 4, "N": 3, "O": 2, "F": 1})
"""Heavy atoms of QM9, in the order of GDSS."""
ZINC = Vocabulary(
    ("C", "N", "O", "F", "P", "S", "Cl", "Br", "I"),
    largest=38,
    valencies={"C": 4, "N": 3, "O": 2, "F": 1, "P": 5, "S": 6, "Cl": 1, "Br": 1, "I": 1},
)
"""Heavy atoms of ZINC250k, in the order of GDSS."""
PRESETS = {"qm9": QM9, "zinc250k": ZINC}
"""The vocabularies that published weights need."""
