"""The task of synthesis and its methods: nothing held out is seen, surrogates keep what they say, TSDiff's samples are those of its law."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from unstir.certify.oracles import GaussianOracle
from unstir.errors import CheckpointError, DataError, UserError
from unstir.process import EDM, VPTable
from unstir_timeseries.ar1 import Autoregression
from unstir_timeseries.datasets import AR1, GEFCom
from unstir_timeseries.panel import panel
from unstir_timeseries.quality import LPS
from unstir_timeseries.synthesis import RealWindows, Synthesise, TSDiffSamples, phase_surrogates
from unstir_timeseries.window_sets import drawn, real_windows, starts
from unstir_timeseries.windows import Windows

C, H = 24, 8
TASK = Synthesise(context=C, horizon=H, windows=6, stride=24, count=300)


@pytest.fixture(scope="module")
def whole():
    (made,) = AR1(items=3, steps=1200, mean=10.0).load()
    return made


@pytest.fixture(scope="module")
def case(whole):
    (made,) = TASK.cases([whole])
    return made


class Prior(GaussianOracle):
    """The exact law of scaled AR(1) windows, with the facts of a checkpoint; keeps the features that it was given."""

    def __init__(self, windows: Windows, process=None, **facts) -> None:
        law = Autoregression(phi=0.9, mean=0.0, std=1.0, length=windows.length)
        super().__init__(torch.zeros(1, windows.length, dtype=torch.float64), torch.from_numpy(law.covariance), process or EDM())
        self.facts = {"windows": windows.facts(), "freq": "h", "is_free": True, **facts}
        self.sha256 = "0" * 64
        self.features: list[torch.Tensor] = []

    def forward(self, x, t, condition=None):
        if condition and "features" in condition:
            self.features.append(condition["features"])
        return super().forward(x, t)


def prior(calendar=(), **facts):
    """The state is (y/s - 1) / .1: AR(1) of mean 10 and deviation 1, but for the scale's own noise."""
    return Prior(Windows(context=C, horizon=H, calendar=calendar, mean=1.0, std=0.1), **facts)


# ---------------------------------------------------------------- the task


def test_no_step_of_a_held_out_window_is_seen(whole, case):
    first = case.truth["origin"].values.min() - np.timedelta64(C, "h")
    assert case.measurement["time"].values.max() < first
    assert case.truth["origin"].values.max() + np.timedelta64(H - 1, "h") == whole["time"].values[-1]
    assert case.truth.sizes == {"sample": 6 * 3, "step": C + H}


def test_the_same_panel_gives_the_same_case_and_defaults_hold_the_test_year_of_the_load_out(whole, case):
    (again,) = TASK.cases([whole])
    assert again.truth.identical(case.truth)
    (load,) = GEFCom().load()
    made = Synthesise().case(load)
    assert pd.Timestamp(made.measurement["time"].values[-1]) == pd.Timestamp("2007-07-14 23:00")
    assert pd.Timestamp(made.truth["origin"].values.min()) == pd.Timestamp("2007-07-29 00:00")
    assert made.truth.sizes["sample"] == 43 * 20
    assert made.context["place"] == 0


def test_windows_are_in_units_of_their_context_and_scale_gives_the_series_back(whole, case):
    values, scale = case.truth["windows"].values, case.truth["scale"].values
    np.testing.assert_allclose(np.abs(values[:, :C]).mean(1), 1.0, rtol=1e-6)
    row = whole.sel(item=str(case.truth["item"].values[4]))["y"].to_series()
    origin = pd.Timestamp(case.truth["origin"].values[4])
    expected = row[origin - pd.Timedelta(hours=C) : origin + pd.Timedelta(hours=H - 1)]
    np.testing.assert_allclose(values[4] * scale[4], expected, rtol=1e-6)
    assert case.truth["step"].values.tolist() == list(range(-C, H))


def test_aligned_windows_begin_their_horizon_at_the_same_place_of_a_season(whole, case):
    place = case.context["place"]
    origins = pd.DatetimeIndex(RealWindows()(case, None, 0).data["origin"].values)
    assert set(origins.hour) == {place} == set(pd.DatetimeIndex(case.truth["origin"].values).hour)
    (free,) = Synthesise(context=C, horizon=H, windows=40, stride=24, count=300, aligned=False).cases([whole])
    assert len(set(pd.DatetimeIndex(free.truth["origin"].values).hour)) > 10
    assert len(set(pd.DatetimeIndex(RealWindows()(free, None, 0).data["origin"].values).hour)) > 20
    with pytest.raises(DataError, match="aligned: false"):
        Synthesise(context=C, horizon=H, windows=3, stride=25).case(whole)


def test_windows_with_missing_values_are_left_out_everywhere(whole):
    y = whole["y"].values.copy()
    y[0, 1190] = np.nan  # in the last held-out window
    y[1, 100:400] = np.nan
    made = TASK.case(whole.assign(y=(("item", "time"), y)))
    assert made.truth.sizes["sample"] == 17
    items, ends = starts(made.measurement, made.context)
    touched = (items == 1) & (ends > 100) & (ends - C - H < 400)
    assert not touched.any()
    for surrogate in ("none", "phase", "blocks", "gaussian"):
        assert np.isfinite(RealWindows(surrogate, block=8)(made, None, 0).data["windows"].values).all()


def test_panels_without_room_are_refused_in_a_sentence(whole):
    with pytest.raises(DataError, match="hold no complete window"):
        TASK.case(whole.isel(time=slice(-(6 * 24 + 20), None)))
    with pytest.raises(DataError, match="observed steps"):
        TASK.case(whole.isel(time=slice(0, 20)))
    y = whole["y"].values.copy()
    y[:, -150:] = np.nan
    with pytest.raises(DataError, match="every held-out window"):
        TASK.case(whole.assign(y=(("item", "time"), y)))
    for wrong in ({"context": 1}, {"horizon": 0}, {"windows": 0}, {"stride": 0}, {"count": 2}):
        with pytest.raises(UserError, match="at least"):
            Synthesise(**wrong)


def test_the_windows_are_written_as_a_frame(case, tmp_path):
    estimate = RealWindows()(case, None, 0)
    (path,) = TASK.export(estimate, case, tmp_path / "ar1")
    frame = pd.read_parquet(path)
    assert frame.shape == (300, C + H)
    np.testing.assert_array_equal(frame.to_numpy(), estimate.data["windows"].values)


def test_a_quiet_window_is_scaled_by_a_tenth_of_the_series():
    y = np.r_[np.full(40, 100.0), np.full(24, 1e-9), np.full(8, 50.0)][None]
    quiet = panel(y, pd.date_range("2020", periods=72, freq="h"), ["a"], freq="h", season=24)
    made = real_windows(quiet, np.array([0]), np.array([72]), 24, 8)
    assert made["scale"].values[0] == pytest.approx(0.1 * y.mean())


# ---------------------------------------------------------------- methods


@pytest.mark.parametrize(
    "method", [RealWindows(), RealWindows("phase"), RealWindows("blocks", 8), RealWindows("gaussian"), TSDiffSamples()]
)
def test_a_method_gives_as_many_windows_as_asked_and_the_same_under_one_seed(case, method):
    given = prior() if method.uses_prior else None
    first, again, other = (method(case, given, seed).data["windows"] for seed in (0, 0, 1))
    assert first.sizes == {"sample": 300, "step": C + H}
    assert np.isfinite(first.values).all()
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_real_windows_are_windows_of_what_was_seen(case):
    found = RealWindows()(case, None, 0).data["windows"].values
    items, ends = drawn(case, 0)
    y = case.measurement["y"].values
    for i in (0, 7, 299):
        row = y[items[i], ends[i] - C - H : ends[i]]
        np.testing.assert_allclose(found[i], row / np.abs(row[:C]).mean(), rtol=1e-6)


def test_phase_surrogates_keep_mean_and_amplitudes_up_to_the_scale():
    rng = np.random.default_rng(0)
    windows = 10 + np.cumsum(rng.standard_normal((20, 33)), axis=1)
    made = phase_surrogates(windows, 24, rng)
    before, after = np.abs(np.fft.rfft(windows, axis=1)), np.abs(np.fft.rfft(made, axis=1))
    np.testing.assert_allclose(after / after[:, :1], before / before[:, :1], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(np.abs(made[:, :24]).mean(1), 1.0, rtol=1e-5)
    assert not np.allclose(made / made.mean(), windows / windows.mean(), atol=0.05)


def test_blocks_come_from_whole_periods_away_in_the_same_series():
    """A series that repeats itself after a period is its own block bootstrap."""
    t = np.arange(600)
    y = np.stack([10 + np.sin(2 * np.pi * t / 24), 20 + np.cos(2 * np.pi * t / 24)])
    periodic = panel(y, pd.date_range("2020", periods=600, freq="h"), ["a", "b"], freq="h", season=24)
    made = TASK.case(periodic)
    np.testing.assert_allclose(
        RealWindows("blocks", block=5)(made, None, 0).data["windows"].values, RealWindows()(made, None, 0).data["windows"].values, rtol=1e-6
    )


def test_gaussian_surrogates_have_the_mean_and_covariance_of_the_windows(whole):
    made = Synthesise(context=C, horizon=H, windows=6, stride=24, count=20000, aligned=False).case(whole)
    real, ours = (RealWindows(kind)(made, None, 0).data["windows"].values for kind in ("none", "gaussian"))
    sd = real.std(0)
    np.testing.assert_allclose(ours.mean(0), real.mean(0), atol=5 * sd.max() / np.sqrt(20000))
    np.testing.assert_allclose(np.cov(ours.T), np.cov(real.T), atol=5 * np.sqrt(2) * sd.max() ** 2 / np.sqrt(20000))


def test_tsdiff_samples_predict_like_real_windows():
    """The LPS of a law sampled in 20 evaluations; the state's law leaves out the noise of the scale (1 % of the deviation squared)."""
    (panel_,) = AR1(items=6, steps=5000, mean=10.0).load()
    made = Synthesise(context=C, horizon=H, windows=40, stride=24, count=2000, aligned=False).case(panel_)
    estimate = TSDiffSamples()(made, prior(), 0)
    assert LPS()(estimate, made)["lps-ratio"].value == pytest.approx(1.0, abs=0.03)
    assert estimate.nfe == 20 * 2000
    assert estimate.info["prior_sha256"] == "0" * 64


@pytest.mark.parametrize(
    ("solver", "grid", "process"), [("ancestral", "native:100", VPTable("linear", 100, 1e-4, 0.1)), ("heun", "karras:12", EDM())]
)
def test_tsdiff_samples_take_any_solver_and_grid_of_the_core(case, solver, grid, process):
    windows = Windows(context=C, horizon=H, calendar=(), mean=1.0, std=0.1)
    found = TSDiffSamples(solver=solver, grid=grid)(case, Prior(windows, process), 0).data["windows"].values
    assert found.mean() == pytest.approx(1.0, abs=0.02)
    assert found.std() == pytest.approx(0.1, rel=0.15)  # 300 windows of strongly correlated steps


def test_a_model_of_the_calendar_is_given_that_of_the_windows_it_stands_for(case):
    known = case.measurement.assign_attrs(calendar="known")
    made = type(case)(case.key, None, known, case.context)
    told = prior(calendar=("hour",))
    estimate = TSDiffSamples(batch=128)(made, told, 0)
    features = torch.cat(told.features[: len(told.features) // 3])  # the first chunk's evaluations
    assert features.shape[1:] == (6, C + H)
    hour = pd.DatetimeIndex(estimate.data["origin"].values).hour.to_numpy()
    np.testing.assert_allclose(told.features[0][:, 0, C].numpy(), np.cos(2 * np.pi * hour[:128] / 24), atol=1e-6)


def test_a_network_with_lags_and_the_calendar_draws_its_first_channel(case):
    from unstir_timeseries.training import TSDiffTraining

    windows = Windows(context=C, horizon=H, lags=(24, 48), mean=1.0, std=0.1)
    training = TSDiffTraining(context=C, horizon=H, lags=(24, 48), width=8, blocks=1, states=4, patch=4)
    network = training.denoiser(SimpleNamespace(windows=windows)).eval()
    network.facts = {"windows": windows.facts(), "freq": "h"}
    made = TSDiffSamples(grid="logistic:4")(case, network, 0)
    assert made.data["windows"].sizes == {"sample": 300, "step": C + H}
    assert np.isfinite(made.data["windows"].values).all()


def test_samples_do_not_depend_on_the_batch(case):
    few, many = (TSDiffSamples(batch=batch)(case, prior(calendar=("hour",)), 0).data["windows"].values for batch in (70, 300))
    np.testing.assert_allclose(few, many, atol=1e-6)


def test_checkpoints_of_another_kind_are_refused_in_a_sentence(case):
    with pytest.raises(CheckpointError, match="says nothing of windows"):
        TSDiffSamples()(case, GaussianOracle(torch.zeros(1, 4), torch.eye(4), EDM()), 0)
    with pytest.raises(CheckpointError, match="conditional only"):
        TSDiffSamples()(case, prior(is_free=False), 0)
    with pytest.raises(CheckpointError, match="scaled by 'std'"):
        TSDiffSamples()(case, Prior(Windows(context=C, horizon=H, scaling="std", calendar=())), 0)
    with pytest.raises(CheckpointError, match="steps of 'D'"):
        TSDiffSamples()(case, prior(freq="D"), 0)
    with pytest.raises(CheckpointError, match="windows of 30"):
        TSDiffSamples()(case, Prior(Windows(context=30, horizon=2, calendar=())), 0)


def test_options_out_of_range_are_refused():
    for wrong in ({"surrogate": "dreams"}, {"block": 0}, {"period": -1}, {"reach": 0}):
        with pytest.raises(UserError):
            RealWindows(**wrong)
    for wrong in ({"batch": 0}, {"solver": "no-such-solver"}, {"grid": "no-such-grid:5"}):
        with pytest.raises(UserError):
            TSDiffSamples(**wrong)
