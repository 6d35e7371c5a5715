"""A step is a few tensor operations that a compiler takes whole, and on a device nothing in it waits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import unstir
from unstir import names
from unstir.certify.invariance import Shrunk
from unstir.certify.solvers import refusal
from unstir.process import EDM
from unstir.solver import Memory

SOLVERS = [
    name
    for name in names.known("solver")
    if refusal(names.solver(name), EDM()) is None and not names.solver(name).stochastic and not names.solver(name).adaptive
]


@pytest.mark.parametrize("name", SOLVERS)
def test_a_step_is_taken_whole_by_the_compiler(name: str) -> None:
    """One graph without a break (``fullgraph``), in the steady state, with the result of the step as it is."""
    solver, process = names.solver(name), EDM()
    rows = solver.plan(process, names.grid("karras:8").times(process))
    start = torch.linspace(-1, 1, 12).reshape(2, 6) * 80

    def model(z: Any, t: Any) -> Any:
        return z * 0.1

    plain, memory = start.clone(), Memory()
    taken, other = start.clone(), Memory()
    for row in rows[:-2]:
        plain = solver.step(plain, row, model, memory)
        taken = solver.step(taken, row, model, other)
    torch._dynamo.reset()
    step = torch.compile(lambda x: solver.step(x, rows[-2], model, other), backend="eager", fullgraph=True)
    torch.testing.assert_close(step(taken), solver.step(plain, rows[-2], model, memory))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_no_step_waits_for_the_device() -> None:
    class Tenth(unstir.Denoiser):
        def __init__(self) -> None:
            super().__init__(EDM(), (3, 8, 8))
            self.scale = torch.nn.Parameter(torch.tensor(0.1))

        def forward(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
            return x * self.scale

    process, model = EDM(), Tenth().cuda()
    for solver in map(names.solver, SOLVERS):
        rows, memory = solver.plan(process, names.grid("karras:8").times(process)), Memory()
        x: Any = torch.full((4, 3, 8, 8), 80.0, device="cuda")
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.inference_mode():
                for row in rows:
                    x = solver.step(x, row, model, memory)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert torch.isfinite(x).all(), solver


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_sample_on_a_device_is_the_one_on_the_host() -> None:
    """Noise is drawn on the host and moved, so the device changes rounding alone."""

    class Moved(Shrunk):
        def __init__(self) -> None:
            super().__init__()
            self.place = torch.nn.Parameter(torch.zeros(1))

    host, device = (unstir.sample(Moved().to(place), 4, solver="ancestral", seed=3).x for place in ("cpu", "cuda"))
    torch.testing.assert_close(device.cpu(), host, rtol=1e-5, atol=1e-6)  # type: ignore[union-attr]
