"""Density guidance: the log-density of each path changes as asked."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import unstir
from unstir.certify import GaussianOracle, gm4
from unstir.certify.laws import gaussian, ring8
from unstir.certify.oracles import Oracle
from unstir.divergence import estimate_and_trace
from unstir.errors import UserError
from unstir.grid import LogSNR
from unstir.guide import DensityControl, DensityNoise, scaled_prior
from unstir.process import EDM, VP, Process, RectifiedFlow


def run(law: Oracle, start: torch.Tensor, steps: int, *guides: Any, solver: str = "heun", **options: Any) -> torch.Tensor:
    process = law.process
    high, low = 20.0, 0.01
    grid = LogSNR(steps, sigma_max=high, sigma_min=low, to_zero=False)
    begin = float(process.time_at_rho(high))
    x = float(process.alpha(begin)) * start
    return unstir.sample(law, len(start), solver=solver, grid=grid, start=(x, begin), guides=guides, **options).x  # type: ignore[return-value]


def log_density(law: Oracle, x: torch.Tensor, rho: float = 0.01) -> torch.Tensor:
    """Of x/alpha."""
    t = float(law.process.time_at_rho(rho))
    return law.log_density(x, t) + x.shape[1] * torch.log(law.process.alpha(t))


@pytest.mark.parametrize("process", [EDM(), VP(), RectifiedFlow()], ids=repr)
@pytest.mark.parametrize("change", [3.0, -3.0])
def test_a_change_of_log_density_is_realised_for_every_sample(process: Process, change: float) -> None:
    law = gaussian(32, process=process)
    start = gaussian(32).marginal(8, 20.0, seed=1)
    gain = log_density(law, run(law, start, 200, DensityControl(change=change))) - log_density(law, run(law, start, 200))
    assert (gain - change).abs().max() < 1e-3  # second order in 200 steps: 3.0002
    assert gain.std() < 1e-4


def test_the_change_needs_no_divergence_and_no_further_evaluation() -> None:
    control = DensityControl(change=1.0)
    assert not control.needs_grad
    start = gm4().marginal(2, 20.0)
    runs = [unstir.sample(gm4(), 2, grid="karras:10", start=(start, 20.0), guides=guides).nfe for guides in ([], [control])]
    assert runs[0] == runs[1]


def test_a_change_of_nothing_is_the_flow() -> None:
    law, start = ring8(), ring8().marginal(6, 20.0, seed=0)
    torch.testing.assert_close(run(law, start, 40, DensityControl(change=0.0)), run(law, start, 40), rtol=1e-12, atol=1e-12)


def test_the_rate_of_the_flow_itself_gives_the_flow() -> None:
    law = gaussian(16)
    variances = law.variances
    start = law.marginal(5, 20.0, seed=2)

    def rate(rho: float) -> float:  # -div u, which is the same everywhere for normal data
        return float((rho**2 / (variances + rho**2)).sum())

    kept = run(law, start, 100, DensityControl(rate=rate, divergence="exact"))
    torch.testing.assert_close(kept, run(law, start, 100), rtol=1e-10, atol=1e-12)


def typical_rate(law: Oracle) -> tuple[Any, Any]:
    """The mean of -div u over the law, interpolated in log(rho), and its integral from 20 down to .01."""
    levels = torch.logspace(math.log10(20), -2, 160, dtype=torch.float64)
    rates = torch.stack([2 - estimate_and_trace(law, law.marginal(600, float(r), seed=0), float(r), None, None)[1].mean() for r in levels])  # type: ignore[union-attr]
    steps = torch.log(levels[:-1] / levels[1:])

    def rate(rho: float) -> float:
        place = math.log(20 / rho) / float(steps[0])
        low = min(max(int(place), 0), len(levels) - 2)
        return float(torch.lerp(rates[low], rates[low + 1], min(max(place - low, 0.0), 1.0)))

    return rate, float(((rates[1:] + rates[:-1]) / 2 * steps).sum())


def test_a_mixtures_samples_get_the_log_density_that_is_asked_of_each() -> None:
    law = ring8()
    rate, total = typical_rate(law)
    start = law.marginal(200, 20.0, seed=3)
    begin = law.log_density(start, 20.0)
    start = start[(begin - begin.mean()).abs() < 0.25]  # paths that start near the typical density stay where there is a density to have
    found = log_density(law, run(law, start, 400, DensityControl(rate=rate, divergence="exact")))
    asked = law.log_density(start, 20.0) + total
    near = (found - asked).abs()
    assert near.median() < 1e-2  # nats
    assert near.quantile(0.9) < 5e-2
    assert log_density(law, run(law, start, 400)).std() > 0.5  # the flow alone spreads them


def test_the_stochastic_version_keeps_the_log_density_as_steps_shrink() -> None:
    law = gaussian(8)
    start = law.marginal(60, 20.0, seed=1)
    base = run(law, start, 400)
    control, noise = DensityControl(change=2.0, spread=0.2, divergence="exact"), DensityNoise(0.2)
    gaps, far = [], 0.0
    for steps in (100, 400):
        x = run(law, start, steps, control, solver="ddim", steers=[noise], seed=4)
        plain = run(law, start, steps, DensityControl(change=2.0), solver="ddim")
        gaps.append((log_density(law, x) - log_density(law, base) - 2).square().mean().sqrt().item())
        far = torch.linalg.vector_norm(x - plain, dim=1).mean().item()
    assert far > 0.3  # it does move the samples
    assert gaps[1] < 0.75 * gaps[0]  # square root of the step: the quadratic variation is random
    assert gaps[1] < 0.25
    without = run(law, start, 400, DensityControl(change=2.0), solver="ddim", steers=[noise], seed=4)  # the planted fault: no compensation
    assert (log_density(law, without) - log_density(law, base) - 2).mean() < -0.4


def test_hutchinsons_divergence_will_do_in_high_dimensions() -> None:
    law = GaussianOracle(torch.zeros(200), torch.linspace(0.01, 2, 200))
    start = law.marginal(3, 20.0, seed=2)

    def rate(rho: float) -> float:
        return float((rho**2 / (law.variances + rho**2)).sum()) + 0.5

    found = log_density(law, run(law, start, 200, DensityControl(rate=rate))) - log_density(law, run(law, start, 200))
    assert (found - 0.5 * math.log(2000)).abs().max() < 1e-2  # a probe of signs is exact for a diagonal Jacobian


def test_scaling_the_prior_down_gives_likelier_samples() -> None:
    law = gaussian(32)
    grid = LogSNR(60, sigma_max=20.0, sigma_min=0.01, to_zero=False)
    values = []
    for scale in (1.0, 0.9):
        start = scaled_prior(law, 40, scale=scale, grid=grid, seed=5)
        values.append(log_density(law, unstir.sample(law, 40, solver="heun", grid=grid, start=start).x))  # type: ignore[arg-type]
    assert (values[1] > values[0]).all()  # score and divergence are aligned for normal data
    same = unstir.sample(law, 40, solver="heun", grid=grid, start=scaled_prior(law, 40, scale=1.0, grid=grid, seed=5)).x
    assert torch.equal(same, unstir.sample(law, 40, solver="heun", grid=grid, seed=5).x)  # type: ignore[arg-type]


def test_a_limit_keeps_paths_finite_that_are_asked_too_much() -> None:
    law, start = ring8(), ring8().marginal(20, 20.0, seed=0)
    x = run(law, start, 60, DensityControl(change=50.0, limit=2.0))
    assert torch.isfinite(x).all()
    assert (torch.linalg.vector_norm(x[:, None] - law.means, dim=2).min(1).values < 1).all()


def test_density_control_works_with_every_interval_and_outside_does_nothing() -> None:
    law, start = gaussian(32), gaussian(32).marginal(4, 20.0)
    gain = log_density(law, run(law, start, 200, DensityControl(change=1.0, low=0.5, high=5.0))) - log_density(law, run(law, start, 200))
    assert (gain - 1).abs().max() < 0.03  # the ends of the interval lie inside steps
    with pytest.raises(UserError, match="no level"):
        run(law, start, 20, DensityControl(change=1.0, low=30.0, high=40.0))


def test_density_control_refuses_contradictions() -> None:
    wrong: list[dict[str, Any]] = [{}, {"change": 1.0, "rate": abs}, {"change": math.inf}, {"change": 1.0, "low": 2.0, "high": 1.0}]
    for options in (*wrong, {"change": 1.0, "limit": 0.0}):
        with pytest.raises(UserError):
            DensityControl(**options)  # type: ignore[arg-type]
    for options in ({"change": 1.0, "spread": -1.0}, {"change": 1.0, "divergence": "trace"}):
        with pytest.raises(UserError):
            DensityControl(**options)  # type: ignore[arg-type]
    with pytest.raises(UserError):
        DensityNoise(-1.0)
    with pytest.raises(UserError):
        scaled_prior(gm4(), 2, scale=math.nan)
