"""From a model of graphs to a set of them: how many nodes each has, and batches in which little is padding.

    n_i ~ sizes of the training graphs,    graph_i ~ p(graph | n_i)

Sample ``i`` depends on the seed, on ``i`` and on the sizes drawn before it, never on how many follow. All models of this plugin draw their
graphs here, each with its own `Draw`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import CheckpointError, UserError
from unstir.plugin.protocols import Progress
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.build import rebuilt
from unstir_molecules.dense import Dense
from unstir_molecules.graphs import Graphs
from unstir_molecules.molecules import built_set

Draw = Callable[[Tensor, int, Progress], tuple[Dense, int]]
"""``draw(mask (B, N), seed, progress)`` gives B graphs on the nodes of the mask, and evaluations a graph."""
WIDTHS, STEP = (3, 6, 9, 12, 16), 1.15
"""Widths of padding, and the factor by which they grow beyond: a few wide batches cost less than many narrow ones."""


def histogram(sizes: Any) -> dict[str, int]:
    """How many graphs have how many nodes, as a checkpoint keeps it.

    Args:
        sizes: nodes of each graph.
    """
    values, counts = np.unique(np.asarray(sizes, dtype=np.int64), return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


def drawn_sizes(counts: Mapping[str, float], count: int, seed: int, nodes: str = "") -> NDArray[np.int64]:
    """The number of nodes of each sample.

    Args:
        counts: of `histogram`.
        count: samples.
        seed: of the draws.
        nodes: other sizes than those learnt: "8", "7-9" (each as likely), or "7:1,9:3" (with weights); empty for the learnt ones.

    Returns:
        (count,) nodes; the first of many are those of few.

    Raises:
        UserError: ``nodes`` is none of these, or more nodes than the model was trained on.
    """
    weights = {int(size): float(weight) for size, weight in counts.items()} if not nodes else _asked(nodes)
    if nodes and max(weights) > max(map(int, counts)):
        raise UserError(f"the model has seen graphs of up to {max(map(int, counts))} nodes, and {max(weights)} are asked for")
    sizes = np.array(sorted(weights))
    share = np.cumsum([weights[int(size)] for size in sizes])
    uniform = np.random.Generator(np.random.Philox(key=seed % 2**64)).random(count)
    return sizes[np.searchsorted(share / share[-1], uniform, side="right").clip(max=len(sizes) - 1)]


def _asked(nodes: str) -> dict[int, float]:
    fault = UserError(f"sizes are like '8', '7-9' or '7:1,9:3', got {nodes!r}")
    try:
        if "-" in nodes:
            low, high = (int(part) for part in nodes.split("-"))
            found = dict.fromkeys(range(low, high + 1), 1.0)
        else:
            pairs = [(*part.split(":"), "1")[:2] for part in nodes.split(",")]
            found = {int(size): float(weight) for size, weight in pairs}
    except ValueError as error:
        raise fault from error
    if not found or min(found) < 1 or not all(np.isfinite(w) and w >= 0 for w in found.values()) or not sum(found.values()) > 0:
        raise fault
    return found


def width(size: int) -> int:
    """Nodes that a graph is padded to; depends on its own size alone.

    Args:
        size: its nodes.
    """
    padded = next((one for one in WIDTHS if one >= size), WIDTHS[-1])
    while padded < size:
        padded = int(np.ceil(padded * STEP))
    return padded


def drawn(draw: Draw, sizes: NDArray[np.int64], seed: int, *, batch: int = 1024, progress: Progress = None) -> tuple[Dense, int]:
    """Graphs of given sizes, drawn in batches of one padding.

    Args:
        draw: of the model.
        sizes: (count,) nodes of each graph.
        seed: of the draws.
        batch: most entries of a batch of the largest padding, counted in graphs of 9 nodes.
        progress: told of the whole.

    Returns:
        The graphs, in the order of ``sizes``, and the most evaluations that one took.
    """
    widths = np.array([width(int(size)) for size in sizes], dtype=np.int64)
    largest = int(sizes.max(initial=1))
    x = torch.zeros(len(sizes), largest, dtype=torch.uint8)
    e = torch.zeros(len(sizes), largest, largest, dtype=torch.uint8)
    jobs = []
    for padded in np.unique(widths):
        chosen = np.flatnonzero(widths == padded)
        size = max(1, int(batch * 81 / padded**2))
        jobs += [(int(padded), number, chosen[start : start + size]) for number, start in enumerate(range(0, len(chosen), size))]
    nfe = 0
    for done, (padded, number, chosen) in enumerate(jobs):
        mask = torch.arange(padded) < torch.as_tensor(sizes[chosen])[:, None]
        keyed = int(np.random.SeedSequence([seed % 2**63, padded, number]).generate_state(1, np.uint64)[0]) % 2**63
        found, evaluations = draw(mask, keyed, _part(progress, done, len(jobs)))
        found, nfe = found.trimmed(), max(nfe, evaluations)
        n = found.x.shape[1]
        x[chosen, :n] = found.x.cpu().to(torch.uint8)
        e[torch.as_tensor(chosen), :n, :n] = found.e.cpu().to(torch.uint8)
        sizes[chosen] = found.sizes.cpu().numpy()
    return Dense.of(x.long(), e.long(), sizes), nfe


def _part(progress: Progress, done: int, jobs: int) -> Progress:
    return None if progress is None else lambda step, steps: progress(done * steps + step, jobs * steps)


def of_width(prior: Denoiser, nodes: int) -> Denoiser:
    """The model on graphs padded to ``nodes``; it shares the weights.

    Args:
        prior: of graphs of any size, -1 in its shape.
        nodes: to pad to.
    """
    sized = copy.copy(prior)
    shape: Any = prior.shape
    sized.shape = {leaf: tuple(nodes if side == -1 else side for side in sides) for leaf, sides in shape.items()}
    return sized


def vocabulary_of(prior: Any) -> Vocabulary | None:
    """The vocabulary of a model of molecules, ``None`` for one of plain graphs.

    Args:
        prior: with the facts that the trainings of this plugin keep.

    Raises:
        CheckpointError: it is no model of graphs.
    """
    facts = getattr(prior, "facts", {})
    if "sizes" not in facts:
        raise CheckpointError("this checkpoint is no model of graphs: it does not say how many nodes they have")
    return Vocabulary.of_dict(facts["vocabulary"]) if facts.get("vocabulary") else None


def as_set(found: Dense, vocabulary: Vocabulary | None, key: str, **attrs: Any) -> xr.Dataset:
    """Graphs as they cross the border: a set of molecules where there is a vocabulary, else of graphs.

    Args:
        found: the graphs.
        vocabulary: kinds of atoms.
        key: name of the set.
        attrs: more facts.
    """
    if vocabulary is None:
        return Graphs.of_dense(found).without_isolated().dataset(key, attrs=attrs)
    return built_set(rebuilt(found, vocabulary), key=key, attrs=attrs)
