"""Perpendicular priors of a volume: turns of two 2-D priors, the law they sample, and the one they should."""

import pytest
import torch

from unstir import sample
from unstir.certify import GaussianOracle
from unstir.denoiser import Perpendicular, Sliced
from unstir.errors import UserError
from unstir.process import VP

SHAPE = (3, 3, 3)


def cyclic(row):
    """A circulant covariance of slices (batch, 1, 3, 3): correlated along both axes, all of them with common eigenvectors."""
    one = torch.stack([torch.roll(torch.tensor(row, dtype=torch.float64), i) for i in range(3)])
    return torch.kron(one, one)


XY, YZ = cyclic([1.0, 0.4, 0.4]), cyclic([0.7, 0.1, 0.1])


def prior(cov, axis, process=None):
    return Sliced(GaussianOracle(torch.zeros(1, 3, 3, dtype=torch.float64), cov, process), SHAPE, axis)


def whole(cov, axis):
    """The covariance of all 27 entries: independent slices along the axis."""
    eye = torch.eye(3, dtype=torch.float64)
    full = torch.einsum("ab,cdef->acdbef", eye, cov.reshape(3, 3, 3, 3))
    order = [0, 1, 2]
    order.insert(axis, order.pop(0))
    return full.permute(*order, *(3 + i for i in order)).reshape(27, 27)


A, B = whole(XY, 0), whole(YZ, 2)


def power(cov, exponent):
    values, vectors = torch.linalg.eigh(cov)
    return vectors * values**exponent @ vectors.T


def end_covariance(denoiser, solver_steps, sigma_min=1e-3):
    """The covariance that DDIM's affine steps give, exactly."""
    times = torch.logspace(torch.log10(torch.tensor(80.0)), torch.log10(torch.tensor(sigma_min)), solver_steps + 1, dtype=torch.float64)
    x = torch.cat([torch.zeros(1, 27), 80 * torch.eye(27)]).double().reshape(-1, *SHAPE)
    for t, s in zip(times.tolist(), times[1:].tolist(), strict=False):
        x = (s / t) * x + (1 - s / t) * denoiser(x, t)
    linear = (x[1:] - x[0]).flatten(1)
    return linear.T @ linear


@pytest.mark.parametrize("share", [0.5, 0.8])
def test_the_flow_of_two_perpendicular_priors_has_the_geometric_mean_of_their_covariances(share):
    assert torch.allclose(A @ B, B @ A)  # common eigenvectors
    geometric = power(A, share) @ power(B, 1 - share)
    product = torch.linalg.inv(share * torch.linalg.inv(A) + (1 - share) * torch.linalg.inv(B))
    mixed = Sliced({0: prior(XY, 0).priors["0"], 2: prior(YZ, 2).priors["2"]}, SHAPE, (0, 2), weights=(share, 1 - share))
    found = end_covariance(mixed, 600)
    assert (found - geometric).norm() < 0.01 * geometric.norm()  # first order in 600 steps
    assert (geometric - product).norm() > 0.05 * product.norm()  # it is not the law whose precision is the mean of theirs


def test_taking_turns_tends_to_mixing_for_half_the_evaluations():
    share, steps = 0.5, 4000
    turns = Perpendicular(prior(XY, 0), prior(YZ, 2), share)
    geometric = power(A, share) @ power(B, 1 - share)
    found = end_covariance(turns, steps)
    assert (found - geometric).norm() < 0.1 * geometric.norm()  # the turns are drawn: 1/sqrt of a few hundred that count
    assert 0.45 < sum(turns.is_primary(0.001 * i) for i in range(2000)) / 2000 < 0.55


def test_langevin_corrections_restore_the_product():
    share = 0.5
    product = torch.linalg.inv(share * torch.linalg.inv(A) + (1 - share) * torch.linalg.inv(B))
    geometric = power(A, share) @ power(B, 1 - share)
    mixed = Sliced({0: prior(XY, 0).priors["0"], 2: prior(YZ, 2).priors["2"]}, SHAPE, (0, 2), weights=(share, 1 - share))
    covariance, sigma, step = geometric + 1e-4 * torch.eye(27), 0.01, 2e-3
    drift = torch.stack([mixed(unit.reshape(1, *SHAPE), sigma).flatten() for unit in torch.eye(27, dtype=torch.float64)], 1)
    move = torch.eye(27) + step / sigma**2 * (drift - torch.eye(27))
    for _ in range(4000):  # x + step score + sqrt(2 step) z, propagated exactly
        covariance = move @ covariance @ move.T + 2 * step * torch.eye(27)
    assert (covariance - product).norm() < 0.02 * product.norm()  # the step and sigma^2


def test_a_turn_depends_on_the_time_alone():
    turns = Perpendicular(prior(XY, 0), prior(YZ, 2), 0.5, seed=1)
    x = torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = torch.tensor([0.1, 0.7, 2.0, 11.0], dtype=torch.float64)
    together = turns(x, t)
    for i in range(4):
        part = turns.primary if turns.is_primary(float(t[i])) else turns.secondary
        torch.testing.assert_close(together[i : i + 1], part(x[i : i + 1], float(t[i])))
    assert {turns.is_primary(float(s)) for s in t} == {True, False}
    one = sample(turns, 2, solver="ancestral", grid="karras:10")
    assert one.nfe == 10
    torch.testing.assert_close(one.x[1:], sample(turns, 2, solver="ancestral", grid="karras:10", batch=1).x[1:])


def test_all_turns_of_one_prior_are_that_prior_on_any_process():
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    turns = Perpendicular(prior(XY, 0), prior(YZ, 2), 1.0)
    assert torch.equal(turns(x, 0.7), turns.primary(x, 0.7))
    torch.testing.assert_close(turns.with_process(VP())(x, 0.3), prior(XY, 0, VP())(x, 0.3))


@pytest.mark.parametrize(
    "make",
    [lambda: Perpendicular(prior(XY, 0), prior(YZ, 2, VP())), lambda: Perpendicular(prior(XY, 0), prior(YZ, 2), share=1.5)],
)
def test_perpendicular_priors_must_fit(make):
    with pytest.raises(UserError):
        make()
