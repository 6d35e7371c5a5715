"""What plugins share of pictures, pages and files: one look, one page, all files or none."""

import datetime
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from unstir.errors import UserError
from unstir.plugin.canvas import FAINT, INK, PALETTE, legend, plain, plain_axes, sheet, style, tint
from unstir.plugin.page import Facts, Picture, Section, Table, Words, page, places, shown
from unstir.plugin.protocols import Estimate
from unstir.plugin.results import together
from unstir.plugin.view import View, compared, plural, spread

# ---- pictures


def test_a_sheet_has_the_panels_that_were_asked_for():
    figure, grid = sheet(5, columns=3, height=1.0)
    assert len(grid) == len(figure.axes) == 5
    assert figure.get_size_inches()[1] == pytest.approx(2.4)


def test_a_legend_has_every_name_once_and_the_first_first():
    figure, grid = sheet(2, columns=2, height=1.0)
    for axes in grid:
        axes.plot([0, 1], label="b")
        axes.plot([0, 1], label="a")
    legend(figure, grid, first="a")
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b"]


def test_axes_may_keep_their_own_ticks():
    _, (one, other) = sheet(2, columns=2, height=1.0)
    before = other.yaxis.get_major_locator()
    plain_axes(one)
    plain_axes(other, ticks=0)
    assert other.yaxis.get_major_locator() is before
    assert type(one.yaxis.get_major_formatter()).__name__ == "FuncFormatter"
    assert one.yaxis.get_major_formatter()(-1.5, 0) == "\N{MINUS SIGN}1.5"


def luminance(colour):
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return float(np.dot([0.2126, 0.7152, 0.0722], linear))


def test_lines_differ_in_dashes_as_well_as_in_colour_and_text_is_read_on_white():
    looks = [style(place) for place in range(4)]
    assert len({str(look["linestyle"]) for look in looks}) == len({look["color"] for look in looks}) == 4
    assert 1.05 / (luminance(INK) + 0.05) > 7
    assert all(1.05 / (luminance(colour) + 0.05) > 2 for colour in PALETTE)
    assert luminance(FAINT) > 0.7
    assert tint("#0072B2", 0.0) == (1, 1, 1)
    assert tint("#000000", 0.25) == (0.75, 0.75, 0.75)


def test_words_are_no_formula_and_not_too_long():
    assert plain("cost $x$") == r"cost \$x\$"
    assert plain("a" * 40, 10) == "a" * 9 + "\N{HORIZONTAL ELLIPSIS}"


# ---- views


def run(**changes):
    rows = [
        {"method": label, "setting": {"task.views": views}, "metric": metric, "value": value}
        for label, views, metric, value in (
            ("a", 8, "m", 1.0),
            ("a", 8, "m", 3.0),
            ("b", 8, "m", math.nan),
            ("a", 20, "m", 9.0),
            ("a", 8, "k", 5.0),
        )
    ]
    titles = {"a": {"title": "A"}, "b": {}}
    answers = {("a", 8): Estimate(1), ("b", 8): None, ("a", 20): Estimate(2), ("b", 20): Estimate(3)}
    made = {
        "labels": ["a", "b"], "settings": [{"task.views": 8}, {"task.views": 20}], "rows": pd.DataFrame(rows), "cases": lambda: ["one"],
        "recipe": SimpleNamespace(resolved={"methods": titles}), "case": lambda key, setting: (key, dict(setting)),
        "estimate": lambda label, key, setting: answers[label, setting["task.views"]],
    }  # fmt: skip
    return SimpleNamespace(**made | changes)


def test_a_view_is_a_run_under_one_setting():
    first, second = View.each(run())
    assert (first.words, first.place, first.at) == ("views 8", ", views 8", "Views 8: ")
    assert first.named("fans", "Case 1") == "fans-case-1-views-8"
    assert first.titles == {"a": "A", "b": "b"}
    assert list(second.cases()) == [("one", {"task.views": 20})]
    assert list(first.estimates("one")) == ["a"]
    assert list(second.estimates("one", ["b"])) == ["b"]
    assert first.means("m") == {"a": 2.0}
    assert View(run(rows=[])).means("m") == {}
    with pytest.raises(UserError, match="figures show methods of the run, got c; there are a, b"):
        first.estimates("one", ["c"])


def test_the_best_is_the_lowest_or_the_highest_and_carries_its_unit():
    scores = {"a": 1.25, "b": 3.0, "c": math.nan}
    assert compared(scores, 2) == "a 1.25 (b 3.00)"
    assert compared(scores, 1, unit="%", highest=True) == "b 3.0\N{NO-BREAK SPACE}% (a 1.2\N{NO-BREAK SPACE}%)"
    assert plural(1, "graph") == "1 graph"
    assert plural(2000, "graph") == "2,000 graphs"
    assert spread(9, 3) == [1, 4, 7]
    assert spread(2, 3) == [0, 1]


# ---- the page


def test_a_page_is_one_file_whose_parts_stand_in_order_and_are_no_markup(tmp_path):
    frame = pd.DataFrame({"x": ["<b>"], "half": [0.5]})
    parts = [Words("One & two."), Words("small", note=True), Table.of(frame, "Numbers", names={"half": "1/2"}, digits={"half": 1})]
    sections = [Section("first", "First", parts), Section("made", "Made", [Facts({"some_name": 1, "left out": None})])]
    opening = [Picture(Figure(figsize=(1, 1)), "A <caption>", "alt")]
    path = page(tmp_path, title="<T>", kicker="k", opening=opening, sections=sections, footer="f")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    text = path.read_text()
    order = [
        "<h1>&lt;T&gt;</h1>", "data:image/png;base64,", "A &lt;caption&gt;", '<section id="first">', "<p>One &amp; two.</p>",
        '<p class="note">small</p>', '<th scope="col">1/2</th>', "<td>&lt;b&gt;</td><td>0.5</td>", "<dt>some name</dt><dd>1</dd>",
        "<footer>f",
    ]  # fmt: skip
    found = [text.index(piece) for piece in order]
    assert found == sorted(found)
    assert "left out" not in text


def test_a_column_has_as_many_digits_as_its_largest_number_needs():
    assert places(pd.Series([1.0, 123456.7])) == 0
    assert places(pd.Series([0.01, -12.0])) == 3
    assert places(pd.Series([math.nan])) is None
    assert places(pd.Series(["a"])) is None


def test_stamps_and_missing_ones_are_written():
    assert shown(datetime.datetime(2024, 3, 1, 5)) == "2024-03-01 05:00"
    assert shown(pd.NaT) == "NaT"


# ---- files


def half_written(out):
    with together(out) as made:
        (made.folder / "c.txt").write_text("c")
        raise OSError("the disk is full")


def test_files_are_there_together_or_not_at_all(tmp_path):
    with together(tmp_path) as made:
        for name in ("b.txt", "a.txt"):
            (made.folder / name).write_text(name)
        assert not (tmp_path / "a.txt").exists()
    assert made.files == [tmp_path / "a.txt", tmp_path / "b.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
    with pytest.raises(OSError, match="disk is full"):
        half_written(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.txt", "b.txt"]
