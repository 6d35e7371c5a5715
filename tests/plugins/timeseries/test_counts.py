"""Counts: learning to jump against closed forms, the recursions of Croston and TSB by hand, laws around them, bad input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import stats

from unstir.denoiser import NetworkDenoiser, TokenDenoiser
from unstir.errors import DataError, UnknownName, UserError
from unstir.nn import MLP
from unstir.noise import NoiseSource
from unstir.plugin.protocols import Case
from unstir.process import VP, Blackout, Thinning
from unstir.train import EMA, DenoisingLoss, PathLoss, Schedule, Trainer
from unstir_timeseries import counts as jumps
from unstir_timeseries import fits
from unstir_timeseries.count_network import CountNetwork, Missing, unsoftplus
from unstir_timeseries.count_windows import Windows
from unstir_timeseries.counts import Jump, draw_counts, levels, train_counts
from unstir_timeseries.demand import counts_of, midpoints, phases
from unstir_timeseries.intermittent import Croston, Empirical, NegativeBinomial, count_quantiles, demand_rates, inverse_size
from unstir_timeseries.panel import LEVELS, panel


def case_of(y: np.ndarray, horizon: int = 7, freq: str = "D", key: str = "shop-1") -> Case:
    """A case whose whole history is ``y``."""
    items, steps = y.shape
    time = pd.date_range("2024-01-01", periods=steps + horizon, freq=freq)
    whole = panel(np.pad(y, ((0, 0), (0, horizon)), constant_values=np.nan), time, [f"sku-{i}" for i in range(items)], freq=freq, season=1)
    history = whole.isel(time=slice(0, steps))
    return Case(key, None, whole.assign_attrs(horizon=horizon), {"horizon": horizon, "context": 28, "training": history})


def sales(items: int = 6, steps: int = 140, seed: int = 0) -> np.ndarray:
    """Negative binomial sales, nothing on Sundays, gaps before the start."""
    rng = np.random.default_rng(seed)
    y = rng.poisson(rng.gamma(0.6, 1 / 0.6, (items, steps)) * np.geomspace(0.3, 6, items)[:, None]).astype(float)
    y[:, 6::7] = 0
    y[0, :20] = np.nan
    return y


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("UNSTIR_CACHE", str(tmp_path))
    fits.forget()
    yield tmp_path
    fits.forget()


# Thinning and thickening


def test_thinned_counts_are_poisson_again_with_the_golden_moments():
    """Mean 177.73 and variance 177.34 of 200,000 draws at lambda 50, x 7, alpha .50785; 40,000 here: four standard errors."""
    source = NoiseSource(0, range(400))
    z0 = Thinning(50.0).perturb(torch.full((400, 100), 7.0), 0.0, source.draw((100,), torch.float64))
    z = Blackout("linear", t_max=1.0).perturb(z0, 1 - 0.50785, source.draw((100,), torch.float64)).double()
    assert 50 * 7 * 0.50785 == pytest.approx(177.7475)
    assert z.mean().item() == pytest.approx(177.73, abs=4 * np.sqrt(177.75 * (1 / 40000 + 1 / 200000)))
    assert z.var().item() == pytest.approx(177.34, abs=4 * 177.75 * np.sqrt(2 / 40000 + 2 / 200000))


class GammaPoisson(torch.nn.Module):
    """E[lambda x | z] for x ~ Gamma(a, b) and z ~ Poisson(lambda alpha x)."""

    def __init__(self, a: float, b: float, scale: float) -> None:
        super().__init__()
        self.a, self.b, self.scale = a, b, scale

    def forward(self, x, label, condition=None):
        return unsoftplus(self.scale * (x.double() + self.a) / (self.scale * (1 - label.double()[:, None]) + self.b))


@pytest.mark.parametrize(("a", "scale"), [(1.0, 2.0), (0.4, 1.5)])
def test_the_exact_network_gives_the_negative_binomial_law(a, scale):
    """W1 and the share of zeros, within four Monte Carlo errors and the bias of 100 steps, a first-order one (some .003 of the mean)."""
    count = 6000
    x = np.asarray(draw_counts(GammaPoisson(a, a, scale), {}, 2, count // 2, times=levels(100))).ravel()
    law = stats.nbinom.pmf(np.arange(200), a, a / (a + scale))
    found = np.bincount(x, minlength=200) / count
    cumulative = law.cumsum()
    noise = np.sqrt(cumulative * (1 - cumulative) / count).sum()
    assert np.abs((found - law).cumsum()).sum() < 2 * noise + 0.02 * scale  # the mean of W1 is .8 of the sum of deviations
    assert found[0] == pytest.approx(law[0], abs=4 * np.sqrt(law[0] * (1 - law[0]) / count) + 0.006)


def exact_law(a: float, scale: float, steps: int, size: int = 160) -> np.ndarray:
    """The law of thickening with the exact network, carried from step to step."""
    z, law = np.arange(size), np.eye(size)[0]
    alpha = [1 - t for t in levels(steps)]
    for begin, end in zip(alpha, alpha[1:], strict=False):
        births = scale * (z + a) / (scale * begin + a) * (end - begin)
        law = law @ stats.poisson.pmf(z[None] - z[:, None], births[:, None])
    return law


def test_the_bias_of_thickening_is_of_the_first_order_and_takes_zeros_away():
    """Gamma-Poisson of dispersion 1 at two sales a step: .02 of zeros at 10 steps, halved with every doubling."""
    truth = 1 / 3
    errors = [exact_law(1.0, 2.0, steps)[0] - truth for steps in (10, 20, 40, 80)]
    assert all(error < 0 for error in errors)
    assert errors[2] == pytest.approx(-0.005, abs=0.001)
    for coarse, fine in zip(errors, errors[1:], strict=False):
        assert coarse / fine == pytest.approx(2, abs=0.15)  # the next order of 1/N


def test_an_untrained_network_is_the_law_of_geometric_counts():
    network = CountNetwork(width=8, depth=1)
    z, label, scale = torch.tensor([[0, 3, 40]]), torch.tensor([0.25]), torch.tensor([[2.0]])
    rate = torch.nn.functional.softplus(network(z, label, {"scale": scale}))
    torch.testing.assert_close(rate, 2 * (z + 1) / (2 * 0.75 + 1), rtol=1e-3, atol=0)  # the floor of 1e-4 below the line


def test_what_died_is_what_the_rate_still_owes():
    """Under pure death the belief is z + t r: the same rate of births as thickening, whatever the network."""
    torch.manual_seed(0)
    network = CountNetwork(width=8, depth=1)
    torch.nn.init.normal_(network.leave.weight)
    z, t, told = torch.tensor([[0, 3, 40]]), 0.3, {"scale": torch.tensor([[2.0]])}
    thin, death = TokenDenoiser(network, Thinning(), (3,)), TokenDenoiser(Missing(network), Blackout("linear", t_max=1.0), (3,))
    rates = thin.process.rates(z, thin(z, t, told), t), death.process.rates(z, death(z, t, told), t)
    torch.testing.assert_close(*rates, rtol=1e-4, atol=1e-6)  # float32, and z + t r - z at z = 40


def test_the_softplus_is_undone_from_tiny_to_large():
    value = torch.tensor([1e-30, 1e-3, 1.0, 30.0, 1e4])
    torch.testing.assert_close(torch.nn.functional.softplus(unsoftplus(value))[1:], value[1:], rtol=1e-5, atol=0)
    assert torch.isfinite(unsoftplus(torch.zeros(1))).all()


def test_a_network_says_what_it_needs():
    network = CountNetwork(profile=2, facts=3, context=4, width=8, depth=1)
    with pytest.raises(UserError, match="profile and facts and history"):
        network(torch.zeros(1, 5), torch.zeros(1), {"scale": torch.ones(1, 1)})


# Row 132 of the methods


def law_of(inflated: float) -> np.ndarray:
    law = (1 - inflated) * stats.nbinom.pmf(np.arange(60), 1.0, 0.25)
    law[0] += inflated
    return law / law.sum()


def distances(found: np.ndarray, law: np.ndarray) -> tuple[float, float]:
    """W1, and the error of the share of zeros."""
    share = np.bincount(np.clip(found, 0, 59), minlength=60) / len(found)
    return float(np.abs((share - law).cumsum()).sum()), abs(float(share[0] - law[0]))


def jumped(law: np.ndarray, updates: int, steps: int, count: int) -> np.ndarray:
    scale = torch.full((1, 1), float((law * np.arange(60)).sum()))

    def batches(step, rng):
        x0 = torch.from_numpy(rng.choice(60, size=(128, 1), p=law))
        return {"x0": x0, "condition": {"scale": scale, "present": torch.ones(128, 1, dtype=torch.bool)}}

    torch.manual_seed(0)
    network = train_counts(CountNetwork(width=16, depth=1), batches, 1, updates=updates, rate=4e-3)
    return np.asarray(draw_counts(network, {"scale": scale}, 1, count, times=levels(steps)))[:, 0]


def rounded(law: np.ndarray, updates: int, steps: int, count: int, folder) -> np.ndarray:
    mean = (law * np.arange(60)).sum()
    spread = np.sqrt((law * (np.arange(60) - mean) ** 2).sum())

    def batches(step, rng):
        return {"x0": torch.from_numpy((rng.choice(60, size=(128, 1), p=law) - mean) / spread).float()}

    torch.manual_seed(0)
    denoiser = NetworkDenoiser(MLP(1, 32, 2), VP(), shape=(1,), parameterisation="eps")
    schedule = Schedule(4e-3, warmup=min(100, updates), decay=updates // 2, last=0.01)
    trainer = Trainer(denoiser, batches, DenoisingLoss(), updates, schedule, {"ema": EMA(decay=0.99)}, accelerator="cpu", every=updates)
    trainer.run(folder)
    denoiser.network.load_state_dict(trainer.averages["ema"].weights())
    import unstir

    drawn = np.asarray(unstir.sample(denoiser, count, solver="ancestral", grid=f"quadratic:{steps}"))[:, 0]
    return np.clip(np.rint(drawn * spread + mean), 0, None).astype(int)
