"""Graphs as the continuous states of GDSS, and back.

    x (B, N, F)   kinds of atoms one-hot, or degrees one-hot where nodes have no kinds;     a (B, N, N)   the kind of each edge as a number

The moments of a set are kept with its model: a start that has them closes the gap between the published start and the end of the process,

    x_T ~ N(alpha mean, alpha^2 variance + sigma^2)

Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from unstir.errors import DataError, UserError
from unstir_molecules.build import quantised
from unstir_molecules.dense import Dense


def state_of(graphs: Dense, features: int, molecules: bool) -> dict[str, Tensor]:
    """Clean states of graphs.

    Args:
        graphs: kinds of nodes and edges.
        features: F.
        molecules: are nodes of kinds? Else their degrees are their features.

    Returns:
        ``x`` (B, N, F) and ``a`` (B, N, N), float32, 0 at absent nodes.

    Raises:
        DataError: a kind or a degree is F or more.
    """
    kinds = graphs.x if molecules else (graphs.e > 0).sum(-1)
    most = int((kinds * graphs.mask).max()) if kinds.numel() else 0
    if most >= features:
        what = f"kind {most}" if molecules else f"{most} neighbours"
        raise DataError(f"a node has {what}, and the model has {features} features, from 0 to {features - 1}: features={most + 1} would do")
    return {"x": one_hot(kinds.long(), features).float() * graphs.mask[..., None], "a": graphs.e.float()}


def graphs_of(x: Tensor, a: Tensor, mask: Tensor, molecules: bool) -> Dense:
    """Graphs of what a model made.

    Args:
        x: (B, N, F) nodes.
        a: (B, N, N) edges.
        mask: (B, N) nodes that were there.
        molecules: are they molecules, whose atoms may turn out to be missing? Else an edge is where ``a`` is 0.5 at least.
    """
    if molecules:
        return quantised(x, a)
    edges = torch.tril(a >= 0.5, -1)
    return Dense.of(None, (edges | edges.mT).long(), mask.sum(1))


def moments_of(graphs: Dense, features: int, molecules: bool) -> dict[str, Any]:
    """Means and variances of the entries of a set, over present nodes and over pairs of them.

    Args:
        graphs: the set.
        features: F.
        molecules: as for :func:`state_of`.

    Returns:
        ``{"x": [means, variances], "a": [[mean], [variance]]}``, a number a feature; JSON-able.
    """
    state = state_of(graphs, features, molecules)
    entries = {"x": state["x"][graphs.mask].double(), "a": state["a"][graphs.pairs].double()[:, None]}
    return {leaf: [values.mean(0).tolist(), values.var(0, unbiased=False).tolist()] for leaf, values in entries.items()}


def started(noise: Mapping[str, Tensor], process: Any, start: str, moments: Mapping[str, Any] | None, mask: Tensor) -> dict[str, Tensor]:
    """The states that sampling begins with.

    Args:
        noise: unit noise of the space, ``x`` (B, N, F) and ``a`` (B, N, N).
        process: of the pair.
        start: ``"published"``: N(0, 1) of vp, N(0, sigma_max^2) of ve; or ``"matched"``: mean and variance as data have them at the end.
        moments: of :func:`moments_of`; for ``"matched"``.
        mask: (B, N) nodes that are there.

    Returns:
        ``x`` and ``a`` at the last time of the process.

    Raises:
        UserError: a matched start without moments.
    """
    made = {}
    pairs = Dense(mask, mask, mask).pairs
    for leaf, own in process.leaves.items():
        alpha, sigma = float(own.alpha(own.t_max)), float(own.sigma(own.t_max))
        if start == "published":
            made[leaf] = noise[leaf] * (sigma if alpha == 1 else 1.0)
            continue
        if moments is None:
            raise UserError("a matched start needs the mean and variance of the data, which this model does not say: start=published")
        mean, variance = (torch.tensor(values, dtype=torch.float32) for values in moments[leaf])
        there = (mask[..., None] if leaf == "x" else pairs).float()
        made[leaf] = (alpha * mean + torch.sqrt(alpha**2 * variance + sigma**2) * noise[leaf]) * there
    return made
