"""The graph transformer: what it says does not depend on the order of nodes, on padding or on its batch."""

import pytest
import torch

from unstir_molecules.transformer import GraphTransformer


def network(**options):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = {"width": 32, "edge_width": 16, "graph_width": 16, "heads": 4, "layers": 2, "mixes": 4, "orders": (0, 1, 2, 3)} | options
        return GraphTransformer(4, 4, **made).eval()


def state(sizes=(9, 6, 1), size=9, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mask = torch.arange(size) < torch.tensor(sizes)[:, None]
    nodes = torch.randint(0, 4, (len(sizes), size), generator=generator) * mask
    edges = torch.triu(torch.randint(0, 4, (len(sizes), size, size), generator=generator), 1)
    edges = (edges + edges.mT) * mask[:, :, None] * mask[:, None]
    return {"nodes": nodes, "edges": edges}, mask


def times(count, t=0.4):
    return {"nodes": torch.full((count,), t), "edges": torch.full((count,), t)}


def test_renaming_nodes_renames_the_logits():
    model, (x, mask) = network(), state((9, 9))
    order = torch.randperm(9, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        plain = model(x, times(2), {"mask": mask})
        moved = model({"nodes": x["nodes"][:, order], "edges": x["edges"][:, order][:, :, order]}, times(2), {"mask": mask})
    torch.testing.assert_close(moved["nodes"], plain["nodes"][:, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(moved["edges"], plain["edges"][:, order][:, :, order], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(plain["edges"], plain["edges"].transpose(1, 2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("mixes", [0, 4])
def test_padding_and_neighbours_change_no_logit(mixes):
    model, (x, mask) = network(mixes=mixes), state((9, 6, 1), size=20)
    with torch.no_grad():
        together = model(x, times(3), {"mask": mask})
        for i, n in enumerate((9, 6, 1)):
            part = {"nodes": x["nodes"][i : i + 1, :n], "edges": x["edges"][i : i + 1, :n, :n]}
            alone = model(part, times(1), None)
            torch.testing.assert_close(together["nodes"][i, :n], alone["nodes"][0], atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(together["edges"][i, :n, :n], alone["edges"][0], atol=1e-5, rtol=1e-5)


def test_the_edges_of_a_kind_that_is_a_mask_are_no_edges():
    model, (x, mask) = network(), state((5,), size=5)
    hidden = {"nodes": torch.full_like(x["nodes"], 4), "edges": torch.where(x["edges"] >= 0, 4, 0)}
    with torch.no_grad():
        found = model(hidden, times(1), {"mask": mask})
    assert torch.isfinite(found["nodes"]).all()
    torch.testing.assert_close(found["nodes"][0, 0], found["nodes"][0, 4], atol=1e-5, rtol=1e-5)


def test_what_is_told_matters_and_nan_is_not_told():
    model, (x, mask) = network(targets=2), state((9, 9))
    with torch.no_grad():
        none = model(x, times(2), {"mask": mask})
        blank = model(x, times(2), {"mask": mask, "targets": torch.full((2, 2), torch.nan)})
        told = model(x, times(2), {"mask": mask, "targets": torch.tensor([[0.5, torch.nan]])})
    assert torch.equal(none["nodes"], blank["nodes"])
    assert not torch.allclose(none["nodes"], told["nodes"])


def test_gradients_reach_every_parameter_but_those_of_unused_kinds():
    model, (x, mask) = network(), state((9, 6))
    found = model(x, times(2), {"mask": mask})
    (found["nodes"].square().sum() + found["edges"].square().sum()).backward()
    last = model.layers[-1]
    unused = {id(p) for part in (last.graph, last.norm_g) for p in part.parameters()}
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if id(p) not in unused)
