"""Figures of a CT run: what they show, on which scale, and what happens where a method failed or has nothing to show."""

from __future__ import annotations

import io
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure as Page

from unstir.errors import UserError
from unstir.plugin.protocols import Case, Drawn, Estimate, Figure
from unstir_medical import volume as volumes
from unstir_medical.drawing import Scale, image, nice, slices_picture, window_of
from unstir_medical.figures import ErrorMaps, Overview, Residual, Sinogram, Slices, StandardDeviation, calibration
from unstir_medical.scene import Scene, scene, setting_words
from unstir_medical.tasks import SparseViewCT

SETTINGS = [{"task.views": 4}, {"task.views": 8}]
OFFSETS = {"fbp": 60.0, "admm-tv": 30.0, "dds": 20.0, "dds-mean": 10.0}  # HU
EVERY = (Overview, Slices, ErrorMaps, Residual, StandardDeviation, Sinogram)


class View:
    """A run in memory: a truth, and methods that are off by ``OFFSETS`` everywhere."""

    def __init__(self, settings=SETTINGS, offsets=OFFSETS, failed=(), is_blind=False, titles=None):
        self.folder, self.settings, self.labels, self.failed = None, list(settings), list(offsets), set(failed)
        methods = {label: {"name": f"medical/{label}", "title": (titles or {}).get(label)} for label in offsets}
        self.recipe = SimpleNamespace(title="Sparse-view CT", resolved={"methods": methods})
        self.offsets, self.is_blind = offsets, is_blind
        whole = [SparseViewCT(views=setting.get("task.views", 6), size=24).case(phantom()) for setting in self.settings]
        self.truth = whole[0].truth
        self._cases = [Case(one.key, None if is_blind else one.truth, one.measurement, one.context) for one in whole]

    @property
    def rows(self):
        rows = [
            {"method": label, "case": "chest", "seed": 0, "setting": setting, "metric": "psnr", "unit": "dB",
             "value": -20 * math.log10(offset / 2000)}
            for setting in self.settings for label, offset in self.offsets.items() if label not in self.failed and not self.is_blind
        ]  # fmt: skip
        return pd.DataFrame(rows, columns=["method", "case", "seed", "setting", "metric", "unit", "value"])

    def cases(self):
        return ["chest"]

    def case(self, key, setting):
        return self._cases[self.settings.index(setting)]

    def estimate(self, label, key, setting):
        if label in self.failed:
            return None
        truth = self.truth
        data = truth.assign(hu=truth["hu"] + np.float32(self.offsets[label]))
        learned = label.startswith("dds")
        info = {"trace": {"residual": [0.5 / (step + 1) for step in range(5)]}} if learned else {}
        if label == "dds-mean":
            spread = 5 + 10 * np.random.default_rng(0).random(truth["hu"].shape)
            data["hu_std"] = (("z", "y", "x"), spread.astype(np.float32))
        return Estimate(data, nfe=20 if learned else 0, info=info)


def phantom():
    z, y, x = np.meshgrid(np.linspace(-1, 1, 6), *[np.linspace(-1, 1, 24)] * 2, indexing="ij")
    hu = np.where(x**2 + 1.5 * y**2 < 0.6, 40.0, -1000.0)
    hu[(np.abs(x) - 0.35) ** 2 + y**2 < 0.05] = -850
    hu[(x - 0.5) ** 2 + (y + 0.2) ** 2 < 0.02 + 0 * z] = 700  # on the patient's left, in front
    attrs = {"key": "chest", "modality": "CT", "source": "", "orientation": "LPS"}
    return volumes.dataset(hu.astype(np.float32), np.diag([3.0, 3.0, 5.0, 1.0]), attrs)


@pytest.fixture(scope="module")
def view():
    return View()


@pytest.fixture(scope="module")
def pages(view):
    """What every figure draws of it with its default options."""
    return {figure: list(figure().draw(view)) for figure in EVERY}


def words(figure: Page) -> list[str]:
    """Every text of a page that is seen."""
    from matplotlib.text import Text

    return [found.get_text() for found in figure.findobj(Text) if found.get_visible() and found.get_text()]


def images(figure: Page):
    return [found for axes in figure.axes for found in axes.get_images()]


@pytest.mark.parametrize("figure", EVERY)
def test_a_figure_draws_with_title_caption_and_a_name_for_each_case_and_setting(figure, pages):
    assert isinstance(figure(), Figure)
    drawn = pages[figure]
    assert len(drawn) == (1 if figure in (Overview, Residual) else 2)
    assert len({one.name for one in drawn}) == len(drawn)
    for one in drawn:
        assert isinstance(one, Drawn)
        assert one.case == "chest"
        assert one.title
        assert one.caption.endswith(".")
        assert one.caption[0].isupper() or figure in (StandardDeviation, Residual, Sinogram)  # these start with a label or a number
        assert one.figure.get_figwidth() <= 7.6
        one.figure.savefig(io.BytesIO(), format="png", dpi=30)


@pytest.mark.parametrize("figure", EVERY)
def test_nothing_written_on_a_page_overlaps_or_leaves_it(figure, pages):
    for one in pages[figure]:
        page = one.figure
        page.draw_without_rendering()
        titles = [text for text in page.texts if text.get_text()]
        boxes = [text.get_window_extent() for text in titles]
        for place, box in enumerate(boxes):
            assert box.x0 >= -2
            assert box.x1 <= page.bbox.x1 + 2
            others = [other for other in boxes[place + 1 :] if box.x0 < other.x1 and other.x0 < box.x1]
            clash = [other for other in others if min(box.y1, other.y1) - max(box.y0, other.y0) > 1]  # a pixel of line spacing
            assert not clash, titles[place].get_text()


@pytest.mark.parametrize("figure", [Residual, StandardDeviation, Sinogram])
def test_numbers_on_axes_keep_clear_of_each_other(figure, pages):
    page = pages[figure][0].figure
    page.draw_without_rendering()
    labels = [label for axes in page.axes if axes.axison for label in axes.get_xticklabels() + axes.get_yticklabels()]
    inside = [label.get_window_extent() for label in labels if label.get_visible() and label.get_text()]
    for place, box in enumerate(inside):
        clash = [o for o in inside[place + 1 :] if min(box.x1, o.x1) > max(box.x0, o.x0) and min(box.y1, o.y1) > max(box.y0, o.y0)]
        assert not clash


@pytest.mark.parametrize("figure", [Overview, Slices])
def test_every_volume_of_a_picture_has_one_window_in_hu(figure, pages):
    for one in pages[figure]:
        shown = images(one.figure)
        planes = 2 * len(SETTINGS) if figure is Overview else 3
        assert len(shown) == planes * (1 + len(OFFSETS))
        assert len({found.get_clim() for found in shown}) == 1
        assert "HU" in words(one.figure)
        assert any(word.endswith("mm") for word in words(one.figure))
        assert f"Window {shown[0].get_clim()[0]:g} to {shown[0].get_clim()[1]:g} HU." in one.caption


def test_a_window_may_be_asked_for(view):
    (one, _) = Slices(level=40, width=400).draw(view)
    assert {found.get_clim() for found in images(one.figure)} == {(-160.0, 240.0)}


def test_pixels_keep_their_size_in_mm(pages):
    (one, _) = pages[Slices]
    page = one.figure
    scales = set()
    for axes in page.axes:
        if axes.get_images():
            left, right, bottom, top = axes.get_images()[0].get_extent()
            box = axes.get_position()
            scales |= {box.width * page.get_figwidth() / (right - left), box.height * page.get_figheight() / (bottom - top)}
    assert max(scales) == pytest.approx(min(scales))  # inches a mm, across and down, in every panel


def test_anterior_and_superior_are_up_and_the_patients_left_is_on_the_right():
    values = np.arange(2 * 3 * 4).reshape(2, 3, 4)  # (z, y, x): z up, y to posterior, x to the left
    assert np.array_equal(image(values, "axial", 1), values[1])
    assert np.array_equal(image(values, "coronal", 2), [values[1, 2], values[0, 2]])
    assert np.array_equal(image(values, "sagittal", 3), [values[1, :, 3], values[0, :, 3]])


def test_captions_say_who_is_best_and_by_how_much(pages):
    first, second = pages[Slices]
    gap = 20 * math.log10(30 / 10)
    assert first.caption.startswith(f"At 4 views dds-mean is {gap:.1f} dB above admm-tv.")
    assert second.caption.startswith("At 8 views dds-mean is")
    (overview,) = pages[Overview]
    assert "At 4 views" in overview.caption
    assert "at 8 views" in overview.caption
    assert "46.0 dB" in words(first.figure)  # of dds-mean


def test_error_maps_measure_the_body_in_hu(pages):
    (one, _) = pages[ErrorMaps]
    assert one.data.loc["fbp", "rmse_hu"] == pytest.approx(60)
    assert one.data.loc["dds-mean", "bias_hu"] == pytest.approx(10)
    assert "runs from 10 HU (dds-mean) to 60 HU (fbp)" in one.caption
    low, high = next(iter({found.get_clim() for found in images(one.figure)}))
    assert low == -high  # no error is no colour
    assert {"RMSE 60 HU", "RMSE 10 HU"} <= set(words(one.figure))


def test_residuals_are_drawn_with_their_numbers_for_methods_that_have_steps(pages):
    (one,) = pages[Residual]
    assert set(one.data["method"]) == {"dds", "dds-mean"}
    assert list(one.data.columns) == ["task.views", "method", "step", "residual"]
    assert len(one.data) == 2 * 2 * 5
    assert one.data["residual"].iloc[:5].tolist() == pytest.approx([0.5 / (step + 1) for step in range(5)])
    assert {"step", "||A x - y|| / ||y||", "4 views", "8 views", "truth"} <= set(words(one.figure))
    assert len({axes.get_ylim() for axes in one.figure.axes}) == 1
    assert "ends lowest at 0.1 (truth" in one.caption


def test_a_standard_deviation_stands_beside_the_error_it_should_foretell(pages):
    (one, _) = pages[StandardDeviation]
    assert {"dds-mean: std", "dds-mean: |error|", "standard deviation, HU", "root mean square error, HU"} <= set(words(one.figure))
    assert list(one.data.columns) == ["method", "std_hu", "rmse_hu", "voxels"]
    assert one.data["rmse_hu"].to_numpy() == pytest.approx(10, rel=1e-4)  # the error is 10 HU everywhere
    assert "two standard deviations hold 100% of the errors" in one.caption
    assert len({found.get_clim() for found in images(one.figure)}) == 1


def test_calibration_puts_as_many_voxels_in_each_bin_and_is_a_diagonal_for_an_honest_spread():
    generator = np.random.default_rng(0)
    spread = generator.uniform(5, 50, 60000)
    frame = calibration(spread, np.abs(spread * generator.standard_normal(spread.size)), bins=6)
    assert frame["voxels"].tolist() == [10000] * 6
    assert frame["rmse_hu"].to_numpy() == pytest.approx(frame["std_hu"].to_numpy(), rel=0.03)  # 1 / sqrt(2 * 10000), four times


def test_a_sinogram_shows_what_each_answer_leaves_unexplained(pages):
    (one, _) = pages[Sinogram]
    assert list(one.data.columns) == ["method", "relative_residual"]
    assert one.data.set_index("method")["relative_residual"].idxmin() == "dds-mean"
    assert one.caption.startswith("4 views from 0 to 135 degrees, noiseless; dds-mean explains them best")
    assert {"measured", "detector, mm", "angle", "line integral", "A x - y", "45°"} <= set(words(one.figure))
    shown = images(one.figure)
    assert len({found.get_clim() for found in shown[1:]}) == 1  # all that is left, on one scale


@pytest.mark.parametrize("figure", EVERY)
def test_methods_that_failed_are_left_out(figure):
    half = View(failed=["fbp", "dds-mean"])
    for one in figure().draw(half):
        assert not [word for word in words(one.figure) if "fbp" in word or "dds-mean" in word]
    none = View(failed=OFFSETS)
    assert list(figure().draw(none)) == []


@pytest.mark.parametrize("figure", EVERY)
def test_a_run_without_a_truth_is_drawn(figure):
    drawn = list(figure().draw(View(is_blind=True)))
    assert bool(drawn) == (figure is not ErrorMaps)
    for one in drawn:
        one.figure.savefig(io.BytesIO(), format="png", dpi=20)
        assert one.caption
        assert "truth" not in words(one.figure)


@pytest.mark.parametrize("figure", EVERY)
def test_a_run_that_varies_nothing_with_one_method_is_drawn(figure):
    for one in figure().draw(View(settings=[{}], offsets={"dds-mean": 10.0})):
        one.figure.savefig(io.BytesIO(), format="png", dpi=20)
        assert "  " not in one.title + one.caption
        assert not one.title.endswith((",", ", "))


def test_figures_without_what_they_need_draw_nothing():
    plain = View(offsets={"fbp": 60.0, "admm-tv": 30.0})
    assert list(Residual().draw(plain)) == []
    assert list(StandardDeviation().draw(plain)) == []


def test_a_voxel_by_voxel_perfect_answer_has_no_error_to_scale():
    perfect = View(settings=[{}], offsets={"dds-mean": 0.0})
    perfect.__class__ = type("Perfect", (View,), {"rows": property(lambda self: pd.DataFrame())})
    for figure in EVERY:
        for one in figure().draw(perfect):
            one.figure.savefig(io.BytesIO(), format="png", dpi=20)


def test_many_methods_break_into_lines():
    many = View(settings=[{}], offsets={f"method-{number}": 10.0 + number for number in range(8)})
    (one,) = Slices().draw(many)
    centres = {round(text.get_position()[1], 4) for text in one.figure.texts if text.get_text().startswith("method-")}
    assert len(centres) == 2


def test_titles_come_from_the_recipe_and_dollars_are_no_formula():
    named = View(settings=[{}], titles={"fbp": "FBP ($5)", "dds": "same", "dds-mean": "same"})
    (one,) = Slices().draw(named)
    assert {r"FBP (\$5)", "admm-tv", "dds", "dds-mean"} <= set(words(one.figure))


def test_slices_and_cases_that_are_not_there_are_refused(view):
    with pytest.raises(UserError, match="coronal slice must be from 0 to 23 for case chest, got 24"):
        list(Slices(slices=(0, 24, 0)).draw(view))
    with pytest.raises(UserError, match="slice must be from 0 to 5 for case chest, got 6"):
        list(Sinogram(slice=6).draw(view))
    with pytest.raises(UserError, match="got 'head'; there are chest"):
        list(Overview(case="head").draw(view))
    with pytest.raises(UserError, match="methods of the run, got sirt; there are fbp"):
        list(Overview(methods=("sirt",)).draw(view))


def test_an_overview_shows_the_methods_asked_for_in_their_order(view):
    (one,) = Overview(methods=("dds", "fbp")).draw(view)
    titles = [text.get_text() for text in one.figure.texts if text.get_text() in {"truth", *OFFSETS}]
    assert titles == ["truth", "dds", "fbp"] * 2


@pytest.mark.parametrize(
    ("setting", "said"),
    [({}, ""), ({"task.views": 1}, "1 view"), ({"task.views": 8, "task.noise": "poisson"}, "8 views, noise poisson"),
     ({"task.span": 90.0}, "span 90"), ({"methods.dds.flip": False}, "no flip"), ({"task.noise_seed": 2}, "noise seed 2")],
)  # fmt: skip
def test_a_setting_is_said_in_words(setting, said):
    assert setting_words(setting) == said


def test_round_numbers():
    assert [nice(value) for value in (0.0, 0.9, 1.0, 1.1, 23, 26, 51, 260)] == [1, 1, 1, 2, 25, 50, 100, 500]


def test_a_window_holds_the_body_in_steps_of_50_hu(view):
    one = scene(view, "chest", SETTINGS[0])
    assert isinstance(one, Scene)
    window = window_of(one)
    assert (window.low % 50, window.high % 50) == (0, 0)
    assert window.low >= -1000
    assert window.high >= np.percentile(one.reference[one.body], 98)
    assert isinstance(slices_picture(one, Scale(-100, 100)), Page)
