"""Total variation: closed forms, optimality certificates, warm starts."""

import pytest
import torch

from unstir.errors import UserError
from unstir.operator import Dense, Gradient, Identity, Mask, SliceWise, admm_tv


def gaussian(*shape, dtype=torch.float64, seed=0):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def test_a_gradient_is_forward_differences_with_a_still_border():
    x = torch.tensor([[1.0, 3.0, 2.0, 6.0]])
    assert Gradient((4,))(x).tolist() == [[[2.0, -1.0, 4.0, 0.0]]]
    assert Gradient((4,), boundary="periodic")(x).tolist() == [[[2.0, -1.0, 4.0, -5.0]]]
    assert Gradient((4,), weights=(0.5,))(x).tolist() == [[[1.0, -0.5, 2.0, 0.0]]]


@pytest.mark.parametrize("isotropic", [True, False])
@pytest.mark.parametrize("shape", [(10,), (10, 4), (10, 3, 4)])
def test_denoising_a_step_moves_each_side_by_lam_over_its_length(shape, isotropic):
    # constant along all axes but the first, so both variations are that of the line
    height = torch.tensor([0.0] * 4 + [1.0] * 6, dtype=torch.float64)
    y = height.reshape(1, -1, *[1] * (len(shape) - 1)).expand(1, *shape).contiguous()
    x, _ = admm_tv(Identity(shape), y, lam=0.6, rho=1.0, outer=300, cg=20, isotropic=isotropic)
    exact = torch.where(y == 0, 0.6 / 4, 1 - 0.6 / 6).double()
    torch.testing.assert_close(x, exact, rtol=0, atol=1e-6)  # 300 iterations leave 2e-8


def test_a_large_weight_leaves_the_mean():
    y = gaussian(2, 6, 5)
    x, _ = admm_tv(Identity((6, 5)), y, lam=100.0, rho=10.0, outer=600, cg=30)
    torch.testing.assert_close(x, y.mean((1, 2), keepdim=True).expand_as(y), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "boundary", "isotropic", "axes"),
    [
        (torch.float64, "neumann", True, None),
        (torch.float64, "neumann", False, None),
        (torch.float64, "neumann", False, (0,)),
        (torch.float64, "periodic", True, (-1, -2)),
        (torch.complex128, "periodic", True, None),
        (torch.complex128, "neumann", False, None),
    ],
)
def test_the_limit_satisfies_the_conditions_of_optimality(dtype, boundary, isotropic, axes):
    # A^H (y - A x) = D^T u with |u| <= lam and <D x, u> = lam TV(x): then x is a minimiser, whatever found it
    operator, lam, rho = Dense(gaussian(40, 36), (3, 3, 4)), 0.4, 2.0
    y = gaussian(2, 40, dtype=dtype, seed=1)
    x, (_, w) = admm_tv(operator, y, lam=lam, rho=rho, outer=400, cg=8, axes=axes, isotropic=isotropic, boundary=boundary)
    gradient = Gradient((3, 3, 4), axes, boundary=boundary)
    u, slope = rho * w, gradient(x)
    torch.testing.assert_close(operator.adjoint(y - operator(x)), gradient.adjoint(u), rtol=0, atol=1e-4)

    def size(v):
        return v.abs().square().sum(1).sqrt() if isotropic else v.abs()

    assert (size(u) <= lam * (1 + 1e-9)).all()
    torch.testing.assert_close((slope.conj() * u).real.sum(), lam * size(slope).sum(), rtol=1e-5, atol=1e-5)


def test_a_pull_is_the_proximal_step_of_total_variation():
    # with A = 0.. on what is not measured, only the pull and the variation act there
    centre = gaussian(1, 8)
    pulled, _ = admm_tv(Identity((8,)), torch.zeros(1, 8, dtype=torch.float64), lam=0.3, rho=1.0, outer=400, cg=20, centre=centre, pull=3.0)
    # 1/2 |x|^2 + 3/2 |x - c|^2 = 2 |x - 3c/4|^2 + const: plain denoising of 3c/4 with lam/4
    plain, _ = admm_tv(Identity((8,)), 0.75 * centre, lam=0.3 / 4, rho=1.0, outer=400, cg=20)
    torch.testing.assert_close(pulled, plain, rtol=0, atol=1e-7)


def test_a_warm_start_continues_where_it_stopped_and_overwrites_nothing():
    operator, y = Dense(gaussian(10, 12), (3, 4)), gaussian(2, 10, seed=1)
    options = {"lam": 0.2, "rho": 1.5, "cg": 4}
    whole, state = admm_tv(operator, y, outer=12, **options)
    half, middle = admm_tv(operator, y, outer=5, **options)
    kept = half.clone(), middle[0].clone(), middle[1].clone()
    rest, again = admm_tv(operator, y, outer=7, start=half, state=middle, **options)
    torch.testing.assert_close(rest, whole, rtol=0, atol=0)
    torch.testing.assert_close(again, state, rtol=0, atol=0)
    assert all(torch.equal(a, b) for a, b in zip((half, *middle), kept, strict=True))


@pytest.mark.parametrize("isotropic", [True, False])
def test_two_volumes_of_one_batch_do_not_influence_each_other(isotropic):
    operator = SliceWise(Mask(torch.arange(30).reshape(5, 6) % 2 > 0), 4)
    y = operator(gaussian(3, 4, 5, 6, dtype=torch.float32) * torch.tensor([1.0, 100.0, 0.01]).view(3, 1, 1, 1))
    options = {"lam": 0.3, "rho": 2.0, "outer": 4, "cg": 3, "isotropic": isotropic}
    together, _ = admm_tv(operator, y, **options)
    for i in range(3):
        assert torch.equal(together[i : i + 1], admm_tv(operator, y[i : i + 1], **options)[0])


@pytest.mark.parametrize("isotropic", [True, False])
def test_flat_data_give_no_nan(isotropic):
    x, _ = admm_tv(Identity((3, 4)), torch.zeros(1, 3, 4), lam=0.1, rho=1.0, outer=3, cg=2, isotropic=isotropic)
    assert torch.equal(x, torch.zeros(1, 3, 4))


def test_through_plane_variation_alone_leaves_each_slice_free():
    y = gaussian(1, 1, 5, 6).expand(1, 4, 5, 6).contiguous()
    x, _ = admm_tv(Identity((4, 5, 6)), y, lam=5.0, rho=1.0, outer=20, cg=10, axes=(0,))
    torch.testing.assert_close(x, y)


def test_progress_is_told_after_each_outer_iteration():
    told = []
    admm_tv(Identity((3,)), torch.zeros(1, 3), lam=1.0, rho=1.0, outer=3, cg=1, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"lam": 0.0}, "lam and rho above 0"),
        ({"rho": -1.0}, "lam and rho above 0"),
        ({"lam": float("nan")}, "lam and rho above 0"),
        ({"outer": 0}, "at least one outer"),
        ({"cg": 0}, "at least one outer"),
        ({"axes": (0, 0)}, "different axes"),
        ({"axes": (3,)}, "different axes"),
        ({"axes": ()}, "different axes"),
        ({"boundary": "mirror"}, "'neumann' or 'periodic'"),
        ({"boundary": "periodic"}, "use the boundary 'neumann'"),
        ({"weights": (1.0,)}, "as many weights"),
        ({"pull": 1.0}, "both"),
        ({"pull": -1.0}, "both"),
        ({"y": torch.full((1, 2, 5), torch.inf)}, "not finite"),
        ({"y": torch.zeros(1, 2, 6)}, "has shape"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(options, sentence):
    given = {"y": torch.zeros(1, 2, 5), "lam": 1.0, "rho": 1.0, "outer": 1, "cg": 1, **options}
    with pytest.raises(UserError, match=sentence):
        admm_tv(Identity((2, 5)), given.pop("y"), **given)


def test_a_volume_of_one_slice_has_no_through_plane_variation():
    with pytest.raises(UserError, match="axis 0 of states of shape .* has one element"):
        admm_tv(Identity((1, 5, 5)), torch.zeros(1, 1, 5, 5), lam=1.0, rho=1.0, outer=1, cg=1)
