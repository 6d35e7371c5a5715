"""The section of the certificate about what a sample may depend on: its seed and its index, not its batch, chunk or neighbours.

bits of sample i alone = bits of sample i in any batch, of any size, in any order of chunks; another seed gives another sample
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.certify import checks
from unstir.certify.certificate import Finding, judged, registered
from unstir.certify.solvers import continuous, refusal
from unstir.denoiser import Denoiser
from unstir.loop import sample
from unstir.process import EDM, Process
from unstir.solver import Solver

_SHAPE = (2, 3)


class Shrunk(Denoiser):
    """An elementwise denoiser, D = x/alpha v/(v + rho^2) with v = 1/4: exact for independent normal data, and equal bits in any batch.

    Args:
        process: its process; EDM when absent.
        shape: of a sample.
    """

    def __init__(self, process: Process | None = None, shape: tuple[int, ...] = _SHAPE) -> None:
        super().__init__(process or EDM(), shape)

    def forward(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        """The estimate."""
        from unstir.process.base import spread

        alpha, sigma = spread(self.process.alpha(t), x), spread(self.process.sigma(t), x)
        anchor = spread(self.process.beta(t), x) * condition["anchor"] if self.process.anchored else 0.0
        return (x - anchor) * (alpha * 0.25 / (alpha**2 * 0.25 + sigma**2 + 1e-300))  # a pinned end has neither data nor noise

    def with_process(self, process: Process) -> Denoiser:
        """The same on another process."""
        return Shrunk(process, self.shape)  # type: ignore[arg-type]


def invariance(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """Every solver on every continuous process: batches of 1, 2, 3 and 5, another seed, and float32 beside float64."""
    known = registered("solvers") if parts is None else parts
    for name, solver in known.items():
        for on, process in continuous(quick).items():
            if refusal(solver, process) is not None:
                continue
            yield judged("invariance", name, on, "no dependence on the batch", functools.partial(_batches, solver, process))
        plain = next((own for own in continuous().values() if refusal(solver, own) is None and not own.anchored), None)
        if plain is not None:
            yield judged("invariance", name, "seeds 1, 1, 2", "a sample per seed", functools.partial(_seeds, solver, plain))
            yield judged("invariance", name, "float32", "keeps the dtype", functools.partial(_dtype, solver, plain))


def _batches(solver: Solver, process: Process) -> tuple[str, bool]:
    anchor = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(5, *_SHAPE) if process.anchored else None
    condition = None if anchor is None else {"anchor": anchor}
    found = checks.invariance(Shrunk(process), count=5, batches=(5, 1, 2, 3), solver=solver, grid="karras:6", condition=condition)
    return "equal bits" if found.same else f"differs by {found.worst:.1e}", found.passed


def _seeds(solver: Solver, process: Process) -> tuple[str, bool]:
    first, again, other = (sample(Shrunk(process), 3, solver=solver, grid="karras:6", seed=seed).x for seed in (1, 1, 2))
    distinct = torch.equal(first, again) and not torch.equal(first, other)  # type: ignore[arg-type]
    return "equal, equal, another" if distinct else "not so", distinct


def _dtype(solver: Solver, process: Process) -> tuple[str, bool]:
    start = torch.randn(3, *_SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    t = float(process.time_at_rho(1.0))
    made = [
        sample(Shrunk(process), 3, solver=solver, grid="karras:6", start=(start.to(d), t), seed=1).x for d in (start.dtype, torch.float32)
    ]
    wide, narrow = (x for x in made if isinstance(x, Tensor))
    off = float((wide - narrow).abs().max())
    return f"{narrow.dtype}, {off:.1e} from float64", narrow.dtype == torch.float32 and off < 1e-3
