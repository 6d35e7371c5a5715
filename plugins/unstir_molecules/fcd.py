"""Frechet ChemNet distance: how far apart are the laws of a network's view of two sets of molecules, taken as normal.

    FCD = |mu_a - mu_b|^2 + Tr(S_a + S_b - 2 (S_a S_b)^(1/2)),      Tr (S_a S_b)^(1/2) = sum of the singular values of R_a R_b^T, S = R^T R

The network (the optional library ``fcd``) reads canonical SMILES padded to 350 places: another spelling or another padding is another
number. The estimate is biased upwards by a term that falls with the number of molecules and, for a good generator, outweighs what it
measures: n is equal on both sides and belongs to every number, and so does the floor, the distance of the training set at the same n.

Reference: Preuer et al. 2018, arXiv:1803.09518.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra, UserError
from unstir_data import fetch
from unstir_molecules.judge import BLOCKS, chosen, with_parts

Array = NDArray[Any]
PADDING = 350
WIDTH = 512
BATCH = 256
KEPT = 8
"""Sets of activations kept in the process."""
WORTH = 200
"""Distinct molecules from which activations are kept on disk."""
VERSION = 1
_kept: OrderedDict[str, Array] = OrderedDict()


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


def folder() -> Path:
    """Where activations lie: ``activations`` beside the cache of fetched data."""
    return fetch.cache_folder().parent / "activations"


def forget() -> None:
    """Let go of the activations in the process; those on disk stay."""
    _kept.clear()


def activations(smiles: Iterable[str]) -> Array:
    """What ChemNet sees in molecules; distinct ones are looked at once, and remembered in the process and on disk.

    Args:
        smiles: canonical SMILES without isomers, each a molecule of at most 349 characters.

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
    names, place = np.unique(np.asarray(listed, dtype=str), return_inverse=True)
    return _recalled([str(one) for one in names])[place]


def _recalled(names: Sequence[str]) -> Array:
    told = "\n".join([str(VERSION), _network()[2], *names])
    key = hashlib.sha256(told.encode()).hexdigest()[:32]
    if key not in _kept:
        path = folder() / f"chemnet-{key}.npy"
        found = _read(path, len(names)) if len(names) >= WORTH else None
        if found is None:
            found = _seen(names)
            if len(names) >= WORTH:
                _write(path, found)
        _kept[key] = found
    _kept.move_to_end(key)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[key]


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


def _read(path: Path, count: int) -> Array | None:
    try:
        found = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        warnings.warn(f"the activations {path} cannot be read ({error}); they are made again", stacklevel=5)
        return None
    return found if found.shape == (count, WIDTH) and found.dtype == np.float32 else None


def _write(path: Path, found: Array) -> None:
    """Keep activations, whole or not at all; a disk that takes nothing is said, and costs their making the next time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as file:
                np.save(file, found, allow_pickle=False)
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(f"activations could not be kept in {path.parent} ({error.strerror or error})", stacklevel=6)


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
