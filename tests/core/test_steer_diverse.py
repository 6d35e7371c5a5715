"""Meaningful diversity: a few samples show all modes, data stay explained, and problems do not see each other."""

import math

import pytest
import torch

import unstir
from unstir.certify.oracles import MixtureOracle
from unstir.errors import UserError
from unstir.operator import Mask
from unstir.steer import Diverse, farthest_points

N, TRIALS, SEEN = 4, 60, torch.arange(6) < 2


def posterior():
    """The posterior of a linear problem that measured the first two entries: one mode is likely, two are rare."""
    means = torch.randn(3, 6, generator=torch.Generator().manual_seed(3), dtype=torch.float64) * 1.5
    means[:, :2] = means[0, :2]
    return MixtureOracle([0.96, 0.02, 0.02], means, torch.full((3, 6), 0.2, dtype=torch.float64))


LAW = posterior()


def drawn(*steers):
    return unstir.sample(LAW, N * TRIALS, solver="heun", grid="karras:30,sigma_max=40", steers=steers).x.double()


def share_with_all_modes(x):
    mode = torch.cdist(x, LAW.means).argmin(1).view(-1, N)
    return torch.stack([(mode == k).any(1) for k in range(3)]).all(0).double().mean().item()


def residual(x):
    return (x[:, :2] - LAW.means[0, :2]).square().mean().sqrt().item()


def test_four_samples_show_all_modes_and_explain_the_data_as_well_as_before():
    diverse, free = drawn(Diverse(3.0, N, low=2.0, operator=Mask(SEEN))), drawn()
    assert share_with_all_modes(diverse) > 0.8
    assert share_with_all_modes(free) < 0.15
    assert abs(residual(diverse) / residual(free) - 1) < 0.05


def test_without_the_operator_pushes_reach_what_was_measured():
    assert residual(drawn(Diverse(3.0, N, low=1.0))) > 1.2 * residual(drawn())


def test_two_samples_end_at_the_distance_asked_for_and_far_ones_stay():
    x0 = torch.tensor([[0.0, 0.0], [0.6, 0.8], [10.0, 0.0], [13.0, 0.0]], dtype=torch.float64)
    pushed = Diverse(2.0, 2).pushed(x0)
    assert math.isclose((pushed[0] - pushed[1]).norm().item(), 2.0)
    assert torch.equal(pushed[2:], x0[2:])
    assert torch.equal(Diverse(2.0, 2).pushed(torch.zeros(2, 3)), torch.zeros(2, 3))  # no direction, no push
    kept = Diverse(2.0, 2, operator=Mask(torch.tensor([True, False]))).pushed(x0)
    assert torch.equal(kept[:, 0], x0[:, 0])
    assert kept[1, 1] > x0[1, 1]


def test_problems_do_not_see_each_other_and_chunks_do_not_matter():
    options = {"solver": "ddim", "grid": "karras:6", "steers": [Diverse(3.0, N)]}
    whole = unstir.sample(LAW, 12, **options).x
    assert torch.equal(whole, unstir.sample(LAW, 12, batch=N, **options).x)
    assert torch.equal(whole[:N], unstir.sample(LAW, N, **options).x)
    with pytest.raises(UserError, match="multiple of the 4"):
        unstir.sample(LAW, 6, **options)


def test_one_sample_has_none_to_be_pushed_from():
    options = {"solver": "ddim", "grid": "karras:6"}
    assert torch.equal(unstir.sample(LAW, 3, steers=[Diverse(3.0, 1)], **options).x, unstir.sample(LAW, 3, **options).x)


def test_farthest_points_cover_the_modes_that_were_drawn():
    x = LAW.draw(600, torch.Generator().manual_seed(0))
    chosen = farthest_points(x, 3)
    assert sorted(torch.cdist(x[chosen], LAW.means).argmin(1).tolist()) == [0, 1, 2]
    assert farthest_points(x, 1).tolist() == [0]
    with pytest.raises(UserError, match="1 to 600"):
        farthest_points(x, 601)


@pytest.mark.parametrize(("options", "says"), [({"distance": 0.0}, "above 0"), ({"distance": 1.0, "particles": 0}, "at least 1")])
def test_options_are_checked(options, says):
    with pytest.raises(UserError, match=says):
        Diverse(**options)
