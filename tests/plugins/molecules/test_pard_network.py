"""The network of blocks: no leak, equivariance, and one prediction whichever way it is asked; its bound against enumeration."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.process import Categorical
from unstir.train import VLB, nelbo
from unstir_molecules.dense import Dense
from unstir_molecules.pard.blocks import Ordered, scene_of
from unstir_molecules.pard.denoiser import bound, denoiser_of, next_losses, process_of
from unstir_molecules.pard.network import PARDNetwork

KINDS = (3, 4)


def made(visibility: str = "causal", kinds: tuple[int, int] = KINDS, largest: int = 9, seed: int = 0) -> PARDNetwork:
    torch.manual_seed(seed)
    return PARDNetwork(*kinds, largest, width=16, edge_width=8, products=4, layers=3, heads=2, visibility=visibility).double().eval()


def some(count: int = 5, n: int = 7, kinds: tuple[int, int] = KINDS, seed: int = 0) -> Ordered:
    g = torch.Generator().manual_seed(seed)
    e = torch.triu(torch.randint(1, kinds[1], (count, n, n), generator=g) * (torch.rand(count, n, n, generator=g) < 0.4), 1)
    x = torch.randint(kinds[0], (count, n), generator=g)
    return Ordered.of(Dense.of(x, e + e.mT, torch.randint(3, n + 1, (count,), generator=g)))


def noisy(ordered: Ordered, condition: dict[str, Tensor], seed: int = 1) -> dict[str, Tensor]:
    g = torch.Generator().manual_seed(seed)
    nodes = torch.randint(KINDS[0], ordered.block.shape, generator=g)
    edges = torch.randint(KINDS[1], ordered.graphs.e.shape, generator=g)
    return {"nodes": nodes * condition["free"], "edges": edges * condition["pairs"]}


def told(network: PARDNetwork, ordered: Ordered, state: dict[str, Tensor], condition: dict[str, Tensor]) -> dict[str, Tensor]:
    label = torch.full((len(ordered),), 0.4)
    with torch.no_grad():
        return network(state, {"nodes": label, "edges": label}, condition)


def renumbered(value: Tensor, order: Tensor, axes: int) -> Tensor:
    """Rows, and columns where there are two axes of nodes, in another order."""
    rows = torch.arange(len(value))[:, None]
    return value[rows, order] if axes == 1 else value[rows[..., None], order[:, :, None], order[:, None, :]]


def of_block(ordered: Ordered, stage: int) -> tuple[Tensor, Tensor]:
    condition = ordered.condition(torch.full((len(ordered),), stage))
    return condition["free"], condition["pairs"]


def test_the_prediction_of_a_block_knows_nothing_of_that_block_nor_of_later_ones():
    """Everything that is not the past or the block's own noise is replaced, in turn for every block: not one bit moves."""
    network, ordered = made(), some()
    condition = ordered.condition()
    state = noisy(ordered, condition)
    base = told(network, ordered, state, condition)
    for stage in range(int(ordered.block.max()) + 1):
        free, pairs = of_block(ordered, stage)
        later = torch.maximum(ordered.block[:, :, None], ordered.block[:, None, :]) >= stage
        other = dict(condition)
        for key, mask, kinds in (("known_nodes", ordered.block >= stage, KINDS[0]), ("known_edges", later, KINDS[1])):
            other[key] = torch.where(mask, (condition[key] + 1) % kinds, condition[key])
        other["degree"] = torch.where(ordered.block > stage, condition["degree"] + 1, condition["degree"]) % 9
        moved = {
            "nodes": torch.where(free, state["nodes"], (state["nodes"] + 1) % KINDS[0]),
            "edges": torch.where(pairs, state["edges"], (state["edges"] + 1) % KINDS[1] * condition["pairs"]),
        }
        found = told(network, ordered, moved, other)
        assert torch.equal(found["nodes"][free], base["nodes"][free])
        assert torch.equal(found["edges"][pairs], base["edges"][pairs])
        assert torch.equal(found["size"][:, stage], base["size"][:, stage])
        assert torch.equal(found["degree"][:, stage], base["degree"][:, stage])


def test_the_prediction_of_a_block_does_hear_of_the_past_and_of_its_own_noise():
    network, ordered = made(), some()
    condition = ordered.condition()
    state = noisy(ordered, condition)
    base, (free, pairs) = told(network, ordered, state, condition), of_block(ordered, 1)
    past = {**condition, "known_nodes": torch.where(ordered.block == 0, (condition["known_nodes"] + 1) % 3, condition["known_nodes"])}
    own = {**state, "edges": torch.where(pairs, (state["edges"] + 1) % 4, state["edges"])}
    for found in (told(network, ordered, state, past), told(network, ordered, own, condition)):
        assert not torch.allclose(found["nodes"][free], base["nodes"][free])
    assert not torch.allclose(told(network, ordered, state, past)["size"][:, 1:], base["size"][:, 1:])


def test_all_blocks_at_once_and_one_after_the_other_are_one_prediction():
    """To rounding in float64: the two scenes differ in the places of the same sums."""
    network, ordered = made(), some()
    condition = ordered.condition()
    state = noisy(ordered, condition)
    whole = told(network, ordered, state, condition)
    for stage in range(int(ordered.block.max()) + 2):
        single = ordered.condition(torch.full((len(ordered),), stage))
        free, pairs = single["free"], single["pairs"]
        found = told(network, ordered, {"nodes": state["nodes"] * free, "edges": state["edges"] * pairs}, single)
        torch.testing.assert_close(found["nodes"][free], whole["nodes"][free], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found["edges"][pairs], whole["edges"][pairs], rtol=1e-11, atol=1e-12)
        reached = stage <= ordered.blocks
        torch.testing.assert_close(found["size"][reached, 0], whole["size"][reached, stage], rtol=1e-11, atol=1e-12)
        torch.testing.assert_close(found["degree"][reached, 0], whole["degree"][reached, stage], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("visibility", "staged"), [("causal", False), ("causal", True), ("prefix", True)])
def test_renumbering_the_nodes_renumbers_the_prediction(visibility: str, staged: bool):
    network, ordered = made(visibility), some()
    condition = ordered.condition(torch.ones(len(ordered)).long() if staged else None)
    state = noisy(ordered, condition)
    order = torch.stack([torch.randperm(7, generator=torch.Generator().manual_seed(i)) for i in range(len(ordered))])
    wide = {"known_edges": condition["known_edges"], "pairs": condition["pairs"] | condition["pairs"].mT}
    other = {key: value if key == "stage" else renumbered(wide.get(key, value), order, value.ndim - 1) for key, value in condition.items()}
    other["pairs"] = torch.triu(other["pairs"])
    edges = renumbered(state["edges"] + state["edges"].mT, order, 2)
    moved = {"nodes": renumbered(state["nodes"], order, 1), "edges": torch.triu(edges)}
    base, found = told(network, ordered, state, condition), told(network, ordered, moved, other)
    free, pairs = other["free"], other["pairs"]
    torch.testing.assert_close(found["nodes"][free], renumbered(base["nodes"], order, 1)[free], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found["edges"][pairs], renumbered(base["edges"], order, 2)[pairs], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found["size"], base["size"], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(("visibility", "staged"), [("causal", False), ("causal", True), ("prefix", True)])
def test_padding_and_batch_mates_change_no_prediction(visibility: str, staged: bool):
    network, ordered = made(visibility), some()
    stage = torch.ones(len(ordered)).long() if staged else None
    condition = ordered.condition(stage)
    state = noisy(ordered, condition)
    base = told(network, ordered, state, condition)
    wide = ordered.trimmed(9)
    pad = torch.nn.functional.pad
    padded = {"nodes": pad(state["nodes"], (0, 2)), "edges": pad(state["edges"], (0, 2, 0, 2))}
    found = told(network, wide, padded, wide.condition(stage))
    torch.testing.assert_close(found["nodes"][:, :7][condition["free"]], base["nodes"][condition["free"]], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found["edges"][:, :7, :7][condition["pairs"]], base["edges"][condition["pairs"]], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found["size"], base["size"], rtol=1e-11, atol=1e-12)
    alone = ordered.take([2])
    single = alone.condition(None if stage is None else stage[:1])
    found = told(network, alone, {key: value[[2]] for key, value in state.items()}, single)
    reached = slice(0, found["size"].shape[1])
    torch.testing.assert_close(found["size"][0], base["size"][2, reached], rtol=1e-11, atol=1e-12)
    torch.testing.assert_close(found["nodes"][single["free"]], base["nodes"][[2]][single["free"]], rtol=1e-11, atol=1e-12)


def test_clean_nodes_of_a_prefix_see_all_of_it_and_nothing_noisy():
    ordered = some()
    condition = ordered.condition(torch.ones(len(ordered)).long())
    scene = scene_of(noisy(ordered, condition), condition, "prefix")
    clean, target = ordered.block == 0, ordered.block == 1
    expected = (clean[:, :, None] & clean[:, None]) | (target[:, :, None] & (clean | target)[:, None])
    assert torch.equal(scene.sees, expected)
    assert torch.equal(scene.edges, scene.edges.mT)


def test_the_scene_is_transitive_so_that_nothing_leaks_through_layers():
    ordered = some()
    for condition in (ordered.condition(), ordered.condition(torch.ones(len(ordered)).long())):
        sees = scene_of(noisy(ordered, condition), condition, "causal").sees.long()
        assert ((sees @ sees > 0) <= (sees > 0)).all()


def test_what_cannot_be_asked_is_refused():
    ordered = some()
    condition = ordered.condition()
    with pytest.raises(UserError, match="causal"):
        told(made("prefix"), ordered, noisy(ordered, condition), condition)
    with pytest.raises(UserError, match="told the blocks"):
        made()({}, {}, None)
    with pytest.raises(UserError, match="up to 5 nodes"):
        told(made(largest=5), ordered, noisy(ordered, condition), condition)
    for bad in ({"visibility": "full"}, {"heads": 5}, {"hops": -1}):
        with pytest.raises(UserError):
            PARDNetwork(3, 4, **bad)


@pytest.mark.parametrize("noise", ["uniform", "marginal"])
def test_the_posterior_of_the_core_is_the_closed_form_of_the_paper(noise: str):
    """lambda and mu of PARD; the core's own tests hold it against brute-force Bayes (test_discrete)."""
    law = (0.5, 0.3, 0.2)
    process = Categorical(3, noise, law if noise == "marginal" else None, schedule="pard-cosine")
    m = process.stationary(torch.zeros(1, dtype=torch.float64))
    for i, x, k in itertools.product((1, 2, 25, 50), range(3), range(3)):
        at, earlier = (float(process.alpha(j / 50)) for j in (i, i - 1))
        a = at / earlier
        mu = (1 - earlier) / (1 - at)
        part = (1 - earlier) * (1 - a) * m[x] / (at + (1 - at) * m[x])
        delta = torch.eye(3, dtype=torch.float64)
        expected = (1 - part) * delta[x] + part * m if x == k else (1 - mu) * delta[k] + mu * a * delta[x] + mu * (1 - a) * m
        found = process.posterior(torch.tensor([[x]]), delta[k][None, None], at, earlier)[0, 0]
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_the_schedule_is_the_cosine_and_not_its_square():
    a = 0.008
    for t in (0.0, 0.02, 0.5, 0.98):
        expected = math.cos((t + a) / (1 + a) * math.pi / 2) / math.cos(a / (1 + a) * math.pi / 2)
        assert float(Categorical(4, "uniform", schedule="pard-cosine").alpha(t)) == pytest.approx(expected, rel=1e-14)


def test_the_bound_of_a_graph_is_the_sum_of_the_bounds_of_its_blocks():
    """With the same noise and step: the entries of the blocks are the entries of the graph, each once."""
    network, ordered = made(), some()
    denoiser = denoiser_of(network)
    condition = ordered.condition()
    x0 = ordered.state(condition)
    g = torch.Generator().manual_seed(0)
    noise = {leaf: torch.randn(value.shape, generator=g, dtype=torch.float64) for leaf, value in x0.items()}
    step = torch.tensor([1, 2, 10, 30, 50]).double()
    with torch.no_grad():
        whole = VLB(50, 5.0).terms(denoiser, x0, step, noise, condition)
        parts = torch.zeros_like(whole)
        for stage in range(int(ordered.block.max()) + 1):
            single = ordered.condition(torch.full((len(ordered),), stage))
            parts += VLB(50, 5.0).terms(denoiser, ordered.state(single), step, noise, single)
    torch.testing.assert_close(parts, whole, rtol=1e-11, atol=0)


def test_at_the_first_step_the_divergence_is_the_cross_entropy():
    network, ordered = made(), some()
    denoiser, condition = denoiser_of(network), ordered.condition()
    x0 = ordered.state(condition)
    zero = {leaf: torch.zeros(value.shape, dtype=torch.float64) for leaf, value in x0.items()}
    with torch.no_grad():
        kl, both = (VLB(1, weight).terms(denoiser, x0, torch.ones(len(ordered)).double(), zero, condition) for weight in (0.0, 1.0))
    torch.testing.assert_close(both, 2 * kl, rtol=1e-10, atol=0)


def test_concatenated_block_bounds_are_the_full_elbo_of_an_enumerable_graph():
    """Two nodes, two steps, every path of both blocks: E_q[log q(path | G) - log p(path, G)], and the parts that `bound` adds up."""
    kinds, steps = (2, 2), 2
    network = made(kinds=kinds, largest=3)
    network.first.copy_(torch.tensor([0.0, 0.7, 0.3, 0.0]))
    denoiser = denoiser_of(network)
    graphs = Dense.of(torch.tensor([[1, 0, 0]]), torch.tensor([[[0, 1, 1], [1, 0, 0], [1, 0, 0]]]), torch.tensor([3]))
    ordered = Ordered.of(graphs)
    assert ordered.block.tolist() == [[0, 1, 1]]
    total = torch.zeros((), dtype=torch.float64)
    for stage, entries in ((0, [("nodes", 0)]), (1, [("nodes", 1), ("nodes", 2), ("edges", 0, 1), ("edges", 0, 2), ("edges", 1, 2)])):
        total += path_elbo(denoiser, ordered, stage, entries, steps)
    many = bound(denoiser, graphs.take([0] * 2000), steps=steps, draws=4)
    found = {name: value.mean() for name, value in many.items()}
    error = float(many["diffusion"].std()) / math.sqrt(2000)
    assert float(found["diffusion"]) == pytest.approx(float(total), abs=4 * error)
    with torch.no_grad():
        condition = ordered.condition()
        output = told(network, ordered, ordered.state(condition), condition)
        following = next_losses(output, condition, network.first)
    chain = -math.log(0.7) - float(torch.log_softmax(output["size"], -1)[0, [1, 2], [2, 0]].sum())
    assert float(following["size"]) == pytest.approx(chain, rel=1e-6)
    assert float(found["total"]) == pytest.approx(float(found["diffusion"] + found["size"] + found["degree"]), rel=1e-12)


def path_elbo(denoiser, ordered: Ordered, stage: int, entries: list[tuple], steps: int) -> Tensor:
    """E_q[log q(x_1..x_T | x_0) - log p(x_0..x_T)] of one block by the sum over all paths, entry law by entry law."""
    condition = ordered.condition(torch.tensor([stage]))
    clean, process = ordered.state(condition), denoiser.process.leaves["edges"]
    alpha = [float(process.alpha(i / steps)) for i in range(steps + 1)]
    states = list(itertools.product(range(2), repeat=len(entries)))
    truth = tuple(int(clean[leaf][(0, *place)]) for leaf, *place in entries)

    def filled(values: tuple[int, ...]) -> dict[str, Tensor]:
        state = {leaf: torch.zeros_like(value) for leaf, value in clean.items()}
        for (leaf, *place), value in zip(entries, values, strict=True):
            state[leaf][(0, *place)] = value
        return state

    reverse = {}
    for i, values in itertools.product(range(1, steps + 1), states):
        with torch.no_grad():
            belief = denoiser(filled(values), i / steps, condition)
        law = []
        for (leaf, *place), v in zip(entries, values, strict=True):
            of_entry = belief[leaf][(0, *place)][None, None]
            law.append(process.posterior(torch.tensor([[v]]), of_entry, alpha[i], alpha[i - 1])[0, 0])
        reverse[i, values] = torch.stack(law).log()

    def forward(values: tuple[int, ...], before: tuple[int, ...], a: float) -> float:
        return sum(math.log(a * (v == b) + (1 - a) / 2) for v, b in zip(values, before, strict=True))

    total = torch.zeros((), dtype=torch.float64)
    for path in itertools.product(states, repeat=steps):
        chain = [truth, *path]
        q = sum(forward(chain[i], chain[i - 1], alpha[i] / alpha[i - 1]) for i in range(1, steps + 1))
        p = -len(entries) * math.log(2)
        for i in range(1, steps + 1):
            p += float(reverse[i, chain[i]].gather(1, torch.tensor(chain[i - 1])[:, None]).sum())
        total += math.exp(q) * (q - p)
    return total


def test_the_bound_is_that_of_the_core_for_a_staged_network_too():
    network, ordered = made("prefix"), some(2)
    denoiser = denoiser_of(network)
    found = bound(denoiser, ordered.graphs, steps=4, draws=4, seed=3)
    every, stage = ordered.prefixes()
    condition = every.condition(stage)
    parts = nelbo(denoiser, every.state(condition), draws=4, steps=4, condition=condition, seed=3)
    assert float(found["diffusion"].sum()) == pytest.approx(float(parts.sum()), rel=1e-12)
    assert stage.tolist() == [s for count in ordered.blocks.tolist() for s in range(count + 1)]


def test_graphs_without_kinds_of_nodes_have_edges_alone():
    assert list(process_of(1, 2).leaves) == ["edges"]
    network = made(kinds=(1, 2))
    ordered = some(kinds=(1, 2))
    found = bound(denoiser_of(network), ordered.graphs, steps=3)
    assert torch.isfinite(found["total"]).all()
