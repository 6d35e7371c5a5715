"""Frechet ChemNet distance: how far apart are the laws of a network's view of two sets of molecules, taken as normal.

    FCD = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)),      Tr (S_a S_b)^(1/2) = sum of the singular values of R_a R_b^T, S = R^T R

The network (the optional library ``fcd``) reads canonical SMILES padded to 350 places: another spelling or another padding is another
number. The estimate is biased upwards by a term that falls with the number of molecules and, for a good generator, outweighs what it
measures: n is equal on both sides and belongs to every number, and so does the floor, the distance of the training set at the same n.

Reference: Preuer et al. 2018, arXiv:1803.09518.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra, UserError
from unstir_molecules import remembered
from unstir_molecules.judge import BLOCKS, chosen, with_parts

Array = NDArray[Any]
PADDING = 350
WIDTH = 512
BATCH = 256
VERSION = 1


@cache
def _network() -> tuple[Any, Any, str]:
    """ChemNet, the encoder of a SMILES, and the version of the library that has them."""
    from importlib.metadata import version

    try:
        from fcd import load_ref_model
        from fcd.utils import get_one_hot
    except ImportError as error:
        raise MissingExtra("the Frechet ChemNet distance needs fcd: pip install 'unstir[molecules]'") from error
    return load_ref_model(), get_one_hot, version("fcd")


def activations(smiles: Iterable[str], *, keep: bool = False) -> Array:
    """What ChemNet sees in molecules; distinct ones are looked at once, and remembered.

    Args:
        smiles: canonical SMILES without isomers, each a molecule of at most 349 characters.
        keep: is this a set that comes again in other runs, as a test set does? Then it is remembered on disk too.

    Returns:
        (n, 512) float32.

    Raises:
        DataError: a SMILES is empty or too long.
        MissingExtra: fcd is not installed.
    """
    listed = list(smiles)
    for one in listed:
        if not 0 < len(one) < PADDING:
            raise DataError(f"ChemNet reads SMILES of 1 to {PADDING - 1} characters, got {len(one)}")
    if not listed:
        return np.zeros((0, WIDTH), np.float32)
    return remembered.rows("chemnet", [VERSION, _network()[2]], listed, _seen, keep=keep)


def _seen(names: Sequence[str]) -> Array:
    import torch

    network, encode, _ = _network()
    made = np.empty((len(names), WIDTH), np.float32)
    with torch.inference_mode():
        for first in range(0, len(names), BATCH):
            part = names[first : first + BATCH]
            x = np.stack([encode(one, pad_len=PADDING).astype(np.float32) for one in part])
            made[first : first + BATCH] = network(torch.from_numpy(x / np.float32(x.shape[-1])).transpose(1, 2)).numpy()
    return made


def frechet(ours: Array, theirs: Array) -> float:
    """Frechet distance of the normal laws fitted to two sets of vectors.

    Args:
        ours: (n, width), n at least 2.
        theirs: (m, width), m at least 2.

    Returns:
        The squared 2-Wasserstein distance, at least 0 up to rounding; covariances divide by n - 1.

    Raises:
        DataError: a set has fewer than 2 vectors.
    """
    if min(len(ours), len(theirs)) < 2:
        raise DataError(f"a Frechet distance needs at least 2 molecules on each side, got {len(ours)} and {len(theirs)}")
    means, roots = zip(*(_fitted(values.astype(np.float64)) for values in (ours, theirs)), strict=True)
    gap = means[0] - means[1]
    traces = sum(float(np.einsum("ij,ij->", root, root)) for root in roots)
    shared = np.linalg.svd(roots[0] @ roots[1].T, full_matrices=False, compute_uv=False)
    return float(gap @ gap) + traces - 2.0 * float(shared.sum())


def _fitted(values: Array) -> tuple[Array, Array]:
    """Mean, and a root R of the covariance R^T R."""
    mean = values.mean(0)
    return mean, np.asarray(np.linalg.qr((values - mean) / np.sqrt(len(values) - 1), mode="r"))


@dataclass(frozen=True)
class Distance:
    """An FCD with what it is a number of.

    Args:
        value: the distance.
        n: molecules on each side.
        parts: what its interval is made from, as `unstir_molecules.judge.with_parts` has it.
    """

    value: float
    n: int
    parts: tuple[float, ...] = ()


def fcd(a: Sequence[str], b: Sequence[str], n: int | None = None, seed: int = 0, *, blocks: int = BLOCKS) -> Distance:
    """FCD of as many molecules of one set as of another.

    Args:
        a: canonical SMILES without isomers, each a molecule; repeats count.
        b: the same.
        n: molecules of each side, drawn without replacement; the smaller set's size where ``None`` or larger.
        seed: of the draws; a larger n adds to the molecules of a smaller one.
        blocks: of the jackknife; 0 for no parts.

    Returns:
        The distance and its n; NaN where a side has fewer than 2 molecules.

    Raises:
        UserError: n is below 2.
        MissingExtra: fcd is not installed.
    """
    if n is not None and n < 2:
        raise UserError(f"an FCD needs at least 2 molecules on each side, got n = {n}")
    n = min(len(a), len(b), n or len(a))
    if n < 2:
        return Distance(float("nan"), n)
    return between(activations(chosen(a, n, seed)), activations(chosen(b, n, seed + 1)), blocks=blocks, seed=seed)


def between(ours: Array, theirs: Array, *, blocks: int = BLOCKS, seed: int = 0) -> Distance:
    """Frechet distance of two sets of activations of one size, with parts.

    Args:
        ours: (n, 512).
        theirs: (n, 512).
        blocks: of the jackknife; below 2 for no parts.
        seed: deals molecules into blocks.

    Raises:
        DataError: the sizes differ, or are below 2.
    """
    if len(ours) != len(theirs):
        raise DataError(f"an FCD compares sets of one size, got {len(ours)} and {len(theirs)}")
    if blocks < 2:
        return Distance(frechet(ours, theirs), len(ours))
    value, parts = with_parts(lambda left, right: frechet(ours[left], theirs[right]), (len(ours), len(theirs)), blocks=blocks, seed=seed)
    return Distance(value, len(ours), parts)
