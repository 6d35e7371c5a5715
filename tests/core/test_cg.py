"""Conjugate gradients: exact, per sample, never NaN."""

import pytest
import torch

from unstir.errors import UserError
from unstir.operator import Dense, Diagonal, Identity, conjugate_gradients, inner


def gaussian(*shape, dtype=torch.float64, seed=0):
    wide = torch.complex128 if dtype.is_complex else torch.float64
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=wide).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32, torch.complex64])
def test_it_solves_the_normal_equation_in_as_many_iterations_as_unknowns(dtype):
    matrix = gaussian(9, 6, dtype=dtype)
    operator, rhs = Dense(matrix), gaussian(4, 6, dtype=dtype, seed=1)
    x, report = operator.normal_solve(rhs, shift=0.3, iterations=6)
    exact = torch.linalg.solve(matrix.mH @ matrix + 0.3 * torch.eye(6, dtype=dtype), rhs.T).T
    limit = 1e-9 if dtype in (torch.float64, torch.complex128) else 1e-3  # condition number about 50, times rounding of six steps
    torch.testing.assert_close(x, exact, rtol=limit, atol=limit)
    assert report.iterations.tolist() == [6] * 4
    assert (report.residual < limit).all()


def test_the_inner_product_conjugates_its_first_argument():
    a, b = gaussian(2, 5, dtype=torch.complex128), gaussian(2, 5, dtype=torch.complex128, seed=1)
    torch.testing.assert_close(inner(a, b), (a.conj() * b).sum(1))
    assert (inner(a, a).imag.abs() < 1e-14).all()


@pytest.mark.parametrize("size", [3, 1000, 40000])
def test_two_problems_of_one_batch_do_not_influence_each_other(size):
    weights = gaussian(size).square() + 0.1
    rhs = gaussian(3, size, dtype=torch.float32, seed=1) * torch.tensor([[1.0], [1e4], [1e-4]])
    operator = Diagonal(weights)
    start = gaussian(3, size, dtype=torch.float32, seed=2)
    together, _ = operator.normal_solve(rhs, start=start, iterations=5, tolerance=1e-3)
    for i in range(3):
        alone, _ = operator.normal_solve(rhs[i : i + 1], start=start[i : i + 1], iterations=5, tolerance=1e-3)
        assert torch.equal(together[i : i + 1], alone)


def test_a_converged_sample_is_frozen_while_the_others_go_on():
    weights = torch.tensor([1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    hard = torch.diag(torch.tensor([1.0, 10.0, 100.0, 1000.0], dtype=torch.float64))
    rhs = torch.stack([weights, weights])
    # sample 0 starts at its solution, sample 1 does not
    start = torch.stack([torch.linalg.solve(hard, weights), torch.zeros(4, dtype=torch.float64)])
    x, report = conjugate_gradients(lambda v: v @ hard, rhs, start=start, iterations=20, tolerance=1e-10)
    assert report.iterations.tolist() == [0, 4]
    assert torch.equal(x[0], start[0])
    torch.testing.assert_close(x[1], start[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_a_direction_the_matrix_does_not_see_gives_no_nan(dtype):
    operator = Diagonal(torch.tensor([1.0, 0.0, 2.0]))
    rhs = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]], dtype=dtype)
    x, report = operator.normal_solve(rhs, iterations=10)
    assert torch.isfinite(torch.view_as_real(x) if dtype.is_complex else x).all()
    assert torch.equal(x[0], torch.zeros(3, dtype=dtype))
    torch.testing.assert_close(x[1], torch.tensor([1.0, 0.0, 0.25], dtype=dtype))
    assert report.iterations[2] == 0


def test_more_iterations_than_needed_do_no_harm():
    matrix = gaussian(5, 5, dtype=torch.float32)
    x, _ = Dense(matrix).normal_solve(gaussian(2, 5, dtype=torch.float32), shift=1.0, iterations=200)
    assert torch.isfinite(x).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("seed", range(5))
def test_a_singular_matrix_is_solved_and_then_left_alone(dtype, seed):
    # three measurements of eight unknowns: the fourth direction would be rounding, which the matrix hardly sees
    matrix = gaussian(3, 8, dtype=dtype, seed=seed)
    rhs = (gaussian(4, 3, dtype=dtype, seed=seed + 10) * torch.tensor([[1.0], [1e3], [1e-3], [1.0]])).to(dtype) @ matrix
    x, report = Dense(matrix).normal_solve(rhs, iterations=100)
    exact = rhs @ torch.linalg.pinv(matrix.T @ matrix, hermitian=True, rtol=1e-4)
    limit = 1e-8 if dtype == torch.float64 else 2e-2  # condition number up to 1e3, squared in the start of the error
    assert ((x - exact).norm(dim=1) <= limit * exact.norm(dim=1)).all()
    assert (report.iterations <= 12).all()


def test_neither_the_start_nor_the_right_hand_side_is_overwritten():
    operator = Identity((4,))
    rhs, start = gaussian(2, 4), gaussian(2, 4, seed=1)
    kept = rhs.clone(), start.clone()
    x, _ = operator.normal_solve(rhs, start=start, shift=1.0, iterations=3)
    torch.testing.assert_close(x, rhs / 2)
    assert torch.equal(rhs, kept[0])
    assert torch.equal(start, kept[1])
    same, _ = operator.normal_solve(rhs, start=start, iterations=0)
    assert torch.equal(same, start)
    assert same.data_ptr() != start.data_ptr()


def test_a_stop_rule_freezes_each_sample_at_its_own_time():
    scales = torch.tensor([1.0, 3.0, 10.0, 30.0, 100.0], dtype=torch.float64)
    operator = Diagonal(scales)
    rhs = operator.normal(torch.ones(2, 5, dtype=torch.float64))
    limits = torch.tensor([50.0, 1e-6], dtype=torch.float64)

    def stop(x):
        return (operator(x) - operator(torch.ones(2, 5, dtype=torch.float64))).norm(dim=1) <= limits

    x, report = operator.normal_solve(rhs, iterations=20, stop=stop)
    assert report.iterations[0] < report.iterations[1] <= 6  # five eigenvalues, one more step for rounding
    assert stop(x).all()


def test_a_fixed_number_of_iterations_asks_nothing_of_the_device():
    calls = []
    rhs = gaussian(2, 5)
    conjugate_gradients(lambda v: calls.append(1) or 2 * v, rhs, iterations=7)
    assert len(calls) == 7
    calls.clear()
    conjugate_gradients(lambda v: calls.append(1) or 2 * v, rhs, iterations=7, tolerance=1e-6)
    assert len(calls) == 1


def test_bad_arguments_are_refused_in_a_sentence():
    rhs = gaussian(1, 3)
    with pytest.raises(UserError, match="iterations >= 0"):
        conjugate_gradients(lambda v: v, rhs, iterations=-1)
    with pytest.raises(UserError, match="must have the shape of the right-hand side"):
        conjugate_gradients(lambda v: v, rhs, start=gaussian(1, 4), iterations=1)
    with pytest.raises(UserError, match="keep no gradient"):
        Identity((3,)).normal_solve(gaussian(1, 3).requires_grad_(), iterations=1)
    for shift in (-1.0, float("nan"), float("inf")):
        with pytest.raises(UserError, match="shift"):
            Identity((3,)).normal_solve(rhs, shift=shift, iterations=1)
