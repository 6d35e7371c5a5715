"""Adaptive solvers: as accurate as asked, every sample for itself, and no evaluation of a sample that has arrived."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from unstir import sample
from unstir.certify import checks, gm4, gm4_points
from unstir.certify.joint import JointOracle
from unstir.certify.laws import classes3
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.process import EDM, OUVE, SBVE, VE, VP, RectifiedFlow, VPCosine, VPTable
from unstir.solver import RK45, DPMAdaptive
from unstir.solver.adaptive import Adaptive

ALL: list[Adaptive] = [RK45(), DPMAdaptive(), DPMAdaptive(stages=3)]


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_the_error_follows_the_tolerance(solver: Adaptive) -> None:
    start = gm4_points(80.0, 64)
    exact = gm4().transport(start, 80.0, 0.002, steps=2000)
    kind, errors, costs = type(solver), [], []
    stages = {"stages": solver.stages} if isinstance(solver, DPMAdaptive) else {}
    for tolerance in (1e-2, 1e-3, 1e-4):
        made = kind(tolerance=tolerance, absolute=tolerance / 10, **stages)
        found = sample(gm4(), 64, solver=made, grid=[80.0, 0.002], start=(start, 80.0))
        errors.append(torch.linalg.vector_norm(found.x - exact, dim=1).median().item())
        costs.append(found.nfe)
        assert errors[-1] < 10 * tolerance
    assert errors[0] > errors[1] > errors[2] < errors[0] / 10, errors
    assert costs[0] < costs[1] < costs[2]


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_steps_that_are_always_taken_have_the_order_of_the_better_result(solver: Adaptive) -> None:
    found = checks.order(solver, steps=(32, 64))  # finer grids leave RK45 nothing but the error of the reference
    assert found.measured > found.declared - 0.1, found
    if isinstance(solver, DPMAdaptive):
        assert found.passed, found


def test_the_weights_of_the_pair_are_consistent() -> None:
    from unstir.solver import adaptive

    for node, weights in zip(adaptive._NODES, adaptive._TABLEAU, strict=True):
        assert sum(weights) == pytest.approx(node, abs=1e-14)
    assert sum(adaptive._DIFFERENCE) == pytest.approx(0.0, abs=1e-15)


class Watched(Denoiser):
    """Keeps the batch sizes it is asked about and whether each sample has a time of its own."""

    def __init__(self, law: Any) -> None:
        super().__init__(law.process, law.shape)
        self.law = law
        self.sizes: list[int] = []

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        self.sizes.append(len(x))
        assert isinstance(t, float) or t.shape == (len(x),)
        return self.law(x, t, condition)


@pytest.mark.parametrize("solver", ALL, ids=repr)
def test_only_samples_that_have_not_arrived_are_evaluated(solver: Adaptive) -> None:
    start = gm4_points(80.0, 32)
    watched = Watched(gm4())
    together = sample(watched, 32, solver=solver, grid=[80.0, 0.002], start=(start, 80.0))
    alone = [sample(gm4(), 1, solver=solver, grid=[80.0, 0.002], start=(start[i : i + 1], 80.0)) for i in range(32)]
    assert len({one.nfe for one in alone}) > 1  # samples differ in what they need
    assert sum(watched.sizes) == sum(one.nfe for one in alone)
    assert min(watched.sizes) < 32
    assert together.nfe == -(-sum(watched.sizes) // 32)
    torch.testing.assert_close(together.x, torch.cat([one.x for one in alone]), rtol=1e-12, atol=1e-13)  # type: ignore[misc]


def test_a_norm_over_the_batch_would_be_seen() -> None:
    """The planted fault: one step length for all."""

    class Coupled(RK45):
        def _norm(self, error: torch.Tensor, y: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
            return super()._norm(error, y, new).max().expand(len(y)).clone()

    assert checks.invariance(gm4(), solver=RK45(), grid=[80.0, 0.002]).passed
    assert not checks.invariance(gm4(), solver=Coupled(), grid=[80.0, 0.002]).passed


def test_each_sample_keeps_its_part_of_the_condition() -> None:
    law, label = classes3(), torch.arange(6) % 3
    start = 80 * torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    options: dict[str, Any] = {"solver": RK45(), "grid": [80.0, 0.002]}
    together: Any = sample(law, 6, condition={"class": label}, start=(start, 80.0), **options).x
    for i in range(6):
        alone = sample(law, 1, condition={"class": label[i : i + 1]}, start=(start[i : i + 1], 80.0), **options).x
        torch.testing.assert_close(together[i : i + 1], alone, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("solver", ALL, ids=repr)
@pytest.mark.parametrize("process", [EDM(), VP(), VPCosine(), VPTable(), VE(), RectifiedFlow(), OUVE(), SBVE()], ids=repr)
def test_every_process_is_followed_to_the_data(process: Any, solver: Adaptive) -> None:
    found = checks.finite(solver, process, ["karras:1", "karras:2", "karras:7", "log-snr:3,to_zero=false", "uniform:4"], count=3)
    assert found.passed, found.failures


def test_the_estimate_handed_on_is_that_of_all_samples() -> None:
    found: Any = sample(gm4(), 5, solver=RK45(), grid="karras:4", trace=True)
    for estimate in found.estimates:
        assert estimate.shape == (5, 2)
        assert torch.isfinite(estimate).all()
    torch.testing.assert_close(found.estimates[-1], found.x, rtol=0, atol=0)  # the last step, to sigma = 0


def test_lower_precision_states_are_followed_too() -> None:
    start = gm4_points(80.0, 16)
    wide: Any = sample(gm4(), 16, solver=RK45(), grid="karras:3", start=(start, 80.0)).x
    narrow: Any = sample(gm4(), 16, solver=RK45(), grid="karras:3", start=(start.float(), 80.0)).x
    assert narrow.dtype == torch.float32
    assert (narrow - wide).abs().median() < 1e-3


def test_what_does_not_fit_is_a_sentence() -> None:
    for options in ({"tolerance": 0.0}, {"absolute": -1.0}, {"safety": 1.5}):
        with pytest.raises(UserError, match="tolerance and absolute"):
            RK45(**options)
    with pytest.raises(UserError, match="stages"):
        DPMAdaptive(stages=1)
    with pytest.raises(UserError, match="joint"):
        sample(JointOracle({"x": gm4(VP())}, shared_time=True), 1, solver=RK45())
