"""Operators, wide: every registered one keeps the promises of the certificate, and each check catches the fault planted for it."""

import math

import pytest
import scipy.ndimage
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir import registry
from unstir.certify import operators as promise
from unstir.certify.certificate import SECTIONS, example
from unstir.certify.operators import CLAIMS, matrix_by_units, normal
from unstir.errors import UserError
from unstir.guide.blur import blurred
from unstir.operator import (
    AveragePool,
    Convolution,
    Dense,
    Diagonal,
    Downsample,
    Fourier,
    GaussianBlur,
    Identity,
    Magnitude,
    Mask,
    Nonlinear,
    Operator,
    Pad,
    Saturation,
    Sensor,
    Stack,
    gauss_newton,
    gmres,
    inner,
    singular,
)

F64, C128 = torch.float64, torch.complex128
CORE = [name for name, found in registry.names("operators").items() if found.plugin == "core"]


def judge(operator, claim):
    found = [f for f in promise.operators({"one": operator}, True) if f.claim == claim]
    assert len(found) == 1
    return found[0]


@pytest.mark.parametrize("name", CORE)
def test_every_registered_operator_makes_an_example_and_keeps_every_promise(name):
    made = example("operators", name)
    assert isinstance(made, Sensor)
    found = list(promise.operators({name: made}, True))
    assert {f.claim for f in found} >= set(CLAIMS) - {"svd"}
    assert [(f.claim, f.measured) for f in found if not f.passed] == []


@pytest.mark.parametrize("name", CORE)
def test_the_gradient_through_an_operator_is_its_adjoint_to_second_order(name):
    made = example("operators", name)
    x = normal(1, made.shape_in, F64, 0).requires_grad_()
    assert torch.autograd.gradcheck(made.forward, (x,))
    assert torch.autograd.gradgradcheck(made.forward, (x,), fast_mode=True)


def test_the_section_of_the_certificate_judges_what_is_registered_and_what_is_handed_to_it():
    section = next(section for section in SECTIONS if section.name == "operators")
    found = list(section.run(None, quick=True))
    assert {f.part for f in found} >= set(CORE)
    assert all(f.passed for f in found)
    assert {f.part for f in section.run({"mine": Identity((3,))})} == {"mine"}


VARIANTS = {
    "convolution-1d-even": Convolution(torch.ones(4, dtype=F64), (8,)),
    "convolution-wraps": Convolution(normal(1, (9, 4), F64, 1)[0], (4, 5)),
    "convolution-zero-3d": Convolution(normal(1, (3, 2, 2), F64, 1)[0] + 2 * torch.eye(2), (3, 4, 3), boundary="zero"),
    "convolution-reflect-even": Convolution(torch.tensor([[0.2, 0.5], [-0.3, 3.0]], dtype=F64), (2, 4, 5), boundary="reflect"),
    "convolution-complex": Convolution(normal(1, (3, 2), C128, 1)[0], (4, 5)),
    "convolution-complex-zero": Convolution(torch.tensor([1j, 3.0, 0.5]), (2, 5), boundary="zero"),
    "convolution-single-kernel": Convolution(torch.tensor([0.2, 1.0, 0.2]), (6,)),
    "blur-circular": GaussianBlur((6, 5), (0.6, 0.0), boundary="circular"),
    "downsample-reflect": Downsample((6, 4), (3, 2)),
    "downsample-1": Downsample((6, 4), (1, 2), boundary="circular"),
    "downsample-kernel": Downsample((2, 8), (2,), kernel=torch.tensor([0.25, 0.5, 0.25], dtype=F64), boundary="circular"),
    "downsample-null": Downsample((8,), (4,), kernel=torch.tensor([1.0, -1.0], dtype=F64), boundary="circular"),
    "pad-zero": Pad((3, 4), [(2, 1)]),
    "pad-circular": Pad((3, 4), [(3, 0), (1, 4)], boundary="circular"),
    "pad-nothing": Pad((3, 4), []),
    "average-3d": AveragePool((4, 2, 6), (2, 2, 3)),
    "average-channels": AveragePool((3, 4), (2,)),
    "fourier": Fourier((3, 4)),
    "fourier-odd-centred": Fourier((3, 5), 1, centred=True),
    "diagonal-real": Diagonal(torch.tensor([[1.0, -2.0, 0.0], [3.0, 0.5, -0.1]])),
    "dense-real": Dense(normal(1, (9, 6), F64, 1)[0]),
    "dense-wide": Dense(normal(1, (4, 6), F64, 1)[0], (2, 3), (2, 2)),
    "several-sensors": Stack(
        [Fourier((4, 5), mask=torch.arange(20).reshape(4, 5) % 2 > 0) @ Diagonal(w) for w in normal(3, (4, 5), C128, 2)]
    ),
    "average-of-blur": AveragePool((4, 6), (2, 3)) @ GaussianBlur((4, 6), (0.4, 0.4)),
    "derivative-complex": Nonlinear(lambda x: torch.complex(x**2, x * x.roll(1, 1)), (3, 4)),
    "derivative-of-linear": Nonlinear(lambda x: 3 * x[:, :2], (3,)),
    "derivative-of-constant": Nonlinear(lambda x: 0 * x + x.detach(), (3,)),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_every_variant_keeps_the_promises(name):
    claims = {f.claim: f for f in promise.operators({name: VARIANTS[name]}, True)}
    if name == "derivative-of-constant":  # nothing is measured, and relative errors of zero have no meaning
        assert VARIANTS[name].linearise(torch.ones(1, 3)).norm_sq() == 0
        return
    assert [(f.claim, f.measured) for f in claims.values() if not f.passed] == []


class Shifted(Convolution):
    """The adjoint of a kernel whose middle lies one cell further."""

    def _adjoint(self, y):
        return super()._adjoint(y.roll(1, -1))


class Unconjugated(Diagonal):
    """Forgets that the adjoint of a complex weight is its conjugate."""

    def _adjoint(self, y):
        return y * self._like(y)


class Louder(AveragePool):
    """An adjoint off by a part in ten thousand."""

    def _adjoint(self, y):
        return 1.0001 * super()._adjoint(y)


class Unfolded(Pad):
    """Drops what stands beyond the edges, which is the adjoint of zeros, not of a mirror image."""

    def _adjoint(self, y):
        return Pad(self.shape_in, self.widths)._adjoint(y)


class WrongNorm(Downsample):
    """The norm of the blur alone."""

    def norm_sq(self):
        return self.blur.norm_sq()


class WrongInverse(AveragePool):
    """The transpose for the pseudo-inverse."""

    def pinv(self, y):
        return self.adjoint(y)


class WrongSingular(Convolution):
    """Singular values without their vectors: those of a symmetric kernel."""

    def svd(self):
        u, s, vh = super().svd()
        return vh.mH, s, vh


class Neighbourly(GaussianBlur):
    """Takes the mean of the batch away."""

    def _forward(self, x):
        return super()._forward(x) - 1e-6 * x.mean(0, keepdim=True)


class Narrow(Fourier):
    """Single precision inside."""

    def _forward(self, x):
        return super()._forward(x.to(torch.complex64)).to(x.dtype.to_complex())


PLANTED = [
    ("adjoint", Shifted(normal(1, (3, 2), F64, 1)[0], (4, 5))),
    ("adjoint", Unconjugated(normal(1, (4, 5), C128, 1)[0])),
    ("adjoint", Louder((4, 6), (2, 3))),
    ("adjoint", Unfolded((4, 5), [(1, 2), (0, 3)], boundary="reflect")),
    ("gradient", Louder((4, 6), (1, 1))),
    ("gradient", Unconjugated(normal(1, (4, 5), C128, 1)[0])),
    ("norm", WrongNorm.example()),
    ("pinv", WrongInverse.example()),
    ("svd", WrongSingular.example()),
    ("batch", Neighbourly.example()),
    ("adjoint", Narrow((3, 4))),
    ("solvers", Shifted(normal(1, (3, 2), F64, 1)[0], (4, 5))),
]


@pytest.mark.parametrize(("claim", "operator"), PLANTED, ids=lambda value: value if isinstance(value, str) else type(value).__name__)
def test_a_planted_fault_is_caught(claim, operator):
    assert judge(operator, claim).passed is False
    sound = type(operator).__bases__[0].example()
    assert judge(sound, claim).passed


def test_solvers_that_stop_together_or_misreport_are_caught(monkeypatch):
    def together(operator, b, shifts):
        x, report = promise_cg(operator, b, shifts)
        return x, type(report)(report.iterations.max().expand(len(b)), report.residual)

    def rosy(operator, b, shifts):
        x, report = operator.normal_solve(b, shift=shifts, iterations=3)
        return x, type(report)(report.iterations, 0 * report.residual)

    promise_cg = promise._cg
    for fault in (together, rosy):
        monkeypatch.setattr(promise, "_cg", fault)
        assert judge(Diagonal.example(), "solvers").passed is False


@pytest.mark.parametrize(("boundary", "mode"), [("circular", "wrap"), ("zero", "constant"), ("reflect", "reflect")])
@settings(max_examples=25, deadline=None)
@given(shape=st.lists(st.integers(1, 6), min_size=1, max_size=3), data=st.data())
def test_a_convolution_is_that_of_scipy_at_every_boundary(boundary, mode, shape, data):
    taps = [data.draw(st.integers(1, n)) for n in shape]
    kernel, x = normal(1, tuple(taps), F64, 1)[0], normal(2, tuple(shape), F64, 2)
    found = Convolution(kernel, tuple(shape), boundary=boundary)(x)
    for one, y in zip(x, found, strict=True):
        exact = scipy.ndimage.convolve(one.numpy(), kernel.numpy(), mode=mode)
        torch.testing.assert_close(y, torch.from_numpy(exact), rtol=1e-11, atol=1e-11)


def test_a_gaussian_blur_is_the_blur_of_blur_guidance():
    x = normal(2, (3, 12, 9), F64, 1)
    torch.testing.assert_close(GaussianBlur((3, 12, 9), (1.3, 1.3))(x), blurred(x, 1.3))
    torch.testing.assert_close(GaussianBlur((3, 12, 9), (0.0, 0.0))(x), x)


def test_a_circular_convolution_has_the_singular_values_of_its_matrix_without_decomposing_it():
    for operator in (Convolution.example(), VARIANTS["convolution-complex"], VARIANTS["convolution-1d-even"]):
        exact = torch.linalg.svdvals(matrix_by_units(operator))
        torch.testing.assert_close(operator.svd()[1].sort(descending=True).values, exact, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "operator", [Convolution.example(), AveragePool.example(), Pad.example(), Identity((4, 5)), GaussianBlur.example()]
)
def test_singular_coordinates_take_the_closed_form(operator):
    found = singular(operator)
    x = normal(2, operator.shape_in, F64, 1)
    torch.testing.assert_close(found.state(found.coordinates(x)), x)
    y = operator(x)
    kept = found.values > 0
    torch.testing.assert_close(found.measured(y)[:, kept], found.coordinates(x)[:, kept], rtol=1e-7, atol=1e-7)


def test_means_over_blocks_and_padding_are_those_of_torch():
    x = normal(2, (3, 4, 6), F64, 1)
    torch.testing.assert_close(AveragePool((3, 4, 6), (2, 3))(x), torch.nn.functional.avg_pool2d(x, (2, 3)))
    assert torch.equal(Pad((3, 4, 6), [(1, 2), (0, 3)])(x), torch.nn.functional.pad(x, (0, 3, 1, 2)))
    assert torch.equal(Pad((3, 4, 6), [(1, 2), (0, 3)], boundary="circular")(x), torch.nn.functional.pad(x, (0, 3, 1, 2), mode="circular"))


def test_down_sampling_is_the_blur_at_some_cells_and_keeps_constants():
    operator = Downsample((2, 6, 8), (3, 2))
    x = normal(2, (2, 6, 8), F64, 1)
    assert torch.equal(operator(x), operator.blur(x)[..., 1::3, 0::2])
    torch.testing.assert_close(operator(torch.full((1, 2, 6, 8), 3.0)), torch.full((1, 2, 2, 4), 3.0))


def test_a_fourier_transform_keeps_norms_and_a_mask_drops_frequencies():
    x = normal(2, (4, 5), F64, 1)
    whole, mask = Fourier((4, 5)), torch.arange(20).reshape(4, 5) % 3 > 0
    torch.testing.assert_close(whole(x).abs().square().sum((1, 2)), x.square().sum((1, 2)))
    torch.testing.assert_close(whole.adjoint(whole(x)).real, x)
    some = Fourier((4, 5), mask=mask)
    assert torch.equal(some(x), whole(x) * mask)
    peak = Fourier((4, 6), centred=True)(torch.ones(1, 4, 6))[0].abs()
    assert peak[2, 3] == peak.max()


def test_several_sensors_add_up_their_normal_equations():
    weights, mask = normal(3, (4, 5), C128, 2), torch.arange(20).reshape(4, 5) % 2 > 0
    operator, x = VARIANTS["several-sensors"], normal(2, (4, 5), C128, 3)
    exact = sum(w.conj() * torch.fft.ifft2(mask * torch.fft.fft2(w * x)) for w in weights)
    torch.testing.assert_close(operator.normal(x), exact)


def test_products_and_stacks_are_those_of_matrices():
    a, b = AveragePool((4, 6), (2, 3)), GaussianBlur((4, 6), (0.5, 0.5), boundary="circular")
    torch.testing.assert_close(matrix_by_units(a @ b), matrix_by_units(a) @ matrix_by_units(b))
    torch.testing.assert_close(matrix_by_units(Stack([a, b])), torch.cat([matrix_by_units(a), matrix_by_units(b)]))
    three = Fourier((6, 8)) @ Pad((4, 6), [(1, 1), (2, 0)]) @ b
    torch.testing.assert_close(three.adjoint(three(torch.ones(1, 4, 6))).real, torch.ones(1, 4, 6), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("sensor", [Nonlinear.example(), Magnitude.example(), Saturation.example(), VARIANTS["derivative-complex"]])
def test_the_derivative_of_a_sensor_is_the_jacobian_of_every_sample(sensor):
    x = normal(3, sensor.shape_in, F64, 1)
    v, w = normal(3, sensor.shape_in, F64, 2), sensor(normal(3, sensor.shape_in, F64, 3))
    jacobian = sensor.linearise(x)
    for i in range(3):

        def real(z):
            y = sensor.function(z[None])[0]
            return torch.view_as_real(y) if y.is_complex() else y

        exact = torch.func.jacrev(real)(x[i])
        if sensor.is_complex:
            exact = torch.view_as_complex(exact.movedim(len(sensor.shape_out), -1).contiguous())
        exact = exact.reshape(math.prod(sensor.shape_out), -1)
        torch.testing.assert_close(jacobian(v)[i].flatten(), exact @ v[i].flatten().to(exact.dtype))
        torch.testing.assert_close(jacobian.adjoint(w)[i].flatten(), exact.mH @ w[i].flatten())
    assert jacobian.norm_sq() == pytest.approx(max(sensor.linearise(one[None]).norm_sq() for one in x))


def test_the_derivative_gives_the_gradient_that_a_guide_descends():
    sensor = Magnitude.example()
    x, y = normal(3, sensor.shape_in, F64, 1).requires_grad_(), sensor(normal(3, sensor.shape_in, F64, 2))
    size = (y - sensor(x)).flatten(1).norm(dim=1)
    (exact,) = torch.autograd.grad(size.sum(), x)
    residual = (y - sensor(x)).detach()
    found = -sensor.linearise(x).adjoint(residual / size.detach().view(-1, 1, 1))
    torch.testing.assert_close(found, exact)


def test_an_operator_is_its_own_derivative_and_can_be_transformed_by_torch_func():
    operator = GaussianBlur.example()
    x, y = normal(2, operator.shape_in, F64, 1), normal(2, operator.shape_out, F64, 2)
    assert operator.linearise(x) is operator
    torch.testing.assert_close(torch.func.vjp(operator, x)[1](y)[0], operator.adjoint(y))
    jacobian = torch.func.jacrev(lambda z: operator(z[None])[0])(x[0]).reshape(y[0].numel(), -1)
    torch.testing.assert_close(jacobian, matrix_by_units(operator))


def test_a_derivative_keeps_gradients_of_what_is_done_with_it():
    jacobian = Saturation.example().linearise(normal(2, (2, 4, 5), F64, 1))
    assert torch.autograd.gradcheck(jacobian.normal, (normal(2, (2, 4, 5), F64, 2).requires_grad_(),), fast_mode=True)
    with torch.inference_mode():
        assert jacobian(torch.ones(2, 2, 4, 5)).shape == (2, 2, 4, 5)


def test_gauss_newton_inverts_a_saturating_sensor_and_retrieves_phases_near_the_truth():
    sensor = Saturation.example()
    x = 1.5 * normal(3, sensor.shape_in, F64, 1)
    found, left = gauss_newton(sensor, sensor(x), torch.zeros_like(x), steps=25)
    assert left.max() < 1e-10
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)
    sensor = Magnitude.example()
    x = normal(3, sensor.shape_in, F64, 2).abs() + 0.2
    found, left = gauss_newton(sensor, sensor(x), x + 0.05 * normal(3, sensor.shape_in, F64, 3), steps=15)
    assert left.max() < 1e-10
    torch.testing.assert_close(found, x, rtol=1e-6, atol=1e-6)


def test_gauss_newton_never_grows_a_residual_and_keeps_samples_apart():
    sensor = Magnitude.example()
    y, start = sensor(normal(4, sensor.shape_in, F64, 1)), 3 * normal(4, sensor.shape_in, F64, 2)
    before = torch.full((4,), torch.inf, dtype=F64)
    for steps in range(6):
        x, left = gauss_newton(sensor, y, start, steps=steps)
        assert (left <= before).all()
        before = left
    alone, _ = gauss_newton(sensor, y[2:3], start[2:3], steps=5)
    assert torch.equal(alone, x[2:3])
    linear = AveragePool((4, 6), (2, 3))
    x, left = gauss_newton(linear, linear(torch.ones(1, 4, 6, dtype=F64)), torch.zeros(1, 4, 6, dtype=F64), steps=10)
    torch.testing.assert_close(x, torch.ones(1, 4, 6, dtype=F64), rtol=1e-8, atol=1e-8)


def test_gmres_solves_systems_that_are_not_symmetric_each_to_its_own_stop():
    a = torch.eye(12, dtype=F64) + 0.2 * normal(3, (12, 12), F64, 1) * torch.tensor([0.01, 0.3, 1.0], dtype=F64).view(-1, 1, 1)
    b = normal(3, (12,), F64, 2)
    x, report = gmres(lambda v: (a @ v[..., None])[..., 0], b, iterations=12, tolerance=1e-6)
    exact = torch.linalg.solve(a, b)
    assert report.iterations[0] < report.iterations[1] < report.iterations[2]
    left = (b - (a @ x[..., None])[..., 0]).norm(dim=1) / b.norm(dim=1)
    torch.testing.assert_close(left, report.residual, rtol=1e-6, atol=1e-12)
    assert (left <= 1e-6).all()
    torch.testing.assert_close(x, exact, rtol=1e-4, atol=1e-4)
    for i in range(3):
        one = a[i]
        alone, own = gmres(lambda v, one=one: v @ one.mT, b[i : i + 1], iterations=12, tolerance=1e-6)
        assert own.iterations == report.iterations[i]
        torch.testing.assert_close(alone[0], x[i], rtol=1e-10, atol=1e-12)


def test_a_shift_a_sample_solves_each_equation_with_its_own():
    operator, b = Convolution.example(), normal(3, (2, 4, 5), F64, 1)
    shifts = torch.tensor([0.1, 1.0, 10.0])
    together, _ = operator.normal_solve(b, shift=shifts, iterations=40)
    for i, shift in enumerate(shifts.tolist()):
        alone, _ = operator.normal_solve(b[i : i + 1], shift=shift, iterations=40)
        torch.testing.assert_close(together[i], alone[0], rtol=1e-6, atol=1e-8)  # 0.1 in single precision
    with pytest.raises(UserError, match="as many shifts"):
        operator.normal_solve(b, shift=torch.ones(2), iterations=1)


@pytest.mark.parametrize("dtype", [torch.complex64, C128])
def test_complex_inner_products_have_the_same_bits_in_every_batch(dtype):
    for n in range(1, 30):
        a, b = normal(5, (n,), dtype, 1), normal(5, (n,), dtype, 2)
        assert torch.equal(inner(a, b)[3:4], inner(a[3:4], b[3:4]))
        torch.testing.assert_close(inner(a, b), (a.conj() * b).sum(1))
        torch.testing.assert_close(inner(a.real, b), (a.real * b).sum(1))


def test_the_norm_is_found_where_power_iteration_would_crawl():
    n = 400
    operator = Diagonal(torch.linspace(0.99, 1.0, n, dtype=F64))  # neighbours in the spectrum are 5e-5 apart
    # Lanczos stops at a residual of 1e-5, and is closer than that
    assert Operator.norm_sq(operator) == pytest.approx(1.0, abs=1e-5)
    assert Operator.norm_sq(operator) <= 1.0 + 1e-12


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Convolution(torch.ones(2, 2, 2, 2), (4, 4, 4, 4)), "1 to 3 axes"),
        (lambda: Convolution(torch.ones(2, 2), (4,)), "1 to 1 axes"),
        (lambda: Convolution(torch.zeros(3), (4,)), "not zero everywhere"),
        (lambda: Convolution(torch.tensor([1.0, torch.nan]), (4,)), "must be finite"),
        (lambda: Convolution(torch.ones(3), (4,), boundary="mirror"), "a boundary is one of"),
        (lambda: Convolution(torch.ones(11), (4,), boundary="reflect"), "cannot be continued"),
        (lambda: GaussianBlur((4,), (-1.0,)), "at least 0"),
        (lambda: GaussianBlur((4,), ()), "standard deviations"),
        (lambda: Pad((4,), [(1, -1)]), "none negative"),
        (lambda: Pad((4,), [(1, 1), (1, 1)]), "at most 1 pairs"),
        (lambda: AveragePool((4, 5), (2, 2)), "cannot be divided"),
        (lambda: AveragePool((4,), ()), "cannot be divided"),
        (lambda: Downsample((4, 5), (0, 1)), "cannot be divided"),
        (lambda: Downsample((4, 4), (2, 2), kernel=torch.ones(3)), "a kernel of as many axes"),
        (lambda: Downsample.example().pinv(torch.zeros(1, 2, 6, 4)), "takes measurements of shape"),
        (lambda: Diagonal.example().pinv(torch.zeros(1, 2)), "takes measurements of shape"),
        (lambda: Fourier((4, 5), 3), "1 to 2 axes"),
        (lambda: Fourier((4, 5), mask=torch.ones(4)), "a mask of frequencies has shape"),
        (lambda: Fourier((4, 5), mask=torch.zeros(4, 5)), "at least one True"),
        (lambda: Nonlinear(lambda x: x.sum(), (3,)), "must keep the batch"),
        (lambda: Nonlinear.example()(torch.zeros(1, 2, 4, dtype=C128)), "view_as_real"),
        (lambda: Nonlinear.example().linearise(torch.zeros(3)), "takes states of shape"),
        (lambda: Nonlinear.example().linearise(torch.zeros(3, 2, 4))(torch.zeros(2, 2, 4)), "takes batches of as many"),
        (lambda: Nonlinear.example().measurement(torch.full((2, 4), torch.inf)), "not finite"),
        (lambda: Saturation(Identity((3,)), 0.0), "a limit above 0"),
        (lambda: Saturation(Fourier((3,))), "a real operator"),
        (lambda: gauss_newton(Fourier((3,)), torch.zeros(3), torch.zeros(1, 3), steps=1), "real measurements"),
        (lambda: gauss_newton(Mask.example(), torch.zeros(4, 5), torch.zeros(1, 4, 5), steps=1, damping=0), "damping above 0"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
