"""Molecules into batches of graphs and back: SMILES or RDKit molecules <-> `Dense`.

    dense_of   kekulised, without hydrogens; what the vocabulary cannot say is left out, and said
    rebuilt    valence first (valid or not), then the charge +1 on N, O, S, the correction of what is left, one fragment, and the SMILES
    quantised  real-valued x (B, N, K) and a (B, N, N) of a continuous model -> Dense: x > 0.5 is an atom, a is cut at 0.5, 1.5, 2.5

"Valid" is as published: every atom passes valence before the correction (after the charges); whether the molecule is in one piece is
another question. A batch of molecules has neighbours in no other sense: what comes of one depends on it alone.

Reference: Jo, Lee and Hwang 2022 (GDSS), arXiv:2202.02514.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from unstir.errors import DataError, UserError
from unstir_molecules import each, kekule, valence
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.dense import Dense
from unstir_molecules.each import mapped
from unstir_molecules.kekule import REASONS, kekulised
from unstir_molecules.valence import Keep

__all__ = ["PROBLEMS", "REASONS", "Built", "Lost", "counted", "dense_of", "kekulised", "mols_of", "quantised", "rebuilt"]

PROBLEMS = {
    "": "none",
    "empty": "no atoms",
    "valence": "an atom had more bonds than it may have",
    "aromaticity": "a ring without places for its double bonds",
    "disconnected": "more than one fragment",
}
"""What was wrong with a molecule that was made; of several the first one."""


@dataclass(frozen=True)
class Built:
    """What became of a graph.

    Args:
        smiles: canonical, without stereo; None where no molecule could be made.
        valid: did every atom pass valence, before any correction?
        corrected: were bonds lowered?
        problem: a key of `PROBLEMS`.
        fragments: pieces before one of them was kept.
    """

    smiles: str | None
    valid: bool
    corrected: bool
    problem: str
    fragments: int


@dataclass(frozen=True)
class Lost:
    """A molecule that is left out.

    Args:
        index: its place among those given, from 0.
        smiles: as given.
        reason: a key of `REASONS`.
    """

    index: int
    smiles: str
    reason: str


def counted(lost: Iterable[Lost]) -> dict[str, int]:
    """How many were left out for each reason, most first.

    Args:
        lost: those left out.
    """
    return dict(sorted(Counter(one.reason for one in lost).items(), key=lambda pair: (-pair[1], pair[0])))


def dense_of(mols: Sequence[Any], vocabulary: Vocabulary, size: int | None = None, *, workers: int = 0) -> tuple[Dense, list[Lost]]:
    """Batch of graphs of molecules.

    Args:
        mols: SMILES (many are read in several processes) or RDKit molecules, which stay as they are.
        vocabulary: kinds of atoms and bonds.
        size: N to pad to, and most atoms of a molecule; ``vocabulary.largest`` when None.
        workers: processes for SMILES; 0 for as many as there are cores.

    Returns:
        The molecules that can be said exactly, in order (atoms in the order of the SMILES), and those that cannot, with the reason.

    Raises:
        UserError: ``size`` below 1.
        DataError: padded to one size the graphs take more memory than there is.
    """
    nodes = vocabulary.largest if size is None else size
    if nodes < 1:
        raise UserError(f"size must be at least 1, got {nodes}")
    items = list(mols)
    work = partial(kekule.flattened, vocabulary=vocabulary, size=nodes)
    texts = all(isinstance(item, str) for item in items)
    parts = mapped(work, items, workers=workers if texts else 1)
    starts = np.cumsum([0] + [len(part.sizes) + len(part.lost) for part in parts])
    lost = [Lost(int(start) + place, text, reason) for start, part in zip(starts, parts, strict=False) for place, text, reason in part.lost]
    if not parts:
        parts = [kekule.flattened([], vocabulary, nodes)]
    sizes, kinds, counts, bonds = (np.concatenate([part[i] for part in parts]) for i in range(4))
    _check_room(len(sizes), nodes)
    mask = np.arange(nodes) < sizes[:, None]
    x, e = np.zeros(mask.shape, dtype=np.int64), np.zeros((*mask.shape, nodes), dtype=np.int64)
    x[mask] = kinds
    at, (u, v, order) = np.repeat(np.arange(len(sizes)), counts), bonds.T
    e[at, u, v] = e[at, v, u] = order
    return Dense(torch.from_numpy(x), torch.from_numpy(e), torch.from_numpy(mask)), lost


def _check_room(count: int, nodes: int) -> None:
    needed, there = 8 * count * nodes**2, memory()
    if needed > there:
        much = f"{count:,} molecules padded to {nodes} atoms each take {needed / 1e9:,.0f} GB, and this machine has {there / 1e9:,.0f}"
        raise DataError(f"{much}: leave out the largest of them (largest=N)")


def memory() -> float:
    """Bytes of memory of this machine; infinite where it does not say."""
    try:
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    except (AttributeError, ValueError, OSError):
        return float("inf")


def mols_of(dense: Dense, vocabulary: Vocabulary, *, charges: bool = False) -> list[Any]:
    """RDKit molecules of graphs, as they are: nothing is sanitised or corrected.

    Args:
        dense: (B, N) graphs.
        vocabulary: what the kinds are.
        charges: give N, O and S the charge +1 by the published rule?

    Returns:
        An ``RWMol`` a graph, without atoms for an empty one.

    Raises:
        DataError: a kind is beyond the vocabulary.
    """
    kinds, orders, mask = _arrays(dense, vocabulary)
    plus = valence.charged(kinds, orders, mask, vocabulary) if charges else np.zeros(mask.shape, dtype=bool)
    atoms, sizes = valence.pieces(vocabulary), mask.sum(1).tolist()
    return [valence.assembled(kinds[i, :n], orders[i, :n, :n], plus[i, :n], atoms) for i, n in enumerate(sizes)]


def rebuilt(
    dense: Dense, vocabulary: Vocabulary, *, charges: bool = True, correct: bool = True, keep: Keep = "longest", workers: int = 0
) -> list[Built]:
    """Molecules of graphs.

    Args:
        dense: (B, N) graphs.
        vocabulary: what the kinds are.
        charges: give N, O and S that exceed their usual valence by one the charge +1, as published? The rule looks at the atoms in
            their order, so a graph with other excesses may be charged otherwise under another order.
        correct: lower bonds until every atom passes valence? Without it an invalid graph has no SMILES.
        keep: the fragment with the "longest" SMILES (as published: strings are compared kekulised), the "largest" by atoms, or "all".
        workers: processes; 0 for as many as there are cores.

    Returns:
        One a graph, in order.

    Raises:
        DataError: a kind is beyond the vocabulary.
        UserError: ``keep`` is none of these.
    """
    if keep not in get_args(Keep):
        raise UserError(f"keep must be one of {', '.join(get_args(Keep))}, got {keep!r}")
    kinds, orders, mask = _arrays(dense, vocabulary)
    plus = valence.charged(kinds, orders, mask, vocabulary) if charges else np.zeros(mask.shape, dtype=bool)
    limits = vocabulary.limits[kinds, plus.astype(np.int64)]
    valid = ~((orders.sum(2) > limits) & mask).any(1) & mask.any(1)
    made = valence.corrected(kinds, orders, plus, vocabulary) if correct else orders
    changed = (made != orders).any((1, 2))
    sizes = mask.sum(1)
    chunk = each.CHUNK
    parts = [slice(first, first + chunk) for first in range(0, len(sizes), chunk)]
    cut = [(kinds[part], made[part].astype(np.uint8), plus[part], sizes[part]) for part in parts]
    answers = mapped(
        partial(valence.written_all, vocabulary=vocabulary, keep=keep), cut, workers=workers, chunk=1, small=each.SMALL // chunk
    )
    found = [one for part in answers for one in part]
    built = []
    for (text, problem, pieces), good, lowered in zip(found, valid.tolist(), changed.tolist(), strict=True):
        problem = problem if good or problem == "empty" else "valence"
        built.append(Built(text if good or correct else None, good, lowered, problem, pieces))
    return built


def _arrays(dense: Dense, vocabulary: Vocabulary) -> tuple[Any, Any, Any]:
    dense.check(vocabulary.kinds, len(vocabulary.bonds))
    x, e, mask = (part.detach().cpu().numpy() for part in (dense.x, dense.e, dense.mask))
    return x.astype(np.int64), e.astype(np.int64), mask


def quantised(x: Tensor, a: Tensor, *, several: Literal["first", "largest"] = "first") -> Dense:
    """Graphs of the real-valued atoms and bonds that a continuous model makes.

    An atom is there where one of its features exceeds 0.5, else its place is empty; atoms that are there move to the front, in order.
    Bonds are 0, 1, 2, 3 with cuts at 0.5, 1.5 and 2.5 of the lower triangle; the diagonal says nothing.

    Args:
        x: (B, N, K) features of the atoms.
        a: (B, N, N) bonds.
        several: an atom with two features above 0.5 takes the "first" (as published) or the "largest".

    Returns:
        (B, N) graphs.

    Raises:
        DataError: shapes disagree, or a value is not finite.
        UserError: ``several`` is neither.
    """
    if several not in ("first", "largest"):
        raise UserError(f"several must be first or largest, got {several!r}")
    if x.ndim != 3 or a.shape != (*x.shape[:2], x.shape[1]):
        raise DataError(f"atoms (B, N, K) and bonds (B, N, N) must fit, got {tuple(x.shape)} and {tuple(a.shape)}")
    for what, values in (("atoms", x), ("bonds", a)):
        if not bool(torch.isfinite(values).all()):
            raise DataError(f"the {what} of graph {int((~torch.isfinite(values)).nonzero()[0, 0])} are not finite")
    above = x > 0.5
    kinds = (above.long() if several == "first" else torch.where(above, x, torch.full_like(x, -torch.inf))).argmax(2)
    order = (~above.any(2)).long().argsort(dim=1, stable=True)
    low = torch.tril(a, -1)
    cuts = torch.tensor([0.5, 1.5, 2.5], dtype=a.dtype, device=a.device)
    bonds = torch.bucketize((low + low.mT).contiguous(), cuts, right=True)
    there = above.any(2)
    bonds = torch.where(there[:, :, None] & there[:, None, :], bonds, torch.zeros_like(bonds))
    return Dense(torch.where(there, kinds, torch.zeros_like(kinds)), bonds, there).ordered(order)
