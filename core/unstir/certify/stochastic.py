"""Sections of the certificate about stochastic solvers: the variance of their samples, exactly, and their distance to the exact marginals.

variance    std of the samples over the exact one for N(0, 1/4), every draw's coefficient propagated: no Monte Carlo
marginals   Kolmogorov-Smirnov p-values of 2,000 samples of a mixture in one dimension at three noise levels
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from unstir.certify import checks
from unstir.certify.certificate import Finding, judged, registered
from unstir.certify.oracles import MixtureOracle
from unstir.certify.solvers import continuous, refusal
from unstir.denoiser import Denoiser
from unstir.grid import LogSNR
from unstir.loop import sample
from unstir.process import EDM, Process
from unstir.solver import Solver

_VARIANCE = 0.25
_LEVELS = (1.0, 0.3, 0.05)  # of the noise, where marginals are compared
_COUNT = 2000
_BIAS = 0.02  # of Langevin corrections of a fixed size, which more steps do not mend
_UNLIKELY = 1e-4  # of about a hundred p-values of exact samplers, one in a hundred certificates has one as small


def variance(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """Whether the standard deviation of the samples of N(0, 1/4) tends to the exact one as the steps double."""
    for name, solver in _stochastic(parts).items():
        for on, process in continuous(quick).items():
            if process.anchored or refusal(solver, process) is not None:
                continue
            claim = "std ratio tends to 1" if solver.order else "no claim: it does not tend to the law"
            yield judged("variance", name, on, claim, functools.partial(_variance, solver, process))


def _variance(solver: Solver, process: Process) -> tuple[str, bool | None]:
    if not solver.linear:
        return "steps not linear in the noise: see marginals", None
    coarse, fine = (_ratio(solver, process, steps) for steps in (100, 200))
    measured, error = f"{coarse:.4f}, {fine:.4f} with 100, 200 steps", abs(fine - 1)
    shrinks = error < 0.1 and error < 0.75 * abs(coarse - 1)
    return measured, (shrinks or error < _BIAS) if solver.order else None


def _ratio(solver: Solver, process: Process, steps: int) -> float:
    high, low = min(80.0, 0.99 * float(process.rho(process.t_max))), max(0.01, 1.01 * float(process.rho(process.t_min)))
    times = LogSNR(steps, sigma_max=high, sigma_min=low, to_zero=False).times(process)
    return checks.variance_ratio(solver, process, times, _VARIANCE)


class _Entries(Denoiser):
    """A state of many entries, each an independent draw of a law in one dimension: one sample then stands for many."""

    def __init__(self, law: MixtureOracle, count: int) -> None:
        super().__init__(law.process, (count,))
        self.law = law

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        """The exact estimate of every entry."""
        return self.law(x.reshape(-1, 1), t).reshape(x.shape)


def marginals(parts: Mapping[str, Solver] | None, quick: bool) -> Iterator[Finding]:
    """Whether samples on their way have the exact law at each noise level."""
    law, process = MixtureOracle([0.6, 0.4], [[-1.0], [1.2]], [[0.4], [0.3]]), EDM()
    for name, solver in _stochastic(parts).items():
        if refusal(solver, process) is not None:
            continue
        made: list[Any] = []
        for level in _LEVELS:
            claim = "the exact law" if solver.order else "no claim"
            yield judged("marginals", name, f"noise level {level:g}", claim, functools.partial(_marginal, solver, law, level, made))


def _marginal(solver: Solver, law: MixtureOracle, level: float, made: list[Any]) -> tuple[str, bool | None]:
    if not made:
        times = LogSNR(200, sigma_max=20.0, sigma_min=_LEVELS[-1], to_zero=False).times(law.process)
        start = (law.marginal(_COUNT, 20.0, seed=3).reshape(1, _COUNT), 20.0)
        made.append(sample(_Entries(law, _COUNT), 1, solver=solver, grid=times, start=start, trace=True))
    at = min(range(len(made[0].times)), key=lambda i: abs(math.log(made[0].times[i] / level)))
    p = _p_value(made[0].path[at][0], law, made[0].times[at])
    return f"p = {p:.3g}", p > _UNLIKELY if solver.order else None


def _p_value(x: torch.Tensor, law: MixtureOracle, t: float) -> float:
    from scipy.special import ndtr
    from scipy.stats import kstest

    weights, means = law.log_weights.exp().numpy(), law.means[:, 0].numpy()
    stds = torch.sqrt(law.variances[:, 0] + t**2).numpy()

    def cdf(values: Any) -> Any:
        return (weights * ndtr((values[:, None] - means) / stds)).sum(1)

    return float(kstest(x.numpy(), cdf).pvalue)


def _stochastic(parts: Mapping[str, Solver] | None) -> dict[str, Solver]:
    known = registered("solvers") if parts is None else parts
    return {name: solver for name, solver in known.items() if solver.stochastic}
