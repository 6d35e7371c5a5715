"""Properties of molecules, how far their laws are from real ones, and the same properties as rewards.

    W1(p, q) = integral |F_p(x) - F_q(x)| dx,      reward("sa") = (10 - SA) / 9

QED is the drug-likeness of Bickerton et al. 2012, SA the synthetic accessibility of Ertl and Schuffenhauer 2009 (1 easy, 10 hard), logP
that of Wildman and Crippen 1999, all as RDKit computes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rdkit import RDConfig, rdBase
from rdkit.Chem import QED, Descriptors, rdMolDescriptors

from unstir.errors import UserError, nearest
from unstir_molecules import remembered
from unstir_molecules.each import each, molecule
from unstir_molecules.similarity import fingerprint, tanimoto

Array = NDArray[Any]
Reward = Callable[[str], float]

NAMES = ("qed", "sa", "logp", "weight", "rings")
"""Columns of `properties`, in order."""
VERSION = 1
UNITS = {"qed": "", "sa": "", "logp": "", "weight": "Da", "rings": ""}
"""Unit of each property."""
TITLES = {"qed": "QED", "sa": "SA", "logp": "logP", "weight": "weight", "rings": "rings"}
"""Each property as it stands in a table."""


@cache
def _sascorer() -> Any:
    """RDKit's contributed module of the synthetic accessibility, which lies beside the library and not in it."""
    folder = str(Path(RDConfig.RDContribDir) / "SA_Score")
    sys.path.append(folder)
    try:
        import sascorer
    finally:
        sys.path.remove(folder)
    return sascorer


def synthetic_accessibility(mol: Any) -> float:
    """SA score of Ertl and Schuffenhauer 2009.

    Args:
        mol: an RDKit molecule with at least one atom.

    Returns:
        1 (easy to make) to 10 (hard).
    """
    return float(_sascorer().calculateScore(mol))


def drug_likeness(mol: Any) -> float:
    """QED of Bickerton et al. 2012, with their mean weights.

    Args:
        mol: an RDKit molecule.

    Returns:
        0 to 1, 1 the most like a drug.
    """
    return float(QED.qed(mol))


def log_p(mol: Any) -> float:
    """Octanol-water partition coefficient of Wildman and Crippen 1999.

    Args:
        mol: an RDKit molecule.

    Returns:
        log10 of the ratio of concentrations.
    """
    return float(rdMolDescriptors.CalcCrippenDescriptors(mol)[0])


def described(mol: Any) -> list[float]:
    """All properties of one molecule.

    Args:
        mol: an RDKit molecule.

    Returns:
        QED, SA, logP, weight (Da), rings.
    """
    weight: float = Descriptors.MolWt(mol)  # type: ignore[attr-defined]
    return [drug_likeness(mol), synthetic_accessibility(mol), log_p(mol), float(weight), float(mol.GetRingInfo().NumRings())]


def properties(smiles: Iterable[str], *, keep: bool = False) -> dict[str, Array]:
    """Properties of a set of molecules; distinct ones are looked at once, and remembered.

    Args:
        smiles: SMILES, "" for none.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.

    Returns:
        Float64 arrays of the set's length by the names of `NAMES`, NaN where there is no molecule.
    """
    table = remembered.rows("properties", [VERSION, NAMES, rdBase.rdkitVersion], smiles, _described, keep=keep)
    return {name: table[:, column] for column, name in enumerate(NAMES)}


def _described(names: list[str]) -> Array:
    rows = [[np.nan] * len(NAMES) if row is None else row for row in each(described, names)]
    return np.asarray(rows, dtype=np.float64).reshape(-1, len(NAMES))


def wasserstein(ours: Array, theirs: Array) -> float:
    """Wasserstein-1 distance of two samples on the line, in the unit of the values.

    Args:
        ours: values; NaN is left out.
        theirs: values; NaN is left out.

    Returns:
        The distance; NaN where a side has no value.
    """
    from scipy.stats import wasserstein_distance

    left, right = ours[np.isfinite(ours)], theirs[np.isfinite(theirs)]
    return float(wasserstein_distance(left, right)) if len(left) and len(right) else float("nan")


def _of(score: Callable[[Any], float]) -> Reward:
    def reward(smiles: str) -> float:
        mol = molecule(smiles)
        return 0.0 if mol is None else score(mol)

    return reward


REWARDS: dict[str, Callable[[Any], float]] = {
    "qed": drug_likeness,
    "logp": log_p,
    "sa": lambda mol: (10.0 - synthetic_accessibility(mol)) / 9.0,
}
"""Rewards of one molecule by name; larger is better."""


def reward(name: str) -> Reward:
    """A number that steering may raise, as a function of a SMILES.

    Args:
        name: ``"qed"`` (0 to 1), ``"logp"`` (no bounds, so that 0 for no molecule is not the least), ``"sa"`` ((10 - SA) / 9, 0 to 1,
            1 easy to make), or ``"similarity:SMILES"``, the Tanimoto similarity (Morgan, radius 2, 1024 bits) to that molecule.

    Returns:
        A function of a SMILES; 0 where the SMILES is no molecule.

    Raises:
        UserError: there is no such reward, or the molecule to resemble is none.
    """
    kind, _, target = name.partition(":")
    if kind == "similarity":
        wanted = molecule(target.strip())
        if wanted is None:
            raise UserError(f"similarity needs a molecule to resemble, as in 'similarity:CCO', got {target!r}")
        bits = fingerprint(wanted)
        return _of(lambda mol: tanimoto(fingerprint(mol), bits))
    if name not in REWARDS:
        near = nearest(name, [*REWARDS, "similarity:SMILES"])
        raise UserError(f"there is no reward {name!r}; there are {', '.join(REWARDS)} and similarity:SMILES{_hint(near)}")
    return _of(REWARDS[name])


def _hint(near: Sequence[str]) -> str:
    return f" (did you mean {near[0]!r}?)" if near else ""


def rewards(name: str, smiles: Iterable[str]) -> Array:
    """A reward of every molecule of a set.

    Args:
        name: as `reward` takes it.
        smiles: SMILES, "" for none.

    Returns:
        (n,) float64.
    """
    asked, known = reward(name), {}
    listed = list(smiles)
    for one in listed:
        if one not in known:
            known[one] = asked(one)
    return np.asarray([known[one] for one in listed], dtype=np.float64)
