"""How many of the samples are molecules, how many differ, how many are new; and how sure a distance of two sets is.

    valid / samples,    unique / valid,    novel / unique,    their product = novel / samples

Three denominators are in use for novelty; here each share divides by the one before it, so that the product counts distinct, valid, new
molecules a sample. Samples that were mended are judged apart: ``valid`` counts what was right before any correction, ``made`` what there
is after it.

The interval of a distance d between two sets comes from leaving out one of k blocks of both at a time: k d - (k - 1) d_(-i), moved so that
the mean is d, are parts that a bootstrap may resample (block jackknife). Such an interval is never too narrow on average, and too wide
where d is little more than its bias: twice for an FCD of 1000 v 1000 molecules of one law.

Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514; Efron and Stein 1981 (jackknife).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, UserError
from unstir_molecules.molecules import smiles_of

Array = NDArray[Any]
BLOCKS = 20
"""Blocks of the jackknife."""


def every(data: xr.Dataset) -> list[str]:
    """SMILES of all samples, "" where no molecule could be made.

    Args:
        data: a set of molecules.

    Raises:
        DataError: this is no set of molecules, or it has no samples.
    """
    found = smiles_of(data, made=False)
    if not found:
        raise DataError("the set of molecules is empty")
    return found


def are_valid(data: xr.Dataset) -> Array:
    """Which samples were right before any correction.

    Args:
        data: a set of molecules; where it has no ``valid``, whatever has a SMILES is.

    Returns:
        (samples,) bool.
    """
    made = np.asarray([bool(one) for one in every(data)])
    return np.asarray(data["valid"].values, dtype=bool) & made if "valid" in data else made


def are_whole(data: xr.Dataset) -> Array:
    """Which samples came as one fragment, before the longest was kept.

    Args:
        data: a set of molecules, with ``fragments`` (how many there were) or ``problem``.

    Returns:
        (samples,) bool; false where no molecule could be made.
    """
    smiles = every(data)
    whole = np.asarray([bool(one) and "." not in one for one in smiles])
    if "fragments" in data:
        return whole & (np.asarray(data["fragments"].values) == 1)
    return whole & (np.asarray(data["problem"].values).astype(str) != "disconnected") if "problem" in data else whole


def shares_of_distinct(smiles: Sequence[str]) -> Array:
    """One over how often a sample's SMILES occurs: the sum counts distinct ones, whatever their order.

    Args:
        smiles: SMILES, "" for none.

    Returns:
        (n,) float64; 0 for "".
    """
    names, place, often = np.unique(np.asarray(smiles, dtype=str), return_inverse=True, return_counts=True)
    return np.where(names[place] == "", 0.0, 1.0 / often[place])


@dataclass(frozen=True)
class Judgement:
    """Numerators: how many of the samples are what.

    Args:
        samples: all of them.
        valid: right before any correction.
        whole: of one fragment before the longest was kept.
        unique: distinct SMILES among the valid.
        novel: of those, not in the training set.
        made: molecules after correction.
        unique_made: distinct SMILES among the made.
        novel_made: of those, not in the training set.
    """

    samples: int
    valid: int
    whole: int
    unique: int
    novel: int
    made: int
    unique_made: int
    novel_made: int

    def shares(self) -> dict[str, float]:
        """Each numerator over its denominator; NaN where that is 0.

        Returns:
            ``valid``, ``whole``, ``made`` of samples; ``unique`` of valid, ``novel`` of unique, ``vun`` = novel of samples; and the last
            three of the made molecules (``unique_made``, ``novel_made``, ``vun_made``).
        """
        pairs = {
            "valid": (self.valid, self.samples),
            "whole": (self.whole, self.samples),
            "unique": (self.unique, self.valid),
            "novel": (self.novel, self.unique),
            "vun": (self.novel, self.samples),
            "made": (self.made, self.samples),
            "unique_made": (self.unique_made, self.made),
            "novel_made": (self.novel_made, self.unique_made),
            "vun_made": (self.novel_made, self.samples),
        }
        return {name: part / whole if whole else float("nan") for name, (part, whole) in pairs.items()}

    def counted(self) -> dict[str, int]:
        """The numerators as a dict that JSON can hold."""
        return asdict(self)


def judge(data: xr.Dataset, train: Iterable[str]) -> Judgement:
    """Count what the samples are.

    Args:
        data: a set of molecules.
        train: canonical non-isomeric SMILES that are not new.

    Returns:
        The numerators.

    Raises:
        DataError: no SMILES, or no samples.
    """
    smiles, seen = every(data), set(train)
    valid = are_valid(data)
    made, right = {one for one in smiles if one}, {one for one, is_valid in zip(smiles, valid, strict=True) if is_valid}
    return Judgement(
        samples=len(smiles),
        valid=int(valid.sum()),
        whole=int(are_whole(data).sum()),
        unique=len(right),
        novel=len(right - seen),
        made=sum(bool(one) for one in smiles),
        unique_made=len(made),
        novel_made=len(made - seen),
    )


def chosen(smiles: Sequence[str], count: int, seed: int) -> list[str]:
    """Some of the molecules at random, without replacement; for a larger count the same ones come first.

    Args:
        smiles: SMILES.
        count: how many; all of them where there are no more.
        seed: of the draw.

    Raises:
        UserError: fewer than one is asked for.
    """
    if count < 1:
        raise UserError(f"count must be at least 1, got {count}")
    return [smiles[place] for place in np.random.default_rng(seed).permutation(len(smiles))[:count]]


def with_parts(
    distance: Callable[..., float], sizes: Sequence[int], *, blocks: int = BLOCKS, seed: int = 0
) -> tuple[float, tuple[float, ...]]:
    """A distance of sets and the parts that its interval is made from (block jackknife).

    Args:
        distance: of boolean masks, one a set: the members that are kept.
        sizes: members of each set.
        blocks: how many; fewer where a set has less than two members a block.
        seed: deals the members into blocks.

    Returns:
        The distance of the whole sets, and as many parts as blocks, whose mean it is; none where a set is smaller than four or a part is
        not finite.
    """
    whole = float(distance(*(np.ones(size, dtype=bool) for size in sizes)))
    blocks = min(blocks, *(size // 2 for size in sizes))
    if blocks < 2 or not np.isfinite(whole):
        return whole, ()
    rng = np.random.default_rng(seed)
    dealt = [rng.permutation(size) % blocks for size in sizes]
    left = np.asarray([distance(*(block != out for block in dealt)) for out in range(blocks)])
    parts = whole - (blocks - 1) * (left - left.mean())
    return whole, tuple(float(part) for part in parts) if np.isfinite(parts).all() else ()
