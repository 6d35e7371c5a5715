import errno
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unstir.errors import RecipeError, UserError
from unstir_pipelines import runner, store
from unstir_pipelines.api import Run, RunFailed, run


def go(recipe: str | Path = "toy/lines", **options) -> Run:
    return run(recipe, **{"report": False, "out": "out", **options})


def test_the_same_command_on_a_finished_run_computes_nothing_and_changes_no_number(toy):
    go()
    numbers, done = Path("out/metrics.json").read_bytes(), toy()
    go()
    assert toy() == done
    assert Path("out/metrics.json").read_bytes() == numbers


def test_a_run_goes_on_without_repeating_what_is_done(toy, read_numbers):
    whole = read_numbers(go(out="whole").folder)
    before = len(toy())
    go(out="out")
    for name in ("smooth/line-1.job.json", "refine/line-1.nc", "metrics.json"):
        (Path("out/estimates") / name if "/" in name else Path("out") / name).unlink()
    start = len(toy())
    assert start == 2 * before
    go(resume="out", out=None)
    assert sorted(toy()[start:]) == ["refine line-1", "smooth line-1"]
    assert read_numbers(Path("out")) == whole


@pytest.mark.parametrize("after", [1, 5])
def test_a_run_killed_at_any_moment_ends_in_the_same_numbers(after: int, toy, read_numbers):
    options = ["--set", "methods.smooth.pause=0.01", "--set", "methods.smooth.steps=4", "--no-report", "-q"]
    command = [sys.executable, "-m", "unstir_pipelines", "run", "toy/lines", "--out", "killed", *options]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 60
    while len(toy()) < after and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    killed = Path("killed")
    whole_records = list(killed.rglob("*.job.json"))
    for path in whole_records:
        record = json.loads(path.read_text())
        assert all((path.parent / name).exists() for name in record["files"])
    seen = len(toy())
    overrides = {"methods.smooth.pause": 0.01, "methods.smooth.steps": 4}
    finished = go(out="killed", overrides=overrides)
    assert len(toy()) - seen == 9 - len(whole_records)
    assert read_numbers(finished.folder) == read_numbers(go(out="whole", overrides=overrides).folder)
    assert not list(killed.rglob("*.tmp"))


def test_a_failed_job_is_tried_again(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    import toy_parts

    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/fail"))
    with pytest.raises(RunFailed):
        go(recipe)
    monkeypatch.setattr(toy_parts.Fail, "__call__", lambda self, case, prior, seed, *, progress=None: toy_parts.Estimate(case.measurement))
    assert go(recipe).failures() == []


def test_a_changed_recipe_is_refused_with_the_difference():
    go()
    with pytest.raises(RecipeError) as caught:
        go(overrides={"task.noise": 0.2, "methods.smooth.steps": 5})
    said = str(caught.value)
    assert "out was run with another recipe" in said
    assert "task.noise: 0.1 there, 0.2 now" in said
    assert "methods.smooth.steps: 3 there, 5 now" in said
    with pytest.raises(RecipeError, match=r"methods.keep.name: \"toy/keep\" there, absent now"):
        go(methods=["refine"])


def test_changed_data_are_refused(tmp_path: Path):
    import numpy as np

    np.save("mine.npy", np.ones((4, 6)))
    go(data=["mine.npy"])
    np.save("mine.npy", np.zeros((4, 6)))
    with pytest.raises(UserError, match="the data of case mine are not those that out was run with"):
        go(data=["mine.npy"])


def test_a_record_whose_estimate_is_gone_counts_for_nothing(toy):
    go(cases=1)
    Path("out/estimates/keep/line-0.nc").unlink()
    before = len(toy())
    go(cases=1)
    assert toy()[before:] == ["keep line-0"]


def test_ctrl_c_keeps_what_is_done_and_says_how_to_go_on(recipe: Path, monkeypatch: pytest.MonkeyPatch):
    import toy_parts

    def stopped(self, case, prior, seed, *, progress=None):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(toy_parts.Refine, "__call__", stopped)
        with pytest.raises(runner.Interrupted, match=r"stopped: 2 of 9 jobs are done and kept; 'unstir run --resume out' goes on"):
            go(recipe)
    assert not list(Path("out").rglob("*.tmp"))
    assert go(recipe).failures() == []


def test_a_full_disk_is_one_sentence_and_leaves_nothing_half_written(recipe: Path, monkeypatch: pytest.MonkeyPatch, read_numbers):
    written = 0
    original = store.write_dataset

    def full(data, path):
        nonlocal written
        written += 1
        if written > 4:
            path.write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
        original(data, path)

    with monkeypatch.context() as patch:
        patch.setattr(store, "write_dataset", full)
        with pytest.raises(
            UserError,
            match=r"the disk that holds out is full: 4 of 9 jobs are done and kept; free some space and 'unstir run --resume out' goes on",
        ):
            go(recipe)
    assert len(list(Path("out").rglob("*.nc"))) == len(list(Path("out").rglob("*.job.json"))) == 4
    assert not list(Path("out").rglob("*.tmp"))
    go(recipe)
    assert read_numbers(Path("out")) == read_numbers(go(out="whole").folder)


def test_a_disk_that_is_full_at_the_start_leaves_no_folder(monkeypatch: pytest.MonkeyPatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(runner, "write_whole", full)
    with pytest.raises(UserError, match="is full"):
        go(out=None)
    assert not any(Path("runs").iterdir())


def test_two_processes_do_not_write_one_run():
    go(cases=1)
    with store.RunFolder(Path("out")).held(), pytest.raises(UserError, match="another process is writing out"):
        go(cases=1)


def test_a_line_of_the_log_that_a_kill_cut_short_costs_that_line_alone():
    folder = go(cases=1).store
    with open("out/log.jsonl", "ab") as log:
        log.write(b'{"time": "20')
    folder.log("after")
    events = [event["event"] for event in folder.events()]
    assert events[-1] == "after"
    assert events[0] == "run_started"


def test_a_file_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    store.write_whole(path, "old")

    def fails(handle):
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr(os, "fsync", fails)
    with pytest.raises(OSError, match="broken disk"):
        store.write_whole(path, "new")
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.glob("*.tmp")] == []
    assert [item.name for item in tmp_path.glob(".*.tmp")] == []


@pytest.mark.parametrize("out", ["file", "folder"])
def test_out_never_overwrites_what_is_no_run(out: str):
    if out == "file":
        Path("out").write_text("mine")
    else:
        Path("out").mkdir()
        Path("out/thesis.tex").write_text("mine")
    with pytest.raises(UserError, match="--out out"):
        go()
    assert (Path("out") if out == "file" else Path("out/thesis.tex")).read_text() == "mine"


def test_resuming_needs_a_run():
    with pytest.raises(UserError, match="run nothing does not exist"):
        go(resume="nothing")
