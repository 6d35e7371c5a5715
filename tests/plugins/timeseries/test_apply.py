"""``unstir apply timeseries/...``: files in, tables, pictures and a page out, or one sentence and nothing written."""

import json

import numpy as np
import pandas as pd
import pytest

from unstir.errors import DataError, UnstirError, UserError
from unstir_timeseries.apply import ForecastFiles, ScoreFiles
from unstir_timeseries.datasets import AR1
from unstir_timeseries.training import TSDiffTraining

QUICK = {"samples": 4, "grid": "logistic:3"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    options = {"width": 8, "blocks": 1, "states": 4, "batch": 4, "steps": 2, "decay": 0}
    options |= {"end": "", "held_out": (), "context": 48, "horizon": 12}
    return TSDiffTraining(**options).fit(next(iter(AR1(items=2, steps=300).load())), tmp_path_factory.mktemp("model") / "m")


def command(model, **more):
    return ForecastFiles(**{"horizon": 12, "model": str(model), "options": QUICK, "backtest": 2, **more})


def test_a_forecast_is_tables_a_picture_and_a_page(table, model, tmp_path):
    table().to_parquet(tmp_path / "load.parquet", index=False)
    said = command(model, levels="5,50,95")([tmp_path / "load.parquet"], tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == [f"load-forecast.{kind}" for kind in ("csv", "json", "parquet", "png")] + ["load-paths.parquet", "load-report.html"]
    assert sorted(said["files"]) == sorted(str(tmp_path / "out" / name) for name in names)
    found = pd.read_parquet(tmp_path / "out" / "load-forecast.parquet")
    assert list(found.columns) == ["unique_id", "ds", "mean", "q0.05", "q0.5", "q0.95"]
    assert len(found) == 24
    assert found["ds"].min() == pd.Timestamp("2024-01-13 12:00")
    assert len(pd.read_parquet(tmp_path / "out" / "load-paths.parquet")) == 2 * 12 * 4
    card = json.loads((tmp_path / "out" / "load-forecast.json").read_text())
    assert [row["method"] for row in card["backtest"]] == ["tsdiff-cov", "seasonal-residual"]
    assert "seasonal-residual" in (tmp_path / "out" / "load-report.html").read_text()


def test_gaps_are_filled_and_what_was_observed_stands(table, model, tmp_path):
    data = table(names=("a",))
    data.loc[data.index[50:60], "y"] = np.nan
    data.to_csv(tmp_path / "gappy.csv", index=False)
    said = command(model, impute=True)([tmp_path / "gappy.csv"], tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out" / "gappy-imputed.parquet")
    assert found["is_imputed"].sum() == 10
    assert np.isfinite(found["y"]).all()
    kept = ~found["is_imputed"].to_numpy()
    np.testing.assert_allclose(found["y"][kept], data["y"].to_numpy()[kept])
    assert any("10 missing values of 1 series filled" in sentence for sentence in said["said"])
    table().to_csv(tmp_path / "whole.csv", index=False)
    with pytest.raises(DataError, match="no gap to fill"):
        command(model, impute=True)([tmp_path / "whole.csv"], tmp_path / "out")


def test_a_model_is_fitted_where_none_suits_and_goes_on_where_it_was_cut(table, tmp_path):
    table(120, "D").to_csv(tmp_path / "daily.csv", index=False)
    said = command("", horizon=5, steps=2, backtest=0)([tmp_path / "daily.csv"], tmp_path / "out")
    assert any("a model was trained on these series (2 steps)" in sentence for sentence in said["said"])
    assert (tmp_path / "out" / "daily-model" / "model.safetensors").exists()
    again = command("", horizon=5, steps=2, backtest=0)([tmp_path / "daily.csv"], tmp_path / "out")
    assert sorted(again["files"]) == sorted(said["files"])


def test_baselines_need_no_model(table, tmp_path):
    table().to_parquet(tmp_path / "load.parquet", index=False)
    said = ForecastFiles(horizon=12, method="seasonal-residual", backtest=0)([tmp_path / "load.parquet"], tmp_path / "out")
    assert any("gives quantiles and no paths" in sentence for sentence in said["said"])


def test_every_other_file_is_done_when_one_cannot_be(table, model, tmp_path):
    table().to_csv(tmp_path / "good.csv", index=False)
    (tmp_path / "bad.csv").write_bytes(b"\x89PNG\r\n\x1a\n")
    with pytest.raises(DataError, match=r"1 of 2 files were not worked on .*PNG"):
        command(model)([tmp_path / "bad.csv", tmp_path / "good.csv"], tmp_path / "out")
    assert (tmp_path / "out" / "good-forecast.parquet").exists()
    assert not list((tmp_path / "out").glob("*bad*"))


def test_files_of_one_name_have_results_of_their_own(table, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        table().to_csv(tmp_path / folder / "load.csv", index=False)
    command = ForecastFiles(horizon=12, method="seasonal-residual", backtest=0)
    found = command([tmp_path / "a" / "load.csv", tmp_path / "b" / "load.csv"], tmp_path / "out")
    assert len(set(found["files"])) == len(found["files"])
    assert {"load-forecast.csv", "load-2-forecast.csv"} < {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"horizon": 0}, "horizon is a whole number"),
        ({"levels": "10,x"}, "levels are percentages"),
        ({"levels": "0,50"}, "between 0 and 100"),
        ({"levels": "50,100"}, "between 0 and 100"),
        ({"backtest": -1}, "must not be negative"),
    ],
)
def test_options_that_cannot_be_are_refused(options, sentence):
    with pytest.raises(UserError, match=sentence):
        ForecastFiles(**options)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda t: t.iloc[:0], "empty|no rows"),
        (lambda t: t.assign(y=np.where(t["y"] > 8, np.inf, t["y"])), "inf"),
        (lambda t: pd.concat([t, t.iloc[:1]]), "twice|same stamp|duplicate"),
        (lambda t: t.assign(y=np.nan), "no observed value|nothing was observed|no value|missing"),
        (lambda t: t.assign(ds=t["ds"] + pd.to_timedelta(np.arange(len(t)) ** 2 % 3001, unit="s")), "step|grid|regular"),
    ],
)
def test_bad_series_are_one_sentence_and_nothing_is_written(table, model, tmp_path, change, sentence):
    change(table(names=("a",))).to_csv(tmp_path / "bad.csv", index=False)
    with pytest.raises(UnstirError, match=sentence) as failure:
        command(model)([tmp_path / "bad.csv"], tmp_path / "out")
    assert "\n" not in str(failure.value)
    assert not list((tmp_path / "out").iterdir())


def test_a_step_the_model_does_not_know_is_refused(table, model, tmp_path):
    table(freq="D").to_csv(tmp_path / "daily.csv", index=False)
    with pytest.raises(UnstirError, match="trained on steps of 'h', and the panel's step is 'D'"):
        command(model)([tmp_path / "daily.csv"], tmp_path / "out")


def test_unusual_steps_are_found(table, tmp_path):
    data = table(480, names=("a",))
    data["y"] = 5 + np.sin(2 * np.pi * np.arange(480) / 24) + 0.05 * data["y"]
    data.loc[data.index[400:404], "y"] += 6
    data.to_csv(tmp_path / "odd.csv", index=False)
    said = ScoreFiles(window=24, top=1)([tmp_path / "odd.csv"], tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out" / "odd-scores.parquet")
    assert 380 <= int(found["score"].idxmax()) <= 424
    assert any("score" in sentence for sentence in said["said"])
    with pytest.raises(UserError, match="share in"):
        ScoreFiles(training=1.0)
