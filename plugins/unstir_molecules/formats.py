"""Batches of graphs as the objects of other libraries, and back: PyTorch Geometric, networkx, RDKit.

of_X(to_X(dense)) = dense     (up to padding that no graph needs; for RDKit: where every graph is a molecule)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstir.errors import DataError, MissingExtra
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.dense import Dense


def to_pyg(dense: Dense) -> list[Any]:
    """PyTorch Geometric ``Data`` of graphs.

    Args:
        dense: (B, N) graphs.

    Returns:
        One a graph: ``x`` (n, 1) long kinds of nodes, ``edge_index`` (2, 2m) both directions, ``edge_attr`` (2m,) long kinds of edges.

    Raises:
        MissingExtra: torch-geometric is not installed.
    """
    data = _pyg()
    made = []
    for x, e, size in _each(dense):
        index = e.nonzero().T
        made.append(data(x=x[:, None], edge_index=index, edge_attr=e[index[0], index[1]], num_nodes=size))
    return made


def of_pyg(graphs: Sequence[Any], nodes: int | None = None) -> Dense:
    """Graphs of PyTorch Geometric ``Data``.

    Args:
        graphs: each with ``edge_index``; ``x`` are kinds, (n,) or (n, 1) whole numbers, or one-hot (n, K); ``edge_attr`` likewise, kinds
            from 1 or one-hot without a column for "none". Without ``x`` all nodes are of kind 0, without ``edge_attr`` all edges of kind 1.
        nodes: N to pad to; the largest when None.

    Returns:
        The graphs.

    Raises:
        DataError: there is no ``edge_index`` of whole numbers (2, edges), kinds are neither, an edge is missing its kind or its other
            direction, a node is joined to itself or does not exist.
    """
    parts = []
    for number, graph in enumerate(graphs):
        where = f"graph {number}"
        index = _index(graph.edge_index, where)
        x = None if graph.x is None else _kinds(graph.x.cpu(), f"x of {where}")
        size = int(graph.num_nodes or 0) if x is None else len(x)
        attr = getattr(graph, "edge_attr", None)
        kinds = torch.ones(index.shape[1], dtype=torch.int64)
        if attr is not None:
            kinds = _kinds(attr.cpu(), f"edge_attr of {where}") + int(attr.ndim == 2 and attr.shape[1] > 1)
        if len(kinds) != index.shape[1]:
            raise DataError(f"{where} has {index.shape[1]} edges and edge_attr for {len(kinds)}")
        if index.numel() and not 0 <= int(index.min()) <= int(index.max()) < size:
            raise DataError(f"{where} has an edge at a node beyond its {size}")
        e = torch.zeros(size, size, dtype=torch.int64)
        e[index[0], index[1]] = kinds
        parts.append((torch.zeros(size, dtype=torch.int64) if x is None else x, e))
    return _stacked(parts, nodes)


def to_networkx(dense: Dense, vocabulary: Vocabulary | None = None) -> list[Any]:
    """networkx graphs.

    Args:
        dense: (B, N) graphs.
        vocabulary: names the kinds; numbers when None.

    Returns:
        A ``Graph`` each, nodes 0 to n-1 with ``kind`` and edges with ``kind``: numbers, or ``atom`` ("C") and ``bond`` ("single") besides.
    """
    import networkx as nx

    made = []
    for x, e, size in _each(dense):
        graph = nx.Graph()
        graph.add_nodes_from(range(size))
        for node, kind in enumerate(x.tolist()):
            graph.nodes[node].update({"kind": kind} | ({"atom": vocabulary.atoms[kind]} if vocabulary else {}))
        for u, v in torch.triu(e).nonzero().tolist():
            kind = int(e[u, v])
            graph.add_edge(u, v, kind=kind, **({"bond": vocabulary.bonds[kind]} if vocabulary else {}))
        made.append(graph)
    return made


def of_networkx(graphs: Sequence[Any], vocabulary: Vocabulary | None = None, nodes: int | None = None) -> Dense:
    """Graphs of networkx.

    Args:
        graphs: undirected graphs; nodes in their own order. Kinds are their attributes ``kind`` (0 for a node, 1 for an edge without one);
            ``atom`` and ``bond`` come first where a vocabulary is given.
        vocabulary: numbers the names.
        nodes: N to pad to; the largest when None.

    Returns:
        The graphs.

    Raises:
        DataError: a graph is directed, has several edges between two nodes, a node joined to itself, or a kind that is no number or name.
    """
    parts = []
    for number, graph in enumerate(graphs):
        if graph.is_directed() or graph.is_multigraph():
            raise DataError(f"graph {number} is directed or has several edges between two nodes; only simple graphs are read")
        place = {node: i for i, node in enumerate(graph.nodes)}
        x = [_kind(facts, "atom", vocabulary.atoms if vocabulary else (), 0, number) for _, facts in graph.nodes(data=True)]
        e = torch.zeros(len(place), len(place), dtype=torch.int64)
        for u, v, facts in graph.edges(data=True):
            e[place[u], place[v]] = e[place[v], place[u]] = _kind(facts, "bond", vocabulary.bonds if vocabulary else (), 1, number)
        parts.append((torch.tensor(x, dtype=torch.int64), e))
    return _stacked(parts, nodes)


def to_mols(dense: Dense, vocabulary: Vocabulary) -> list[Any]:
    """RDKit molecules, sanitised and otherwise as the graphs are; None where a graph is no molecule.

    Args:
        dense: (B, N) graphs.
        vocabulary: what the kinds are.
    """
    from rdkit import Chem, rdBase

    from unstir_molecules.build import mols_of

    made = []
    with rdBase.BlockLogs():
        for mol in mols_of(dense, vocabulary):
            refused = not mol.GetNumAtoms() or Chem.SanitizeMol(mol, catchErrors=True)
            made.append(None if refused else mol.GetMol())
    return made


def of_mols(mols: Sequence[Any], vocabulary: Vocabulary, nodes: int | None = None) -> Dense:
    """Graphs of RDKit molecules, each of which the vocabulary must be able to say (`unstir_molecules.build.dense_of` lets some go).

    Args:
        mols: RDKit molecules or SMILES.
        vocabulary: kinds of atoms and bonds.
        nodes: N to pad to; that of the vocabulary when None.

    Raises:
        DataError: a molecule cannot be said; the sentence gives its number and the reason.
    """
    from unstir_molecules.build import REASONS, dense_of

    dense, lost = dense_of(mols, vocabulary, nodes)
    if lost:
        raise DataError(f"molecule {lost[0].index} ({lost[0].smiles or 'none'}) cannot be a graph: {REASONS[lost[0].reason]}")
    return dense


def _each(dense: Dense) -> list[tuple[Tensor, Tensor, int]]:
    held = dense.check().take(slice(None)).to("cpu")
    return [(held.x[i, :size], held.e[i, :size, :size], size) for i, size in enumerate(held.sizes.tolist())]


def _stacked(parts: Sequence[tuple[Tensor, Tensor]], nodes: int | None) -> Dense:
    sizes = [len(x) for x, _ in parts]
    width = max([1, *sizes]) if nodes is None else nodes
    if sizes and max(sizes) > width:
        raise DataError(f"graph {int(np.argmax(sizes))} has {max(sizes)} nodes and there is room for {width}")
    x, e = torch.zeros(len(parts), width, dtype=torch.int64), torch.zeros(len(parts), width, width, dtype=torch.int64)
    for i, (kinds, bonds) in enumerate(parts):
        x[i, : len(kinds)], e[i, : len(kinds), : len(kinds)] = kinds, bonds
    return Dense.of(x, e, torch.tensor(sizes, dtype=torch.int64)).check()


def _index(found: Any, where: str) -> Tensor:
    if not isinstance(found, Tensor) or found.ndim != 2 or len(found) != 2 or found.is_floating_point() or found.dtype == torch.bool:
        told = f"{found.dtype} of shape {tuple(found.shape)}" if isinstance(found, Tensor) else "none"
        raise DataError(f"edge_index of {where} must be whole numbers (2, edges), got {told}")
    return found.long().cpu()


def _kinds(values: Tensor, what: str) -> Tensor:
    if values.ndim == 2 and values.shape[1] > 1:
        if not bool(((values == 0) | (values == 1)).all()) or not bool((values.sum(1) == 1).all()):
            raise DataError(f"{what} must be kinds or one-hot, got rows of {values.shape[1]} that are not")
        return values.argmax(1)
    flat = values.reshape(-1)
    if not bool((flat == flat.round()).all()) if flat.is_floating_point() else flat.dtype == torch.bool:
        raise DataError(f"{what} must be kinds or one-hot, got numbers that are not whole")
    return flat.long()


def _kind(facts: dict[str, Any], name: str, names: Sequence[str], default: int, number: int) -> int:
    if names and name in facts:
        if facts[name] not in names:
            raise DataError(f"graph {number} has the {name} {facts[name]!r}, which the vocabulary has not")
        return names.index(facts[name])
    kind = facts.get("kind", default)
    if isinstance(kind, bool) or not isinstance(kind, int | np.integer):
        raise DataError(f"graph {number} has a kind that is no whole number: {kind!r}")
    return int(kind)


def _pyg() -> Any:
    try:
        from torch_geometric.data import Data
    except ModuleNotFoundError as error:
        raise MissingExtra("graphs of PyTorch Geometric need torch-geometric: pip install torch-geometric") from error
    return Data
