"""HypDiff: the law of its noise, clusters, charts, encoder and decoder, and graphs out of a short training."""

from __future__ import annotations

import math
from types import ModuleType

import numpy as np
import pytest
import torch

import unstir
from unstir import hookimpl, registry
from unstir.errors import CheckpointError, DataError, UserError
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case
from unstir.process import VP, Process
from unstir_molecules.graphs import Graphs
from unstir_molecules.hyperbolic.ball import Ball
from unstir_molecules.hyperbolic.clusters import clustered, nearest
from unstir_molecules.hyperbolic.flat import Flat
from unstir_molecules.hyperbolic.generation import HypDiff, assigned
from unstir_molecules.hyperbolic.network import HypDiffNetwork, node_features
from unstir_molecules.hyperbolic.process import Chart, Radial
from unstir_molecules.hyperbolic.training import HypDiffTraining
from unstir_molecules.molecules import molecule_set

NAMES = {
    "unstir_networks": {"molecules/hypdiff": "unstir_molecules.hyperbolic.network:HypDiffNetwork"},
    "unstir_processes": {"molecules/radial": "unstir_molecules.hyperbolic.process:Radial"},
}
SMALL = {"dim": 6, "clusters": 2, "hidden": 24, "encoders": 2, "width": 32, "layers": 2, "heads": 2, "batch": 24, "warmup": 10, "ema": 0.95}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The names of network and process, until a hook gives them."""
    if "molecules/hypdiff" not in registry.names("networks"):
        probe = ModuleType("probe_hypdiff")
        probe.UNSTIR_API = 1
        for hook, names in NAMES.items():
            setattr(probe, hook, hookimpl(lambda names=names: names))
        registry.host().add("probe-hypdiff", probe, distribution="tests")


TIMES = torch.linspace(0.02, 1.0, 40, dtype=torch.float64)


def test_the_radial_process_keeps_more_of_the_signal_by_the_published_term():
    """The code's delta tanh(sqrt(c) step / 2000) at 1000 steps is delta tanh(t/2)."""
    process, plain = Radial(delta=0.01, c=1.0), VP()
    extra = process.alpha(TIMES) - plain.alpha(TIMES)
    np.testing.assert_allclose(extra, 0.01 * torch.tanh(1000 * TIMES / 2000), atol=1e-12)
    np.testing.assert_allclose(process.sigma(TIMES), plain.sigma(TIMES))
    assert float(extra.max()) < 0.01
    np.testing.assert_allclose(Radial(delta=0.0).alpha(TIMES), plain.alpha(TIMES))


@pytest.mark.parametrize("delta", [0.0, 0.01, 0.05])
def test_rates_of_the_radial_process_are_those_of_its_scales(delta):
    process = Radial(delta=delta, c=0.6)
    np.testing.assert_allclose(process.rate(TIMES), Process.rate(process, TIMES), rtol=1e-9)
    np.testing.assert_allclose(process.diffusion(TIMES), Process.diffusion(process, TIMES), rtol=1e-6)
    np.testing.assert_allclose(process.time_at_rho(process.rho(TIMES)), TIMES, atol=1e-9)
    with pytest.raises(UserError, match="the signal grows again"):
        Radial(delta=2.0)


def test_signs_of_the_data_do_not_change_the_law_of_the_noise():
    """Given x_0, sign(x_0) eps and eps have one law: the third and fourth moments of x_t agree with a normal law, entry by entry."""
    generator = torch.Generator().manual_seed(0)
    x0 = torch.tensor([1.5, -0.7, 0.2], dtype=torch.float64)
    eps = torch.randn(200_000, 3, generator=generator, dtype=torch.float64)
    signed = torch.sign(x0) * eps
    np.testing.assert_allclose(signed.mean(0), 0, atol=0.012)
    np.testing.assert_allclose(signed.T @ signed / len(eps), torch.eye(3), atol=0.016)
    np.testing.assert_allclose(signed.pow(3).mean(0), 0, atol=0.05)
    np.testing.assert_allclose(signed.pow(4).mean(0), 3, atol=0.12)


@pytest.mark.parametrize("space", [Ball(0.6), Flat()])
def test_the_noise_of_a_chart_is_wider_along_its_centre_than_across(space):
    """Covariance L L^T = P + kappa^2 (1 - P) of the tangent coordinates, and points and coordinates go to and fro."""
    centres = torch.tensor([[0.3, 0.4, 0.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    chart, cluster = Chart(space, centres, kappa=0.5), torch.zeros(100_000, dtype=torch.long)
    eps = torch.randn(100_000, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    z = chart.points(0.5 * eps, cluster)
    u = space.moved(centres[cluster], z)
    way = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    wanted = 0.25 * (torch.outer(way, way) + 0.25 * (torch.eye(3) - torch.outer(way, way)))
    np.testing.assert_allclose(u.T @ u / len(u), wanted, atol=5e-3)
    np.testing.assert_allclose(chart.coordinates(z, cluster), 0.5 * eps, atol=1e-7)
    middle = chart.points(0.5 * eps, cluster + 1)
    u = space.moved(torch.zeros_like(z), middle)
    np.testing.assert_allclose(u.T @ u / len(u), 0.25 * torch.eye(3), atol=5e-3)  # the origin has no direction: isotropic


@pytest.mark.parametrize("space", [Ball(0.6), Flat()])
def test_planted_clusters_are_found(space):
    generator = torch.Generator().manual_seed(2)
    middles = torch.tensor([[0.7, 0.0], [-0.6, 0.5], [0.0, -0.8]], dtype=torch.float64)
    label = torch.arange(90) % 3
    z = space.placed(middles[label], 0.1 * torch.randn(90, 2, generator=generator, dtype=torch.float64))
    found = clustered(space, z, 3)
    assert len({(int(a), int(b)) for a, b in zip(label, found.cluster, strict=True)}) == 3
    assert float(space.distance(found.centres[nearest(space, middles, found.centres)], middles).max()) < 0.1
    assert len(clustered(space, z[:1].expand(5, -1), 3).centres) == 1  # five points at one place
    with pytest.raises(UserError, match="needs a cluster and a point"):
        clustered(space, z, 0)


def cycle(n):
    return n, [(i, (i + 1) % n) for i in range(n)]


def toy(count=60):
    """Stars and cycles of 6 or 7 nodes, two in three for training."""
    graphs = [cycle(6 + i % 2) if i % 4 < 2 else (6 + i % 2, [(0, j) for j in range(1, 6 + i % 2)]) for i in range(count)]
    return Graphs.of_edges(graphs)


def test_the_encoder_renames_with_the_nodes_and_does_not_see_padding():
    torch.manual_seed(0)
    network = HypDiffNetwork(dim=4, hidden=16, encoders=2, width=16, layers=1, heads=2, eigenvectors=2).double()
    edges = [(0, 1), (1, 2), (2, 3), (3, 4), (1, 3), (0, 5)]
    a = torch.from_numpy(Graphs.of_edges([(6, edges)]).padded().astype(float))
    mask, order = torch.ones(1, 6, dtype=torch.bool), torch.tensor([3, 0, 5, 1, 4, 2])
    network.requires_grad_(False)
    z = network.encoded(a, mask)
    torch.testing.assert_close(network.encoded(a[:, order][:, :, order], mask), z[:, order], atol=1e-8, rtol=0)
    wide, here = torch.zeros(1, 9, 9, dtype=torch.float64), torch.arange(9)[None] < 6
    wide[:, :6, :6] = a
    torch.testing.assert_close(network.encoded(wide, here)[:, :6], z, atol=1e-8, rtol=0)
    assert float(network.encoded(wide, here)[:, 6:].abs().max()) < 1e-12
    assert float(z.norm(dim=-1).max()) * math.sqrt(0.6) < 1


def test_features_are_degrees_and_chances_of_return():
    """On a cycle of four a walk of two steps comes back half of the time, and an odd one never."""
    a = torch.from_numpy(Graphs.of_edges([cycle(4)]).padded().astype(np.float32))
    found = node_features(a, torch.ones(1, 4, dtype=torch.bool), 4, 2)[0]
    np.testing.assert_allclose(found[:, :4], [[0.2, 0.5, 0.0, 0.5]] * 4, atol=1e-6)


def test_the_decoder_is_fermi_and_dirac():
    network = HypDiffNetwork(dim=2, width=16, heads=2)
    z = torch.tensor([[[0.0, 0.0], [0.5, 0.1]]])
    d = float(Ball(0.6).distance(z[0, 0], z[0, 1]))
    p = torch.sigmoid(network.logits(z)).detach()
    assert float(p[0, 0, 1]) == pytest.approx(1 / (math.exp((d**2 - 2) / 1) + 1), rel=1e-5)


@pytest.fixture(scope="module", params=[0.6, 0.0], ids=["ball", "flat"])
def prior(request, tmp_path_factory):
    training = HypDiffTraining(**SMALL, c=request.param, encoding=150, steps=200, rate=4e-3)
    return unstir.load(training.fit(toy().dataset("toy"), tmp_path_factory.mktemp("hypdiff")))


def case(count=24):
    return Case("toy", None, toy().dataset("toy"), {"count": count})


@pytest.mark.slow
def test_a_short_training_restores_graphs_and_makes_new_ones(prior):
    dense = toy(8).dense()
    with torch.inference_mode():
        logits = prior.network.logits(prior.network.encoded((dense.e > 0).float(), dense.mask))
    pairs = (dense.mask[:, :, None] & dense.mask[:, None]).triu(1)
    assert float(((logits > 0) == (dense.e > 0))[pairs].double().mean()) > 0.9
    made = Graphs.of_dataset(HypDiff(grid="uniform:15")(case(), prior, 0).data)
    assert len(made) == 24
    assert abs(made.edges.mean() - toy().edges.mean()) < 3
    assert set(prior.facts["sizes"]) == {"6", "7"}
    assert "the decoder restores" in prior.card


@pytest.mark.slow
def test_the_first_graphs_of_many_are_those_of_few(prior):
    few, many = (Graphs.of_dataset(HypDiff(grid="uniform:4")(case(count), prior, 1).data) for count in (5, 12))
    assert all(np.array_equal(few[i], many[i]) for i in range(5))
    likely = HypDiff(grid="uniform:4", edges="likely", nodes="7")(case(5), prior, 1)
    assert likely.nfe == 4


def test_compositions_are_those_of_graphs_of_the_size():
    mask = torch.arange(8) < torch.tensor([5, 5, 8])[:, None]
    found = assigned(mask, [[2, 3], [4, 2]], NoiseSource(0, range(3)))
    assert found[0].tolist() == [0, 0, 1, 1, 1, 0, 0, 0]
    assert found[1].tolist() == found[0].tolist()
    assert found[2].max() <= 1
    with pytest.raises(CheckpointError, match="does not say how many nodes"):
        assigned(mask, [], NoiseSource(0, range(3)))


def test_bad_options_and_molecules_are_refused(tmp_path):
    with pytest.raises(UserError, match="must be at least 1"):
        HypDiffTraining(dim=0)
    with pytest.raises(UserError, match="kappa positive"):
        HypDiffTraining(kappa=0)
    with pytest.raises(UserError, match="'drawn' or 'likely'"):
        HypDiff(edges="all")  # type: ignore[arg-type]
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    with pytest.raises(DataError, match="model of plain graphs"):
        HypDiffTraining().fit(molecule_set(["CCO", "CC", "CO", "CN"], key="m"), tmp_path)
