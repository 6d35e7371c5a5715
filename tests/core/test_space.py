"""Spaces: projections are orthogonal projections, draws have the stated covariance, edits end in the space."""

import pytest
import torch

from unstir.errors import UserError
from unstir.space import Euclidean, JointSpace, Masked, Symmetric, ZeroMean

NODES = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], dtype=torch.bool)
CASES = {
    "euclidean": (Euclidean(), (3, 4, 2), None),
    "masked rows": (Masked(), (3, 4, 2), {"mask": NODES}),
    "masked entries": (Masked("seen"), (3, 4), {"seen": NODES}),
    "masked, one for all": (Masked(), (3, 4, 2), {"mask": NODES[:1]}),
    "symmetric": (Symmetric(), (3, 4, 4), None),
    "symmetric channels, masked": (Symmetric("mask"), (3, 2, 4, 4), {"mask": NODES}),
    "zero mean": (ZeroMean(), (3, 4, 2), None),
    "zero mean of the last axis": (ZeroMean(-1), (3, 2, 4), None),
    "zero mean, masked": (ZeroMean(1, "mask"), (3, 4, 2), {"mask": NODES}),
}
every = pytest.mark.parametrize(("space", "shape", "condition"), CASES.values(), ids=CASES)


def normals(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@every
def test_projecting_twice_changes_nothing(space, shape, condition):
    once = space.project(normals(*shape), condition)
    torch.testing.assert_close(space.project(once, condition), once)
    assert once.dtype == torch.float64
    assert space.project(normals(*shape).float(), condition).dtype == torch.float32


@every
def test_the_projection_is_orthogonal(space, shape, condition):
    """<x - Px, Py> = 0 for all x, y: Px is the state of the space nearest to x."""
    x, y = normals(*shape, seed=1), normals(*shape, seed=2)
    inner = ((x - space.project(x, condition)) * space.project(y, condition)).sum()
    assert abs(inner) < 1e-12


@every
def test_a_draw_lies_in_the_space(space, shape, condition):
    noise = space.draw(normals(*shape), condition)
    torch.testing.assert_close(space.project(noise, condition), noise)
    assert noise.any()


@every
def test_a_sample_does_not_depend_on_its_batch(space, shape, condition):
    noise = normals(*shape)
    alone = [
        space.draw(noise[i : i + 1], condition and {k: m[i : i + 1] if len(m) > 1 else m for k, m in condition.items()})
        for i in range(shape[0])
    ]
    assert torch.equal(space.draw(noise, condition), torch.cat(alone))


def covariance(space, shape, condition=None):
    """The exact covariance of a draw: draw is linear, so it is M M^T with M the draw of unit vectors."""
    size = torch.Size(shape).numel()
    units = torch.eye(size, dtype=torch.float64).reshape(size, *shape)
    matrix = space.draw(units, condition).reshape(size, size).T
    return matrix @ matrix.T


def test_noise_of_an_adjacency_has_unit_variance_off_the_diagonal_and_mirrors():
    cov = covariance(Symmetric(), (3, 3)).reshape(3, 3, 3, 3)
    for i in range(3):
        for j in range(3):
            expected = torch.zeros(3, 3, dtype=torch.float64)
            if i != j:
                expected[i, j] = expected[j, i] = 1
            torch.testing.assert_close(cov[i, j], expected)


def test_noise_without_its_mean_has_covariance_i_minus_one_over_n():
    torch.testing.assert_close(covariance(ZeroMean(), (4,)), torch.eye(4, dtype=torch.float64) - 1 / 4)
    present = {"mask": torch.tensor([[1, 1, 1, 0]])}
    expected = torch.zeros(4, 4, dtype=torch.float64)
    expected[:3, :3] = torch.eye(3) - 1 / 3
    torch.testing.assert_close(covariance(ZeroMean(1, "mask"), (4,), present), expected)


def test_masked_noise_has_unit_variance_where_the_mask_is():
    expected = torch.diag(torch.tensor([1.0, 0, 1], dtype=torch.float64))
    assert torch.equal(covariance(Masked(), (3,), {"mask": torch.tensor([[1, 0, 1]])}), expected)


def test_a_joint_space_is_its_leaves():
    space = JointSpace({"x": Masked(), "a": Symmetric("mask")})
    state, condition = {"x": normals(3, 4, 2), "a": normals(3, 4, 4)}, {"mask": NODES}
    for verb in ("draw", "project"):
        both = getattr(space, verb)(state, condition)
        assert torch.equal(both["x"], getattr(Masked(), verb)(state["x"], condition))
        assert torch.equal(both["a"], getattr(Symmetric("mask"), verb)(state["a"], condition))
    assert hash(space) == hash(JointSpace(dict(space.leaves)))


@pytest.mark.parametrize(
    ("space", "x", "condition", "words"),
    [
        (Masked(), torch.zeros(1, 2), None, r"condition\['mask'\]"),
        (Masked("seen"), torch.zeros(1, 2), {"mask": torch.ones(1, 2)}, r"condition\['seen'\]"),
        (Symmetric(), torch.zeros(1, 2, 3), None, "two equal axes"),
        (Symmetric(), torch.zeros(2, 2), None, "two equal axes"),
        (ZeroMean(0), torch.zeros(1, 2), None, "axis 0"),
        (ZeroMean(2), torch.zeros(1, 2), None, "axis 2"),
        (JointSpace({"x": Euclidean()}), {"y": torch.zeros(1)}, None, "leaf 'y'"),
    ],
)
def test_a_state_that_cannot_be_in_the_space_is_refused(space, x, condition, words):
    with pytest.raises(UserError, match=words):
        space.project(x, condition)
