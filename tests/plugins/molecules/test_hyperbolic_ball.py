"""The Poincare ball against closed forms, and trees that fit into it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from unstir.errors import DataError, UserError
from unstir_molecules.hyperbolic.ball import Ball
from unstir_molecules.hyperbolic.embedding import Embedder, hops

CURVATURES = (0.1, 0.6, 1.0, 4.0)


def points(c, count=200, dim=3, most=0.99, dtype=torch.float64, seed=0):
    """Points of all radii up to ``most`` of the ball's."""
    generator = torch.Generator().manual_seed(seed)
    direction = torch.nn.functional.normalize(torch.randn(count, dim, generator=generator, dtype=torch.float64), dim=-1)
    return (direction * torch.linspace(0, most, count, dtype=torch.float64)[:, None] / math.sqrt(c)).to(dtype)


@pytest.mark.parametrize("c", CURVATURES)
def test_exp_and_log_undo_each_other_anywhere_within_99_percent_of_the_radius(c):
    ball, x, y = Ball(c), points(c, seed=1).flip(0), points(c, seed=2)
    assert float((ball.exp0(ball.log0(y)) - y).abs().max()) < 1e-10
    assert float((ball.exp(x, ball.log(x, y)) - y).abs().max()) < 1e-10
    assert float((ball.placed(x, ball.moved(x, y)) - y).abs().max()) < 1e-10
    v = torch.randn(200, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    near = points(c, most=0.9, seed=4)
    u = v / v.norm(dim=-1, keepdim=True) * torch.linspace(0, 3, 200, dtype=torch.float64)[:, None] / math.sqrt(c)
    assert float((ball.moved(near, ball.placed(near, u)) - u).abs().max()) < 1e-6


def test_the_round_trip_holds_in_float32_to_its_rounding():
    ball, y = Ball(0.6), points(0.6, most=0.99, dtype=torch.float32)
    assert float((ball.exp0(ball.log0(y)) - y).abs().max()) < 1e-5


@pytest.mark.parametrize("c", CURVATURES)
def test_distances_are_those_of_the_closed_forms(c):
    """From the origin 2/sqrt(c) artanh(sqrt(c) r); between points arcosh(1 + 2c|x - y|^2/((1 - c|x|^2)(1 - c|y|^2)))/sqrt(c)."""
    ball, x, y = Ball(c), points(c, seed=5, most=0.95).flip(0), points(c, seed=6, most=0.95)
    zero = torch.zeros_like(x)
    np.testing.assert_allclose(ball.distance(zero, x), 2 / math.sqrt(c) * torch.atanh(math.sqrt(c) * x.norm(dim=-1)), atol=1e-10)
    gaps = (1 - c * x.square().sum(-1)) * (1 - c * y.square().sum(-1))
    np.testing.assert_allclose(
        ball.distance(x, y), torch.acosh(1 + 2 * c * (x - y).square().sum(-1) / gaps) / math.sqrt(c), rtol=1e-7, atol=1e-7
    )
    by_addition = 2 / math.sqrt(c) * torch.atanh(math.sqrt(c) * ball.add(-x, y).norm(dim=-1))
    np.testing.assert_allclose(ball.distance(x, y), by_addition, rtol=1e-7)
    np.testing.assert_allclose(ball.moved(x, y).norm(dim=-1), ball.distance(x, y), rtol=1e-7)
    assert float(ball.distance(x, x).abs().max()) < 1e-12


def test_rotations_and_moebius_translations_keep_distances():
    ball, x, y = Ball(0.6), points(0.6, seed=7, most=0.9).flip(0), points(0.6, seed=8, most=0.9)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64))[0]
    shift = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64).expand_as(x)
    wanted = ball.distance(x, y)
    np.testing.assert_allclose(ball.distance(x @ turn.T, y @ turn.T), wanted, rtol=1e-9)
    np.testing.assert_allclose(ball.distance(ball.add(shift, x), ball.add(shift, y)), wanted, rtol=1e-8)


def test_a_flat_limit_is_euclidean():
    """c -> 0: lambda -> 2, so that distances tend to twice the flat ones and addition to the sum."""
    ball, generator = Ball(1e-10), torch.Generator().manual_seed(0)
    x, y = (torch.randn(50, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    np.testing.assert_allclose(ball.distance(x, y), 2 * (x - y).norm(dim=-1), rtol=1e-6)
    np.testing.assert_allclose(ball.add(x, y), x + y, atol=1e-7)


def test_the_midpoint_of_two_is_halfway_and_moves_with_them():
    ball, x, y = Ball(0.6), points(0.6, seed=10, most=0.9).flip(0), points(0.6, seed=11, most=0.9)
    pair, even = torch.stack([x, y], 1), torch.ones(200, 1, 2, dtype=torch.float64)
    middle = ball.means(pair, even)[:, 0]
    half = ball.distance(x, y) / 2
    np.testing.assert_allclose(ball.distance(x, middle), half, atol=1e-7)
    np.testing.assert_allclose(ball.distance(y, middle), half, atol=1e-7)
    shift = torch.tensor([0.3, -0.5, 0.4], dtype=torch.float64)
    moved = ball.means(ball.add(shift.expand_as(pair), pair), even)[:, 0]
    np.testing.assert_allclose(moved, ball.add(shift.expand_as(middle), middle), atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_points_at_the_boundary_are_pulled_inside_and_gradients_are_finite_everywhere(dtype):
    ball = Ball(0.6)
    x = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.99999999, 0.8], [5.0, -3.0]], dtype=dtype) / math.sqrt(0.6)
    inside = ball.clamp(x)
    assert (inside.norm(dim=-1) * math.sqrt(0.6) < 1).all()
    for start in (torch.zeros(3, 2, dtype=dtype), inside[1:].clone()):
        v = start.clone().requires_grad_()
        other = torch.tensor([[0.1, 0.2]], dtype=dtype).expand(3, -1)
        value = ball.distance(v, other).sum() + ball.log0(v).square().sum() + ball.exp0(v).sum() + ball.exp(other, ball.log(other, v)).sum()
        (gradient,) = torch.autograd.grad(value + ball.distance(v, v.detach()).sum(), v)
        assert gradient.isfinite().all()


def tree(depth=5):
    """A complete binary tree."""
    n = 2**depth - 1
    made = np.zeros((n, n), dtype=int)
    for child in range(1, n):
        made[child, (child - 1) // 2] = made[(child - 1) // 2, child] = 1
    return made


def grown(n=40, seed=0):
    """A Barabasi-Albert tree: each new node is joined to one old node, in proportion to its degree."""
    rng, made = np.random.default_rng(seed), np.zeros((n, n), dtype=int)
    made[0, 1] = made[1, 0] = 1
    for new in range(2, n):
        degree = made[:new].sum(1)
        old = rng.choice(new, p=degree / degree.sum())
        made[new, old] = made[old, new] = 1
    return made


@pytest.mark.parametrize("make", [tree, grown])
def test_trees_and_grown_graphs_are_bent_less_than_in_flat_space_of_equal_dimension(make):
    adjacency = make()
    bent = {
        geometry: Embedder(geometry, dim=2, c=1.0, steps=1000)(adjacency).distortion  # type: ignore[arg-type]
        for geometry in ("hyperbolic", "euclidean")
    }
    assert bent["hyperbolic"] < 0.6 * bent["euclidean"]


def test_paths_of_a_graph_have_their_lengths():
    np.testing.assert_array_equal(hops(tree(3))[0], [0, 1, 1, 2, 2, 2, 2])


def test_bad_balls_and_graphs_are_refused():
    with pytest.raises(UserError, match="curvature c of a ball must be positive"):
        Ball(0.0)
    with pytest.raises(UserError, match="'hyperbolic' or 'euclidean'"):
        Embedder("flat")  # type: ignore[arg-type]
    with pytest.raises(DataError, match="connected graph"):
        Embedder()(np.zeros((4, 4), dtype=int))
