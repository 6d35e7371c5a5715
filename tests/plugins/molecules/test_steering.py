"""Steering of every model of molecules: scaffolds of real-valued states, choice among blocks, and a network that tells properties."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

pytest.importorskip("rdkit", reason="RDKit is not installed")

import unstir
from unstir.errors import CheckpointError, UserError
from unstir.process import VE, Joint
from unstir.steer import Moment
from unstir_molecules import making, property_guidance
from unstir_molecules.apply import MakeMolecules
from unstir_molecules.atoms import QM9
from unstir_molecules.build import dense_of, rebuilt
from unstir_molecules.dense import Dense
from unstir_molecules.discrete import SHAPE, SPACE, Discrete
from unstir_molecules.gdss.generation import GDSS
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import Leaf, Preset, denoiser_of, facts_of
from unstir_molecules.molecules import molecule_set
from unstir_molecules.pard.blocks import Ordered
from unstir_molecules.pard.choosing import Choice
from unstir_molecules.pard.denoiser import denoiser_of as blocks_of
from unstir_molecules.pard.generation import PARD, generate
from unstir_molecules.pard.memory import remembering
from unstir_molecules.pard.network import PARDNetwork
from unstir_molecules.property_guidance import Predicted, PropertyNetwork
from unstir_molecules.property_training import PropertyTraining
from unstir_molecules.steering import EnforcedEdges, Steering

LEAF = Leaf("ve", 0.1, 1.0)
TINY = Preset(9, 4, x=LEAF, a=LEAF, layers=2, hidden=8, attention=8, snr=0.1, scale=0.7, steps=6, molecules=True)
FACTS: dict[str, Any] = {"sizes": {"4": 2, "6": 1}, "vocabulary": QM9.as_dict()}
MASK = torch.arange(6) < torch.tensor([6, 4, 5])[:, None]


def gdss() -> Any:
    torch.manual_seed(0)
    denoiser: Any = denoiser_of(TINY, GDSSNetwork(**TINY.network())).eval()
    denoiser.facts = facts_of(TINY, FACTS)
    return denoiser


def blocks(largest: int = 5) -> Any:
    torch.manual_seed(0)
    network = PARDNetwork(QM9.kinds, len(QM9.bonds), largest, width=16, edge_width=8, products=4, layers=2, heads=2).double().eval()
    network.first.copy_(torch.tensor([0.0] + [1 / largest] * largest))
    denoiser: Any = blocks_of(network)
    denoiser.facts = FACTS
    return denoiser


def discrete() -> Any:
    from unstir.denoiser import TokenDenoiser
    from unstir.process import Categorical
    from unstir_molecules.transformer import GraphTransformer

    torch.manual_seed(0)
    sizes = {"width": 16, "edge_width": 8, "graph_width": 8, "heads": 2, "layers": 1, "mixes": 2}
    process = Joint({"nodes": Categorical(QM9.kinds, "uniform"), "edges": Categorical(len(QM9.bonds), "uniform")})
    denoiser: Any = TokenDenoiser(GraphTransformer(QM9.kinds, len(QM9.bonds), **sizes), process, dict(SHAPE), space=SPACE).eval()
    denoiser.facts = FACTS
    return denoiser


# Scaffolds


def ring(graphs: Dense) -> bool:
    """Do the first three nodes of every graph make cyclopropane, with no other bonds among them?"""
    part = graphs.e[:, :3, :3]
    return bool((graphs.x[:, :3] == QM9.atoms.index("C")).all() and (part == 1 - torch.eye(3, dtype=torch.long)).all())


@pytest.mark.parametrize("predictor", ["", "s4", "dpm++2m"])
def test_a_real_valued_model_holds_the_scaffold_with_and_without_noise(predictor: str) -> None:
    found, nfe = GDSS(scaffold="C1CC1", predictor=predictor).draw(gdss(), MASK, 0)
    assert ring(found)
    assert len(found) == 3
    assert nfe == GDSS(predictor=predictor).draw(gdss(), MASK, 0)[1]


def test_what_is_held_of_a_symmetric_matrix_has_the_noise_of_its_level() -> None:
    """20,000 entries: the deviation to .02, and both halves are one."""
    from unstir.noise import NoiseSource

    steer = EnforcedEdges(torch.ones(1, 20, 20), torch.zeros(1, 20, 20))
    moment = Moment(None, None, VE(), noise=NoiseSource(0, range(50)))  # type: ignore[arg-type]
    noise = steer._noise(torch.zeros(50, 20, 20), moment)
    off = ~torch.eye(20, dtype=torch.bool)
    assert torch.equal(noise, noise.mT)
    assert float(noise[:, off].std()) == pytest.approx(1, abs=0.02)


def test_a_model_of_blocks_begins_with_the_scaffold_and_grows_on() -> None:
    made = generate(blocks(), 12, steps=3, seed=1, steering=Steering(scaffold="C1CC1")).ordered.graphs
    assert ring(made)
    assert int(made.sizes.max()) > 3
    with pytest.raises(UserError, match="has 6 atoms, and this model makes up to 5"):
        generate(blocks(), 1, steps=2, steering=Steering(scaffold="CCCCCC"))


# Choice among blocks


def test_the_clean_part_of_a_block_is_remembered_and_nothing_changes() -> None:
    generator = torch.Generator().manual_seed(0)
    e = torch.triu(torch.randint(0, 4, (6, 9, 9), generator=generator) * (torch.rand(6, 9, 9, generator=generator) < 0.35), 1)
    graphs = Dense.of(torch.randint(0, 4, (6, 9), generator=generator), e + e.mT, torch.tensor([9, 7, 5, 8, 2, 1]))
    for visibility in ("causal", "prefix"):
        network = PARDNetwork(4, 4, 9, width=32, edge_width=16, products=8, layers=3, heads=2, visibility=visibility).eval()
        denoiser, ordered = blocks_of(network), Ordered.of(graphs, 3)
        asked = 0
        for stage in range(int(ordered.blocks.max())):
            part = ordered.take(torch.nonzero(ordered.blocks > stage)[:, 0])
            told = part.condition(torch.full((len(part),), stage))
            places = {"nodes": told["free"], "edges": told["pairs"]}
            state = {name: torch.randint(0, 4, where.shape, generator=generator) * where for name, where in places.items()}
            with torch.no_grad():
                whole, ours = denoiser(state, 0.4, told), remembering(denoiser, told)(state, 0.4, told)
            for name, where in places.items():
                torch.testing.assert_close(ours[name][where], whole[name][where], rtol=0, atol=1e-5)
                asked += int(where.sum())
        assert asked == int(graphs.mask.sum()) + int(torch.triu(graphs.pairs).sum())


class Growing:
    """Graphs that are known from the start."""

    def __init__(self, smiles: list[str], problems: int) -> None:
        self.here, self.index = dense_of(smiles * problems, QM9)[0], torch.arange(len(smiles) * problems)
        self.place = torch.arange(len(self.index))

    def graphs(self) -> Dense:
        return self.here.take(self.place)

    def take(self, index: torch.Tensor) -> None:
        self.place = self.place[index]


def chosen(by: str, problems: int = 400) -> tuple[torch.Tensor, torch.Tensor]:
    """How often each of three molecules is kept, and the softmax of their rewards."""
    growing = Growing(["C", "CO", "CCC"], problems)
    choice = Choice(Steering("logp", by, 3, 1.0), QM9, 5)  # type: ignore[arg-type]
    choice(growing, 0, torch.ones(3 * problems, dtype=torch.bool))
    choice.last(growing)
    shares = torch.bincount(growing.place % 3, minlength=3) / (3 * problems)
    return shares.double(), torch.softmax(choice.values(dense_of(["C", "CO", "CCC"], QM9)[0], torch.ones(3, dtype=torch.bool))[0], 0)


@pytest.mark.parametrize("by", ["svdd", "fk"])
def test_blocks_are_chosen_by_the_exponential_of_their_reward(by: str) -> None:
    """400 problems of the same three: shares within four standard errors."""
    shares, wanted = chosen(by)
    assert float((shares - wanted).abs().max()) < 4 * 0.5 / math.sqrt(400)


def test_the_weights_of_unfinished_graphs_cancel() -> None:
    """Whatever was gained on the way, the weights multiply to the exponential of the last reward."""
    growing, choice = Growing(["C", "CO", "CCC"], 2), Choice(Steering("logp", "fk", 3, 100.0), QM9, 0)
    every = torch.ones(6, dtype=torch.bool)
    choice(growing, 0, every)
    growing.here = dense_of(["CCC", "C", "CO"] * 2, QM9)[0]
    choice(growing, 1, every)
    torch.testing.assert_close(choice.log_weights, choice.values(growing.graphs(), every))


@pytest.mark.parametrize("by", ["svdd", "fk"])
def test_a_graph_chosen_by_reward_depends_on_the_seed_and_its_number_alone(by: Any) -> None:
    steering = Steering("logp", by, 3, 0.1)
    whole = generate(blocks(), 7, steps=3, seed=2, steering=steering)
    other = generate(blocks(), 4, steps=3, seed=2, steering=steering, batch=4)
    assert len(whole.ordered) == 7
    same = 4 if by == "svdd" else 3  # the last problem of particles is cut
    few, many = ([one.smiles for one in rebuilt(made.ordered.graphs, QM9)] for made in (other, whole))
    assert many[:same] == few[:same]
    assert int(whole.nfe.min()) >= (3 if by == "svdd" else 1)


# A network of properties


def test_properties_do_not_depend_on_the_order_of_nodes_nor_on_padding() -> None:
    torch.manual_seed(0)
    network = PropertyNetwork(4, 1, 2, width=16, layers=2).double()
    a = torch.randn(1, 5, 5).double()
    x, a, mask = torch.randn(1, 5, 4).double(), a + a.mT, torch.ones(1, 5, dtype=torch.bool)
    t, order = torch.tensor([0.3]).double(), torch.randperm(5)
    told = network({"x": x, "a": a}, t, {"mask": mask})
    torch.testing.assert_close(network({"x": x[:, order], "a": a[:, order][:, :, order]}, t, {"mask": mask}), told)
    pad = torch.nn.functional.pad
    wide = {"x": pad(x, (0, 0, 0, 2), value=3.0), "a": pad(a, (0, 2, 0, 2), value=3.0)}
    torch.testing.assert_close(network(wide, t, {"mask": pad(mask, (0, 2))}), told)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Networks of properties that have learnt nothing, in place of checkpoints."""

    def predicted(regressor: str, prior: Any, name: str, temperature: float) -> Predicted:
        torch.manual_seed(1)
        kinds = [prior.process.leaves[leaf].states for leaf in SHAPE] if prior.process.discrete else [4, 1]
        return Predicted(PropertyNetwork(*kinds, 1, width=16, layers=2), 0, temperature)

    monkeypatch.setattr(property_guidance, "predicted", predicted)


@pytest.mark.parametrize(("by", "options"), [("gradient", {}), ("gradient", {"scaffold": "C1CC1"}), ("tds", {"predictor": "ancestral"})])
def test_the_slope_of_a_property_steers_a_real_valued_model(told: None, by: Any, options: dict[str, Any]) -> None:
    method = GDSS(maximise="qed", by=by, regressor="r", particles=2, **options)
    found = method.draw(gdss(), MASK, 0)[0]
    plain = GDSS(**options).draw(gdss(), MASK, 0)[0]
    assert len(found) == 3
    assert not torch.equal(found.e, plain.e) or not torch.equal(found.x, plain.x)
    assert not options.get("scaffold") or ring(found)


def test_the_slope_of_a_property_steers_a_discrete_model_and_leaves_its_scaffold(told: None) -> None:
    method = Discrete(grid="uniform:4", maximise="qed", by="gradient", regressor="r", scaffold="C1CC1", temperature=0.01)
    found = method.draw(discrete(), MASK, 0)[0]
    assert ring(found)
    assert not torch.equal(found.e, Discrete(grid="uniform:4", scaffold="C1CC1").draw(discrete(), MASK, 0)[0].e)
    with pytest.raises(UserError, match="weighs Gaussian steps, and this model is of categories"):
        Discrete(grid="uniform:4", maximise="qed", by="tds", regressor="r").draw(discrete(), MASK, 0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Steering("qed", "gradient"), "give regressor"),
        (lambda: Steering("qed", "svdd", regressor="r"), "takes no regressor"),
        (lambda: Steering("qed", "tds", regressor="r", scaffold="C"), "which a scaffold changes"),
        (lambda: PARD(by="tds"), "steered by 'svdd' or 'fk'"),  # type: ignore[arg-type]
        (lambda: PropertyTraining(properties=()), "must be named"),
        (lambda: PropertyTraining(properties=("beauty",)), "no reward"),
    ],
)
def test_what_cannot_be_is_refused(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize("kind", [GDSS, PARD])
def test_the_command_hands_its_steering_to_every_kind_of_model(kind: Any) -> None:
    prior, said = gdss() if kind is GDSS else blocks(), []
    scaffold = "C1CCC1" if kind is GDSS else "C1CC1"
    made = MakeMolecules(model="m", maximise="logp", scaffold=scaffold, particles=2, steps=3).method(prior, said)
    assert isinstance(made, kind)
    assert made.steering.maximise == "logp"
    assert made.steering.copies == 2
    if kind is PARD:
        assert said == ["molecules begin with the 3 atoms of the scaffold and grow on from them"]
    tds = {"maximise": "qed", "by": "tds", "regressor": "r"}
    assert making.method_of(gdss(), nodes="", steps=0, model="m", steering=tds).predictor == "ancestral"


@pytest.mark.slow
def test_a_network_of_properties_learns_and_is_refused_by_another_model(tmp_path: Any) -> None:
    pytest.importorskip("lightning_fabric", reason="Lightning Fabric is not installed")
    from unstir_molecules.gdss.training import GDSSTraining

    item = molecule_set(["C", "CC", "CO", "CN", "CF", "C=O", "C#N", "C1CC1"] * 8, key="tiny")
    model = str(GDSSTraining(preset="qm9", batch=32, steps=2).fit(item, tmp_path / "model"))
    training = PropertyTraining(model=model, properties=("logp",), width=24, layers=2, steps=80, batch=32, rate=3e-3)
    folder = str(training.fit(item, tmp_path / "told"))
    told: Any = unstir.load(folder)
    assert told.facts["found"]["0.05"][0] < 0.8  # of the spread: 1 has learnt nothing
    prior = unstir.load(model)
    property_guidance.predicted(folder, prior, "logp", 1.0)
    for name, other, sentence in (("qed", prior, "was not taught 'qed'"), ("logp", discrete(), "the noise of another model")):
        with pytest.raises(CheckpointError, match=sentence):
            property_guidance.predicted(folder, other, name, 1.0)
    with pytest.raises(CheckpointError, match="tells no properties"):
        property_guidance.predicted(model, prior, "logp", 1.0)
    with pytest.raises(CheckpointError, match="is neither"):
        property_guidance.check_guided(blocks(), "m")
