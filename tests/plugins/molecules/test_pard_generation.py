"""Generation block by block: the law it draws from by enumeration, keyed samples, counted evaluations, and training that learns."""

from __future__ import annotations

import itertools
import json
import math

import networkx as nx
import pytest
import torch

from unstir.denoiser import NetworkDenoiser
from unstir.errors import CheckpointError, UnknownName, UserError
from unstir.plugin.protocols import Case
from unstir.process import EDM
from unstir_molecules.atoms import Vocabulary
from unstir_molecules.dense import Dense
from unstir_molecules.graphs import Graphs
from unstir_molecules.molecules import molecule_set
from unstir_molecules.pard.blocks import Ordered, scene_of
from unstir_molecules.pard.denoiser import bound, denoiser_of
from unstir_molecules.pard.generation import PARD, generate
from unstir_molecules.pard.network import PARDNetwork
from unstir_molecules.pard.presets import PRESETS
from unstir_molecules.pard.training import BlockLoss, PARDTraining, TrainingBlocks
from unstir_molecules.training_sets import TrainingGraphs

TINY = {"width": 32, "layers": 2, "edge_width": 16, "products": 8, "heads": 2, "batch": 24, "diffusion": 8}
PATHS = Graphs.of_networkx([nx.path_graph(n) for n in (3, 4, 5)] * 10).dataset("paths")


def small(kinds: tuple[int, int] = (2, 3), largest: int = 5, seed: int = 0, first: list[float] | None = None):
    torch.manual_seed(seed)
    network = PARDNetwork(*kinds, largest, width=16, edge_width=8, products=4, layers=2, heads=2).double().eval()
    network.first.copy_(torch.tensor(first or [0.0] + [1 / largest] * largest))
    return denoiser_of(network)


def is_path(graph: nx.Graph) -> bool:
    return len(graph) > 0 and nx.is_tree(graph) and max(dict(graph.degree).values()) <= 2


def test_the_law_of_what_is_generated_is_the_product_of_its_parts():
    """Graphs of one or two nodes, every history enumerated (block sizes, degrees, two steps of an edge): chi-square of 3000 graphs."""
    denoiser, steps = small((1, 2), 2, first=[0.0, 0.6, 0.4]), 2
    network, process = denoiser.network, denoiser.process.leaves["edges"]
    alpha = [float(process.alpha(i / steps)) for i in range(steps + 1)]

    def ordered(block: list[int], degree: list[int]) -> Ordered:
        graphs = Dense.of(None, torch.zeros(1, len(block), len(block)).long(), torch.tensor([len(block)]))
        return Ordered(graphs, torch.tensor([block]), torch.tensor([degree]))

    def following(so_far: Ordered | None, size: int, stage: int) -> tuple[float, torch.Tensor]:
        """Chance of a size, and the law of the degree given it (cut to what fits)."""
        nothing = Ordered(Dense.of(None, torch.zeros(1, 1, 1).long(), torch.tensor([0])), torch.tensor([[-1]]), torch.zeros(1, 1).long())
        known = so_far or nothing
        condition = known.condition(torch.tensor([stage]))
        state = {"edges": torch.zeros_like(condition["known_edges"])}
        with torch.no_grad():
            h, _, _ = network.seen(scene_of(state, condition, "causal"), torch.zeros(1))
            prefix = network.prefix(h, condition)[:, 0]
            there = int((known.block >= 0).sum())
            sizes = network.first.double()[None] if stage == 0 else torch.softmax(network.next_size(prefix), -1)
            sizes = sizes * (torch.arange(3) <= 2 - there)
            degrees = torch.softmax(network.degrees(prefix, torch.tensor([size])), -1) * (torch.arange(2) < max(there + size, 1))
        return float((sizes / sizes.sum())[0, size]), (degrees / degrees.sum())[0]

    def edge_law(so_far: Ordered, stage: int) -> torch.Tensor:
        law = torch.tensor([0.5, 0.5], dtype=torch.float64)
        condition = so_far.condition(torch.tensor([stage]))
        for i in range(steps, 0, -1):
            new = torch.zeros(2, dtype=torch.float64)
            for edge in range(2):
                with torch.no_grad():
                    belief = denoiser({"edges": torch.tensor([[[0, edge], [0, 0]]])}, i / steps, condition)["edges"][:, 0, 1][None]
                new += law[edge] * process.posterior(torch.tensor([[edge]]), belief, alpha[i], alpha[i - 1])[0, 0]
            law = new
        return law

    chances = torch.zeros(3, dtype=torch.float64)  # one node; two without an edge; two with one
    (one, _), (two, degrees) = following(None, 1, 0), following(None, 2, 0)
    for degree in range(2):
        chances[1:] += two * degrees[degree] * edge_law(ordered([0, 0], [degree, degree]), 0)
    _, first = following(None, 1, 0)
    for degree in range(2):
        begun = ordered([0], [degree])
        stop, _ = following(begun, 0, 1)
        chances[0] += one * first[degree] * stop
        more, second = following(begun, 1, 1)
        for other in range(2):
            chances[1:] += one * first[degree] * more * second[other] * edge_law(ordered([0, 1], [degree, other]), 1)
    assert float(chances.sum()) == pytest.approx(1, abs=1e-12)
    made = generate(denoiser, 3000, steps=steps, seed=5).ordered.graphs
    found = torch.bincount((made.sizes - 1) * (1 + made.e[:, 0, 1]), minlength=3).double()
    chi = float(((found - 3000 * chances).square() / (3000 * chances)).sum())
    assert chi < 2 + 4 * math.sqrt(4)  # two degrees of freedom, four standard deviations


def test_a_graph_depends_on_the_seed_and_its_number_alone():
    denoiser = small()
    whole = generate(denoiser, 12, steps=5, seed=3)
    for other in (generate(denoiser, 12, steps=5, seed=3, batch=5), generate(denoiser, 7, steps=5, seed=3)):
        n, width = len(other.ordered), other.ordered.graphs.x.shape[1]
        assert torch.equal(other.ordered.graphs.x, whole.ordered.graphs.x[:n, :width])
        assert torch.equal(other.ordered.graphs.e, whole.ordered.graphs.e[:n, :width, :width])
        assert torch.equal(other.nfe, whole.nfe[:n])
    assert not torch.equal(generate(denoiser, 12, steps=5, seed=4).ordered.graphs.e, whole.ordered.graphs.e)


@pytest.mark.parametrize("solver", ["discrete-ancestral", "tau-leaping"])
def test_what_is_generated_is_a_batch_of_graphs_and_evaluations_are_counted(solver: str):
    made = generate(small(), 40, steps=4, solver=solver, seed=0)
    graphs, ordered = made.ordered.graphs, made.ordered
    graphs.check(2, 3)
    assert int(graphs.sizes.min()) >= 1
    assert int(graphs.sizes.max()) <= 5
    assert torch.equal(made.nfe, ordered.blocks * (4 + 1) + 1)  # a block's steps, and a look for what follows each prefix


def test_no_graphs_are_none():
    made = generate(small(), 0, steps=2)
    assert len(made.ordered) == 0
    assert len(made.nfe) == 0


@pytest.mark.slow
def test_the_loop_learns_paths(tmp_path):
    """Blocks, sizes and stops of paths of 3 to 5 nodes after 120 steps of a tiny network; an untrained one makes almost none."""
    training = PARDTraining(preset="graphs-cpu", steps=120, rate=4e-3, warmup=10, ema=0.9, every=10**6, **TINY)
    sampler = TrainingBlocks.of(TrainingGraphs.of(PATHS), training)
    trainer = training.trainer(sampler)
    losses = trainer.run(tmp_path)
    denoiser = training.averaged(trainer, sampler)
    assert sum(losses[-10:]) < 0.3 * sum(losses[:10])
    shares = []
    for model in (training.denoiser(sampler).eval(), denoiser):
        made = Graphs.of_dense(generate(model, 100, steps=8, seed=0).ordered.graphs).to_networkx()
        shares.append(sum(map(is_path, made)) / 100)
    assert shares[1] > 0.75 > 0.3 > shares[0]
    assert float(bound(denoiser, sampler.held(), steps=8)["total"].mean()) < 6


def test_sizes_and_degrees_cost_the_same_in_one_pass_as_prefix_by_prefix():
    """Of a causal network; that the blocks' own bounds add up is in test_pard_network."""
    training = PARDTraining(preset="graphs-cpu", **TINY)
    sampler = TrainingBlocks.of(TrainingGraphs.of(PATHS), training)
    denoiser = training.denoiser(sampler)
    drawn = sampler.ordered.take(list(range(6))).trimmed()
    every, stage = drawn.prefixes()
    following = [BlockLoss(1, 0.0, weight) for weight in (0.0, 1.0)]
    parts = []
    for ordered, at in ((drawn, None), (every, stage)):
        condition = ordered.condition(at)
        x0 = ordered.state(condition, 1)
        low, high = (loss(denoiser, x0, torch.Generator().manual_seed(0), condition).item() for loss in following)
        parts.append(high - low)
    assert parts[0] == pytest.approx(parts[1], rel=1e-4)


@pytest.mark.parametrize("mode", ["parallel", "sequential"])
def test_a_training_writes_a_checkpoint_that_generates(tmp_path, mode: str, monkeypatch):
    from unstir import checkpoint, registry

    resolve = registry.resolve
    monkeypatch.setattr(registry, "resolve", lambda group, name: PARDNetwork if name == "molecules/pard" else resolve(group, name))
    smiles = ["CCO", "CC=O", "C#N", "CCN", "C1CC1", "OCC=O", "CCCC", "CNC"] * 6
    training = PARDTraining(mode=mode, steps=4, every=4, **TINY)
    folder = training.fit(molecule_set(smiles, key="few"), tmp_path / mode)
    prior = checkpoint.load(folder)
    assert Vocabulary.of_dict(prior.facts["vocabulary"]).atoms == ("C", "O", "N")
    assert json.loads((folder / "validation.jsonl").read_text())["nats"]["total"] > 0
    case = Case("few", None, None, {"count": 5})
    estimate = PARD()(case, prior, 0)
    assert estimate.data.sizes["sample"] == 5
    assert estimate.data.identical(PARD(batch=2)(case, prior, 0).data)
    assert estimate.info["steps"] == 8
    assert estimate.nfe == math.ceil(estimate.info["blocks"] * 9 + 1 - 1e-9)


def test_graphs_end_in_a_set_of_graphs(tmp_path):
    denoiser = small((1, 2))
    denoiser.facts = {"vocabulary": None, "sizes": {"3": 1}, "diffusion": 3}
    found = PARD()(Case("graphs", None, None, {"count": 6}), denoiser, 0).data
    assert found.sizes["graph"] == 6
    assert found.attrs["key"] == "graphs"


def test_a_checkpoint_of_another_kind_is_refused():
    other = NetworkDenoiser(torch.nn.Linear(1, 1), EDM(), shape=(1,), parameterisation="edm")
    other.facts = {"sizes": {"3": 1}}
    with pytest.raises(CheckpointError, match="no model of blocks"):
        PARD().check_prior(other)
    other.facts = {}
    with pytest.raises(CheckpointError, match="no model of graphs"):
        PARD().check_prior(other)


def test_options_out_of_range_are_refused():
    for bad in ({"mode": "both"}, {"hops": -1}, {"batch": 0}, {"decay": 2.0}, {"weighting": "degree"}, {"rate": 0.0}):
        with pytest.raises(UserError):
            PARDTraining(**bad)
    with pytest.raises(UnknownName):
        PARDTraining(preset="qm10")
    for bad in ({"batch": 0}, {"steps": -1}, {"solver": "none"}):
        with pytest.raises(UserError):
            PARD(**bad)
    with pytest.raises(UserError, match="told the blocks"):
        BlockLoss()(small(), {}, torch.Generator())


def test_presets_are_those_of_the_paper():
    table = {"qm9": (256, 8, 64, 128, 100, 4e-4, 3), "zinc250k": (256, 8, 64, 128, 70, 4e-4, 3), "moses": (256, 8, 64, 128, 40, 2e-4, 3)}
    table |= {"grid": (256, 10, 48, 2, 700, 3e-3, 1), "planar": (256, 10, 32, 6, 400, 3e-4, 1), "sbm": (128, 6, 32, 24, 300, 2e-4, 1)}
    for name, row in table.items():
        preset = PRESETS[name]
        assert (preset.width, preset.layers, preset.edge_width, preset.batch, preset.epochs, preset.rate, preset.hops) == row
        assert preset.diffusion == (40 if name == "sbm" else 50)
        assert PARDTraining(preset=name, width=64).chosen.width == 64
    for width, heads in itertools.product((64, 96, 128, 256), (4, 8)):
        assert width % heads == 0
