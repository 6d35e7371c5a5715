"""Tiles: weights that sum to 1, no seams in the two-point covariance with overlap, and a seam without."""

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import Denoiser, Tiled
from unstir.errors import UserError
from unstir.guide import DPS
from unstir.operator import Mask
from unstir.process import EDM, VP

WINDOW, CELLS = 16, 48


def covariance(count, reach):
    place = torch.arange(count, dtype=torch.float64)
    return torch.exp(-((place[:, None] - place) / reach).square() / 2) + 1e-6 * torch.eye(count, dtype=torch.float64)


def small(reach=3.0, window=WINDOW):
    return GaussianOracle(torch.zeros(window, dtype=torch.float64), covariance(window, reach))


def sampled_covariance(tiled, cells=CELLS):
    """That of the samples, exactly: the sampler is linear, and here is its matrix."""
    start = (80 * torch.eye(cells, dtype=torch.float64), 80.0)
    rows = unstir.sample(tiled, cells, solver="heun", grid="karras:40,sigma_max=80", start=start).x
    return rows.mT @ rows


class Told(Denoiser):
    """Believes what its condition says."""

    def __init__(self, process=None, shape=(2, 4)):
        super().__init__(process or EDM(), shape)

    def forward(self, x, t, condition=None):
        return x * 0 + condition["level"].reshape(-1, *[1] * (x.ndim - 1)) + condition.get("map", 0)


# ---- seams


@pytest.mark.parametrize("reach", [1.5, 3.0])
def test_two_point_covariance_across_seams_is_that_of_the_interior_with_overlap(reach):
    found, want = sampled_covariance(Tiled(small(reach), (WINDOW,), 8)), covariance(CELLS, reach)
    for lag in range(4):
        assert (found.diagonal(lag) / want.diagonal(lag) - 1).abs().max() < 0.1


def test_without_overlap_there_is_a_seam():
    found = sampled_covariance(Tiled(small(), (WINDOW,), 0))
    assert found[15, 16].abs() < 1e-12 < 0.9 < found[14, 15]


def test_a_flat_weight_shows_seams_that_the_published_one_does_not():
    errors = []
    for fade in ("gaussian", "flat"):
        found = sampled_covariance(Tiled(small(), (WINDOW,), 8, fade=fade))
        errors.append((found.diagonal(1) / covariance(2, 3.0)[0, 1] - 1).abs().max())
    assert errors[0] < 0.05 < 0.2 < errors[1]


def test_two_axes_have_no_seams_either():
    line, window = covariance(6, 1.2), (6, 6)
    prior = GaussianOracle(torch.zeros(window, dtype=torch.float64), torch.kron(line, line))
    start = (80 * torch.eye(81, dtype=torch.float64).view(81, 9, 9), 80.0)
    rows = unstir.sample(Tiled(prior, window, 3), 81, solver="heun", grid="karras:40,sigma_max=80", start=start).x.flatten(1)
    found, want = rows.mT @ rows, torch.kron(covariance(9, 1.2), covariance(9, 1.2))
    near = want > 0.3
    assert (found[near] / want[near] - 1).abs().max() < 0.1


# ---- the blend


@pytest.mark.parametrize("fade", ["gaussian", "linear", "flat"])
def test_weights_sum_to_1_at_every_place_of_any_field(fade):
    class One(Denoiser):
        def forward(self, x, t, condition=None):
            return torch.ones_like(x)

    tiled = Tiled(One(EDM(), (3, -1, -1)), (5, 4), (2, 1), fade=fade)
    for cells in ((5, 4), (11, 9), (8, 4)):
        torch.testing.assert_close(tiled(torch.randn(2, 3, *cells), 1.0), torch.ones(2, 3, *cells), rtol=1e-6, atol=1e-6)


def test_one_tile_is_the_prior_and_chunks_do_not_matter():
    x = torch.randn(3, WINDOW, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(Tiled(small(), (WINDOW,), 4)(x, 0.7), small()(x, 0.7), rtol=1e-14, atol=1e-14)
    wide = torch.randn(3, CELLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = [Tiled(small(), (WINDOW,), 8, chunk=chunk)(wide, 0.7) for chunk in (1, 7, 64)]
    assert all((part - parts[0]).abs().max() < 1e-14 for part in parts)
    times = torch.tensor([0.2, 0.7, 3.0], dtype=torch.float64)
    each = torch.cat([Tiled(small(), (WINDOW,), 8)(wide[k : k + 1], t.item()) for k, t in enumerate(times)])
    torch.testing.assert_close(Tiled(small(), (WINDOW,), 8)(wide, times), each, rtol=1e-12, atol=1e-12)


def test_regions_have_conditions_of_their_own_and_maps_are_cut_with_the_field():
    tiled = Tiled(Told(), (4,), 0, per_tile=("level",))
    assert tiled.corners((12,)) == [(0,), (4,), (8,)]
    level = torch.tensor([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]])
    given = {"level": level, "map": torch.arange(12.0).view(1, 1, 12)}
    x0 = tiled(torch.zeros(2, 2, 12), 1.0, given)
    want = level.repeat_interleave(4, 1)[:, None] + torch.arange(12.0)
    torch.testing.assert_close(x0, want.expand(2, 2, 12))  # but for w v/w
    shared = Tiled(Told(), (4,), 2)(torch.zeros(2, 2, 12), 1.0, {"level": torch.tensor([5.0])})
    torch.testing.assert_close(shared, torch.full((2, 2, 12), 5.0))


def test_it_moves_to_another_process_and_lets_gradients_through():
    x = torch.randn(2, CELLS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved, t = Tiled(small(), (WINDOW,), 8).with_process(VP()), 0.5
    alpha, rho = float(VP().alpha(t)), float(VP().rho(t))
    torch.testing.assert_close(moved(x, t), Tiled(small(), (WINDOW,), 8)(x / alpha, rho), rtol=1e-10, atol=1e-12)
    guide = DPS(Mask(torch.arange(CELLS) < 4), torch.ones(1, CELLS, dtype=torch.float64) * (torch.arange(CELLS) < 4))
    guided = guide.wrap(Tiled(small(), (WINDOW,), 8))(x, 1.0) - Tiled(small(), (WINDOW,), 8)(x, 1.0)
    assert guided[:, :8].abs().max() > 1e-3
    assert guided[:, WINDOW:].abs().max() < 1e-12  # the tiles of the first cells end there


def test_samples_do_not_see_each_other():
    prior = GaussianOracle(torch.zeros(4, dtype=torch.float64), torch.ones(4, dtype=torch.float64))
    start = (torch.randn(5, 10, generator=torch.Generator().manual_seed(0), dtype=torch.float64), 3.0)
    assert invariance(Tiled(prior, (4,), 2, (10,)), grid="karras:5", start=start).worst < 1e-14


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Tiled(small(), (8,), 2), "windows of"),
        (lambda: Tiled(small(), (WINDOW,), WINDOW), "overlap lies"),
        (lambda: Tiled(small(), (WINDOW,), 2, fade="round"), "fade is"),  # type: ignore[arg-type]
        (lambda: Tiled(small(), (WINDOW,), 2)(torch.zeros(1, 10), 1.0), "holds no tile"),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
