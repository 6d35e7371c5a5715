"""GDSS's networks: a naive transcription of the equations, the published sizes and golden numbers, permutation and padding."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from unstir.errors import UserError
from unstir_molecules.gdss.attention import MLP, AttentionLayer, attention_maps, bounded, matrix_of, normalised, pairs_of, spread_over
from unstir_molecules.gdss.conversion import load, renamed
from unstir_molecules.gdss.networks import GDSSNetwork
from unstir_molecules.gdss.presets import PRESETS, Leaf, denoiser_of, preset
from unstir_molecules.gdss.training import GDSSLoss

YARDSTICKS = Path(__file__).parents[4] / "shared" / "data" / "molecules"
SMALL: dict[str, Any] = {"features": 4, "depth": 2, "layers": 3, "hidden": 8, "linears": 2}
KINDS: dict[str, dict[str, Any]] = {
    "plain": SMALL,
    "gmh": SMALL | {"gmh": True},
    "mlp": SMALL | {"conv": "mlp"},
    "wide": SMALL | {"attention": 4, "heads": 2, "channels": (3, 5, 2), "linears": 3},
}


def network(kind: str = "plain", **more: Any) -> GDSSNetwork:
    torch.manual_seed(0)
    return GDSSNetwork(**KINDS[kind] | more).double().eval()


def noisy(batch: int, nodes: int, features: int, sizes: list[int] | None = None, seed: int = 1) -> tuple[dict[str, Tensor], Tensor]:
    """Noisy weighted graphs with negative entries, and the mask."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, nodes, features, generator=generator, dtype=torch.float64)
    a = torch.randn(batch, nodes, nodes, generator=generator, dtype=torch.float64).triu(1)
    mask = torch.arange(nodes) < torch.tensor(sizes or [nodes] * batch)[:, None]
    both = mask[:, :, None] & mask[:, None]
    return {"x": x * mask[..., None], "a": (a + a.mT) * both}, mask


def ask(net: GDSSNetwork, state: dict[str, Tensor], mask: Tensor | None = None) -> dict[str, Tensor]:
    with torch.inference_mode():
        return net(state, None, None if mask is None else {"mask": mask})


# The equations, transcribed without any of the module's shortcuts


def plain_convolution(x: Tensor, a: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    a = a.clone()
    a.fill_diagonal_(1)
    scale = torch.diag(a.sum(1).clamp(min=1) ** -0.5)
    return scale @ a @ scale @ x @ weight + bias


def plain_mlp(mlp: MLP, x: Tensor) -> Tensor:
    for i, linear in enumerate(mlp.linears):
        x = linear(torch.nn.functional.elu(x) if i else x)
    return x


def plain_layer(layer: AttentionLayer, x: Tensor, stack: Tensor) -> tuple[Tensor, Tensor]:
    values, maps = [], []
    for c, a in enumerate(stack):
        q, k, v = (
            plain_convolution(x, a, w, b)
            for w, b in zip(
                layer.graph.weight[c].split(layer.graph.outputs, -1), layer.graph.bias[c].split(layer.graph.outputs), strict=True
            )
        )
        scores = [torch.tanh(q[:, part] @ k[:, part].T / math.sqrt(v.shape[1])) for part in torch.arange(q.shape[1]).chunk(layer.heads)]
        mean = sum(scores) / layer.heads
        values.append(v)
        maps.append((mean + mean.T) / 2)
    made = plain_mlp(layer.mlp, torch.stack([*maps, *stack], -1)).permute(2, 0, 1)
    return torch.tanh(plain_mlp(layer.multi_channel, torch.cat(values, -1))), made + made.mT


def test_both_networks_are_the_papers_equations_graph_by_graph() -> None:
    net = network()
    state, _ = noisy(3, 6, 4)
    found = ask(net, state)
    with torch.no_grad():
        for i in range(3):
            x, a = state["x"][i], state["a"][i]
            seen = [x]
            for layer in net.x.layers:  # type: ignore[union-attr]
                seen.append(torch.tanh(plain_convolution(seen[-1], a, layer.weight[0], layer.bias[0])))
            torch.testing.assert_close(found["x"][i], plain_mlp(net.x.final, torch.cat(seen, -1)))  # type: ignore[arg-type]
            stacks, h = [torch.stack([a, a @ a])], x
            for layer in net.a.layers:
                h, made = plain_layer(layer, h, stacks[-1])
                stacks.append(made)
            score = plain_mlp(net.a.final, torch.cat(stacks).permute(1, 2, 0))[..., 0]
            torch.testing.assert_close(found["a"][i], score - torch.diag(torch.diag(score)))


def test_the_gmh_network_has_a_tanh_more_after_each_layer() -> None:
    net = network("gmh")
    state, _ = noisy(1, 5, 4)
    x, a = state["x"][0], state["a"][0]
    seen, stack = [x], torch.stack([a, a @ a])
    with torch.no_grad():
        for layer in net.x.layers:  # type: ignore[union-attr]
            h, stack = plain_layer(layer, seen[-1], stack)  # type: ignore[arg-type]
            seen.append(torch.tanh(h))
        expected = plain_mlp(net.x.final, torch.cat(seen, -1))  # type: ignore[arg-type]
    torch.testing.assert_close(ask(net, state)["x"][0], expected)


def test_rows_of_a_noisy_matrix_that_sum_below_one_are_not_scaled_up() -> None:
    a = torch.tensor([[1.0, -3.0, 0.0], [-3.0, 1.0, 0.5], [0.0, 0.5, 1.0]], dtype=torch.float64)
    scale = torch.diag(torch.tensor([1.0, 1.0, 1.5], dtype=torch.float64) ** -0.5)
    torch.testing.assert_close(normalised(a[..., None])[..., 0], scale @ a @ scale)


def test_small_and_large_graphs_go_two_ways_to_one_result() -> None:
    """Side by side for graphs of up to 32 nodes and batches as large, one by one else."""
    generator = torch.Generator().manual_seed(0)
    a, x = torch.randn(2, 7, 7, 9, generator=generator), torch.randn(4, 7, 9, generator=generator)
    q, k = (torch.randn(2, 8, 7, 9, generator=generator) for _ in range(2))
    for b in (3, 9):
        each = torch.stack([spread_over(a[..., i : i + 1], x[..., i : i + 1])[..., 0] for i in range(b)], -1)
        torch.testing.assert_close(spread_over(a[..., :b].contiguous(), x[..., :b].contiguous()), each)
        maps = torch.stack([attention_maps(q[..., i : i + 1], k[..., i : i + 1], 4)[..., 0] for i in range(b)], -1)
        torch.testing.assert_close(attention_maps(q[..., :b].contiguous(), k[..., :b].contiguous(), 4), maps)


def test_pairs_and_matrices_turn_into_each_other() -> None:
    state, _ = noisy(2, 5, 1)
    matrix = state["a"].permute(1, 2, 0)
    torch.testing.assert_close(matrix_of(pairs_of(matrix), 5, 0.0), matrix, rtol=0, atol=0)
    assert (matrix_of(pairs_of(matrix), 5, 1.0).diagonal() == 1).all()
    values = torch.linspace(-9, 9, 1001)
    torch.testing.assert_close(bounded(values), torch.tanh(values), rtol=0, atol=3e-7)  # float32 beside 1


# Symmetry


@pytest.mark.parametrize("kind", KINDS)
def test_every_network_is_equivariant_to_the_order_of_nodes(kind: str) -> None:
    state, _ = noisy(3, 7, 4)
    order = torch.randperm(7, generator=torch.Generator().manual_seed(2))
    found = ask(network(kind), state)
    turned = ask(network(kind), {"x": state["x"][:, order], "a": state["a"][:, order][:, :, order]})
    torch.testing.assert_close(turned["x"], found["x"][:, order])
    torch.testing.assert_close(turned["a"], found["a"][:, order][:, :, order])


@pytest.mark.parametrize("kind", KINDS)
def test_padding_changes_nothing(kind: str) -> None:
    """From 9 to 20 nodes, in float32 to 1e-5."""
    net = network(kind).float()
    state, _ = noisy(4, 9, 4)
    small = {leaf: value.float() for leaf, value in state.items()}
    wide = {"x": torch.zeros(4, 20, 4), "a": torch.zeros(4, 20, 20)}
    wide["x"][:, :9], wide["a"][:, :9, :9] = small["x"], small["a"]
    found, padded = ask(net, small), ask(net, wide, torch.arange(20).expand(4, 20) < 9)
    for leaf in ("x", "a"):
        inside = padded[leaf][:, :9] if leaf == "x" else padded[leaf][:, :9, :9]
        torch.testing.assert_close(inside, found[leaf], rtol=0, atol=1e-5)
        assert padded[leaf].abs().sum() == pytest.approx(float(inside.abs().sum()), rel=1e-6)  # 0 elsewhere


@pytest.mark.parametrize("kind", KINDS)
def test_a_graph_does_not_see_its_neighbours_in_the_batch(kind: str) -> None:
    state, mask = noisy(5, 6, 4, sizes=[6, 1, 3, 2, 0])
    together = ask(network(kind), state, mask)
    for i in range(5):
        alone = ask(network(kind), {leaf: value[i : i + 1] for leaf, value in state.items()}, mask[i : i + 1])
        for leaf in ("x", "a"):
            torch.testing.assert_close(together[leaf][i : i + 1], alone[leaf])


def test_edges_come_out_symmetric_without_loops() -> None:
    state, mask = noisy(3, 6, 4, sizes=[6, 4, 2])
    a = ask(network(), state, mask)["a"]
    assert torch.equal(a, a.mT)
    assert (a.diagonal(dim1=1, dim2=2) == 0).all()


def test_gradients_flow_in_both_ways_of_multiplying() -> None:
    for batch, nodes in ((8, 5), (2, 5)):
        net = network()
        state, _ = noisy(batch, nodes, 4)
        out = net(state)
        (out["x"].square().sum() + out["a"].square().sum()).backward()
        without = {name for name, p in net.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()}
        assert {name.rsplit(".linears", 1)[0] for name in without} == {"a.layers.2.multi_channel"}  # nodes after the last layer: unused


# What was published


@pytest.mark.parametrize(
    ("name", "x", "a"),
    [
        ("ego-small", 44_093, 135_713),
        ("community-small", 72_434, 134_369),
        ("enzymes", 182_066, 204_113),
        ("grid", 170_081, 203_153),
        ("qm9", 8_564, 23_825),
        ("zinc250k", 11_429, 62_873),
        ("zinc250k-gmh", 22_721, 62_873),
    ],
)
def test_every_preset_has_the_published_number_of_parameters(name: str, x: int, a: int) -> None:
    net = GDSSNetwork(**preset(name).network())
    assert [sum(p.numel() for p in part.parameters()) for part in (net.x, net.a)] == [x, a]


def test_processes_have_the_golden_scales() -> None:
    vp, other, ve = Leaf("vp", 0.1, 1.0).process, Leaf("vp", 0.2, 0.8).process, Leaf("ve", 0.2, 1.0).process
    for t, mean, std in ((0.1, 0.992776, 0.119981), (0.5, 0.921963, 0.387278), (1.0, 0.759572, 0.650423)):
        assert (float(vp.alpha(t)), float(vp.sigma(t))) == pytest.approx((mean, std), abs=6e-7)
    assert (float(other.alpha(1.0)), float(other.sigma(1.0))) == pytest.approx((0.778801, 0.627271), abs=6e-7)
    for t, std, g in ((0.1, 0.234924, 0.421482), (0.5, 0.447214, 0.802356), (1.0, 1.0, 1.794123)):
        assert (float(ve.sigma(t)), float(ve.diffusion(t))) == pytest.approx((std, g), abs=6e-7)
    sub = Leaf("sub-vp", 0.1, 1.0).process
    assert float(sub.sigma(0.5)) == pytest.approx(1 - 0.921963**2, abs=2e-6)


def test_the_terminal_signal_is_said_and_a_longer_schedule_closes_the_gap() -> None:
    assert preset("community-small").terminal()["x"] == pytest.approx((0.759572 / 0.650423) ** 2, rel=1e-5)
    assert preset("qm9").terminal() == pytest.approx({"x": 1.0, "a": 1.0})
    for name in PRESETS:
        assert max(preset(name).closed().terminal().values()) < 0.011


@pytest.mark.parametrize("kind", ["vp", "sub-vp", "ve"])
def test_the_cores_estimate_is_gdsss_score_exactly(kind: str) -> None:
    """score = -net/sigma (vp, sub-vp), score = net (ve, no division); x_0 = (x + sigma^2 score)/alpha, in float64."""
    settings = preset("qm9")
    settings = type(settings)(9, 4, x=Leaf(kind, 0.1, 1.0), a=Leaf("ve", 0.2, 1.0), layers=2, hidden=8, attention=8)
    torch.manual_seed(0)
    net = GDSSNetwork(**settings.network()).double()
    denoiser = denoiser_of(settings, net).eval()
    state, mask = noisy(2, 6, 4, sizes=[6, 4])
    raw = ask(net, state, mask)
    with torch.inference_mode():
        found: Any = denoiser(state, 0.3, {"mask": mask})
    for leaf, process in settings.process.leaves.items():
        alpha, sigma = float(process.alpha(0.3)), float(process.sigma(0.3))
        score = raw[leaf] if leaf == "a" or kind == "ve" else -raw[leaf] / sigma
        torch.testing.assert_close(found[leaf], (state[leaf] + sigma**2 * score) / alpha, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(("name", "loss_x", "loss_a"), [("qm9", 10.944718, 22.563664), ("community-small", 9.322158, 24.575140)])
def test_original_weights_give_the_golden_numbers(name: str, loss_x: float, loss_a: float) -> None:
    path = YARDSTICKS / f"gdss_{name.replace('-', '_')}_forward_golden.npz"
    if not path.exists():
        pytest.skip(f"the yardstick file {path.name} is not beside the repository")
    golden = {key: torch.from_numpy(value) for key, value in np.load(path).items()}
    states = {p: {k.removeprefix(f"w:{p}."): v for k, v in golden.items() if k.startswith(f"w:{p}.")} for p in ("x", "adj")}
    settings = preset(name)
    net = load(settings, renamed(states["x"], states["adj"]), name)
    denoiser, condition, t = denoiser_of(settings, net).eval(), {"mask": golden["flags"]}, golden["t"].double()
    state = {"x": golden["Xt"], "a": golden["At"]}
    found = ask(net, state, golden["flags"])
    with torch.inference_mode():
        for leaf, process in settings.process.leaves.items():
            sigma = process.sigma(t)
            torch.testing.assert_close(sigma.float(), golden[f"std_{leaf}"], rtol=0, atol=1e-5)
            torch.testing.assert_close(found[leaf], golden[f"net_{leaf}"], rtol=0, atol=1e-4)
            kinds: Any = denoiser.parameterisation
            score = found[leaf] if kinds[leaf] == "score" else -found[leaf] / sigma[:, None, None].float()
            torch.testing.assert_close(score, golden[f"score_{leaf}"], rtol=1e-4, atol=1e-4)
        clean, noise = {"x": golden["X0"], "a": golden["A0"]}, {"x": golden["zx"], "a": golden["za"]}
        made = settings.process.perturb(clean, t, noise)
        for leaf in ("x", "a"):
            torch.testing.assert_close(made[leaf], state[leaf], rtol=0, atol=1e-5)
        losses = GDSSLoss().parts(denoiser, state, t, noise, condition)
    assert float(losses["x"]) == pytest.approx(loss_x, abs=1e-4)
    assert float(losses["a"]) == pytest.approx(loss_a, abs=1e-4)


def test_options_out_of_range_are_refused_in_a_sentence() -> None:
    for option, sentence in (
        ({"depth": 0}, "at least 1"),
        ({"heads": 3}, "heads must divide"),
        ({"conv": "gat"}, "conv must be"),
        ({"channels": (2, 0, 4)}, "at least 1"),
    ):
        with pytest.raises(UserError, match=sentence):
            GDSSNetwork(**SMALL | option)  # type: ignore[operator]
    with pytest.raises(UserError, match="must be one of"):
        Leaf("edm", 0.1, 1.0)
    with pytest.raises(UserError, match="qm9"):
        preset("qm8")
