"""The exact laboratory: a Gaussian autoregression of first order."""

import numpy as np
import pytest
import torch
from scipy.stats import norm

from unstir.errors import UserError
from unstir.process import EDM
from unstir_timeseries.ar1 import Autoregression
from unstir_timeseries.panel import NINE

UNIT_NOISE = Autoregression(phi=0.9, mean=10.0, std=1 / np.sqrt(1 - 0.81))  # innovations of variance 1


def test_the_conditional_law_is_that_of_the_published_laboratory():
    mean, std = UNIT_NOISE.forecast(14.0, 24)
    np.testing.assert_allclose(mean[0, [0, 5, 23]], [13.6, 12.125764, 10.319066], atol=5e-7)
    np.testing.assert_allclose(std[[0, 5, 23]], [1, 1.943370, 2.286847], atol=5e-7)


def test_the_exact_law_scores_what_theory_says():
    _, std = UNIT_NOISE.forecast(10.0, 24)
    nine = 2 * np.mean([norm.pdf(norm.ppf(q)) for q in NINE])  # the nine-quantile loss of a standard normal law
    assert nine == pytest.approx(0.6173185, abs=1e-7)
    size = UNIT_NOISE.std
    expected_size = size * np.sqrt(2 / np.pi) * np.exp(-(10**2) / (2 * size**2)) + 10 * (1 - 2 * norm.cdf(-10 / size))  # E|y|
    assert nine * std.mean() / expected_size == pytest.approx(0.12691, abs=1e-5)
    assert nine * size / expected_size == pytest.approx(0.1416, abs=1e-3)  # the law without a context


def test_windows_have_the_covariance_they_were_drawn_from():
    windows = Autoregression(length=5).draw(200_000, 0)
    error = np.abs(np.cov(windows.T) - Autoregression(length=5).covariance).max()
    assert error < 6 * np.sqrt(2 / 200_000)  # standard error of a variance, six times for 25 entries
    assert np.abs(windows.mean(0) - 3).max() < 5 / np.sqrt(200_000)


def test_the_denoiser_is_the_published_formula_for_the_noise():
    ar = Autoregression(length=12)
    law, index = ar.denoiser(), 30
    abar = float(np.prod(1 - np.linspace(1e-4, 0.1, 100)[: index + 1]))
    x = torch.randn(3, 1, 12, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    eps = (x - np.sqrt(abar) * law(x, index)) / np.sqrt(1 - abar)
    wanted = np.sqrt(1 - abar) * np.linalg.solve(abar * ar.covariance + (1 - abar) * np.eye(12), (x[:, 0].numpy() - np.sqrt(abar) * 3).T).T
    np.testing.assert_allclose(eps[:, 0].numpy(), wanted, atol=1e-12)


def test_the_published_table_has_its_published_levels():
    process = Autoregression().denoiser().process
    abar = process.alpha(torch.tensor([0.0, 49.0, 99.0])) ** 2
    np.testing.assert_allclose(abar, [0.9999, 0.2829808, 0.00561876], rtol=2e-7)
    betas = process.betas().numpy()
    bars = np.r_[1.0, np.cumprod(1 - betas)]
    variance = betas * (1 - bars[:-1]) / (1 - bars[1:])
    np.testing.assert_allclose(variance[[1, 50, 99]], [9.17377e-5, 0.0495656, 0.0999372], rtol=5e-6)


def test_any_process_will_do():
    assert Autoregression(length=4).denoiser(EDM()).process == EDM()


@pytest.mark.parametrize("options", [{"phi": 1.0}, {"std": 0.0}, {"length": 0}, {"mean": float("nan")}])
def test_what_is_no_stationary_series_is_refused(options):
    with pytest.raises(UserError, match="autoregression"):
        Autoregression(**options)
