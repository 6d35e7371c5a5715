"""Prediction with an exact denoiser: the law of what was not observed, whatever was."""

import numpy as np
import pandas as pd
import pytest

from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.protocols import Case
from unstir.process import EDM
from unstir_timeseries.ar1 import Autoregression
from unstir_timeseries.panel import NINE, panel, sample_quantiles
from unstir_timeseries.predict import TSDiff, shuffled, window_ends
from unstir_timeseries.scores import weighted_quantile_loss
from unstir_timeseries.windows import Windows

LENGTH, HORIZON = 36, 12


def law():
    return Autoregression(length=LENGTH, phi=0.9, mean=3.0)


def prior():
    """The exact denoiser of AR(1) windows, as a checkpoint of them would be."""
    made = law().denoiser(EDM())
    windows = Windows(LENGTH - HORIZON, HORIZON, calendar=(), scaling="none")
    made.facts = {"windows": windows.facts(), "freq": "h"}
    return made


def series(count=40, steps=LENGTH, seed=0):
    y = Autoregression(length=steps, phi=0.9, mean=3.0).draw(count, seed)
    y = np.asarray(y).reshape(count, steps)
    time = pd.date_range("2024-01-01", periods=steps, freq="h")
    return panel(y, time, [f"s{i}" for i in range(count)], freq="h", season=24, key="ar1")


def hidden(data, mask):
    return data.assign(y=(("item", "time"), np.where(mask, np.nan, data["y"].values)))


def conditional(y, gap):
    """Mean (items, gaps) and covariance of the gaps given the rest, in closed form."""
    place = np.arange(LENGTH)
    cov = 0.9 ** np.abs(place[:, None] - place)
    inverse = np.linalg.inv(cov[np.ix_(~gap, ~gap)])
    pull = cov[np.ix_(gap, ~gap)] @ inverse
    return 3 + (y[:, ~gap] - 3) @ pull.T, cov[np.ix_(gap, gap)] - pull @ cov[np.ix_(~gap, gap)]


@pytest.mark.parametrize("place", ["end", "middle", "scattered"])
def test_the_covariance_guide_draws_the_law_of_any_gap(place):
    """Forecast and imputation are one call; tolerances are three standard errors of 40 x 50 paths, and 2 % of the model's bias."""
    gap = np.zeros(LENGTH, bool)
    gap[{"end": slice(24, 36), "middle": slice(10, 20), "scattered": slice(3, 33, 4)}[place]] = True
    data = series()
    asked = hidden(data, gap[None])
    paths, nfe = TSDiff(guide="covariance", samples=50, noise=1e-3, iterations=40, grid="logistic:20").paths(prior(), asked, seed=1)
    assert nfe == 20
    mean, cov = conditional(data["y"].values, gap)
    residual = (paths[..., gap] - mean[:, None]) / np.sqrt(np.diag(cov))
    assert abs(residual.mean()) < 0.06
    assert abs(residual.std() - 1) < 0.05
    np.testing.assert_array_equal(paths[..., ~gap], np.repeat(data["y"].values[:, None, ~gap], 50, 1))


@pytest.mark.parametrize(("guide", "scale"), [("quantile", 4.0), ("pigdm", 1.0), ("covariance", 1.0), ("mse", 0.5), ("past", 1.0)])
def test_every_guide_scores_near_the_exact_law(guide, scale):
    """On the same windows; the isotropic and the squared and quantile pulls are biased, by less than a tenth here."""
    data = series(80, 300)  # what lies before the window is past that a covariance is made of
    truth = data["y"].values[:, -HORIZON:]
    asked = hidden(data, (np.arange(300) >= 288)[None]).assign_attrs(horizon=HORIZON)
    case = Case("ar1", None, asked, {})
    found = TSDiff(guide=guide, scale=scale, samples=60, noise=0.02, grid="logistic:20")(case, prior(), 0)
    score = weighted_quantile_loss(sample_quantiles(found.data["samples"].values, NINE), truth, NINE)
    mean, cov = conditional(data["y"].values[:, -LENGTH:], np.arange(LENGTH) >= 24)
    drawn = mean[:, None] + np.random.default_rng(0).standard_normal((80, 60, HORIZON)) @ np.linalg.cholesky(cov).T
    best = weighted_quantile_loss(sample_quantiles(drawn, NINE), truth, NINE)
    assert score < (1.05 if guide in ("covariance", "past") else 1.1) * best
    assert found.nfe == 20
    assert found.data["samples"].shape == (80, 60, HORIZON)


def test_paths_of_a_case_depend_on_its_key_and_the_seed_alone():
    asked = hidden(series(3), (np.arange(LENGTH) >= 24)[None]).assign_attrs(horizon=HORIZON)
    method = TSDiff(guide="pigdm", samples=4, grid="logistic:6")
    one = method(Case("a", None, asked, {}), prior(), 0).data["samples"].values
    np.testing.assert_array_equal(one, method(Case("a", None, asked, {}), prior(), 0).data["samples"].values)
    small = TSDiff(guide="pigdm", samples=4, grid="logistic:6", batch=3)(Case("a", None, asked, {}), prior(), 0).data["samples"].values
    np.testing.assert_allclose(one, small, atol=1e-4)  # float32, another batch
    for case, seed in (("b", 0), ("a", 1)):
        assert not np.array_equal(one, method(Case(case, None, asked, {}), prior(), seed).data["samples"].values)


def test_quantile_paths_are_shuffled_and_one_path_is_the_median_pull():
    asked = hidden(series(30), (np.arange(LENGTH) >= 24)[None]).assign_attrs(horizon=HORIZON)
    paths, _ = TSDiff(guide="quantile", samples=20, grid="logistic:8").paths(prior(), asked, seed=0)
    order = np.arange(20) - 9.5
    level = (paths[..., 24] - paths[..., 24].mean(1, keepdims=True)) @ order
    assert abs(level.mean()) < 3 * level.std() / np.sqrt(30)
    assert sorted(map(tuple, shuffled(paths, 1)[0])) == sorted(map(tuple, paths[0]))
    alone, _ = TSDiff(guide="quantile", samples=1, grid="logistic:8").paths(prior(), asked, seed=0)
    assert alone.shape == (30, 1, LENGTH)


def test_both_guides_share_the_paths():
    asked = hidden(series(4), (np.arange(LENGTH) >= 24)[None])
    said = []
    paths, nfe = TSDiff(guide="both", samples=5, grid="logistic:4").paths(prior(), asked, seed=3, progress=lambda *step: said.append(step))
    assert nfe == 4
    assert said[-1][0] == said[-1][1]
    past, _ = TSDiff(guide="past", samples=3, grid="logistic:4").paths(prior(), asked, seed=3)
    told, _ = TSDiff(guide="told", samples=2, grid="logistic:4").paths(prior(), asked, seed=4)
    np.testing.assert_array_equal(np.sort(paths, 1), np.sort(np.concatenate([past, told], 1), 1))
    assert TSDiff(guide="both", samples=1, grid="logistic:4").paths(prior(), asked, seed=3)[0].shape == (4, 1, LENGTH)


def test_windows_cover_every_gap_of_a_long_panel():
    windows = Windows(24, 12, calendar=())
    y = np.ones((1, 100))
    y[0, [5, 50, 99]] = np.nan
    ends = window_ends(y, windows)
    assert ends[-1] == 100
    for step in (5, 50, 99):
        assert any(end - 36 <= step < end for end in ends)
    y[0] = 1.0
    assert window_ends(y, windows) == []
    late = np.r_[np.full(60, np.nan), np.ones(40)][None]
    assert window_ends(late, windows) == []  # what lies before a series begins is no gap


def test_a_series_without_context_gets_the_models_own_paths_and_says_so():
    data = series(3)
    y = data["y"].values.copy()
    y[:, 24:] = np.nan
    y[1] = np.nan
    asked = data.assign(y=(("item", "time"), y)).assign_attrs(horizon=HORIZON)
    with pytest.warns(UserWarning, match=r"1 series have no observed value in their window \(s1"):
        found = TSDiff(guide="pigdm", samples=100, grid="logistic:10")(Case("a", None, asked, {}), prior(), 0)
    assert any("no observed value" in sentence for sentence in found.info["said"])
    free = found.data["samples"].values[1]
    assert abs(free.mean() - 3) < 0.4
    assert abs(free.std() - 1) < 0.15


def test_positive_paths_and_histories():
    asked = hidden(series(3), (np.arange(LENGTH) >= 24)[None]).assign_attrs(horizon=HORIZON)
    low = asked.assign(y=asked["y"] - 3.0)
    with pytest.raises(DataError, match="negative values"):
        TSDiff(positive=True, samples=2).paths(prior(), low, seed=0)
    near = asked.assign(y=abs(asked["y"] - 3.0))
    paths, _ = TSDiff(guide="pigdm", positive=True, samples=8, grid="logistic:6").paths(prior(), near, seed=0)
    assert paths.min() >= 0


def test_what_cannot_be_is_refused_in_a_sentence():
    with pytest.raises(UserError, match="guide must be one of"):
        TSDiff(guide="magic")
    with pytest.raises(UserError, match="samples must be at least 1"):
        TSDiff(samples=0)
    asked = hidden(series(3), (np.arange(LENGTH) >= 24)[None]).assign_attrs(horizon=HORIZON)
    endless = asked.assign(y=asked["y"].fillna(np.inf))
    with pytest.raises(DataError, match="infinite"):
        TSDiff(samples=2).paths(prior(), endless, seed=0)
    stranger = prior()
    stranger.facts = {}
    with pytest.raises(CheckpointError, match="says nothing of windows"):
        TSDiff(samples=2).check_prior(stranger)
