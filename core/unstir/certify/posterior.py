"""How far a posterior method ends from the exact posterior of a linear problem with normal data, without Monte Carlo where it is affine.

    x_end = M_0 x_T + sum_j M_j z_j + c,      mean = M_0 E[x_T] + c,      cov = M_0 Cov[x_T] M_0^T + sum_j M_j M_j^T

Every unit draw (the start is one) has a row of its own in one batch, so that any solver, guide and steer that is affine in the state, the
estimate and its draws is propagated exactly, with its history. One more row carries a mixture of all draws: if it does not end where the
others say, the method is not affine, and its moments are those of samples.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstir import names, registry
from unstir.certify.distances import normal_wasserstein
from unstir.certify.laws import LinearMixture
from unstir.certify.oracles import GaussianOracle, LinearGaussian, MixtureOracle, lg3
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.evaluation import Evaluation
from unstir.grid import LogSNR
from unstir.guide.base import Guide
from unstir.loop import sample
from unstir.noise import NoiseSource
from unstir.operator import Dense
from unstir.process import EDM
from unstir.solver import Memory, Solver
from unstir.steering import Steering

_ROUNDING = 1e-6  # relative: what thousands of float64 steps leave; a nonlinear method differs by far more


@dataclass(frozen=True)
class PosteriorCheck:
    """Where a posterior method ends.

    Attributes:
        mean: of its samples (n,).
        cov: of its samples (n, n).
        mean_error: 2-norm of the difference to the posterior mean.
        cov_error: Frobenius norm of the difference to the posterior covariance.
        wasserstein: 2-Wasserstein distance of the normal laws of these moments and the posterior.
        exact: propagated, and not estimated from samples?
    """

    mean: Tensor
    cov: Tensor
    mean_error: float
    cov_error: float
    wasserstein: float
    exact: bool


class _Unit(NoiseSource):
    """Gives each draw its own rows of the batch, one unit entry each, and the last row a mixture of all."""

    def __init__(self, rows: int, first: int) -> None:
        super().__init__(0, range(rows))
        self.first = self.used = first
        self.mixture: list[Tensor] = []
        self._own = torch.Generator().manual_seed(0)

    def draw(self, shape: Sequence[int], dtype: torch.dtype = torch.float64, device: Any = "cpu", stream: str = "") -> Tensor:
        """The next unit draw, in its own rows."""
        width = math.prod(shape)
        unit, end = torch.zeros(len(self.indices), width, dtype=dtype), self.used + width
        if end < len(self.indices):
            unit[self.used : end] = torch.eye(width, dtype=dtype)
        self.used = end
        self.mixture.append(torch.randn(width, generator=self._own, dtype=torch.float64))
        unit[-1] = self.mixture[-1]
        return unit.reshape(-1, *shape)


class _Affine(Denoiser):
    """A guided denoiser that is affine in the state, as a table: D'(x, t) = x G_t + g_t, each time found once."""

    def __init__(self, denoiser: Denoiser) -> None:
        super().__init__(denoiser.process, denoiser.shape, denoiser.space)
        self.denoiser = denoiser
        self.known: dict[float, tuple[Tensor, Tensor] | None] = {}

    def forward(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The estimate from the table; the denoiser's own where it is not affine."""
        if t not in self.known:
            self.known[t] = self._table(x, t, condition)
        table = self.known[t]
        return self.denoiser(x, t, condition) if table is None else x @ table[0] + table[1]

    def know(self, times: Sequence[float], x: Tensor) -> None:
        """Fill the table at all times in one evaluation, if the denoiser takes a time a sample."""
        probes = torch.stack([self._probes(x, t) for t in times])
        clock = torch.tensor(times, dtype=torch.float64).repeat_interleave(probes.shape[1])
        try:
            found = self.denoiser(probes.flatten(0, 1), clock, None).reshape(probes.shape)
        except UserError:
            return
        self.known = {t: self._fitted(*pair) for t, *pair in zip(times, probes, found, strict=True)}

    def _probes(self, x: Tensor, t: float) -> Tensor:
        n = x.shape[1]
        units = torch.cat([torch.zeros(1, n, dtype=x.dtype), torch.eye(n, dtype=x.dtype), torch.full((1, n), 0.7, dtype=x.dtype)])
        return (float(self.process.sigma(t)) + float(self.process.alpha(t))) * units

    def _table(self, x: Tensor, t: float, condition: Any) -> tuple[Tensor, Tensor] | None:
        probes = self._probes(x, t)
        return self._fitted(probes, self.denoiser(probes, t, condition))

    @staticmethod
    def _fitted(probes: Tensor, found: Tensor) -> tuple[Tensor, Tensor] | None:
        scale = probes[1, 0]
        slope = (found[1:-1] - found[0]) / scale
        off = (found[-1] - probes[-1] @ slope - found[0]).abs().max() / (found.abs().max() + 1)
        return (slope, found[0]) if off < _ROUNDING else None


def posterior(
    guides: Sequence[Any] = (),
    steers: Sequence[Any] = (),
    *,
    solver: Solver | str = "ddim",
    steps: int = 2000,
    problem: LinearGaussian | LinearMixture | None = None,
    prior: GaussianOracle | MixtureOracle | None = None,
    count: int = 2048,
) -> PosteriorCheck:
    """Run a posterior method to the end, sigma 80 to .001 on a grid uniform in log sigma, and measure how far it is from the posterior.

    Args:
        guides, steers: the method, made for the problem's operator and measurement.
        solver: what samples.
        steps: number of steps.
        problem: LG3 when absent; with mixture data nothing is affine.
        prior: the denoiser of the prior, on any process; that of the problem on EDM when absent.
        count: samples taken where the method is not affine.

    Returns:
        Mean, covariance and their distance to the posterior's.
    """
    problem = problem or lg3()
    prior = prior or problem.prior(EDM())
    made: Solver = names.solver(solver)
    group = max([1, *(steer.particles for steer in steers)])
    moments = _propagated(prior, guides, steers, made, steps) if group == 1 else None
    exact = moments is not None
    if moments is None:
        count = -(-count // group) * group
        found = sample(prior, count, solver=made, grid=_grid(steps), guides=guides, steers=steers)
        x = torch.as_tensor(found.x).to(torch.float64)
        moments = x.mean(0), torch.cov(x.T)
    mean, cov = moments
    m, c = problem.posterior_mean, problem.posterior_cov
    distance = normal_wasserstein(mean, cov, m, c)
    return PosteriorCheck(mean, cov, float((mean - m).norm()), float((cov - c).norm()), float(distance), exact)


def _grid(steps: int) -> LogSNR:
    return LogSNR(steps, sigma_max=80.0, sigma_min=1e-3, to_zero=False)


def _propagated(
    prior: GaussianOracle | MixtureOracle, guides: Sequence[Any], steers: Sequence[Any], solver: Solver, steps: int
) -> tuple[Tensor, Tensor] | None:
    """Mean and covariance at the end; None where the method is not affine."""
    process, n = prior.process, prior.mean.numel()
    rows = solver.plan(process, _grid(steps).times(process))
    guided: Denoiser = prior
    for guide in guides:
        guided = guide.planned(rows).wrap(guided)
    table = _Affine(guided)
    table.know([row.t for row in rows], torch.zeros(1, n, dtype=torch.float64))  # type: ignore[misc]

    std: Any = process.prior(None, rows[0].t)[1]  # type: ignore[arg-type]

    def walk(size: int) -> tuple[Tensor, _Unit]:
        noise, model = _Unit(size, 1 + n), Evaluation(table, process, None)
        x: Any = torch.zeros(size, n, dtype=torch.float64)
        x[1 : 1 + n] = std * torch.eye(n, dtype=torch.float64)[: max(size - 2, 0)]
        x[-1] = 0.6 * std
        memory = Memory(lambda: noise.draw((n,)))
        steering = Steering(steers, prior, model, noise, memory, solver.stochastic)
        for row in rows:
            x = steering.before(x, row, row is rows[-1])
            x = solver.step(x, row, model, memory)
            x = steering.after(x, row, row is rows[-1])
        return x, noise

    with torch.no_grad():
        used = walk(2 + n)[1].used if solver.stochastic or steers else 1 + n
        if any(entry is None for entry in table.known.values()):
            return None
        x, noise = walk(used + 1)
    mean, linear = x[0], x[1:-1] - x[0]
    weights = torch.cat([torch.full((n,), 0.6, dtype=torch.float64), *noise.mixture])
    expected = mean + weights @ linear
    if not bool((x[-1] - expected).norm() <= _ROUNDING * (1 + linear.norm() * len(weights) ** 0.5)):
        return None
    return mean, linear.T @ linear


def methods(problem: LinearGaussian | LinearMixture | None = None, noise: float = 0.3) -> dict[str, Callable[[], dict[str, Any]]]:
    """Every registered guide and steer that takes an operator and a measurement, made for a problem.

    Args:
        problem: LG3 when absent.
        noise: standard deviation of its measurement noise, given to those that ask.

    Returns:
        Name -> a function that gives the keywords ``guides`` or ``steers`` of :func:`posterior`, and ``solver`` where the class names
        the one it is for (``solver: ClassVar[str]``).
    """
    found: dict[str, Callable[[], dict[str, Any]]] = {
        name: functools.partial(method, made, problem, noise)
        for kind in ("guides", "steers")
        for name in registry.names(kind)
        if is_method(made := registry.resolve(kind, name))
    }
    if not found:
        raise UserError("no guide or steer with an operator and a measurement is registered")
    return found


def is_method(made: Callable[..., Any]) -> bool:
    """Does a class take an operator and a measurement, and need nothing more but perhaps the noise?

    Args:
        made: the class.
    """
    options = inspect.signature(made).parameters
    needed = {key for key, option in options.items() if option.default is option.empty}
    return {"operator", "y"} <= set(options) and needed <= {"operator", "y", "noise"}


def method(
    made: Callable[..., Any], problem: LinearGaussian | LinearMixture | None = None, noise: float = 0.3, **options: Any
) -> dict[str, Any]:
    """A posterior method, made for a problem.

    Args:
        made: the class of a guide or steer.
        problem: LG3 when absent.
        noise: standard deviation of its measurement noise, given to those that ask.
        **options: more of the class's.

    Returns:
        The keywords ``guides`` or ``steers`` of :func:`posterior`, and ``solver`` where the class names the one it is for.
    """
    problem = problem or lg3()
    given: dict[str, Any] = {"operator": Dense(problem.matrix), "y": problem.y[None], **options}
    if "noise" in inspect.signature(made).parameters:
        given = {"noise": noise, **given}
    part = made(**given)
    solver = getattr(made, "solver", None)
    return {"guides" if isinstance(part, Guide) else "steers": [part]} | ({"solver": solver} if solver else {})
