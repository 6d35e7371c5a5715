import json
import types
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

import unstir
from unstir import registry
from unstir.plugin.markers import hookimpl
from unstir_pipelines.api import Run, RunFailed, run
from unstir_pipelines.recipe import prepare
from unstir_pipelines.store import read_dataset, write_dataset


def go(recipe: str | Path = "toy/lines", **options) -> Run:
    return run(recipe, **{"report": False, "out": "out", **options})


def changed(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return path


def test_a_run_writes_its_folder_as_the_architecture_has_it():
    made = go(overrides={"vary.task.noise": [0.1, 0.3]})
    for name in ("recipe.yaml", "environment.json", "metrics.parquet", "metrics.json", "log.jsonl"):
        assert (made.folder / name).is_file(), name
    assert (made.folder / "estimates/smooth/noise=0.3/line-2.nc").is_file()
    assert (made.folder / "estimates/smooth/noise=0.3/line-2.txt").is_file()
    assert not list(made.folder.rglob("*.tmp"))
    assert not (made.folder / ".lock").exists()


def test_a_run_without_out_is_named_by_its_day_recipe_and_number(tmp_path: Path):
    first, second = go(out=None, cases=1), go(out=None, cases=1)
    assert first.folder.parent == second.folder.parent == Path("runs")
    assert first.folder.name.endswith("-lines-1")
    assert second.folder.name.endswith("-lines-2")
    assert len(first.folder.name) == len("2026-11-21-lines-1")


def test_metrics_json_has_a_row_a_setting_method_and_metric():
    made = go(overrides={"vary.task.noise": [0.1, 0.3]})
    content = json.loads((made.folder / "metrics.json").read_text())
    assert set(content) == {"run", "rows"}
    assert len(content["rows"]) == 2 * 3 * (2 + 3)
    row = content["rows"][0]
    assert {"task", "setting", "method", "metric", "unit", "mean", "low", "high", "cases", "better"} <= set(row)
    assert row["setting"] == {"task.noise": 0.1}
    assert (row["task"], row["method"], row["metric"], row["unit"], row["cases"], row["better"]) == (
        "toy/denoise",
        "keep",
        "rmse",
        "mm",
        3,
        "down",
    )
    assert row["low"] <= row["mean"] <= row["high"]
    assert {row["metric"] for row in content["rows"]} == {"rmse", "bias", "nfe", "seconds", "memory"}


def test_metrics_parquet_has_a_row_a_job_and_metric():
    made = go(overrides={"seed": [1, 2]}, cases=2)
    rows = pd.read_parquet(made.folder / "metrics.parquet")
    assert len(rows) == 3 * 2 * 2 * 5
    assert set(rows["seed"]) == {1, 2}
    smooth = rows[(rows.method == "smooth") & (rows.metric == "rmse") & (rows.case == "line-0")]
    assert smooth["value"].nunique() == 2
    assert len(smooth["parts"].iloc[0]) == 4
    assert smooth["combine"].iloc[0] == "rms"
    assert (made.folder / "estimates/smooth/line-0@seed=2.nc").is_file()


def test_the_numbers_are_the_metrics_of_the_estimates():
    made = go(cases=1)
    case, estimate = made.case("line-0"), made.estimate("smooth", "line-0")
    by_hand = float(np.sqrt(((estimate.data["line"] - case.truth["line"]) ** 2).mean()))
    table = made.table()
    assert table[(table.method == "smooth") & (table.metric == "rmse")]["mean"].item() == pytest.approx(by_hand, rel=1e-12)


def test_an_estimate_comes_back_as_it_was_given():
    made = go()
    estimate = made.estimate("keep", "line-1")
    xr.testing.assert_identical(estimate.data, made.case("line-1").measurement)
    assert estimate.data.attrs["affine"] == [[1, 0], [0, 1]]
    assert estimate.data.attrs["good"] is True
    assert estimate.info == {"trace": {"residual": [1.0, 0.5]}}
    assert made.estimates["keep"].attrs["key"] == "line-0"
    assert list(made.estimates) == ["keep", "smooth", "refine"]


def test_netcdf_keeps_what_attributes_and_values_hold(tmp_path: Path):
    attrs = {
        "affine": [[1.0, 0.5], [0, 1]],
        "name": "json: looks like it",
        "yes": True,
        "none": None,
        "count": 3,
        "vector": [1, 2, 3],
        "deep": {"a": [1]},
    }
    data = xr.Dataset(
        {
            "z": ("x", np.array([1 + 2j, 3j], dtype=np.complex64)),
            "v": ("x", np.array([1.5, np.nan], dtype=np.float32), {"range": [[0, 1]]}),
        },
        attrs=attrs,
    )
    write_dataset(data, tmp_path / "a.nc")
    xr.testing.assert_identical(read_dataset(tmp_path / "a.nc"), data)
    assert data.attrs == attrs


def test_a_method_never_sees_the_truth_and_gets_the_device(recipe: Path):
    made = go(changed(recipe, "toy/keep", "toy/peek"), device="cpu")
    assert made.estimate("keep", "line-0").info["context"] == ["device", "estimates", "noise"]


def test_a_method_that_writes_into_its_measurement_disturbs_no_other(recipe: Path, read_numbers):
    clean = read_numbers(go(out="clean").folder)
    spoiled = read_numbers(go(changed(recipe, "toy/keep", "toy/spoil"), out="spoiled").folder)
    assert [row for row in clean if row["method"] != "keep"] == [row for row in spoiled if row["method"] != "keep"]


def test_a_warm_start_gets_the_estimate_it_needs():
    made = go(methods=["refine"], cases=1)
    smooth, refine = made.estimate("smooth", "line-0").data, made.estimate("refine", "line-0").data
    xr.testing.assert_allclose(refine["line"], (smooth["line"] + made.case("line-0").measurement["line"]) / 2)
    assert made.labels == ["smooth", "refine"]


def test_a_job_that_raises_is_recorded_and_the_others_go_on(recipe: Path):
    changed(recipe, "toy/keep", "toy/fail")
    with pytest.raises(RunFailed, match=r"keep failed on line-1: RuntimeError: the toy broke; the rest is in out"):
        go(recipe)
    made = Run(Path("out"))
    assert made.estimate("keep", "line-1") is None
    assert made.estimate("keep", "line-2") is not None
    assert [record["case"] for record in made.failures()] == ["line-1"]
    rows = json.loads((made.folder / "metrics.json").read_text())["rows"]
    assert {row["cases"] for row in rows if row["method"] == "keep"} == {2}
    failed = [event for event in made.store.events() if event["event"] == "job_failed"]
    assert len(failed) == 1
    assert "toy_parts.py" in failed[0]["traceback"]


def test_what_starts_from_a_failed_method_fails_with_that_reason(recipe: Path):
    changed(recipe, "name: toy/smooth\n    steps: 3", "name: toy/fail\n    on: all")
    with pytest.raises(RunFailed):
        go(recipe)
    reasons = {record["method"]: record["reason"] for record in Run(Path("out")).failures()}
    assert reasons == {"smooth": "RuntimeError: the toy broke", "refine": "it starts from smooth, which failed"}


def test_cases_are_the_first_so_many_or_named():
    assert go(cases=2, out="a").cases() == ["line-0", "line-1"]
    assert go(cases=["line-2"], out="b").cases() == ["line-2"]


def test_a_metric_over_the_whole_set_gives_one_row_a_method(recipe: Path):
    made = go(changed(recipe, "metrics: [toy/error]", "metrics: [toy/error, toy/spread]"))
    rows = [row for row in json.loads((made.folder / "metrics.json").read_text())["rows"] if row["metric"] == "spread"]
    assert [row["method"] for row in rows] == ["keep", "smooth", "refine"]
    assert {row["cases"] for row in rows} == {3}
    means = [float(made.estimate("keep", key).data["line"].mean()) for key in made.cases()]
    assert rows[0]["mean"] == pytest.approx(np.std(means))


def test_own_files_are_read_by_the_task():
    np.save("mine.npy", np.ones((4, 6)))
    made = go(data=["mine.npy"])
    assert made.cases() == ["mine"]


def test_own_datasets_are_kept_so_that_the_run_can_be_read_again():
    item = xr.Dataset({"line": (("row", "x"), np.ones((4, 6)))}, attrs={"key": "mine"})
    made = go(data=item)
    again = Run(made.folder)
    assert again.cases() == ["mine"]
    xr.testing.assert_equal(again.case("mine").truth, item)


def test_the_environment_says_what_made_the_numbers():
    environment = json.loads((go(cases=1).folder / "environment.json").read_text())
    assert environment["versions"]["toy-lines"] == "0.0.1"
    assert {"python", "versions", "hardware", "device", "threads", "data", "command", "engine"} <= set(environment)
    assert len(environment["data"]["line-0"]) == 64


def test_the_log_has_a_line_an_event():
    events = [event["event"] for event in go(cases=1).store.events()]
    assert events == ["run_started", "job_finished", "job_finished", "job_finished", "run_finished"]


def test_unstir_run_is_this_runner():
    assert unstir.run("toy/lines", out="out", report=False, cases=1).cases() == ["line-0"]


def test_a_run_is_opened_without_computing(toy):
    go(cases=2)
    before = toy()
    made = Run(Path("out"))
    assert made.cases() == ["line-0", "line-1"]
    assert set(made.rows.columns) >= {"task", "setting", "method", "case", "seed", "metric", "value", "parts", "combine"}
    assert made.rows["setting"].iloc[0] == {}
    assert made.recipe.title == "Noisy lines"
    assert toy() == before


def test_many_cases_are_each_made_once_for_all_their_methods(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    import toy_parts

    made: list[str] = []
    original = toy_parts.Denoise.cases

    def counted(self, items):
        for case in original(self, items):
            made.append(case.key)
            yield case

    monkeypatch.setattr(toy_parts.Denoise, "cases", counted)
    go(changed(recipe, "count: 3", "count: 20"))
    assert len(made) <= 2 * 20  # once to list them, once to use them


class Prior:
    """Stands for a denoiser."""

    def __init__(self, name: str) -> None:
        self.name, self.device = name, ""

    def to(self, device: str) -> "Prior":
        self.device = device
        return self

    def __str__(self) -> str:
        return f"{self.name} on {self.device}"


def test_a_prior_is_loaded_once_and_given_to_methods_that_use_one(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    loaded: list[str] = []
    monkeypatch.setitem(vars(unstir), "load", lambda name: loaded.append(name) or Prior(name))
    changed(recipe, "keep: {name: toy/keep}", "keep: {name: toy/learned}")
    recipe.write_text(recipe.read_text() + "defaults: {checkpoint: some/prior}\n")
    made = go(recipe, device="cpu")
    assert loaded == ["some/prior"]
    assert made.estimate("keep", "line-2").info["prior"] == "some/prior on cpu"
    assert "checkpoint" not in made.store.recipe["methods"]["smooth"]


def test_a_checkpoint_folder_is_kept_by_its_absolute_path(recipe: Path, tmp_path: Path):
    (tmp_path / "prior").mkdir()
    changed(recipe, "keep: {name: toy/keep}", "keep: {name: toy/learned, checkpoint: prior}")
    assert prepare(recipe).resolved["methods"]["keep"]["checkpoint"] == str((tmp_path / "prior").resolve())


def test_observers_are_told_and_one_that_fails_stops_nothing():
    told: list[str] = []
    watcher = types.ModuleType("watcher")
    watcher.UNSTIR_API = 1

    @hookimpl
    def unstir_run_started(run):
        told.append(f"started {len(run.labels)}")

    @hookimpl
    def unstir_case_finished(run, label, case, estimate):
        told.append(f"{label} {case.key} {estimate.nfe}")
        raise RuntimeError("the watcher broke")

    @hookimpl
    def unstir_run_finished(run):
        told.append(f"finished {len(run.table())}")

    vars(watcher).update(
        unstir_run_started=unstir_run_started, unstir_case_finished=unstir_case_finished, unstir_run_finished=unstir_run_finished
    )
    registry.host().add("watcher", watcher, distribution="tests")
    go(cases=1, methods=["keep"])
    assert told == ["started 1", "keep line-0 0", "finished 5"]
