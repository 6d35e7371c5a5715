"""The section of the certificate about inversion: data led to noise and back, by every solver whose steps can be undone.

    x --back--> (x_T, memory) --step--> x',      |x' - x| below 1e-10, in float64, with a guide and without

or below four times the rounding of the largest state on the way, where states leave the prior by far, as those of a reversible SDE do.
What a solver declares approximate is told, not judged.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir import grid as grids
from unstir.certify.certificate import Finding, judged, registered
from unstir.certify.laws import classes3
from unstir.certify.oracles import gm4
from unstir.certify.solvers import continuous, refusal
from unstir.guide import CFG
from unstir.inversion import invert
from unstir.loop import sample
from unstir.process import VP, Process
from unstir.solver import Reversible

_ROUNDING = 1e-10  # a state of size 80 is rounded at 1e-14, and divided by an alpha down to .0066 on the way
_COUNT = 12


def inversion(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """The round trip of every reversible solver on GM4, 20 and 50 steps, on every continuous process; and under guidance."""
    known = registered("solvers") if parts is None else parts
    for name, solver in known.items():
        if not isinstance(solver, Reversible):
            continue
        claim = "exact to rounding" if solver.exact else "approximate"
        for on, process in continuous(quick).items():
            if refusal(solver, process) is None:
                for steps in (20,) if quick else (20, 50):
                    yield judged("inversion", name, f"{on}, {steps} steps", claim, functools.partial(_plain, solver, process, steps))
        if refusal(solver, VP()) is None:
            yield judged("inversion", name, "guided, vp, 20 steps", claim, functools.partial(_guided, solver))


def _plain(solver: Reversible, process: Process, steps: int) -> tuple[str, bool | None]:
    condition = {"anchor": torch.tensor([[0.3, -0.2]], dtype=torch.float64)} if process.anchored else None
    x = gm4().draw(_COUNT, torch.Generator().manual_seed(0))
    return _round_trip(solver, gm4(process), x, steps, condition=condition)


def _guided(solver: Reversible) -> tuple[str, bool | None]:
    law = classes3(VP())
    guide = CFG(3.0, null={"class": torch.full((1,), -1)})
    x = law.draw(_COUNT, torch.Generator().manual_seed(0))
    return _round_trip(solver, law, x, 20, guides=[guide], condition={"class": torch.arange(_COUNT) % 3})


def _round_trip(solver: Reversible, denoiser: Any, x: Tensor, steps: int, **options: Any) -> tuple[str, bool | None]:
    there = invert(denoiser, x, solver=solver, grid=grids.Karras(steps), seed=1, trace=True, **options)
    back: Any = sample(denoiser, len(x), solver=solver, grid=there.grid, start=there.start, seed=1, **options)
    error = float((back.x - x).abs().max())
    largest = max(1.0, *(float(state.abs().max()) for state in there.path or ()))  # type: ignore[union-attr]
    limit = max(_ROUNDING, 4 * torch.finfo(torch.float64).eps * largest)
    return f"{error:.1e}, the largest state {largest:.1e}", error < limit if solver.exact else None
