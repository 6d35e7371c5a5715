"""Quality of synthetic windows: the exact law scores like real windows, planted faults are caught each by its metric."""

from __future__ import annotations

import math

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries import likeness
from unstir_timeseries.ar1 import Autoregression
from unstir_timeseries.datasets import AR1
from unstir_timeseries.quality import LPS, ACFDistance, Discriminative, Memorisation, SpectrumDistance
from unstir_timeseries.synthesis import RealWindows, Synthesise, window_set

pytest.importorskip("sklearn", reason="quality of synthetic windows needs the extra 'timeseries'")

C, H, COUNT = 24, 8, 2000
LAW = Autoregression(phi=0.9, mean=10.0, std=1.0, length=C + H)
METRICS = [LPS(), Discriminative(trees=30, windows=600), ACFDistance(), SpectrumDistance(), Memorisation(windows=100)]


@pytest.fixture(scope="module")
def case() -> Case:
    (panel,) = AR1(items=6, steps=6000, phi=0.9, sd=1.0, mean=10.0).load()
    return Synthesise(context=C, horizon=H, windows=50, stride=24, count=COUNT, aligned=False).case(panel)


def answer(case, values):
    """Windows divided by the mean size of their context, made for the stamps of random real ones."""
    origin = RealWindows()(case, None, 3).data["origin"].values[: len(values)]
    return Estimate(window_set(values / np.abs(values[:, :C]).mean(1, keepdims=True), C, origin))


def scored(estimate, case):
    return {key: score.value for metric in METRICS for key, score in metric(estimate, case).items()}


@pytest.fixture(scope="module")
def exact(case):
    return scored(answer(case, LAW.draw(COUNT, 1)), case)


def test_lps_of_the_exact_law_is_that_of_real_windows(exact):
    """Both ridges have 25 coefficients for 2000 windows: an excess of 25/4000 in absolute error, three times over."""
    assert exact["lps-ratio"] == pytest.approx(1.0, abs=0.02)


def test_a_ridge_learnt_on_exact_windows_forecasts_with_the_error_of_the_exact_law():
    """Best linear forecast: E|y - f| = sqrt(2/pi) sd_h, sd_h^2 = 1 - phi^2h."""
    predicted = likeness.ridge_predictions(LAW.draw(20000, 1), LAW.draw(20000, 2)[:, :C])
    error = np.abs(predicted - LAW.draw(20000, 2)[:, C:]).mean(0)
    np.testing.assert_allclose(error, math.sqrt(2 / math.pi) * LAW.forecast(0.0, H)[1], rtol=0.02)  # sd of |N| over sqrt(20000): .5 %


def test_exact_samples_are_like_real_ones_for_every_metric(case, exact):
    assert exact["discriminative"] < 0.058  # four standard errors of an accuracy over 1200 windows
    assert exact["discriminative-auroc"] == pytest.approx(0.5, abs=0.066)
    assert exact["copies"] < 20  # 5 % of 100 windows, against a 5 % quantile of 100 windows: sd 3.1 %
    assert exact["nearest-distance"] < 0.1
    real = scored(RealWindows()(case, None, 0), case)
    assert exact["acf-distance"] < real["acf-distance"] + 0.02
    assert exact["spectrum-distance"] < real["spectrum-distance"] + 0.3


def test_a_white_noise_generator_is_worse_in_every_metric_but_that_of_copies(case, exact):
    noise = 10 + np.random.default_rng(2).standard_normal((COUNT, C + H))
    white = scored(answer(case, noise), case)
    assert white["lps"] > 1.1 * exact["lps"]
    assert white["lps-ratio"] > 1.1
    assert white["discriminative"] > 0.4
    assert white["discriminative-auroc"] > 0.95
    assert white["acf-distance"] > 10 * exact["acf-distance"]
    assert white["spectrum-distance"] > 10 * exact["spectrum-distance"]
    assert white["nearest-distance"] > 5 * exact["nearest-distance"]
    assert white["copies"] == 0


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_copies_of_what_was_seen_are_caught_and_only_by_memorisation(case, noise):
    copies = RealWindows()(case, None, 5)
    rng = np.random.default_rng(6)
    values = copies.data["windows"].values + noise * rng.standard_normal(copies.data["windows"].shape)
    found = scored(Estimate(copies.data.assign(windows=(("sample", "step"), values))), case)
    assert found["copies"] > 95
    assert found["nearest-distance"] > 1.5
    assert found["lps-ratio"] == pytest.approx(1.0, abs=0.03)
    assert found["discriminative"] < 0.058


def test_a_collapsed_generator_is_caught(case):
    """One window again and again: a constant law predicts badly and is told apart at once."""
    one = scored(answer(case, np.repeat(LAW.draw(1, 9), COUNT, 0)), case)
    assert one["discriminative"] > 0.45
    assert one["lps-ratio"] > 1.1


def test_a_generator_of_half_the_spread_is_caught(case, exact):
    narrow = scored(answer(case, 10 + 0.5 * (LAW.draw(COUNT, 1) - 10)), case)
    assert narrow["discriminative"] > 0.2
    assert narrow["spectrum-distance"] == pytest.approx(20 * math.log10(2), abs=1.0)  # all frequencies 6 dB low
    assert narrow["acf-distance"] == pytest.approx(exact["acf-distance"], abs=0.02)  # which does not see the spread


def test_parts_combine_to_the_value_and_keys_are_described(case):
    estimate = answer(case, LAW.draw(COUNT, 1))
    for metric in METRICS:
        found = metric(estimate, case)
        assert list(found) == [info.key for info in metric.describe()]
        for key, score in found.items():
            assert len(score.parts) >= 5, key
            assert np.mean(score.parts) == pytest.approx(score.value, abs=1e-9), key
        for info in metric.describe():
            assert "interval resamples" in info.definition, info.key


# ---------------------------------------------------------------- the functions


def test_autocorrelations_and_periodogram_are_their_definitions():
    x = np.random.default_rng(0).standard_normal((2, 9))
    centred = x - x.mean(1, keepdims=True)
    expected = [[(row[k:] * row[: 9 - k]).sum() / (row**2).sum() for k in (1, 2, 3)] for row in centred]
    np.testing.assert_allclose(likeness.autocorrelation(x, 3), expected, atol=1e-12)
    assert (likeness.autocorrelation(np.ones((1, 9)), 3) == 0).all()
    t = np.arange(16)
    wave = likeness.log_periodogram(np.cos(2 * np.pi * 3 * t / 16)[None])[0]
    assert wave[2] == pytest.approx(10 * math.log10(16 / 4))  # |DFT|^2 / L = L / 4
    assert np.delete(wave, 2).max() < -100


def test_the_nearest_seen_window_is_that_of_the_loop():
    (panel,) = AR1(items=2, steps=120, mean=4.0).load()
    y = panel["y"].values.copy()
    y[1, :40] = np.nan
    panel = panel.assign(y=(("item", "time"), y))
    asked = 1 + 0.3 * np.random.default_rng(1).standard_normal((5, 12))
    best = np.full(5, np.inf)
    for row in y:
        for begin in range(len(row) - 11):
            window = row[begin : begin + 12]
            if np.isfinite(window).all():
                scale = max(np.abs(window[:8]).mean(), 0.1 * np.nanmean(np.abs(row)))
                best = np.minimum(best, np.sqrt(((window / scale - asked) ** 2).mean(1)))
    np.testing.assert_allclose(likeness.nearest_seen(asked, panel, 8), best, atol=1e-4)  # products in float32
    with pytest.raises(DataError, match="no complete window"):
        likeness.nearest_seen(asked, panel.isel(time=slice(0, 11)), 8)


def test_bad_answers_and_options_are_refused_in_a_sentence(case):
    estimate = answer(case, LAW.draw(COUNT, 1))
    with pytest.raises(DataError, match="no held-out"):
        LPS()(estimate, Case(case.key, None, case.measurement, case.context))
    with pytest.raises(DataError, match="no windows"):
        LPS()(Estimate(estimate.data.rename(windows="paths")), case)
    with pytest.raises(DataError, match="of 20 steps"):
        ACFDistance()(Estimate(estimate.data.isel(step=slice(0, 20))), case)
    broken = estimate.data.copy(deep=True)
    broken["windows"][3, 4] = np.nan
    with pytest.raises(DataError, match="1 synthetic windows"):
        SpectrumDistance()(Estimate(broken), case)
    together = estimate.data.assign_coords(origin=("sample", np.repeat(estimate.data["origin"].values[:1], COUNT)))
    with pytest.raises(DataError, match="stretches of time"):
        Discriminative()(Estimate(together), case)
    for wrong in (lambda: Discriminative(folds=1), lambda: Discriminative(trees=0), lambda: ACFDistance(lags=-1), lambda: Memorisation(5)):
        with pytest.raises(UserError):
            wrong()
