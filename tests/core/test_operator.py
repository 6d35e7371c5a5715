"""Operators: adjoints, gradients, norms, composition, and what they refuse."""

import pickle
import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import UserError
from unstir.operator import Compose, Dense, Diagonal, Gradient, Identity, Mask, Operator, SliceWise, SparseMatrix, Stack, inner


def gaussian(*shape, dtype=torch.float64, seed=0):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


def sparse(outputs=30, inputs=20, seed=1):
    return scipy.sparse.random(outputs, inputs, density=0.3, random_state=seed, format="csr")


MASK = torch.arange(20).reshape(4, 5) % 3 > 0
OPERATORS = {
    "dense": Dense(gaussian(7, 20), (4, 5)),
    "dense-complex": Dense(gaussian(7, 20, dtype=torch.complex128), (4, 5)),
    "diagonal": Diagonal(gaussian(4, 5)),
    "diagonal-complex": Diagonal(gaussian(4, 5, dtype=torch.complex128)),
    "mask": Mask(MASK),
    "identity": Identity((4, 5)),
    "sparse": SparseMatrix(sparse(), (4, 5), (6, 5)),
    "compose": Dense(gaussian(7, 20), (4, 5)) @ Mask(MASK),
    "compose-three": Diagonal(gaussian(6, 5)) @ SparseMatrix(sparse(), (4, 5), (6, 5)) @ Mask(MASK),
    "stack": Stack([Mask(MASK), SparseMatrix(sparse(), (4, 5)), Dense(gaussian(3, 20), (4, 5))]),
    "stack-complex": Stack([Mask(MASK), Dense(gaussian(3, 20, dtype=torch.complex128), (4, 5))]),
    "slice-wise": SliceWise(SparseMatrix(sparse(), (4, 5), (6, 5)), 3),
    "slice-wise-one": SliceWise(SparseMatrix(sparse(), (4, 5), (6, 5)), 1),
    "gradient": Gradient((4, 5, 3)),
    "gradient-one-axis": Gradient((4, 5), (-1,)),
    "gradient-periodic": Gradient((4, 5, 3), (0, 2), boundary="periodic", weights=(1.0, 0.4)),
    "gradient-weights": Gradient((2, 5), weights=(3.0, 0.5)),
}
every = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS.keys())


@every
@pytest.mark.parametrize(
    ("dtype", "limit"), [(torch.float64, 1e-12), (torch.float32, 1e-6), (torch.complex128, 1e-12), (torch.complex64, 1e-6)]
)
def test_the_adjoint_is_exact_on_gaussian_pairs(operator, dtype, limit):
    x, y = gaussian(3, *operator.shape_in, dtype=dtype, seed=2), gaussian(3, *operator.shape_out, dtype=dtype, seed=3)
    forward, adjoint = operator(x), operator.adjoint(y)
    gap = (inner(forward, y.to(forward.dtype)) - inner(x.to(adjoint.dtype), adjoint)).abs()
    scale = inner(forward, forward).real.sqrt() * inner(y, y).real.sqrt()
    assert (gap <= limit * scale).all()
    assert forward.dtype == (dtype.to_complex() if operator.is_complex else dtype)


@every
def test_the_gradient_through_an_operator_is_its_adjoint_to_second_order(operator):
    x = gaussian(2, *operator.shape_in).requires_grad_()
    y = gaussian(2, *operator.shape_out, dtype=torch.complex128 if operator.is_complex else torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(operator, (x,))
    assert torch.autograd.gradcheck(operator.adjoint, (y,))
    assert torch.autograd.gradgradcheck(operator, (x,))
    assert torch.autograd.gradcheck(operator.normal, (x,))


@every
def test_norm_sq_is_the_largest_singular_value_squared(operator):
    size = int(np.prod(operator.shape_in))
    columns = operator(torch.eye(size, dtype=torch.float64).reshape(size, *operator.shape_in)).flatten(1)
    # power iteration stops on a relative change of 1e-9; with close leading eigenvalues it is then within 1e-5
    assert operator.norm_sq() == pytest.approx(float(torch.linalg.matrix_norm(columns, 2)) ** 2, rel=1e-5)


@every
def test_results_are_new_tensors_and_arguments_stay(operator):
    shapes = {operator.forward: operator.shape_in, operator.adjoint: operator.shape_out, operator.normal: operator.shape_in}
    for function, shape in shapes.items():
        x = gaussian(2, *shape)
        before = x.clone()
        function(x).mul_(0)
        assert torch.equal(x, before)


@every
def test_a_sample_does_not_depend_on_its_batch(operator):
    x = gaussian(5, *operator.shape_in)
    # a dense matrix product sums in an order that depends on the batch: the same but for rounding
    is_dense = isinstance(operator, Compose | Stack | Dense) and "dense" in operator.describe().lower()
    for dtype in (torch.float64, torch.float32):
        together, alone = operator.normal(x.to(dtype)), operator.normal(x[2:3].to(dtype))
        rounding = 50 * torch.finfo(dtype).eps * float(alone.abs().max()) if is_dense else 0.0
        torch.testing.assert_close(together[2:3], alone, rtol=0.0, atol=rounding)


@every
def test_the_normal_operator_is_the_adjoint_of_the_forward(operator):
    x = gaussian(2, *operator.shape_in)
    torch.testing.assert_close(operator.normal(x), operator.adjoint(operator(x)))


@every
def test_pinv_is_the_least_squares_state_of_least_norm(operator):
    size = int(np.prod(operator.shape_in))
    matrix = operator(torch.eye(size, dtype=torch.float64).reshape(size, *operator.shape_in)).flatten(1).T
    y = operator(gaussian(1, *operator.shape_in))
    exact = (torch.linalg.pinv(matrix) @ y.flatten(1).T).T.reshape(1, *operator.shape_in)
    found = operator.pinv(y)
    # conjugate gradients stop at a relative residual of 1e-6, which the condition number (below 1e3 here) amplifies
    torch.testing.assert_close(found.to(exact.dtype), exact, rtol=1e-3, atol=1e-3)


@every
def test_an_operator_survives_pickling(operator):
    x = gaussian(2, *operator.shape_in)
    expected = operator(x)
    torch.testing.assert_close(pickle.loads(pickle.dumps(operator))(x), expected, rtol=0, atol=0)


@every
def test_an_empty_batch_gives_an_empty_batch(operator):
    assert operator(torch.zeros(0, *operator.shape_in)).shape == (0, *operator.shape_out)
    assert operator.adjoint(torch.zeros(0, *operator.shape_out)).shape == (0, *operator.shape_in)


@every
def test_wrong_shapes_and_integers_are_refused_in_a_sentence(operator):
    for bad in (torch.zeros(*operator.shape_in), torch.zeros(1, *operator.shape_in, 2), torch.zeros(1, 99)):
        with pytest.raises(UserError, match="takes states of shape"):
            operator(bad)
    with pytest.raises(UserError, match="floating point"):
        operator(torch.zeros(1, *operator.shape_in, dtype=torch.int64))
    with pytest.raises(UserError, match="takes measurements of shape"):
        operator.adjoint(torch.zeros(1, 99))


@every
def test_a_measurement_is_checked_at_the_door(operator):
    y = torch.zeros(2, *operator.shape_out)
    assert operator.measurement(y) is y
    assert operator.measurement(y[0]).shape == (1, *operator.shape_out)
    with pytest.raises(UserError, match="has shape"):
        operator.measurement(torch.zeros(2, 99))
    y[1].view(-1)[0] = torch.nan
    with pytest.raises(UserError, match="measurement 1 has values that are not finite"):
        operator.measurement(y)


def test_a_sparse_matrix_agrees_with_its_dense_twin_in_every_form():
    matrix = sparse()
    dense = Dense(torch.from_numpy(matrix.toarray()))
    x = gaussian(4, 20)
    tensor = torch.from_numpy(matrix.toarray())
    for form in (matrix, matrix.tocoo(), matrix.tocsc(), tensor.to_sparse_coo(), tensor.to_sparse_csr()):
        torch.testing.assert_close(SparseMatrix(form)(x), dense(x))
    torch.testing.assert_close(SparseMatrix(matrix.astype(np.float32))(x), dense(x), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(SparseMatrix(scipy.sparse.eye(20, dtype=np.int64))(x), x)


def test_a_sparse_matrix_gives_the_same_without_mkl(monkeypatch):
    x = gaussian(4, 20)
    expected = SparseMatrix(sparse()).normal(x)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    torch.testing.assert_close(SparseMatrix(sparse()).normal(x), expected)
    torch.testing.assert_close(SparseMatrix(sparse()).normal(x.to(torch.complex64)).real, expected, check_dtype=False, rtol=1e-5, atol=1e-5)


def test_a_sparse_matrix_neither_warns_nor_changes_the_caller_s_matrix():
    matrix = scipy.sparse.csr_matrix(([1.0, 2.0], [3, 0], [0, 2, 2]), shape=(2, 20))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        SparseMatrix(matrix)(gaussian(2, 20))
    assert matrix.indices.tolist() == [3, 0]


def test_a_compose_multiplies_right_to_left_and_describes_both():
    a, b = gaussian(3, 7), gaussian(7, 20)
    x = gaussian(2, 20)
    both = Dense(a) @ Dense(b)
    torch.testing.assert_close(both(x), Dense(a @ b)(x))
    assert both.describe() == "[Dense (7,) -> (3,)] @ [Dense (20,) -> (7,)]"


def test_a_stack_splits_into_its_parts():
    stack = OPERATORS["stack"]
    x = gaussian(2, 4, 5)
    for part, operator in zip(stack.split(stack(x)), stack.operators, strict=True):
        assert torch.equal(part, operator(x))


def test_slices_of_a_volume_are_measured_one_by_one():
    operator = OPERATORS["slice-wise"]
    volume = gaussian(2, 3, 4, 5)
    for z in range(3):
        torch.testing.assert_close(operator(volume)[:, z], operator.operator(volume[:, z]), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Mask(torch.zeros(4, 5)), "measures nothing"),
        (lambda: Mask(torch.full((4, 5), 0.5)), "use Diagonal for weights"),
        (lambda: Diagonal(torch.tensor([1.0, torch.nan])), "must be finite"),
        (lambda: Dense(torch.zeros(3)), "takes a finite matrix"),
        (lambda: Dense(torch.zeros(3, 4), (5,)), "does not map"),
        (lambda: SparseMatrix(sparse(), (4, 4)), "does not map"),
        (lambda: SparseMatrix(sparse() * 1j), "real matrices"),
        (lambda: SparseMatrix(scipy.sparse.csr_matrix([[np.nan, 1.0]])), "not finite"),
        (lambda: Identity((4,)) @ Identity((5,)), "cannot compose"),
        (lambda: Stack([]), "at least one operator"),
        (lambda: Stack([Identity((4,)), Identity((5,))]), "of the same states"),
        (lambda: SliceWise(Identity((4,)), 0), "at least 1"),
        (lambda: SparseMatrix(sparse())(torch.zeros(1, 20, dtype=torch.float16)), "multiplies float32 and float64"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


class Doubling(Operator):
    """What a stranger writes: two lines of mathematics."""

    def __init__(self, n):
        super().__init__((n,), (n,))

    def _forward(self, x):
        return 2 * x

    def _adjoint(self, y):
        return 2 * y


def test_a_new_operator_needs_only_forward_and_adjoint():
    operator = Doubling(4)
    y = gaussian(2, 4)
    torch.testing.assert_close(operator.pinv(y), y / 2)
    assert operator.norm_sq() == pytest.approx(4)
    assert torch.autograd.gradcheck(operator, (y.requires_grad_(),))


@settings(max_examples=40, deadline=None)
@given(shape=st.lists(st.integers(2, 5), min_size=1, max_size=3), batch=st.integers(0, 3), periodic=st.booleans(), seed=st.integers(0, 99))
def test_gradients_of_any_shape_have_an_exact_adjoint_and_normal(shape, batch, periodic, seed):
    if periodic and min(shape) < 3:
        with pytest.raises(UserError, match="at least 3 elements"):
            Gradient(tuple(shape), boundary="periodic")
        return
    operator = Gradient(tuple(shape), boundary="periodic" if periodic else "neumann")
    x, y = gaussian(batch, *shape, seed=seed), gaussian(batch, *operator.shape_out, seed=seed + 1)
    torch.testing.assert_close(inner(operator(x), y), inner(x, operator.adjoint(y)))
    total = torch.zeros_like(x)
    operator.add_normal(x, total, 1.0, torch.empty_like(x))
    torch.testing.assert_close(total, operator.normal(x))
