"""Drawing with GDSS: laws of a start, states and graphs, one loop for every published sampler, and what a graph may depend on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.protocols import Case
from unstir.solver import S4, EulerMaruyama, PredictorCorrector
from unstir_molecules.atoms import QM9
from unstir_molecules.dense import Dense
from unstir_molecules.gdss.generation import GDSS
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import Leaf, Preset, denoiser_of, facts_of
from unstir_molecules.gdss.state import graphs_of, moments_of, started, state_of
from unstir_molecules.graphs import Graphs
from unstir_molecules.molecules import molecule_set

TINY = Preset(9, 4, x=Leaf("vp", 0.1, 1.0), a=Leaf("ve", 0.2, 1.0), layers=2, hidden=8, attention=8, snr=0.1, scale=0.7, steps=6)


def prior(molecules: bool = False, settings: Preset = TINY, **facts: Any) -> Any:
    torch.manual_seed(0)
    denoiser: Any = denoiser_of(settings, GDSSNetwork(**settings.network())).eval()
    known = {"sizes": {"3": 2, "6": 1, "9": 3}, "vocabulary": QM9.as_dict() if molecules else None}
    denoiser.facts = facts_of(settings, known | facts)
    return denoiser


def case(count: int, measurement: Any = None) -> Case:
    return Case("case", None, measurement, {"count": count})


def path(nodes: int) -> Dense:
    """A path as a batch of one."""
    e = torch.zeros(1, nodes, nodes, dtype=torch.long)
    for i in range(nodes - 1):
        e[0, i, i + 1] = e[0, i + 1, i] = 1
    return Dense.of(None, e, [nodes])


# States


def test_degrees_and_kinds_become_one_hot_and_come_back() -> None:
    graphs = path(4).padded(6)
    state = state_of(graphs, 3, molecules=False)
    assert state["x"][0].argmax(-1).tolist() == [1, 2, 2, 1, 0, 0]
    assert state["x"].sum() == 4
    back = graphs_of(state["x"], state["a"], graphs.mask, molecules=False)
    assert torch.equal(back.e, graphs.e)
    kinds = Dense.of(torch.tensor([[2, 0, 1]]), torch.tensor([[[0, 2, 0], [2, 0, 1], [0, 1, 0]]]), [3])
    state = state_of(kinds, 4, molecules=True)
    back = graphs_of(state["x"], state["a"], kinds.mask, molecules=True)
    assert torch.equal(back.x, kinds.x)
    assert torch.equal(back.e, kinds.e)


def test_a_degree_beyond_the_features_is_refused_in_a_sentence() -> None:
    with pytest.raises(DataError, match="2 neighbours, and the model has 2 features.*features=3"):
        state_of(path(4), 2, molecules=False)
    with pytest.raises(DataError, match="kind 2"):
        state_of(Dense.of(torch.tensor([[2, 0]]), torch.zeros(1, 2, 2, dtype=torch.long), [2]), 2, molecules=True)


def test_edges_begin_at_a_half() -> None:
    a = torch.tensor([[[0.0, 0.49, 0.5], [0.49, 0.0, -1.0], [0.5, -1.0, 0.0]]])
    graphs = graphs_of(torch.zeros(1, 3, 2), a, torch.ones(1, 3, dtype=torch.bool), molecules=False)
    assert graphs.e[0].tolist() == [[0, 0, 1], [0, 0, 0], [1, 0, 0]]


def test_moments_are_those_of_present_nodes_and_pairs() -> None:
    found = moments_of(path(4).padded(7), 3, molecules=False)
    assert found["x"] == [[0.0, 0.5, 0.5], [0.0, 0.25, 0.25]]
    assert found["a"][0] == pytest.approx([0.5])  # 3 edges of 6 pairs
    assert found["a"][1] == pytest.approx([0.25])


def test_starts_have_the_laws_they_say() -> None:
    """10,000 nodes and 40,000 pairs: standard deviations to .01, means to .02."""
    mask = torch.ones(1000, 10, dtype=torch.bool)
    generator, process = torch.Generator().manual_seed(0), TINY.process
    unit = {"x": torch.randn(1000, 10, 1, generator=generator), "a": torch.randn(1000, 10, 10, generator=generator)}
    published = started(unit, process, "published", None, mask)
    assert float(published["x"].std()) == pytest.approx(1, abs=0.03)  # vp: N(0, 1), though the process ends at .76 x_0 + .65 eps
    assert float(published["a"].std()) == pytest.approx(1, abs=0.03)  # ve: its sigma_max
    moments = {"x": [[0.5], [0.09]], "a": [[0.2], [0.16]]}
    matched = started(unit, process, "matched", moments, mask)
    alpha, sigma = 0.759572, 0.650423
    pairs = ~torch.eye(10, dtype=torch.bool).expand(1000, 10, 10)
    assert float(matched["x"].mean()) == pytest.approx(alpha * 0.5, abs=0.03)
    assert float(matched["x"].std()) == pytest.approx(math.sqrt(alpha**2 * 0.09 + sigma**2), abs=0.02)
    assert float(matched["a"][pairs].mean()) == pytest.approx(0.2, abs=0.03)
    assert float(matched["a"][pairs].std()) == pytest.approx(math.sqrt(0.16 + 1), abs=0.02)
    assert float(matched["a"][~pairs].abs().max()) == 0
    with pytest.raises(UserError, match="needs the mean and variance"):
        started(unit, process, "matched", None, mask)


# Samplers


def test_each_sampler_is_the_published_one() -> None:
    own = facts_of(TINY, {})["sampler"]
    assert GDSS().solver(own) == PredictorCorrector(EulerMaruyama("time"), snr=0.1, noise=0.7, first=True)
    assert GDSS(predictor="reverse", snr=0.2, norms="batch").solver(own) == PredictorCorrector(
        EulerMaruyama("reverse"), snr=0.2, noise=0.7, norms="batch", first=True
    )
    assert GDSS(predictor="s4", scale=0.9).solver(own) == S4(snr=0.1, noise=0.9, variant="published")
    assert repr(GDSS(predictor="dpm++2m").solver(own)).startswith("Multistep")


@pytest.mark.parametrize(("options", "nfe"), [({}, 12), ({"predictor": "reverse"}, 12), ({"predictor": "s4"}, 6), ({"snr": 0.0}, 6)])
@pytest.mark.parametrize("norms", ["sample", "batch"])
def test_every_sampler_takes_the_evaluations_it_says(options: dict[str, Any], nfe: int, norms: Any) -> None:
    found = GDSS(norms=norms, **options)(case(5), prior(), seed=3)
    assert found.nfe == nfe
    assert found.data.sizes["graph"] == 5
    assert (found.data["nodes"].values <= 9).all()


def test_a_graph_does_not_depend_on_how_many_are_drawn() -> None:
    few = Graphs.of_dataset(GDSS()(case(3), prior(), seed=5).data)
    many = Graphs.of_dataset(GDSS()(case(9), prior(), seed=5).data)
    for i in range(3):
        assert np.array_equal(few[i], many[i])


def test_a_graph_does_not_depend_on_those_drawn_beside_it() -> None:
    mask = torch.arange(9) < torch.tensor([9, 9, 4])[:, None]
    whole = GDSS().draw(prior(), mask, seed=1)[0]
    first = GDSS().draw(prior(), mask[:2], seed=1)[0]
    assert torch.equal(whole.e[:2], first.e)


def test_published_norms_make_a_graph_depend_on_its_batch_and_ours_do_not() -> None:
    mask = torch.ones(4, 6, dtype=torch.bool)

    def states(method: GDSS, rows: int) -> torch.Tensor:
        import unstir

        den = prior()
        den.shape = {"x": (6, 4), "a": (6, 6)}
        start = ({"x": torch.zeros(rows, 6, 4), "a": torch.zeros(rows, 6, 6)}, 1.0)
        run: Any = unstir.sample(
            den, rows, solver=method.solver(den.facts["sampler"]), grid="uniform:4,t_min=1e-4", condition={"mask": mask[:rows]}, start=start
        )
        return run.x["a"]

    ours, theirs = GDSS(), GDSS(norms="batch")
    torch.testing.assert_close(states(ours, 2), states(ours, 4)[:2], rtol=0, atol=1e-5)
    assert (states(theirs, 2) - states(theirs, 4)[:2]).abs().max() > 1e-4


def test_molecules_come_out_as_a_set_of_molecules() -> None:
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    found = GDSS()(case(4), prior(molecules=True), seed=2).data
    assert found.sizes["sample"] == 4
    assert {"smiles", "valid", "corrected", "problem"} <= set(found.data_vars)


def test_sizes_come_from_the_training_set_where_the_model_does_not_say_them() -> None:
    pytest.importorskip("rdkit", reason="RDKit is not installed")
    train = molecule_set(["CCO", "CCC", "CCN"])
    graphs = GDSS(start="matched")(Case("k", None, Graphs.of_dense(path(5)).dataset("k"), {"count": 4}), prior(sizes=None), seed=2)
    assert graphs.data["nodes"].values.max() <= 5
    assert GDSS()(Case("k", None, train, {"count": 2}), prior(molecules=True, sizes=None), seed=1).data.sizes["sample"] == 2


def test_sizes_may_be_asked_for() -> None:
    found = GDSS(nodes="4")(case(6), prior(), seed=2)
    assert found.data["nodes"].values.max() <= 4
    with pytest.raises(UserError, match="up to 9 nodes"):
        GDSS(nodes="12")(case(2), prior(), seed=2)


def test_other_checkpoints_and_options_are_refused() -> None:
    other = prior()
    other.facts = {"sizes": {"3": 1}}
    with pytest.raises(CheckpointError, match="no GDSS model"):
        GDSS().check_prior(other)
    for options, sentence in (
        ({"norms": "all"}, "norms must be"),
        ({"start": "zero"}, "start must be"),
        ({"batch": 0}, "batch must be"),
        ({"predictor": "eulr"}, "eulr"),
    ):
        with pytest.raises(UserError, match=sentence):
            GDSS(**options)  # type: ignore[arg-type]
