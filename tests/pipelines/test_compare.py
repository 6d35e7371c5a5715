"""Runs joined into one table: what is paired, what is told apart, how rows rank."""

from __future__ import annotations

import io
import json
import math
import runpy
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from unstir.errors import DataError, UserError
from unstir_pipelines import results
from unstir_pipelines.compare import compare, join

build = runpy.run_path(str(Path(__file__).with_name("runs_by_hand.py")))["build"]

GAIN = {"euler": 0.0, "heun": 1.0, "dpm++2m": 2.0}
CASES = ("a", "b", "c", "d", "e")


def run_of(folder: Path, solver: str, *, steps: int = 20, task: str = "made/ct", level: float = 20.0, prints: str = "ab", **more) -> Path:
    """A run of one classical method and one learned one with a solver; more steps are a little better."""
    methods = {"base": {"name": "made/base"}, "dds": {"name": "made/dds", "checkpoint": "p", "solver": solver, "grid": f"karras:{steps}"}}
    quality = {"base": level - 3, "dds": level + GAIN[solver] - 5 / steps}
    costs = {"base": (0, 0.1, 1.0), "dds": (steps, steps / 10, 9.0)}
    given = {"settings": ({},), "cases": CASES, "parts": 4, "title": task.rpartition("/")[2].upper()} | more
    return build(folder, methods=methods, quality=quality, costs=costs, task=task, prints=prints, **given)


def table_of(comparison, width: int = 120) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(comparison.table())
    return console.export_text()


def test_runs_of_several_domains_join_with_a_row_a_solver_and_a_column_a_task(tmp_path: Path):
    folders = [run_of(tmp_path / f"{task}-{solver}", solver, task=f"made/{task}") for task in ("ct", "speech") for solver in GAIN]
    made = join(folders, "solver")
    assert made.rows == ["base", "dpm++2m", "heun", "euler"]
    assert made.columns == [("CT", "", ""), ("SPEECH", "", "")]
    assert len(made.cells) == 8
    text = table_of(made)
    assert text.splitlines()[0].split() == ["CT", "SPEECH"]
    assert "mean rank" in text


def test_what_several_runs_did_alike_stands_once(tmp_path: Path):
    made = join([run_of(tmp_path / solver, solver) for solver in GAIN], "solver")
    assert [entry.row for entry in made.entries].count("base") == 1


def test_rows_that_would_share_a_cell_are_told_apart_by_what_differs(tmp_path: Path):
    folders = [run_of(tmp_path / f"{solver}-{steps}", solver, steps=steps) for solver in GAIN for steps in (10, 20)]
    made = join(folders, "solver")
    assert set(made.rows) == {"base"} | {f"{solver}, karras:{steps}" for solver in GAIN for steps in (10, 20)}
    assert {entry.series for entry in made.entries} == {"base", *GAIN}
    by_method = join(folders)
    assert "dds, karras:20, heun" in by_method.rows
    assert {entry.series for entry in by_method.entries} == {"base", *(f"dds, {solver}" for solver in GAIN)}


def test_runs_that_differ_in_nothing_but_their_numbers_are_told_apart_by_name(tmp_path: Path):
    made = join([run_of(tmp_path / "first", "heun"), run_of(tmp_path / "second", "heun", level=21.0)])
    assert {"dds, first", "dds, second"} <= set(made.rows)


def test_differences_are_paired_where_the_data_are_the_same(tmp_path: Path):
    made = join([run_of(tmp_path / "a", "heun"), run_of(tmp_path / "b", "euler")], "solver")
    cells = {row: made.cells[row, made.columns[0]] for row in ("heun", "euler")}
    gap = made.difference(cells["heun"], cells["euler"])
    assert gap is not None
    assert gap.cases == len(CASES)
    assert gap.mean == pytest.approx(1.0, abs=0.02)  # the same noise in both: what is left is the rounding of its mean over parts
    assert gap.high - gap.low < cells["heun"].number.high - cells["heun"].number.low
    assert made.is_best(cells["heun"])


def test_differences_are_not_paired_where_the_data_only_have_the_same_names(tmp_path: Path):
    made = join([run_of(tmp_path / "a", "heun"), run_of(tmp_path / "b", "euler", prints="cd", seed=5)], "solver")
    cells = {row: made.cells[row, made.columns[0]] for row in ("heun", "euler")}
    assert made.difference(cells["heun"], cells["euler"]) is None


def test_another_seed_of_the_same_cases_is_paired_by_its_rank(tmp_path: Path):
    import pandas as pd

    folder = run_of(tmp_path / "b", "euler")
    frame = pd.read_parquet(folder / "metrics.parquet")
    frame["seed"] = 7
    frame.to_parquet(folder / "metrics.parquet")
    made = join([run_of(tmp_path / "a", "heun"), folder], "solver")
    gap = made.difference(*(made.cells[row, made.columns[0]] for row in ("heun", "euler")))
    assert gap is not None
    assert gap.cases == len(CASES)


def test_mean_ranks_are_those_of_the_columns_every_row_has(tmp_path: Path):
    folders = [run_of(tmp_path / f"{task}-{solver}", solver, task=f"made/{task}") for task in ("ct", "speech", "pose") for solver in GAIN]
    made = join(folders, "solver")
    assert made.ranks == {"dpm++2m": 1.0, "heun": 2.0, "euler": 3.0} | {"base": 4.0}
    assert made.friedman is not None
    assert made.friedman < 0.05


def test_a_row_that_misses_a_column_has_no_rank(tmp_path: Path):
    folders = [
        run_of(tmp_path / f"{task}-{solver}", solver, task=f"made/{task}") for task in ("ct", "speech") for solver in ("heun", "euler")
    ]
    made = join([*folders, run_of(tmp_path / "one", "dpm++2m")], "solver")
    assert set(made.ranks) == {"base", "heun", "euler"}
    assert "dpm++2m" in made.rows


@pytest.mark.parametrize(("rows", "columns", "published"), [(4, 14, 1.25), (5, 30, 1.1137)])
def test_the_critical_difference_is_the_published_one(rows: int, columns: int, published: float):
    """Demsar 2006 gives 1.25 for 4 rows and 14 columns; for 5 and 30, q = 2.728 of his table 5(a)."""
    from unittest.mock import PropertyMock, patch

    from unstir_pipelines.compare import Comparison

    with patch.object(Comparison, "ranked", new_callable=PropertyMock, return_value=(["r"] * rows, [("c", "", "")] * columns)):
        assert Comparison("solver", [], []).critical_difference == pytest.approx(published, abs=0.005)


def test_settings_and_methods_may_change_places(tmp_path: Path):
    settings = ({"task.views": 8}, {"task.views": 20})
    made = join([run_of(tmp_path / "a", "heun", settings=settings)], "setting")
    assert made.rows == ["8 views", "20 views"] or made.rows == ["20 views", "8 views"]
    assert made.columns == [("CT", "", "base"), ("CT", "", "dds")]


def test_two_data_sets_of_one_task_are_two_columns(tmp_path: Path):
    folders = [run_of(tmp_path / "a", "heun"), run_of(tmp_path / "b", "heun")]
    recipe = folders[1] / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("made/volumes", "made/heads"))
    assert join(folders, "solver").columns == [("CT, made/volumes", "", ""), ("CT, made/heads", "", "")]


@pytest.mark.parametrize(("by", "hint"), [("sovler", "did you mean 'solver'"), ("zzz", "known: method, setting, checkpoint, grid, solver")])
def test_an_unknown_option_is_one_sentence(tmp_path: Path, by: str, hint: str):
    with pytest.raises(UserError, match=hint):
        join([run_of(tmp_path / "a", "heun")], by)


def test_what_is_no_run_is_one_sentence(tmp_path: Path):
    with pytest.raises(DataError, match="does not exist"):
        join([tmp_path / "nothing"])
    with pytest.raises(UserError, match="at least one"):
        join([])


def test_the_files_hold_the_table_the_rows_and_the_curves(tmp_path: Path):
    folders = [run_of(tmp_path / f"{solver}-{steps}", solver, steps=steps) for solver in GAIN for steps in (10, 20)]
    made = compare(folders, "solver", tmp_path / "out")
    assert made == tmp_path / "out" / "compare.html"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["compare.html", "compare.json", "compare.png", "table.txt"]
    assert (tmp_path / "out" / "compare.png").read_bytes().startswith(b"\x89PNG")
    content = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert content["by"] == "solver"
    assert len(content["rows"]) == 7
    row = next(row for row in content["rows"] if row["row"] == "heun, karras:10")
    assert {
        "run",
        "task",
        "setting",
        "method",
        "metric",
        "unit",
        "mean",
        "low",
        "high",
        "cases",
        "better",
        "nfe",
        "best",
        "from_best",
    } <= set(row)
    assert (row["nfe"], row["best"]) == (10, False)
    assert row["from_best"]["mean"] == pytest.approx(-1.25, abs=0.02)  # one solver worse by 1, ten steps fewer by 0.25
    assert "dpm++2m, karras:20" in (tmp_path / "out" / "table.txt").read_text()


def test_the_table_keeps_its_numbers_on_a_narrow_terminal(tmp_path: Path):
    made = join(
        [run_of(tmp_path / f"{task}-{solver}", solver, task=f"made/{task}") for task in ("ct", "speech") for solver in GAIN], "solver"
    )
    text = table_of(made, 40)
    assert max(len(line) for line in text.splitlines()) <= 40
    assert text.count("±") == 8 + 1


def test_a_malicious_name_stays_text_on_the_page(tmp_path: Path):
    evil = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
    folder = run_of(tmp_path / "a", "heun", title=evil)
    recipe = folder / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("solver: heun", f"solver: '{evil}'"))
    assert results.read(folder).options["dds"]["solver"] == evil
    text = compare([folder], "solver", tmp_path / "out").read_text()
    tags: list[tuple[str, dict]] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append((tag, dict(attrs)))
    parser.feed(text)
    assert "script" not in [tag for tag, _ in tags]
    assert not any(name.startswith("on") for _, attrs in tags for name in attrs)
    assert all(attrs["src"].startswith("data:") for tag, attrs in tags if tag == "img")


def test_the_same_runs_give_the_same_page(tmp_path: Path):
    folders = [run_of(tmp_path / solver, solver) for solver in GAIN]
    first = compare(folders, "solver", tmp_path / "out").read_bytes()
    assert compare(folders, "solver", tmp_path / "out").read_bytes() == first


def test_a_method_that_counts_no_evaluations_is_drawn_and_told(tmp_path: Path):
    folder = run_of(tmp_path / "a", "heun")
    content = json.loads((folder / "metrics.json").read_text())
    content["rows"] = [row for row in content["rows"] if row["metric"] != "nfe"]
    (folder / "metrics.json").write_text(json.dumps(content))
    made = join([folder])
    assert all(math.isnan(entry.nfe) for entry in made.entries)
    assert compare([folder], None, tmp_path / "out").exists()
    assert np.isfinite([entry.number.mean for entry in made.entries]).all()
