"""The numbers of a run as tables, and when one method may be called better than another."""

from __future__ import annotations

import io
import json
import math
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unstir.errors import DataError
from unstir_pipelines import results, tables
from unstir_pipelines.pairing import combined, paired_difference
from unstir_pipelines.results import Number, digits_of, places, setting_title, shown

build = runpy.run_path(str(Path(__file__).with_name("runs_by_hand.py")))["build"]


def text_of(folder: Path, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(tables.terminal(folder))
    return console.export_text()


def test_a_constant_offset_is_a_difference_without_width():
    b = {(f"case-{i}", 0): (float(i), (), "mean") for i in range(5)}
    a = {key: (value + 2.5, parts, combine) for key, (value, parts, combine) in b.items()}
    gap = paired_difference(a, b)
    assert gap is not None
    assert (gap.mean, gap.low, gap.high, gap.cases, gap.over) == (2.5, 2.5, 2.5, 5, "cases")
    assert gap.clear


def test_equal_factors_of_error_are_equal_steps_of_psnr_whatever_parts_are_drawn():
    parts = np.array([1e-3, 5e-3, 2e-2, 4e-4])
    psnr = float(combined(parts, "psnr"))
    a, b = {("x", 0): (psnr + 10, tuple(parts / 10), "psnr")}, {("x", 0): (psnr, tuple(parts), "psnr")}
    gap = paired_difference(a, b)
    assert gap is not None
    assert gap.over == "parts"
    np.testing.assert_allclose([gap.mean, gap.low, gap.high], 10, atol=1e-9)


@pytest.mark.parametrize(("combine", "value"), [("mean", 2.5), ("rms", math.sqrt(7.5)), ("psnr", -10 * math.log10(2.5))])
def test_parts_combine_as_their_rule_says(combine: str, value: float):
    assert float(combined(np.array([1.0, 2.0, 3.0, 4.0]), combine)) == pytest.approx(value)


def test_methods_that_share_no_case_or_no_parts_have_no_paired_difference():
    assert paired_difference({("a", 0): (1.0, (), "mean")}, {("b", 0): (2.0, (), "mean")}) is None
    assert paired_difference({("a", 0): (1.0, (), "mean")}, {("a", 0): (2.0, (), "mean")}) is None
    assert paired_difference({("a", 0): (1.0, (1.0, 1.0), "mean")}, {("a", 0): (2.0, (2.0, 2.0, 2.0), "mean")}) is None


def test_the_interval_of_a_difference_covers_the_truth_about_as_often_as_it_says():
    generator = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        gaps = generator.normal(0.3, 1.0, 30)
        a = {(str(i), 0): (float(gap), (), "mean") for i, gap in enumerate(gaps)}
        gap = paired_difference(a, dict.fromkeys(a, (0.0, (), "mean")), draws=400, seed=trial)
        covered += gap.low <= 0.3 <= gap.high
    assert 0.90 <= covered / 300 <= 0.98  # binomial spread of 300 trials around 0.94, what the percentile bootstrap gives at n = 30


def test_a_method_leads_by_its_paired_difference_although_the_intervals_overlap(tmp_path: Path):
    run = results.read(build(tmp_path / "run", quality={"fbp": 17, "admm-tv": 27.0, "dds": 20, "dds-warm": 27.4}))
    setting = run.settings[0]
    first, second = run.number("dds-warm", setting, "psnr"), run.number("admm-tv", setting, "psnr")
    assert first.low < second.high
    assert run.leader(setting, "psnr") == "dds-warm"


def test_nobody_leads_where_the_difference_may_be_zero(tmp_path: Path):
    folder = build(tmp_path / "run", quality={"fbp": 17, "admm-tv": 27.0, "dds": 20, "dds-warm": 27.0}, seed=3)
    run = results.read(folder)
    assert run.leader(run.settings[0], "psnr") is None
    frame = tables.frame(folder)
    assert not frame.query("metric == 'psnr' and `task.views` == 8").best.any()


def test_lower_is_better_where_the_metric_says_so(tmp_path: Path):
    folder = build(tmp_path / "run")
    content = json.loads((folder / "metrics.json").read_text())
    for row in content["rows"]:
        row["better"] = "down"
    (folder / "metrics.json").write_text(json.dumps(content))
    run = results.read(folder)
    assert run.ranked(run.settings[0], "psnr")[0] == "fbp"
    assert run.leader(run.settings[0], "psnr") == "fbp"


def test_classical_methods_stand_first_and_titles_in_place_of_labels(tmp_path: Path):
    lines = text_of(build(tmp_path / "run"), 120).splitlines()
    assert [line.split("  ")[0].strip() for line in lines[2:6]] == ["fbp", "admm-tv (tuned)", "dds", "dds-warm"]


def test_settings_stand_side_by_side_on_a_wide_terminal(tmp_path: Path):
    lines = text_of(build(tmp_path / "run"), 120).splitlines()
    assert lines[0].split("  ")[-1].strip() == "20 views"
    assert "8 views" in lines[0]
    assert lines[1].count("psnr dB") == 2
    assert lines[2].count("±") == 4


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_no_number_is_lost_and_no_line_is_too_long_on_any_terminal(tmp_path: Path, width: int):
    text = text_of(build(tmp_path / "run"), width)
    assert max(len(line) for line in text.splitlines()) <= width
    run = results.read(tmp_path / "run")
    for setting in run.settings:
        for metric in ("psnr", "ssim"):
            numbers = [run.number(label, setting, metric) for label in run.labels]
            for number in numbers:
                assert shown(number, metric, digits_of(numbers)) in text


def test_one_case_says_nothing_about_others_and_several_do(tmp_path: Path):
    assert "over parts. One case: says nothing about others." in " ".join(text_of(build(tmp_path / "one"), 120).split())
    several = " ".join(text_of(build(tmp_path / "several", cases=("a", "b", "c")), 120).split())
    assert "over cases." in several
    assert "says nothing" not in several


def test_the_note_speaks_the_words_of_the_task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from types import SimpleNamespace

    from unstir import registry

    monkeypatch.setattr(registry, "resolve", lambda kind, name: SimpleNamespace(case_noun="patient", part_noun="slab"))
    text = " ".join(text_of(build(tmp_path / "run"), 120).split())
    assert "over slabs. One patient: says nothing about others." in text


def test_one_case_without_parts_has_no_interval_and_the_note_says_so(tmp_path: Path):
    text = text_of(build(tmp_path / "run", parts=1), 120)
    assert "±" not in text
    assert "No intervals" in text


def test_a_failed_method_keeps_its_row(tmp_path: Path):
    text = text_of(build(tmp_path / "run", failed={"dds": "it broke"}), 120)
    row = next(line for line in text.splitlines() if line.split()[:1] == ["dds"])
    assert row.split()[1:] == ["–"] * 8
    assert "the report says why" in text


def test_a_setting_in_which_everything_failed_keeps_its_columns(tmp_path: Path):
    folder = build(tmp_path / "run")
    content = json.loads((folder / "metrics.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["setting"] == {"task.views": 20}]
    (folder / "metrics.json").write_text(json.dumps(content))
    assert text_of(folder, 120).splitlines()[0].split("   ")[-1].strip() == "20 views"
    assert "8 views" in text_of(folder, 120)
    content["rows"] = []
    (folder / "metrics.json").write_text(json.dumps(content))
    assert "No intervals" in text_of(folder, 120)


def test_a_method_name_is_text_and_never_markup(tmp_path: Path):
    methods = {"[red]x[/red]": {"name": "made/x"}, "[link=http://evil]y": {"name": "made/y"}}
    quality = dict.fromkeys(methods, 20.0)
    text = text_of(build(tmp_path / "run", methods=methods, quality=quality, costs=dict.fromkeys(methods, (0, 1.0, 1.0))), 120)
    assert "[red]x[/red]" in text
    assert "[link=http://evil]y" in text


def test_the_frame_has_the_varied_keys_and_the_intervals_as_columns(tmp_path: Path):
    frame = tables.frame(build(tmp_path / "run"))
    assert list(frame.columns) == ["task", "task.views", "method", "metric", "unit", "mean", "low", "high", "cases", "better", "best"]
    row = frame.query("method == 'dds-warm' and metric == 'psnr' and `task.views` == 20").iloc[0]
    assert row.low < row["mean"] < row.high
    assert row.best
    assert not frame[frame.metric.isin(["nfe", "seconds", "memory"])].best.any()


def test_a_number_shows_the_digits_its_interval_supports():
    assert [places(half) for half in (30, 3.0, 1.4, 0.3, 0.14, 0.006, 1e-9, 0.0, math.nan)] == [0, 0, 1, 1, 2, 3, 4, 1, 1]
    assert shown(Number(27.234, 26.9, 27.5, 1, "dB", "up"), "psnr") == "27.2 ±0.3"
    assert shown(Number(0.8616, 0.857, 0.865, 1, "", "up"), "ssim") == "0.862 ±0.004"
    assert shown(Number(27.234, math.nan, math.nan, 1, "dB", "up"), "psnr") == "27.2"
    assert shown(Number(math.nan, math.nan, math.nan, 1, "dB", "up"), "psnr") == "–"
    assert shown(Number(3.2e-5, 3.0e-5, 3.4e-5, 1, "", "down"), "nmse") == "3.20e-05 ±2e-06"
    assert [shown(Number(x, math.nan, math.nan, 1, "s", "down"), "seconds") for x in (0.0213, 3.0, 11.3)] == ["0.021", "3", "11"]


def test_a_metric_may_ask_for_more_digits_than_its_interval_supports():
    number = Number(0.05441, 0.0487, 0.0607, 1, "", "down", digits=4)
    assert shown(number, "crps") == "0.0544 ±0.0060"
    assert digits_of([number, Number(0.5, 0.1, 0.9, 1, "", "down", digits=4)]) == 4


@pytest.mark.parametrize(
    ("setting", "title"),
    [
        ({}, ""),
        ({"task.views": 8}, "8 views"),
        ({"task.views": 1}, "1 view"),
        ({"task.noise": "poisson"}, "noise poisson"),
        ({"task.views": 20, "task.noise_level": 0.01}, "20 views, noise level 0.01"),
        ({"methods.dds.average": True}, "average"),
        ({"methods.dds.average": False}, "no average"),
    ],
)
def test_a_setting_reads_as_words(setting: dict, title: str):
    assert setting_title(setting) == title


def test_a_folder_that_is_no_finished_run_is_one_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        tables.terminal(tmp_path / "nothing")
    folder = build(tmp_path / "run")
    (folder / "metrics.json").write_text("{")
    with pytest.raises(DataError, match="not the metrics of a run"):
        tables.frame(folder)
    (folder / "metrics.json").unlink()
    with pytest.raises(DataError, match="no finished run"):
        tables.frame(folder)


def test_tables_and_pages_import_neither_torch_nor_matplotlib():
    code = "import sys, unstir_pipelines.tables, unstir_pipelines.compare, unstir_pipelines.figures, unstir_pipelines.report.page; "
    code += "print([name for name in ('torch', 'matplotlib', 'pandas') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
