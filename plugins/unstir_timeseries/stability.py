"""How strong squared-error guidance may be: the largest scale that a solver survives on a grid, from the leading variance of the data.

    D' = J x (1 - 2 s v),   v = (sigma^2/alpha) J,   J = alpha l/(alpha^2 l + sigma^2)       a normal number of variance l, pulled to y = 0

Once 2 s v times a step's share is large the pull throws a state farther than it was; whether later steps forgive that is the solver's
matter, so the solver is asked. For a trained network l comes from products with its Jacobian.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

import unstir
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import Denoiser
from unstir.errors import SamplingDiverged
from unstir.guide import LossGuidance
from unstir.guide.likelihood import Linearised, gain
from unstir.operator.cg import inner

if TYPE_CHECKING:
    from unstir.process import Process

_SWING = 1e6  # paths this many times as wide as without guidance, at any step, count as diverging


def stable_scale(denoiser: Denoiser, *, solver: Any, grid: Any, condition: Mapping[str, Any] | None = None) -> float:
    """The largest scale of "mse", not restrained, that a solver survives on a grid: on normal data with the model's `leading_variance`.

    Along the data's leading direction, of variance l, an observed normal law is one number: guidance multiplies D = J x by 1 - 2 s v,
    v = (sigma^2/alpha) J, J = alpha l/(alpha^2 l + sigma^2). The solver itself walks that law to y = 0, where a guided path should be
    narrower than a free one; a scale is stable while none is 1e6 times as wide. A linear model comes back from less, a network may not.

    Args:
        denoiser: the model.
        solver: what will sample.
        grid: what it will sample on.
        condition: of the model itself; its first row is taken.

    Returns:
        s, to 2 %, from below; 0 where none is.
    """
    variance, low, high = leading_variance(denoiser, condition), 0.0, 1e6
    while high - low > 0.02 * high:
        middle = math.sqrt(low * high) if low else high / 100
        if middle < 1e-9:
            return 0.0
        low, high = (middle, high) if survives(middle, variance, denoiser.process, solver, grid) else (low, middle)
    return low


def survives(scale: float, variance: float, process: Process, solver: Any, grid: Any) -> bool:
    """Does the walk of one normal number, pulled to its mean by "mse", stay narrow?

    Args:
        scale: s.
        variance: of the number.
        process: how it is made noisy.
        solver: what walks.
        grid: on which grid.
    """
    law = GaussianOracle(torch.zeros(1), torch.full((1, 1), variance), process)
    guide = LossGuidance(losses=lambda x0, _: x0.square().sum(1), weight=scale, on="clean")
    try:
        walk = unstir.sample(law, 64, solver=solver, grid=grid, guides=[guide], trace=True)
    except SamplingDiverged:
        return False
    free = [math.sqrt(float(process.alpha(t)) ** 2 * variance + float(process.sigma(t)) ** 2) for t in walk.times]
    wide = [float(x.square().mean().sqrt()) for x in walk.path or []]  # type: ignore[union-attr]
    return wide[-1] <= 1.5 * free[-1] and all(own <= _SWING * other for own, other in zip(wide, free, strict=True))


_VARIANCES: WeakKeyDictionary[Denoiser, float] = WeakKeyDictionary()


def leading_variance(denoiser: Denoiser, condition: Mapping[str, Any] | None = None) -> float:
    """The variance of a model's windows along their leading direction, in units of the state squared; kept for a model.

    The largest eigenvalue v of Cov[x0 | x_t] = (sigma^2/alpha) J by 8 power iterations at 5 noise levels, with 1/l = 1/v - 1/rho^2; the
    largest of them, from two states each.

    Args:
        denoiser: the model.
        condition: of the model itself; its first row is taken.

    Returns:
        l.
    """
    if denoiser not in _VARIANCES:
        told = {key: value[:1] if isinstance(value, Tensor) and value.ndim else value for key, value in (condition or {}).items()} or None
        _VARIANCES[denoiser] = _leading_variance(denoiser, told)
    return _VARIANCES[denoiser]


def _leading_variance(denoiser: Denoiser, condition: Mapping[str, Any] | None) -> float:
    process, top = denoiser.process, 0.0
    draw = torch.Generator().manual_seed(0)
    like = next((p for p in (*denoiser.parameters(), *denoiser.buffers()) if p.is_floating_point()), torch.zeros(1))
    shape: Any = denoiser.shape
    noise, first = (torch.randn(2, *shape, generator=draw).to(like) for _ in range(2))
    with torch.no_grad():
        centre = denoiser(float(process.sigma(process.t_max)) * noise, process.t_max, condition)
        highest = max(min(float(process.rho(process.t_max)), 30.0), 0.3)
        for rho in torch.logspace(math.log10(0.3), math.log10(highest), 5, dtype=torch.float64).tolist():
            t = float(process.time_at_rho(rho))
            x = float(process.alpha(t)) * centre + float(process.sigma(t)) * noise
            at, size, v = Linearised(denoiser, x, t, condition), gain(process, x, t), first
            for _ in range(8):
                v = size * at.pull(v / inner(v, v).sqrt().clamp(min=1e-30).view(-1, *[1] * (v.ndim - 1)))
            part = inner(v, v).sqrt().double().clamp(1e-12, 0.95 * rho**2)  # beyond rho^2 a Jacobian is no covariance
            top = max(top, float((1 / (1 / part - rho**-2)).max()))
    return top
