"""The structural partial order: blocks of well-known graphs, invariance, and the two weightings."""

from __future__ import annotations

import lzma
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import UserError
from unstir_molecules.pard.order import arranged, block_degrees, block_numbers, block_sizes

YARDSTICK = Path(__file__).resolve().parents[4] / "shared" / "data" / "molecules" / "qm9_gdb_smiles.csv.xz"
BULL = nx.bull_graph()
GRID = nx.grid_2d_graph(3, 3)
KARATE = [5, 1, 4, 3, 9, 11, 1]


def batch(graph: nx.Graph, size: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    a = torch.from_numpy(nx.to_numpy_array(graph, weight=None, dtype=np.int64))
    n = len(a)
    e = torch.zeros(size or n, size or n, dtype=torch.long)
    e[:n, :n] = a
    return e[None], (torch.arange(size or n) < n)[None]


def blocks(graph: nx.Graph, hops: int, weighting: str = "pard") -> tuple[list[int], list[int]]:
    e, mask = batch(graph)
    block = block_numbers(e, mask, hops, weighting)
    return block_sizes(block)[0].tolist(), block_degrees(e, block)[0].tolist()


@pytest.mark.parametrize("weighting", ["pard", "lexicographic"])
@pytest.mark.parametrize("hops", [1, 2, 3])
@pytest.mark.parametrize(
    ("graph", "sizes", "degrees"),
    [
        (nx.path_graph(5), [1, 2, 2], [0, 1, 1]),
        (nx.star_graph(4), [1, 4], [0, 1]),
        (nx.cycle_graph(6), [6], [2]),
        (nx.petersen_graph(), [10], [3]),
        (GRID, [1, 4, 4], [0, 1, 2]),
        (BULL, [3, 2], [2, 1]),
        (nx.lollipop_graph(4, 3), [4, 1, 1, 1], [3, 1, 1, 1]),
    ],
    ids=["path5", "star5", "C6", "petersen", "grid", "bull", "lollipop"],
)
def test_blocks_of_small_graphs_are_those_of_the_specification(graph, sizes, degrees, hops, weighting):
    assert blocks(graph, hops, weighting) == (sizes, degrees)


def test_the_karate_club_has_7_blocks_by_degree_21_at_two_hops_and_22_at_three():
    assert blocks(nx.karate_club_graph(), 1) == (KARATE, [4, 2, 4, 3, 3, 2, 1])
    assert [len(blocks(nx.karate_club_graph(), hops)[0]) for hops in (2, 3)] == [21, 22]


def test_without_hops_a_graph_is_one_block():
    assert blocks(nx.karate_club_graph(), 0)[0] == [34]


def test_edge_free_graphs_single_nodes_and_empty_graphs_have_blocks_too():
    e, mask = torch.zeros(3, 3, 3, dtype=torch.long), torch.tensor([[1, 1, 1], [1, 0, 0], [0, 0, 0]]).bool()
    assert block_numbers(e, mask).tolist() == [[0, 0, 0], [0, -1, -1], [-1, -1, -1]]
    assert block_sizes(block_numbers(e, mask)).tolist() == [[3], [1], [0]]
    assert block_numbers(torch.zeros(0, 0, 0).long(), torch.zeros(0, 0).bool()).shape == (0, 0)


@pytest.mark.parametrize("weighting", ["pard", "lexicographic"])
@given(st.integers(1, 12), st.floats(0, 1), st.integers(0, 3), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_renumbering_and_padding_renumber_the_blocks_and_no_more(weighting, n, p, hops, seed):
    graph = nx.gnp_random_graph(n, p, seed=seed)
    e, mask = batch(graph)
    block = block_numbers(e, mask, hops, weighting)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    assert torch.equal(block_numbers(e[:, order][:, :, order], mask, hops, weighting), block[:, order])
    wide, there = batch(graph, n + 3)
    both = block_numbers(torch.cat((wide, torch.ones_like(wide))), torch.cat((there, there)), hops, weighting)
    assert torch.equal(both[0, :n], block[0])
    assert (both[:, n:] == -1).all()
    assert sorted(set(block[0].tolist())) == list(range(int(block.max()) + 1))


@given(st.integers(1, 12), st.floats(0, 1), st.integers(1, 4), st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_nodes_of_a_lexicographic_block_have_one_degree_in_what_was_grown(n, p, hops, seed):
    e, mask = batch(nx.gnp_random_graph(n, p, seed=seed))
    block = block_numbers(e, mask, hops, "lexicographic")
    grown = (e * (block[:, None] <= block[:, :, None])).sum(-1)
    assert torch.equal(grown, block_degrees(e, block).gather(1, block))


@given(st.integers(2, 10), st.floats(0, 1), st.integers(1, 3), st.integers(0, 10_000))
@settings(max_examples=40, deadline=None)
def test_the_order_is_that_of_its_definition_in_python_integers(n, p, hops, seed):
    graph = nx.gnp_random_graph(n, p, seed=seed)
    left, rounds = set(graph), []
    while left:
        x, weight = dict.fromkeys(left, 1), dict.fromkeys(left, 0)
        for _ in range(hops):
            x = {v: x[v] + sum(x[u] for u in graph[v] if u in left) for v in left}
            weight = {v: weight[v] * n + x[v] for v in left}
        least = {v for v in left if weight[v] == min(weight.values())}
        rounds, left = [least, *rounds], left - least
    block = block_numbers(*batch(graph), hops)[0].tolist()
    assert [{v for v in graph if block[v] == b} for b in range(len(rounds))] == rounds


def test_carries_make_the_published_order_another_than_the_lexicographic():
    """A node of degree 3 whose neighbours are hubs outweighs the nodes of degree 4 of a complete graph: x_2 > n carries into x_1."""
    hubs, ring = nx.complete_graph(3), nx.cycle_graph(range(4, 14))
    graph = nx.compose_all([hubs, nx.empty_graph(4), ring, nx.complete_graph(range(14, 19))])
    graph.add_edges_from((hub, other) for hub in hubs for other in [3, *ring])
    for weighting, first in (("pard", list(range(14, 19))), ("lexicographic", [3])):
        block = block_numbers(*batch(graph), 2, weighting)[0]
        assert (block == block.max()).nonzero().flatten().tolist() == first


def test_nodes_that_tie_by_a_carry_are_told_the_least_of_their_degrees():
    """One hub's neighbour less than above, and the node of degree 3 weighs as much as those of degree 4: 5 n + 25 = 4 n + 43, n = 18."""
    hubs, ring = nx.complete_graph(3), nx.cycle_graph(range(4, 13))
    graph = nx.compose_all([hubs, nx.empty_graph(4), ring, nx.complete_graph(range(13, 18))])
    graph.add_edges_from((hub, other) for hub in hubs for other in [3, *ring])
    e, mask = batch(graph)
    block = block_numbers(e, mask, 2)
    assert (block[0] == block.max()).nonzero().flatten().tolist() == [3, 13, 14, 15, 16, 17]
    assert block_degrees(e, block)[0, -1] == 3


def test_arranging_puts_blocks_one_after_the_other():
    e, mask = batch(nx.karate_club_graph(), 40)
    block = block_numbers(e, mask, 1)
    order = arranged(block)
    assert block.gather(1, order)[0, :34].tolist() == [b for b, size in enumerate(KARATE) for _ in range(size)]
    assert order[0, 34:].tolist() == list(range(34, 40))


def test_an_order_that_does_not_exist_is_refused():
    e, mask = batch(BULL)
    for bad in ({"hops": -1}, {"hops": 1.0}, {"weighting": "degree"}):
        with pytest.raises(UserError):
            block_numbers(e, mask, **bad)
    with pytest.raises(UserError, match="64 bits"):
        block_numbers(*batch(nx.complete_graph(40)), hops=12)


@pytest.mark.skipif(not YARDSTICK.exists(), reason="the yardstick SMILES of QM9 are not there")
def test_qm9_has_3_56_4_14_and_4_37_blocks_on_average():
    chem = pytest.importorskip("rdkit.Chem")
    lines = lzma.decompress(YARDSTICK.read_bytes()).decode().splitlines()[1:]
    chosen = [line.split(",")[1] for line in np.array(lines)[np.random.default_rng(0).choice(len(lines), 3000, replace=False)]]
    mols = [chem.MolFromSmiles(smiles) for smiles in chosen]
    e, mask = torch.zeros(3000, 9, 9, dtype=torch.long), torch.zeros(3000, 9, dtype=torch.bool)
    for i, mol in enumerate(mols):
        n = mol.GetNumAtoms()
        e[i, :n, :n] = torch.from_numpy(chem.GetAdjacencyMatrix(mol).astype(np.int64))
        mask[i, :n] = True
    for hops, mean in ((1, 3.56), (2, 4.14), (3, 4.37)):
        numbers = block_numbers(e, mask, hops)
        assert float(numbers.amax(1).double().mean()) + 1 == pytest.approx(mean, abs=0.05)  # another sample of 3000
        assert int(numbers.max()) + 1 <= 7
