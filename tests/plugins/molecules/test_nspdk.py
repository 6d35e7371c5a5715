"""NSPDK: equal to a direct implementation without hashing, blind to the order of atoms and to the interpreter's seed."""

from collections import Counter

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from unstir.errors import DataError, UserError
from unstir_molecules import nspdk as module
from unstir_molecules.nspdk import PLACES, Labelled, embedded, features, labelled, nspdk, squared_mmd

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

SOME = ["CCO", "CC(=O)Nc1ccc(O)cc1", "C1CC2CC1C2", "CC(C)CC(C)(C)CCCO", "O=c1[nH]cnc2nc[nH]c12", "C", "N#CC#N", "OCC1OC(O)C(O)C(O)C1O"]


def direct(graph, complexity=4):
    """The same features by breadth first search and tuples: a dict from (r, d, what) to a value, of unit length."""
    nodes, reach = len(graph.nodes), {}
    around = {v: [] for v in range(nodes)}
    for u, v in graph.edges:
        around[u].append(v)
        around[v].append(u)
    for root in range(nodes):
        hops, front = {root: 0}, [root]
        while front:
            front = [w for u in front for w in around[u] if w not in hops and hops.setdefault(w, hops[u] + 1)]
        reach[root] = hops
    words = {}
    for root in range(nodes):
        shells = []
        for radius in range(complexity + 1):
            if radius:
                near = [
                    kind
                    for (u, v), kind in zip(graph.edges, graph.kinds, strict=True)
                    if min(reach[root].get(u, 99), reach[root].get(v, 99)) == radius - 1
                ]
                if not near:
                    break
                shells.append(tuple(sorted(near)))
            shell = sorted((graph.nodes[u], len(around[u])) for u, hop in reach[root].items() if hop == radius)
            if not shell:
                break
            shells.append(tuple(shell))
            words[root, radius] = tuple(shells)
    groups = {}
    for v in range(nodes):
        for u, hop in reach[v].items():
            for radius in range(complexity + 1):
                if hop <= complexity and (v, radius) in words and (u, radius) in words:
                    group = groups.setdefault((radius, hop), Counter())
                    group[tuple(sorted([words[v, radius], words[u, radius]], key=repr))] += 1
                    group[words[u, radius]] += 1
    found = {}
    for key, group in groups.items():
        length = np.sqrt(sum(count**2 for count in group.values()))
        found.update({(*key, what): count / length for what, count in group.items()})
    length = np.sqrt(sum(value**2 for value in found.values()))
    return {key: value / length for key, value in found.items()}


def test_the_kernel_is_that_of_a_direct_implementation_without_hashing(monkeypatch):
    monkeypatch.setattr(module, "PLACES", 1 << 40)  # in 2^16 places, features of these molecules meet by chance: .008 of the kernel
    graphs = [labelled(Chem.MolFromSmiles(one)) for one in SOME]
    plain = [direct(graph) for graph in graphs]
    expected = [[sum(value * other.get(key, 0.0) for key, value in one.items()) for other in plain] for one in plain]
    wide = features(graphs)
    rows = csr_matrix((wide.data, np.unique(wide.indices, return_inverse=True)[1], wide.indptr))
    np.testing.assert_allclose((rows @ rows.T).toarray(), expected, atol=1e-12)


def test_features_have_unit_length():
    rows = embedded(SOME)
    assert rows.shape == (len(SOME), PLACES)
    np.testing.assert_allclose(np.asarray(rows.multiply(rows).sum(1)).ravel(), 1.0)


def test_the_order_of_atoms_does_not_matter():
    rng = np.random.default_rng(0)
    for one in SOME:
        graph = labelled(Chem.MolFromSmiles(one))
        order = rng.permutation(len(graph.nodes))
        place = np.argsort(order)
        edges = [(int(place[v]), int(place[u])) for u, v in graph.edges][::-1]
        other = Labelled(tuple(graph.nodes[node] for node in order), tuple(edges), graph.kinds[::-1])
        assert abs(features([graph]) - features([other])).max() < 1e-12


def test_features_do_not_depend_on_batch_mates():
    alone, together = embedded(SOME[:1]), embedded(SOME)[:1]
    assert abs(alone - together).max() < 1e-12


def test_the_squared_distance_of_means_is_the_mmd_of_the_gram_matrices():
    a, b = embedded(SOME[:3]), embedded(SOME[3:])
    gram = [float((x @ y.T).mean()) for x, y in ((a, a), (b, b), (a, b))]
    assert squared_mmd(a, b) == pytest.approx(gram[0] + gram[1] - 2 * gram[2])
    assert nspdk(SOME, SOME[::-1]) == pytest.approx(0.0, abs=1e-12)
    assert np.isnan(nspdk(SOME, []))


def test_two_atoms_that_share_nothing_are_at_squared_distance_two():
    assert nspdk(["C"], ["O"]) == pytest.approx(2.0)


def test_labels_of_bonds_and_atoms_both_count():
    assert nspdk(["CC"], ["C=C"]) > 0.1
    assert nspdk(["CC"], ["CN"]) > 0.1
    assert labelled(Chem.MolFromSmiles("c1ccccc1")).kinds == ("1",) * 6


def test_bad_input_is_told():
    with pytest.raises(DataError, match="no molecule"):
        nspdk(["C1CC"], ["C"])
    with pytest.raises(DataError, match="no node"):
        features([Labelled((), (), ())])
    with pytest.raises(UserError, match="complexity"):
        features([], -1)
    assert features([]).shape == (0, PLACES)
