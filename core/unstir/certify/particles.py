"""The section of the certificate about particles: the evidence they estimate, and the tilted law they sample.

    evidence   E[Z] = p(y) of LG3 under the law that the solver's chain samples, whose steps are affine: within 3 standard errors; for
               blind rewards with measurement noise 1, since their weights at noise .3 have too heavy tails to have a standard error
    tilt       M8 exp(r), r linear, is a mixture again: total variation of the shares of its modes

Each part is made from a problem by the names of its arguments. Judged is what keeps weights (``ParticleSteer``) by its evidence, and every
part by the tilt, where its ``exactness`` begins with "exact".
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir import names
from unstir.certify.certificate import Finding, judged
from unstir.certify.distances import weights_of
from unstir.certify.examples import parts_of, solver_of
from unstir.certify.laws import ring8
from unstir.certify.oracles import LinearGaussian, MixtureOracle, lg3
from unstir.loop import sample
from unstir.operator import Dense
from unstir.steer import FPS, Steer
from unstir.steer.particles import ParticleSteer

_GRID = "log-snr:60,sigma_max=20,sigma_min=0.05"
_STRENGTH = 0.5  # r = x_1/2
_PARTICLES, _PROBLEMS = 64, 16
_FEW, _MANY = 16, 128
_ELSEWHERE = (FPS,)  # exact for measurements without noise, which LG3 is not
_TILT = 0.08  # total variation; beside 1/sqrt(draws) for the chance in the shares of 8 modes, copies counted once


def particles(parts: Mapping[str, Any] | None, quick: bool) -> Iterator[Finding]:
    """Every particle steer: log evidence on LG3 and the law of a tilted ring, where the arguments it needs are known."""
    for name, part in (parts_of(("steers",)) if parts is None else parts).items():
        if not isinstance(part, type) or getattr(part, "particles", 1) == 1:
            continue
        problem = _noisy(1.0 if "reward" in inspect.signature(part).parameters else 0.3)
        on = f"LG3, noise {float(problem.noise_cov[0, 0]) ** 0.5:g}, {_PROBLEMS * (1 if quick else 8)} problems of {_PARTICLES}"
        books = issubclass(part, ParticleSteer) and (_is_exact(part) or not quick)
        if books and (made := made_of(part, _evidence_problem(problem))) is not None:
            claim = "evidence within 3 standard errors" if _is_exact(part) else "no claim of evidence"
            yield judged("particles", name, on, claim, functools.partial(_evidence, made, problem, _is_exact(part), quick))
        if (made := made_of(part, _tilt_problem())) is not None:
            claim = f"total variation below {_TILT} + 1/sqrt(draws)" if _is_exact(part) else part.exactness  # type: ignore[attr-defined]
            yield judged("particles", name, "M8 exp(x/2)", claim, functools.partial(_tilt, made, _is_exact(part), quick))


def _is_exact(part: Any) -> bool:
    return part.exactness.startswith("exact") and not issubclass(part, _ELSEWHERE)


def made_of(part: type, problem: Mapping[str, Any]) -> Steer | None:
    """A part made for a problem: of what it asks for, everything the problem knows by name; None where it needs more.

    Args:
        part: the class of a steer.
        problem: names of arguments and their values.
    """
    asked = inspect.signature(part).parameters
    needed = {key for key, option in asked.items() if option.default is option.empty}
    if not needed <= set(problem) or not needed:
        return None
    return part(**{key: value for key, value in problem.items() if key in asked})


def _noisy(std: float) -> LinearGaussian:
    """LG3 with measurement noise of this standard deviation."""
    return dataclasses.replace(lg3(), noise_cov=std**2 * torch.eye(2, dtype=torch.float64))


def _evidence_problem(problem: LinearGaussian) -> dict[str, Any]:
    """p(y | x_0), as reward, likelihood, twist, ratio, or operator and measurement."""
    noise = float(problem.noise_cov[0, 0]) ** 0.5

    def log_likelihood(x0: Tensor, _: Any) -> Tensor:
        return (-0.5 * ((problem.y - x0 @ problem.matrix.mT) / noise).square() - 0.5 * math.log(2 * math.pi * noise**2)).sum(1)

    def widened(x: Tensor, t: Any, _: Any) -> Tensor:
        cov = problem.noise_cov + float(t) ** 2 * problem.matrix @ problem.matrix.mT
        return torch.distributions.MultivariateNormal(problem.y, cov).log_prob(x @ problem.matrix.mT)

    return {
        "reward": log_likelihood, "log_likelihood": log_likelihood, "log_twist": widened, "log_ratio": widened, "width": 0.3, "kappa": 1.0,
        "operator": Dense(problem.matrix), "y": problem.y[None], "noise": noise, "data_std": 1.0, "particles": _PARTICLES,
    }  # fmt: skip


def _evidence(steer: Any, problem: LinearGaussian, exact: bool, quick: bool) -> tuple[str, bool | None]:
    problems, solver = _PROBLEMS * (1 if quick else 8), solver_of(steer)
    samples = sample(problem.prior(), problems * _PARTICLES, solver=solver, grid=_GRID, steers=[steer], seed=1)
    if not exact:
        off = float((torch.as_tensor(samples.x).mean(0) - problem.posterior_mean).norm())
        return f"mean {off:.3f} off the posterior's", None
    return within(samples.info["log_evidence"], chain_evidence(problem, solver, _GRID))


def within(log_evidence: Tensor, exact: float) -> tuple[str, bool]:
    """How far the mean of Z lies from the evidence, in standard errors over problems.

    Args:
        log_evidence: estimates (problems,), nats.
        exact: log p(y).
    """
    ratio = torch.exp(log_evidence - exact)
    error = float(ratio.std()) / math.sqrt(len(ratio))
    away = abs(float(ratio.mean()) - 1) / error
    return f"{float(ratio.mean()):.3f} of exp({exact:.4f}), {away:.1f} standard errors of {error:.3f}", away < 3


def chain_evidence(problem: LinearGaussian, solver: Any, grid: str) -> float:
    """log p(y) where the prior is what the solver's chain samples of it: its steps are affine, so its law is normal.

    Args:
        problem: linear, with normal data.
        solver: of the DDIM family.
        grid: a short name.
    """
    prior, unit = problem.prior(), torch.eye(3, dtype=torch.float64)
    rows = names.solver(solver).plan(prior.process, names.grid(grid).times(prior.process))
    mean, cov = torch.zeros(3, dtype=torch.float64), rows[0].sigma_t ** 2 * unit  # type: ignore[operator]
    for row in rows:
        a, b, d = (float(c) for c in row.c)  # type: ignore[arg-type]
        shift = prior(torch.zeros(1, 3, dtype=torch.float64), row.t)[0]
        matrix = a * unit + b * (prior(unit, row.t) - shift).mT
        mean, cov = matrix @ mean + b * shift, matrix @ cov @ matrix.mT + d**2 * unit
    seen = problem.matrix @ cov @ problem.matrix.mT + problem.noise_cov
    return float(torch.distributions.MultivariateNormal(problem.matrix @ mean, seen).log_prob(problem.y))


def tilted(law: MixtureOracle, strength: float = _STRENGTH) -> MixtureOracle:
    """The law p exp(strength x_1), a mixture with moved means and other weights.

    Args:
        law: the mixture.
        strength: of the reward.
    """
    means, variances = law.means.clone(), law.variances
    weights = law.log_weights.exp() * torch.exp(strength * means[:, 0] + strength**2 * variances[:, 0] / 2)
    means[:, 0] += strength * variances[:, 0]
    return MixtureOracle(weights, means, variances.sqrt(), law.process)


def _tilt_problem() -> dict[str, Any]:
    """r = x_1/2 on M8: as a reward, a likelihood, a rough twist or ratio, and the exact soft value of noisy states."""
    law, target = ring8(), tilted(ring8())

    def reward(x: Tensor, _: Any) -> Tensor:
        return _STRENGTH * x[:, 0]

    def rough(x: Tensor, t: Any, _: Any) -> Tensor:
        return _STRENGTH * x[:, 0] / (1 + float(t) ** 2 / 8)

    def value(x: Tensor, t: Any, _: Any) -> Tensor:
        return target.log_density(x, t) - law.log_density(x, t) if float(t) > 0 else reward(x, None)

    return {
        "reward": reward, "log_likelihood": reward, "log_twist": rough, "log_ratio": rough, "value": value, "particles": _FEW,
    }  # fmt: skip


def _tilt(steer: Any, exact: bool, quick: bool) -> tuple[str, bool | None]:
    law, problems = ring8(), _MANY * (1 if quick else 8)
    grid = f"karras:{24 if quick else 60},sigma_max=20,sigma_min=0.02"
    x = torch.as_tensor(sample(law, problems * _FEW, solver=solver_of(steer), grid=grid, steers=[steer], seed=2).x)
    off = float((weights_of(x, law) - tilted(law).log_weights.exp()).abs().sum()) / 2
    untilted = float((law.log_weights.exp() - tilted(law).log_weights.exp()).abs().sum()) / 2
    draws = len(x.unique(dim=0))
    return f"{off:.3f}, {draws} draws; {untilted:.3f} without it", off < _TILT + draws**-0.5 if exact else None
