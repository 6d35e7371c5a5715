"""Batches of graphs: what is refused, padding, order of nodes, buckets."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import DataError, UserError
from unstir_molecules.dense import Dense, buckets, concatenated


def batch(sizes=(3, 1, 4), nodes=5, seed=0, kinds=4, bonds=4):
    rng = np.random.default_rng(seed)
    upper = np.triu(rng.integers(0, bonds, (len(sizes), nodes, nodes)), 1)
    return Dense.of(rng.integers(0, kinds, (len(sizes), nodes)), upper + upper.transpose(0, 2, 1), np.array(sizes))


def same(one, other):
    return all(torch.equal(a, b) for a, b in ((one.x, other.x), (one.e, other.e), (one.mask, other.mask)))


def test_a_batch_knows_its_sizes_and_its_pairs():
    dense = batch().check(4, 4)
    assert len(dense) == 3
    assert dense.sizes.tolist() == [3, 1, 4]
    assert dense.pairs.sum((1, 2)).tolist() == [6, 0, 12]
    assert dense.x.dtype == dense.e.dtype == torch.int64


def test_what_lies_beyond_a_graph_is_zero():
    dense = Dense.of(None, np.ones((2, 4, 4), int) - np.eye(4, dtype=int), [2, 0])
    assert dense.e.sum((1, 2)).tolist() == [2, 0]
    dense.check()


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda d: d.e[0, 0, 1].add_(1), "graph 0 of the batch is not symmetric"),
        (lambda d: d.e[2, 1, 1].fill_(1), "graph 2 of the batch has a node joined to itself"),
        (lambda d: d.x[1, 0].fill_(9), "graph 1 of the batch has a kind of node beyond the 4 there are"),
        (lambda d: (d.e[0, 0, 1].fill_(7), d.e[0, 1, 0].fill_(7)), "graph 0 of the batch has a kind of edge beyond the 4"),
        (lambda d: d.x[2, 0].fill_(-1), "graph 2 of the batch has a negative kind of node"),
        (lambda d: (d.e[2, 0, 1].fill_(-1), d.e[2, 1, 0].fill_(-1)), "graph 2 of the batch has a negative kind of edge"),
        (lambda d: d.x[1, 3].fill_(1), "graph 1 of the batch has a kind at an absent node"),
        (lambda d: (d.e[1, 3, 4].fill_(1), d.e[1, 4, 3].fill_(1)), "graph 1 of the batch has an edge at an absent node"),
        (lambda d: (d.mask[1, 0].fill_(False), d.mask[1, 1].fill_(True)), "graph 1 of the batch has a gap"),
    ],
)
def test_a_batch_that_is_none_is_refused(change, sentence):
    dense = batch()
    change(dense)
    with pytest.raises(DataError, match=sentence):
        dense.check(4, 4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_edges_that_are_not_finite_are_refused(value):
    dense = batch()
    loose = dense.e.double()
    loose[1, 0, 1] = loose[1, 1, 0] = value
    with pytest.raises(DataError, match="graph 1 of the batch has kinds of edges that are not finite"):
        Dense(dense.x, loose, dense.mask).check()


def test_half_an_edge_is_refused():
    dense = batch()
    with pytest.raises(DataError, match="kinds of edges that are not whole"):
        Dense(dense.x, dense.e * 0.5, dense.mask).check()


@pytest.mark.parametrize("shape", [(3, 4), (5,), (3, 5, 1)])
def test_shapes_that_disagree_are_refused(shape):
    dense = batch()
    with pytest.raises(DataError, match="shapes of a batch of graphs"):
        Dense(torch.zeros(shape, dtype=torch.int64), dense.e, dense.mask).check()


def test_padding_changes_no_graph_and_comes_off_again():
    dense = batch()
    assert same(dense.padded(9).check().padded(5), dense)
    assert dense.padded(9).trimmed().x.shape == (3, 4)
    with pytest.raises(UserError, match="up to 4 nodes cannot be padded to 3"):
        dense.padded(3)


def test_an_empty_batch_and_empty_graphs_are_batches():
    assert len(batch(()).check().trimmed()) == 0
    assert batch((0, 0)).check().sizes.tolist() == [0, 0]
    assert len(batch().take([])) == 0


def test_taking_gives_long_from_compact_storage():
    dense = batch()
    for index in ([2, 0], np.array([2, 0]), torch.tensor([2, 0])):
        assert same(dense.compact().take(index), dense.take([2, 0]))
    assert dense.compact().e.dtype == torch.uint8
    assert dense.compact().take(slice(1)).e.dtype == torch.int64
    assert same(dense.take(np.array([True, False, True])), dense.take([0, 2]))


def test_batches_join_at_the_widest():
    joined = concatenated([batch(nodes=5), batch((2,), nodes=7)])
    assert joined.check().x.shape == (4, 7)
    assert same(joined.take([0, 1, 2]).padded(5), batch(nodes=5))
    with pytest.raises(DataError, match="no batch of graphs"):
        concatenated([])


def test_another_order_of_nodes_is_the_same_graph():
    dense = batch((5, 3, 4), nodes=6)
    turned = dense.permuted(torch.Generator().manual_seed(3)).check(4, 4)
    assert not same(dense, turned)
    assert torch.equal(dense.sizes, turned.sizes)
    assert torch.equal(dense.x.sort(1).values, turned.x.sort(1).values)
    assert torch.equal(dense.e.sum(2).sort(1).values, turned.e.sum(2).sort(1).values)
    assert torch.allclose(torch.linalg.eigvalsh(dense.e.double()), torch.linalg.eigvalsh(turned.e.double()), atol=1e-12)


@given(sizes=st.lists(st.integers(0, 40), max_size=60), limit=st.integers(1, 9), waste=st.floats(1, 3))
@settings(max_examples=60, deadline=None)
def test_buckets_hold_each_graph_once_and_waste_little(sizes, limit, waste):
    groups = buckets(sizes, limit, waste)
    assert sorted(i for group in groups for i in group.tolist()) == list(range(len(sizes)))
    assert all(0 < len(group) <= limit for group in groups)
    flat = [sizes[i] for group in groups for i in group]
    assert flat == sorted(flat)
    spans = [(sizes[group[0]], sizes[group[-1]]) for group in groups]
    if waste < 1.0001:  # nothing may be wasted: one size a group
        assert all(low == high or high <= 1 for low, high in spans)


def test_buckets_of_one_size_are_cut_at_the_limit_alone():
    assert [len(group) for group in buckets([7] * 10, 4)] == [4, 4, 2]
    assert [group.tolist() for group in buckets([2, 9, 2], 8)] == [[0, 2], [1]]


@pytest.mark.parametrize(("limit", "waste"), [(0, 1.5), (3, 0.5)])
def test_wrong_options_of_buckets_are_refused(limit, waste):
    with pytest.raises(UserError, match="limit and waste must be at least 1"):
        buckets([1, 2], limit, waste)
