"""The section of the certificate about processes: closed forms against automatic differentiation, inverses, and simulation-free laws.

f = alpha'/alpha,   g^2 = (sigma^2)' - 2 f sigma^2,   pull = beta' - f beta,   t = time_at_rho(rho(t)),   log SNR = -2 log rho
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from unstir.certify.certificate import Finding
from unstir.certify.oracles import gm4
from unstir.certify.solvers import continuous
from unstir.denoiser.base import Rescheduled
from unstir.errors import UnstirError
from unstir.process import Process
from unstir.process.base import slope

_CLOSE = 1e-6  # closed forms agree to rounding but near the ends, where derivatives of sigma are steep


def closed_forms(parts: Mapping[str, Process] | None, quick: bool) -> Iterator[Finding]:
    """Every continuous process against what follows from its own alpha, beta and sigma."""
    known = continuous() if parts is None else {name: made for name, made in parts.items() if made and not made.discrete and made.scalar}
    for name, process in known.items():
        start = max(process.t_min, process.t_zero)
        times = start + (process.t_max - start) * torch.linspace(0.03, 0.97, 21, dtype=torch.float64)
        for claim, error in _errors(process, times).items():
            yield Finding("closed-forms", name, "21 times", claim, f"{error:.1e}", error <= _CLOSE)
        yield _scheduled(name, process)


def _errors(process: Process, t: Tensor) -> dict[str, float]:
    alpha, beta, sigma, rho = process.alpha(t), process.beta(t), process.sigma(t), process.rho(t)
    rate = slope(process.alpha, t) / alpha
    squared = slope(lambda s: process.sigma(s).square(), t) - 2 * rate * sigma.square()
    noise = torch.ones(len(t), 1, dtype=torch.float64)
    anchor = torch.full((1, 1), 3.0, dtype=torch.float64) if process.anchored else None
    perturbed = process.perturb(2 * noise, t, noise, anchor)[:, 0]
    return {
        "rho is sigma/alpha": _off(rho, sigma / alpha),
        "log SNR is -2 log rho": _off(process.log_snr(t), -2 * torch.log(rho)),
        "time_at_rho inverts rho": _off(process.time_at_rho(rho), t),
        "perturb is alpha x0 + beta y + sigma eps": _off(perturbed, 2 * alpha + 3 * beta + sigma),
        "rate is alpha'/alpha": _off(process.rate(t), rate),
        "diffusion is g": _off(process.diffusion(t).square(), squared.clamp(min=0)),
        "pull is beta' - f beta": _off(process.pull(t), slope(process.beta, t) - rate * beta) if process.anchored else 0.0,
    }


def _off(found: Tensor, exact: Tensor) -> float:
    return float(((found - exact).abs() / exact.abs().clamp(min=1.0)).max())


def _scheduled(name: str, process: Process) -> Finding:
    """A model moved to this process from another believes what the model of this process believes."""
    level = min(0.7, 0.5 * float(process.rho(process.t_max)))
    t = float(process.time_at_rho(level))
    bar = torch.tensor([[0.3, -0.4], [1.5, 1.0]], dtype=torch.float64)
    anchor = torch.tensor([[0.3, -0.2]], dtype=torch.float64)
    x = float(process.alpha(t)) * bar + float(process.beta(t)) * anchor
    condition = {"anchor": anchor} if process.anchored else None
    try:
        error = float((Rescheduled(gm4(), process)(x, t, condition) - gm4()(bar, level)).abs().max())
    except UnstirError as refusal:
        return Finding("closed-forms", name, "GM4", "a model moves to it", str(refusal), False)
    return Finding("closed-forms", name, "GM4", "a model moves to it", f"{error:.1e}", error <= _CLOSE)
