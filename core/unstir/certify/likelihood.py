"""The section of the certificate about likelihoods: the probability flow against densities that are known.

    error = log p found by the flow - log p(x_t) of the law at the grid's last level, in nats, with the law's own density as the prior;
    beside the normal prior N(0, sigma^2), whose mismatch is no error of the flow and is told

Hutchinson's estimate is averaged over many probes: its mean must lie within four standard errors.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from unstir import flow_likelihood
from unstir.certify.certificate import Finding, judged
from unstir.certify.oracles import gm4
from unstir.certify.solvers import continuous
from unstir.process import Process

POINTS = ((0.3, -0.4), (1.5, 1.0), (-2.0, 0.7))
GOLDEN = (-12.725664, -13.560394, -32.157393)  # log p of GM4 at sigma = .002
_PROBES = 200

Likelihood = Callable[..., Any]


def likelihood(parts: Mapping[str, Likelihood] | None, quick: bool) -> Iterator[Finding]:
    """The log-likelihood of three points under GM4: the goldens, every continuous process, both divergences, both priors."""
    for name, found in ({"likelihood": flow_likelihood.likelihood} if parts is None else parts).items():
        yield judged("likelihood", name, "edm, exact divergence", "nats of GM4", functools.partial(_golden, found, quick))
        yield judged("likelihood", name, "edm, normal prior", "mismatch of the prior", functools.partial(_mismatch, found))
        yield judged("likelihood", name, "edm, hutchinson", "unbiased", functools.partial(_hutchinson, found))
        for on, process in continuous(quick).items():
            if on != "edm" and not _pinned(process):
                yield judged("likelihood", name, on, "nats of GM4", functools.partial(_process, found, process, quick))


def _pinned(process: Process) -> bool:
    """Does the process end in a point, which has no density?"""
    return float(process.sigma(process.t_max)) == 0


def _points() -> torch.Tensor:
    return torch.tensor(POINTS, dtype=torch.float64)


def _golden(found: Likelihood, quick: bool) -> tuple[str, bool]:
    steps = 150 if quick else 300
    nats = found(gm4(), _points(), divergence="exact", grid=f"log-snr:{steps},to_zero=false", prior=gm4()).nats
    error = float((nats - torch.tensor(GOLDEN, dtype=torch.float64)).abs().max())
    return f"{error:.1e} nats, {steps} steps", error < 5e-6 * (300 / steps) ** 4  # of fourth order


def _mismatch(found: Likelihood) -> tuple[str, None]:
    made = found(gm4(), _points(), divergence="exact", grid="log-snr:100,to_zero=false")
    off = float((made.nats - torch.tensor(GOLDEN, dtype=torch.float64)).abs().max())
    return f"{off:.3f} nats, prior: {made.prior}", None


def _hutchinson(found: Likelihood) -> tuple[str, bool]:
    grid, x = "log-snr:20,to_zero=false", torch.tensor(POINTS[1:2], dtype=torch.float64)
    exact = found(gm4(), x, divergence="exact", grid=grid, prior=gm4()).nats
    nats = found(gm4(), x.expand(_PROBES, 2), grid=grid, prior=gm4(), seed=1).nats
    error, off = float(nats.std()) / math.sqrt(_PROBES), float((nats.mean() - exact).abs())
    return f"{off:.1e} nats off in the mean of {_PROBES} probes, standard error {error:.1e}", 0 < off < 4 * error


def _process(found: Likelihood, process: Process, quick: bool) -> tuple[str, bool]:
    law, steps = gm4(process), 60 if quick else 150
    condition = {"anchor": torch.tensor([[0.3, -0.2]], dtype=torch.float64)} if process.anchored else None
    end = float(process.time_at_rho(max(0.02, 1.01 * float(process.rho(max(process.t_min, process.t_zero))))))
    x = process.perturb(_points(), end, torch.zeros(3, 2, dtype=torch.float64), condition and condition["anchor"])
    levels = _levels(process, end, steps)
    made = found(law, x, divergence="exact", grid=levels, prior=law, condition=condition)
    error = float((made.nats - law.log_density(x, levels[-1], condition)).abs().max())
    return f"{error:.1e} nats, {steps} steps, prior: {made.prior}", error < 1e-3


def _levels(process: Process, last: float, steps: int) -> list[float]:
    """Times uniform in log(sigma/alpha), the noisiest no noisier than 80."""
    high = min(80.0, 0.99 * float(process.rho(process.t_max)))
    low = float(process.rho(last))
    return [float(process.time_at_rho(high * (low / high) ** (i / steps))) for i in range(steps + 1)]
