"""Starts other than noise at the end: teleportation, signal leak, one boundary for all, transport, Langevin from data, denoising MCMC."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import pytest
import torch
from torch import Tensor

from unstir import sample
from unstir.certify import GaussianOracle
from unstir.certify.distances import energy_distance, sliced_wasserstein, weights_of
from unstir.certify.laws import gaussian, grid25, ring8
from unstir.certify.oracles import MixtureOracle
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.grid import Karras, LogSNR
from unstir.noise import NoiseSource
from unstir.process import EDM, OUVE, VE, VP, RectifiedFlow
from unstir.starts import (
    Gaussian,
    SemiDiscrete,
    denoising_mcmc,
    finish,
    langevin_chain,
    leaked,
    optimal_boundary,
    score_error,
    teleported,
)

PROCESSES = [VP(), VE(), EDM(), RectifiedFlow(t_max=0.99)]


def fitted(oracle: GaussianOracle, components: int | None = None) -> Gaussian:
    """The normal law of an oracle, exactly."""
    variances, basis = torch.linalg.eigh(oracle.cov)
    return Gaussian(oracle.mean, basis, variances)


# Gaussian teleportation


@pytest.mark.parametrize("process", PROCESSES, ids=repr)
def test_teleportation_is_the_flow_of_normal_data(process: Any) -> None:
    law = gaussian(16, process=process)
    noise = NoiseSource(3, range(4)).draw((16,), torch.float64, stream="start")
    t = float(process.time_at_rho(1.5))
    x, time = teleported(fitted(law), process, 4, t, seed=3, dtype=torch.float64)
    exact = law.transport(float(process.prior(None, process.t_max)[1]) * noise, process.t_max, t)
    assert time == t
    torch.testing.assert_close(x, exact, rtol=1e-10, atol=1e-10)


def test_a_teleported_run_is_the_run_from_the_end_in_fewer_steps() -> None:
    law, process = gaussian(16), EDM()
    whole = sample(law, 5, solver="dpm++3m", grid=LogSNR(400), seed=2).x
    part = sample(law, 5, solver="dpm++3m", grid=LogSNR(400), start=teleported(fitted(law), process, 5, 2.0, seed=2), seed=2).x
    torch.testing.assert_close(part, whole.float(), rtol=0, atol=2e-4)  # type: ignore[union-attr]  # float32, and the steps of the whole run


def test_a_low_rank_law_is_the_full_one_where_the_rest_is_round() -> None:
    generator = torch.Generator().manual_seed(0)
    basis, _ = torch.linalg.qr(torch.randn(12, 12, generator=generator, dtype=torch.float64))
    variances = torch.tensor([5.0, 3.0, 2.0] + [0.25] * 9, dtype=torch.float64)
    oracle = GaussianOracle(torch.randn(3, 4, generator=generator, dtype=torch.float64), (basis * variances) @ basis.mT, VP())
    small = Gaussian(oracle.mean, basis[:, :3], variances[:3], 0.25)
    x = torch.randn(2, 3, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(small.transported(x, VP(), 0.9, 0.4), oracle.transport(x, 0.9, 0.4), rtol=1e-9, atol=1e-10)
    alpha, sigma = float(VP().alpha(0.4)), float(VP().sigma(0.4))
    torch.testing.assert_close(small.estimate(x, alpha, sigma), oracle(x, 0.4), rtol=1e-9, atol=1e-10)


def test_a_law_is_fitted_to_data_with_its_trace_kept() -> None:
    data = gaussian(8).marginal(500, 0.0, seed=1)
    full = Gaussian.fit(data)
    cov = (full.basis * full.variances) @ full.basis.mT
    torch.testing.assert_close(cov, torch.cov(data.mT), rtol=1e-9, atol=1e-10)
    few = Gaussian.fit(data, 2)
    assert float(few.variances.sum() + 6 * few.rest) == pytest.approx(float(torch.cov(data.mT).trace()))
    drawn = few.draw(NoiseSource(0, range(4000)))
    assert float(torch.cov(drawn.mT).diagonal().sum() / torch.cov(data.mT).trace()) == pytest.approx(1, abs=0.1)
    wide = Gaussian.fit(torch.randn(5, 3, 8, generator=torch.Generator().manual_seed(0)))  # fewer items than entries
    assert wide.variances.shape == (4,)
    assert wide.rest == pytest.approx(0, abs=1e-12)


def test_the_score_becomes_normal_with_noise_and_teleportation_then_saves_steps() -> None:
    """On M8: the relative difference falls with sigma, and a run from where it is 5 % needs at least 15 % fewer evaluations."""
    law = ring8()
    data, truth = law.marginal(2000, 0.0, seed=1), law.marginal(2000, 0.0, seed=2)
    normal = Gaussian.fit(data)
    times = [0.5, 1.0, 2.0, 4.0, 8.0, 16.0]
    errors = score_error(normal, law, data, times)
    assert (errors.diff() < 0).all()
    assert errors[0] > 0.5
    assert errors[-1] < 0.02
    skip = next(t for t, error in zip(times, errors.tolist(), strict=True) if error < 0.05)
    grid = LogSNR(24, sigma_max=80.0, sigma_min=0.02)
    whole: Any = sample(law, 2000, solver="dpm++2m", grid=grid, seed=3)
    start = teleported(normal, EDM(), 2000, skip, seed=3)
    part: Any = sample(law, 2000, solver="dpm++2m", grid=grid, start=start, seed=3)
    floor = sliced_wasserstein(data, truth)
    assert part.nfe <= 0.85 * whole.nfe
    assert sliced_wasserstein(part.x, truth) < sliced_wasserstein(whole.x, truth) + 0.5 * floor


# Signal leak


def test_starting_from_pure_noise_loses_brightness_and_a_leak_restores_it() -> None:
    """Row 176's closed form: variance ratio 1/(alpha^2 l + sigma^2) = .813 at alpha_T^2 = .0047, l = 50."""
    process = VP(t_max=0.7290)
    squared = float(process.alpha(process.t_max)) ** 2
    assert squared == pytest.approx(0.0047, rel=0.01)
    oracle = GaussianOracle([0.0, 0.0], [50.0, 1.0], process)
    law = Gaussian(oracle.mean, torch.eye(2, dtype=torch.float64)[:, :1], torch.tensor([50.0], dtype=torch.float64), 1.0)
    through = oracle.transport(torch.ones(1, 2, dtype=torch.float64), process.t_max, 0.0)[0].square() / torch.tensor([50.0, 1.0])
    assert float(through[0]) == pytest.approx(1 / (squared * 50 + 1 - squared), rel=1e-9)
    assert float(through[0]) == pytest.approx(0.813, abs=0.003)
    x, t = leaked(law, process, 20000, seed=1, dtype=torch.float64)
    assert t == process.t_max
    expected = squared * torch.tensor([50.0, 1.0]) + (1 - squared)
    torch.testing.assert_close(x.var(0), expected.double(), rtol=0.04, atol=0)  # four standard errors
    restored: Any = oracle.transport(x, t, 0.0)
    assert float(restored[:, 0].var() / 50) == pytest.approx(1, abs=0.04)


def test_sampling_from_a_leak_restores_what_sampling_from_noise_loses() -> None:
    process = VP(t_max=0.7290)
    oracle = GaussianOracle([0.0], [50.0], process)
    law = Gaussian(oracle.mean, torch.eye(1, dtype=torch.float64), torch.tensor([50.0], dtype=torch.float64))
    noise = torch.randn(4000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grid = "log-snr:60"
    plain: Any = sample(oracle, 4000, solver="f4", grid=grid, start=(noise, process.t_max)).x
    leak: Any = sample(oracle, 4000, solver="f4", grid=grid, start=leaked(law, process, 4000, seed=2, dtype=torch.float64)).x
    assert float(plain.var() / 50) == pytest.approx(0.813, abs=0.08)  # four standard errors
    assert float(leak.var() / 50) == pytest.approx(1, abs=0.09)


# One boundary for all inputs


class Observed(Denoiser):
    """E[x_0 | x_t, y] of a mixture whose first coordinates are observed with noise: exact, one measurement a sample."""

    def __init__(self, law: MixtureOracle, seen: int, std: float) -> None:
        super().__init__(EDM(), law.shape)
        self.law, self.seen, self.std = law, seen, std

    def forward(self, x: Tensor, t: Any, condition: Any = None) -> Tensor:
        means, variances, y = self.law.means, self.law.variances, condition["y"].expand(len(x), self.seen)
        m, v = means[:, : self.seen], variances[:, : self.seen]
        total = v + self.std**2
        log_w = self.law.log_weights - 0.5 * ((y[:, None] - m) ** 2 / total + torch.log(total)).sum(-1)
        post_m = means.expand(len(x), *means.shape).clone()
        post_m[..., : self.seen] += v / total * (y[:, None] - m)
        post_v = variances.clone()
        post_v[:, : self.seen] *= self.std**2 / total
        offset = x[:, None] - post_m
        log_p = torch.log_softmax(log_w - 0.5 * (offset**2 / (post_v + t * t) + torch.log(post_v + t * t)).sum(-1), 1)
        return (log_p.exp()[..., None] * (post_m + post_v / (post_v + t * t) * offset)).sum(1)


def test_one_chosen_start_restores_held_out_items_better_than_random_ones() -> None:
    generator = torch.Generator().manual_seed(0)
    law = MixtureOracle([0.5, 0.3, 0.2], torch.randn(3, 8, generator=generator, dtype=torch.float64), torch.full((3, 8), 0.6))
    denoiser, truths = Observed(law, 4, 0.1), law.marginal(320, 0.0, seed=1)
    y = truths[:, :4] + 0.1 * torch.randn(320, 4, generator=generator, dtype=torch.float64)
    setting: Any = {"solver": "dpm++2m", "grid": Karras(8)}
    found = optimal_boundary(denoiser, truths[:20], {"y": y[:20]}, candidates=64, seed=5, **setting)
    assert found.errors.shape == (64,)
    assert found.state.shape == (1, 8)

    def rmse(**start: Any) -> float:
        x: Any = sample(denoiser, 300, condition={"y": y[20:]}, **start, **setting).x
        return float((x - truths[20:]).square().mean().sqrt())

    best, random = rmse(start=found.start), [rmse(seed=seed) for seed in range(5)]
    assert best < 0.95 * min(random)
    assert rmse(start=found.start, seed=9) == best != random[0] != random[1]  # repeats of one input agree to the bit


def test_a_boundary_takes_a_deterministic_solver() -> None:
    with pytest.raises(UserError, match="draws noise"):
        optimal_boundary(ring8(), torch.zeros(1, 2), None, solver="ancestral")
    with pytest.raises(UserError, match="at least 1 candidate"):
        optimal_boundary(ring8(), torch.zeros(1, 2), None, candidates=0)


# Semi-discrete optimal transport


@lru_cache(maxsize=1)
def ring_map() -> SemiDiscrete:
    return SemiDiscrete.fit(ring8().marginal(64, 0.0, seed=1), rounds=800, draws=4096)


def test_every_cell_of_the_map_has_the_same_mass() -> None:
    masses = ring_map().masses(200_000)
    assert float((masses - 1 / 64).abs().sum() / 2) < 0.02  # total variation; counting alone gives .007
    unfitted = SemiDiscrete(ring_map().points, torch.zeros(64, dtype=torch.float64)).masses(20_000)
    assert float((unfitted - 1 / 64).abs().sum() / 2) > 0.2


def test_the_map_costs_less_than_any_other_of_its_masses() -> None:
    z = torch.randn(3000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    own = ring_map().mapped(z)
    cost = (z - own).square().sum(1).mean()
    shuffled = own[torch.randperm(3000, generator=torch.Generator().manual_seed(1))]
    assert cost < 0.6 * (z - shuffled).square().sum(1).mean()
    swapped = own.clone()  # cyclic monotonicity: no exchange of two answers is cheaper
    swapped[0::2], swapped[1::2] = own[1::2], own[0::2]
    pairs = lambda target: (z - target).square().sum(1).reshape(-1, 2).sum(1)  # noqa: E731
    assert (pairs(swapped) >= pairs(own) - 1e-9).all()


def between(x: Tensor) -> float:
    """The share of samples more than 1 (3.3 standard deviations) from every mode of the ring; .004 for true draws."""
    return float((torch.cdist(x.double(), ring8().means).min(1).values > 1).double().mean())


def test_transport_mixes_fewer_modes_than_ddim_at_10_evaluations() -> None:
    law, grid = ring8(), Karras(10, sigma_max=0.5)
    own = ring8(weights=weights_of(ring_map().points, law))  # the 64 points have not quite the ring's weights
    for neighbours in (1, 4):
        start = ring_map().start(EDM(), 2000, 0.5, neighbours=neighbours, dtype=torch.float64)
        found = sample(law, 2000, solver="dpm++2m", grid=grid, start=start)
        assert found.nfe == 10
        assert between(found.x) < 0.01  # type: ignore[arg-type]
        assert energy_distance(found.x, own.marginal(2000, 0.0, seed=2)) < 0.015  # type: ignore[arg-type]  # .005 between true draws
    for solver, share in (("ddim", 0.05), ("dpm++2m", 0.015)):
        plain = sample(law, 2000, solver=solver, grid=Karras(10, sigma_max=20.0), start=(law.marginal(2000, 20.0, seed=4), 20.0))
        assert between(plain.x) > share  # type: ignore[arg-type]


def test_blends_stay_within_an_angle() -> None:
    z = torch.randn(200, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert torch.allclose(ring_map().mapped(z, neighbours=6, angle=0.0), ring_map().mapped(z))
    blend = ring_map().mapped(z, neighbours=6, angle=0.35)
    assert (torch.cdist(blend, ring8().means).min(1).values < 1.2).all()
    assert not torch.equal(blend, ring_map().mapped(z))


# Langevin on the vanilla score


def test_langevin_from_data_keeps_weights_that_langevin_from_noise_loses() -> None:
    """Row 174's mixture .2/.8 at -6 and 6: 500 steps of .02 from noise give .49 on the left, from data .2."""
    law = MixtureOracle([0.2, 0.8], [[-6.0], [6.0]], [[1.0], [1.0]])
    data = law.marginal(500, 0.0, seed=1)
    noise = torch.randn(500, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    left = {}
    for name, x in (("data", data), ("noise", noise)):
        moved, t = langevin_chain(law, x, 0.01, steps=500, size=0.02, seed=3)
        left[name] = float((moved < 0).double().mean())
        assert t == 0.01
        assert float((moved[moved > 0] - 6).std()) == pytest.approx(1, abs=0.15)
    assert left["noise"] == pytest.approx(0.49, abs=0.07)  # three standard errors of 500
    assert left["data"] == pytest.approx(float((data < 0).double().mean()), abs=0.005)
    assert left["data"] == pytest.approx(0.2, abs=0.05)


def test_langevin_at_a_level_is_a_start_for_any_solver_and_refuses_no_noise() -> None:
    law = gaussian(4)
    start = langevin_chain(law, law.marginal(50, 0.5, seed=1), 0.5, steps=5, size=0.05, seed=2)
    assert torch.isfinite(sample(law, 50, start=start, grid="karras:6").x).all()  # type: ignore[arg-type]
    both = langevin_chain(law, law.marginal(3, 0.5, seed=1), 0.5, steps=3, size=0.05)[0]
    alone = langevin_chain(law, law.marginal(3, 0.5, seed=1)[:1], 0.5, steps=3, size=0.05)[0]
    torch.testing.assert_close(both[:1], alone, rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="takes noise"):
        langevin_chain(law, torch.zeros(1, 4), 0.0, steps=1, size=0.1)
    with pytest.raises(UserError, match="positive size"):
        langevin_chain(law, torch.zeros(1, 4), 1.0, steps=1, size=0.0)


# Denoising MCMC


@lru_cache(maxsize=1)
def ring_chain() -> Any:
    law, times = ring8(), torch.exp(torch.linspace(math.log(6), math.log(0.3), 10, dtype=torch.float64)).tolist()

    def log_level(x: Tensor) -> Tensor:
        return torch.stack([law.log_density(x, t) for t in times], 1)  # equal weights

    first = law.marginal(400, times[0], seed=4)
    return denoising_mcmc(law, log_level, first, times, first=0, visits=10, step=1.0, skip=15, seed=1)


def test_the_chain_visits_all_modes_and_levels_as_prescribed() -> None:
    chain = ring_chain()
    share = torch.bincount(chain.levels.flatten(), minlength=10) / chain.levels.numel()
    assert float((share - 0.1).abs().sum() / 2) < 0.06  # 4,000 correlated visits of 10 levels; independent ones would give .013
    low = chain.states[chain.levels >= 8]
    nearest = torch.cdist(low, ring8().means).argmin(1)
    assert (torch.bincount(nearest, minlength=8) > 0.06 * len(low)).all()


@pytest.mark.parametrize("solver", ["dpm++2m", "ddim"])
def test_the_chain_needs_fewer_evaluations_for_the_same_distance(solver: str) -> None:
    law, truth = ring8(), ring8().marginal(4000, 0.0, seed=9)
    x, evaluations = finish(law, ring_chain(), solver=solver, grid=LogSNR(8, sigma_max=20.0, sigma_min=0.05))
    start = (law.marginal(4000, 20.0, seed=4), 20.0)
    noise = sample(law, 4000, solver=solver, grid=LogSNR(7, sigma_max=20.0, sigma_min=0.05), start=start)
    assert evaluations < noise.nfe == 7
    assert energy_distance(x, truth) < 0.8 * energy_distance(noise.x, truth)  # type: ignore[arg-type]


def test_chains_do_not_depend_on_each_other_and_finish_deterministically() -> None:
    law, times = ring8(), [3.0, 1.0]

    def log_level(x: Tensor) -> Tensor:
        return torch.stack([law.log_density(x, t) for t in times], 1)

    x = law.marginal(3, 3.0, seed=1)
    whole = denoising_mcmc(law, log_level, x, times, first=0, visits=4)
    alone = denoising_mcmc(law, log_level, x[:1], times, first=0, visits=4)
    assert torch.equal(whole.levels[:, :1], alone.levels)
    torch.testing.assert_close(whole.states[:, :1], alone.states, rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="deterministic solver"):
        finish(law, whole, solver="ancestral")
    with pytest.raises(UserError, match="takes noise"):
        denoising_mcmc(law, log_level, x, [1.0, 0.0], first=0, visits=1)
    with pytest.raises(UserError, match="at least 1"):
        denoising_mcmc(law, log_level, x, times, first=2, visits=1)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Gaussian(torch.zeros(3), torch.zeros(2, 1), torch.ones(1)), "needs a basis"),
        (lambda: Gaussian(torch.zeros(3), torch.zeros(3, 1), -torch.ones(1)), "must not be negative"),
        (lambda: Gaussian.fit(torch.zeros(1, 3)), "1 items"),
        (lambda: Gaussian.fit(torch.zeros(4, 3), 5), "0 to 3 components"),
        (lambda: teleported(Gaussian.fit(torch.eye(3)), EDM(), 1, 90.0), "earlier time"),
        (lambda: teleported(Gaussian.fit(torch.eye(3)), OUVE(), 1, 0.5), "without an anchor"),
        (lambda: leaked(Gaussian.fit(torch.eye(3)), OUVE(), 1), "has an anchor"),
        (lambda: SemiDiscrete.fit(torch.zeros(1, 2)), "at least 2 points"),
        (lambda: ring_map().start(OUVE(), 1, 0.5), "has an anchor"),
    ],
)
def test_starts_refuse_what_does_not_fit(make: Any, sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        make()


def test_a_start_depends_on_seed_and_index_alone() -> None:
    law = Gaussian.fit(grid25().marginal(200, 0.0, seed=1))
    for make in (
        lambda n: teleported(law, EDM(), n, 1.0, seed=4),
        lambda n: leaked(law, VP(), n, seed=4),
        lambda n: ring_map().start(EDM(), n, 1.0, seed=4, neighbours=2),
    ):
        torch.testing.assert_close(make(5)[0][:2], make(2)[0], rtol=1e-6, atol=1e-6)
