"""The section of the certificate about guidance: the exact tilted law on a grid in two dimensions.

    q(x_0) on a grid, summed:    D_q(x, t) = sum_i x_i q_i N(x; x_i, t^2) / sum_i q_i N(x; x_i, t^2)
    estimate   max |D' - D_q| over states and levels: no sampling in it
    law        total variation between the shares of 8 x 8 cells, of samples from a low-discrepancy start (guides) or of random ones

``CASES`` says of each class what it is tried on, and which law q it should give. Judged are cases that the class's ``exactness`` covers;
the others are told: they are how far a biased guide is from the law it is taken for.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.certify.certificate import Finding, judged
from unstir.certify.distances import total_variation
from unstir.certify.examples import parts_of
from unstir.certify.guidance_cases import CASES, Case
from unstir.certify.posterior import is_method
from unstir.guide.base import Guide
from unstir.loop import sample
from unstir.steer import Steer

_SIDE, _CELLS, _HALF = 120, 8, 4.0
_LEVELS = (3.0, 1.0, 0.5)
_LAW = 0.08  # of total variation over 64 cells; 2,048 true draws are some .04 off, and particles with shared ancestors count for fewer


def guidance(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """Every guide and steer with a case: its estimates and its samples against the exact law."""
    for name, part in (parts_of(("guides", "steers")) if parts is None else parts).items():
        cases = next((CASES[kind] for kind in getattr(part, "__mro__", ()) if kind in CASES), ())
        for case in cases:
            if case.exact and issubclass(part, Guide):
                yield judged("guidance", name, case.on, "the exact estimate", functools.partial(_estimate, part, case))
            claim = "the exact law" if case.exact else "no claim"
            yield judged("guidance", name, case.on, claim, functools.partial(_law, part, case, quick))
        exactness = getattr(part, "exactness", "")
        if not cases and exactness.startswith("exact") and not is_method(part) and getattr(part, "particles", 1) == 1:
            yield Finding("guidance", name, "a grid in two dimensions", exactness, "no law is known for it here", None)


def points() -> Tensor:
    """The grid (side^2, 2): midpoints of cells, so that no half space with an edge at a tenth ends on a point."""
    axis = _HALF * ((torch.arange(_SIDE, dtype=torch.float64) + 0.5) * 2 / _SIDE - 1)
    return torch.cartesian_prod(axis, axis)


def expected(log_density: Tensor, x: Tensor, level: float) -> Tensor:
    """E_q[x_0 | x] at a noise level (alpha = 1), by the sum over the grid.

    Args:
        log_density: log q at :func:`points`, up to a constant.
        x: noisy states (batch, 2).
        level: sigma.
    """
    grid = points()
    return torch.softmax(log_density - 0.5 * torch.cdist(x, grid).square() / level**2, 1) @ grid


def _estimate(part: type, case: Case) -> tuple[str, bool]:
    guided, log_density = case.make(part).wrap(case.law), case.log_density(points())
    axis = torch.linspace(-2, 2, 7, dtype=torch.float64)
    x = torch.cartesian_prod(axis, axis)
    condition = {key: value.expand(len(x), *value.shape[1:]) for key, value in case.condition.items()}
    with torch.no_grad():
        error = max(float((guided(x, level, condition or None) - expected(log_density, x, level)).abs().max()) for level in _LEVELS)
    return f"{error:.1e} off", error < case.tolerance


def _law(part: type, case: Case, quick: bool) -> tuple[str, bool | None]:
    made, steps = case.make(part), min(case.steps, 100) if quick else case.steps
    count = (2048 if case.exact and isinstance(made, Steer) else 1024) * (1 if quick else 4)
    options: dict[str, Any] = {"condition": case.condition or None, "grid": f"log-snr:{steps},sigma_max=20,sigma_min=0.02"}
    if isinstance(made, Guide):
        unit = torch.quasirandom.SobolEngine(2, scramble=True, seed=0).draw(count, dtype=torch.float64)
        start = (20 * torch.special.ndtri(unit.clamp(1e-9, 1 - 1e-9)), 20.0)
        x = sample(case.law, count, guides=[made], start=start, solver=case.solver, **options).x
    else:
        x = sample(case.law, count, steers=[made], solver=case.solver, seed=1, **options).x
    off = total_variation(shares(torch.as_tensor(x)), exact_shares(case.log_density(points())))
    unguided = total_variation(exact_shares(case.base(points())), exact_shares(case.log_density(points())))
    return f"total variation {off:.3f}, {unguided:.3f} unguided", off < _LAW if case.exact else None


def shares(x: Tensor) -> Tensor:
    """The share of samples in each cell, those outside in the nearest."""
    place = ((x + _HALF) / (2 * _HALF) * _CELLS).floor().clamp(0, _CELLS - 1).long()
    return torch.bincount(place[:, 0] * _CELLS + place[:, 1], minlength=_CELLS**2).double() / len(x)


def exact_shares(log_density: Tensor) -> Tensor:
    """The share of a law on the grid in each cell."""
    fine, each = torch.softmax(log_density, 0), _SIDE // _CELLS
    return fine.view(_CELLS, each, _CELLS, each).sum((1, 3)).flatten()
