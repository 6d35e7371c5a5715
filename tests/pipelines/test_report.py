"""The report: one file that needs nothing, says what was found and how, and trusts no text from outside."""

from __future__ import annotations

import base64
import dataclasses
import json
import runpy
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from unstir.plugin.protocols import Case, Drawn
from unstir_pipelines import figures, report, results
from unstir_pipelines.figures import Gallery, Picture
from unstir_pipelines.report import findings, page, provenance

build = runpy.run_path(str(Path(__file__).with_name("runs_by_hand.py")))["build"]
EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>{{ 7 * 7 }}'
PICTURES = (
    {"name": "slices", "title": "Slices", "caption": "dds-warm keeps the vessels that admm-tv loses.", "case": "lung1"},
    {"name": "residual", "title": "Residual", "caption": "The residual falls in ten steps."},
)


class Page(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: list[str] = []
        self.bold: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside.append(tag)
        if tag == "td" and "best" in (dict(attrs).get("class") or "").split():
            self.bold.append("")

    def handle_endtag(self, tag: str) -> None:
        if tag in self.inside:
            while self.inside.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if "style" not in self.inside:
            self.words.append(data)
        if self.bold and not self.bold[-1] and "td" in self.inside:
            self.bold[-1] = data.strip()

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def written(folder: Path) -> Page:
    return Page(report.write(folder).read_text(encoding="utf-8"))


def test_the_page_loads_nothing_and_runs_nothing(tmp_path: Path):
    made = written(build(tmp_path / "run", pictures=PICTURES))
    assert not made.all("script")
    assert not made.all("iframe")
    assert all(image["src"].startswith("data:image/png;base64,") for image in made.all("img"))
    assert [link["href"] for link in made.all("link")] == ["data:,"]
    assert not any(name.startswith("on") for _, attrs in made.tags for name in attrs)
    policy = next(meta["content"] for meta in made.all("meta") if meta.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")
    assert "url(" not in (tmp_path / "run" / "report.html").read_text().split("</style>")[0]


def test_the_sections_come_in_the_order_a_reader_needs(tmp_path: Path):
    text = written(build(tmp_path / "run", pictures=PICTURES)).text
    order = [
        "Which of 4 methods",
        "dds-warm is best",
        "dds-warm keeps the vessels",
        "method",
        "± is the half-width",
        "Cases",
        "Failed or skipped",
    ]
    order += ["How each number was made", "unstir run", "Metrics", "Methods", "Data:", "Checkpoint:", "Seeds, versions, hardware"]
    positions = []
    for words in order:
        positions.append(text.index(words, positions[-1] if positions else 0))
    assert positions == sorted(positions)


def test_the_best_is_bold_only_where_the_interval_says_so(tmp_path: Path):
    clear = build(tmp_path / "clear")
    bold = written(clear).bold
    run = results.read(clear)
    assert len(bold) == 4
    assert {float(cell) for cell in bold} == {
        float(f"{run.number('dds-warm', setting, metric).mean:.{digits}f}")
        for setting in run.settings
        for metric, digits in (("psnr", 1), ("ssim", 3))
    }
    level = build(tmp_path / "level", quality={"fbp": 17, "admm-tv": 27.0, "dds": 20, "dds-warm": 27.0}, seed=3, settings=({},))
    assert "27.0" not in written(level).bold


def test_no_text_from_outside_becomes_html(tmp_path: Path):
    label = "<img src=x onerror=alert(2)>"
    methods = {
        label: {"name": EVIL, "solver": EVIL, "grid": EVIL, "checkpoint": EVIL, "extra": EVIL},
        "b": {"name": "made/b", "title": EVIL},
        "c": {"name": "made/c", "title": f"{EVIL} c"},
    }
    picture = {"name": "p", "title": EVIL, "caption": EVIL, "case": EVIL}
    folder = build(
        tmp_path / "run",
        methods=methods,
        quality=dict.fromkeys(methods, 20.0),
        costs=dict.fromkeys(methods, (3, 1.0, 1.0)),
        settings=({"task.noise": EVIL},),
        cases=("case", "other"),
        title=EVIL,
        task=EVIL,
        failed={"c": EVIL},
        pictures=(picture, picture | {"name": "q", "case": "case"}),
    )
    gallery = dataclasses.replace(figures.saved(folder), failed=((EVIL, EVIL),))
    made = Page(page.render(results.read(folder), gallery, [page.Measurement("case", EVIL, {EVIL: EVIL}, EVIL)]))
    assert not made.all("script")
    assert not any(name.startswith("on") for _, attrs in made.tags for name in attrs)
    assert all((image["src"] or "").startswith("data:image/png") for image in made.all("img"))
    assert label in made.text
    assert made.text.count(EVIL) > 10


def test_the_card_of_a_checkpoint_is_shown_and_can_do_no_harm(tmp_path: Path):
    checkpoint = tmp_path / "prior"
    checkpoint.mkdir()
    card = "# A prior\n\nOf **5.9 M** parameters.\n\n| split | slices |\n|---|---|\n| train | 1200 |\n\n"
    card += "<script>alert(1)</script>\n\n![spy](http://evil/x.png) [bad](javascript:alert(1)) [home](https://example.org)\n"
    (checkpoint / "CARD.md").write_text(card)
    methods = {"fbp": {"name": "made/fbp"}, "dds": {"name": "made/dds", "checkpoint": str(checkpoint)}}
    made = written(build(tmp_path / "run", methods=methods))
    assert "Of 5.9 M parameters" in made.text
    assert "train 1200" in made.text
    assert not made.all("script")
    assert not made.all("img") or all((image["src"] or "").startswith("data:") for image in made.all("img"))
    links = [attrs.get("href") or "" for attrs in made.all("a")]
    assert "https://example.org" in links
    assert not any(link.startswith("javascript") for link in links)
    assert len(made.all("h1")) == 1


def test_every_figure_has_a_caption_and_a_link_to_its_numbers(tmp_path: Path):
    folder = build(tmp_path / "run", pictures=PICTURES)
    made = written(folder)
    assert len(made.all("img")) == len(made.all("figure")) == len(made.all("figcaption")) == 3
    for picture in PICTURES:
        assert picture["caption"] in made.text
    links = [attrs for attrs in made.all("a") if attrs.get("download") in ("slices.csv", "residual.csv")]
    assert len(links) == 2
    for link in links:
        assert base64.b64decode(link["href"].partition("base64,")[2]) == (folder / "figures" / link["download"]).read_bytes()


def test_links_into_the_run_folder_lead_somewhere(tmp_path: Path):
    from urllib.parse import unquote

    folder = build(tmp_path / "run", pictures=PICTURES, settings=({"task.noise": "50 % & more#1"},))
    links = [attrs["href"] for attrs in written(folder).all("a") if not attrs["href"].startswith(("data:", "#", "http"))]
    assert len(links) > 6
    for link in links:
        assert (folder / unquote(link)).exists(), link


def test_many_numbers_of_a_figure_are_linked_and_a_wide_picture_is_made_smaller(tmp_path: Path):
    folder = build(tmp_path / "run", pictures=PICTURES)
    (folder / "figures" / "slices.csv").write_text("x\n" + "1\n" * page.INLINE)
    from PIL import Image

    Image.new("RGB", (5000, 100)).save(folder / "figures" / "slices.png")
    found = page.embed(folder, figures.saved(folder).pictures[0])
    assert found["data"]["href"] == "figures/slices.csv"
    assert (found["width"], found["height"]) == (page.WIDEST, 36)


def test_what_failed_and_what_was_skipped_stands_there_with_its_reason(tmp_path: Path):
    failed = {"admm-tv": "RuntimeError: it broke", "dds-warm": "it starts from admm-tv, which failed"}
    text = written(build(tmp_path / "run", failed=failed)).text
    assert "4 jobs gave no number" in text
    assert "admm-tv (tuned) Failed on 8 views, lung1; 20 views, lung1: RuntimeError: it broke" in text
    assert "dds-warm Skipped on 8 views, lung1; 20 views, lung1: it starts from admm-tv, which failed" in text
    assert "Nothing: every method answered every case" in written(build(tmp_path / "whole")).text


def test_the_page_says_how_each_number_was_made(tmp_path: Path):
    text = written(build(tmp_path / "run", metrics=["toy/error"])).text
    for words in ("ddim:temperature=0", "karras:20", "torch 2.13.0", "A fast processor, 2 cores, 16 GB", "cpu, 2 threads", "ab" * 32):
        assert words in text
    assert "Evaluations of the denoiser for one estimate" in text
    assert "Percentile bootstrap, 2000 draws, seed 0, over parts" in text
    assert "recipe.yaml" in text


def test_simulated_measurements_are_marked_and_their_facts_stand_below(tmp_path: Path):
    said = {
        "context": {"simulated": "by a Gaussian"},
        "attribute": {"facts": {"simulation": "simulated on a finer grid", "noise": "none"}},
        "real": {},
    }
    run = results.read(build(tmp_path / "run", cases=("broken", *said)))

    def case(key: str, setting: Any) -> Case:
        if key == "broken":
            raise RuntimeError("no such file")
        return Case(key, None, SimpleNamespace(attrs={"simulated": 1} if key == "attribute" else {}), said[key])

    found = page.measurements(SimpleNamespace(case=case), run)
    assert [(one.case, one.setting, one.simulated) for one in found[:3]] == [
        ("context", "8 views", "by a Gaussian"),
        ("attribute", "8 views", "simulated on a finer grid"),
        ("real", "8 views", ""),
    ]
    text = Page(page.render(run, Gallery(), found)).text
    assert "Simulated data: by a Gaussian" in text
    assert "Measurements simulated on a finer grid" in text
    assert "Measurement of attribute, 8 views; attribute, 20 views simulation simulated on a finer grid noise none" in text
    real = Page(page.render(run, Gallery())).text
    assert "Simulated data" not in real
    assert "Measurements simulated" not in real


def test_a_run_of_the_runner_becomes_a_page_with_its_definitions(recipe: Path, tmp_path: Path):
    from unstir_pipelines.api import run

    made = run(recipe, out=tmp_path / "out")
    assert (made.folder / "report.html").exists()
    text = Page((made.folder / "report.html").read_text()).text
    assert "Noisy lines" in text
    assert "RMSE mm ↓" in text
    assert "Root mean square error." in text
    assert "toy/smooth" in text
    assert (made.folder / "figures" / "overview.png").read_bytes().startswith(b"\x89PNG")
    assert list(made.table()["method"].unique()) == ["keep", "smooth", "refine"]


def test_the_same_run_gives_the_same_page(recipe: Path, tmp_path: Path):
    from unstir_pipelines.api import run

    made = run(recipe, out=tmp_path / "out")
    first = (made.folder / "report.html").read_bytes()
    assert report.write(made.folder).read_bytes() == first


def drawn(name: str, title: str = "A title", case: str | None = None) -> Drawn:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    return Drawn(name, title, "A finding.", figure, pd.DataFrame({"x": [1]}), case)


def gallery_of(folder: Path, *figure_lists: Any) -> Gallery:
    """Draw a run whose recipe has one figure a list of pictures (or an error to raise)."""

    class Made:
        def __init__(self, given: Any) -> None:
            self.given = given

        def draw(self, run: Any) -> Iterator[Drawn]:
            if isinstance(self.given, Exception):
                raise self.given
            yield from self.given

    names = [f"made/{index}" for index in range(len(figure_lists))]
    assembly = SimpleNamespace(figures=[Made(given) for given in figure_lists])
    run = SimpleNamespace(folder=folder, assembly=lambda index: assembly, recipe=SimpleNamespace(resolved={"figures": names}))
    return figures.draw(run, results.read(folder))


def test_a_figure_that_fails_leaves_the_others_and_its_reason(tmp_path: Path):
    folder = build(tmp_path / "run")
    gallery = gallery_of(folder, [drawn("a")], ValueError("no sinogram"), [drawn("b")])
    assert [picture.name for picture in gallery.pictures] == ["a", "b", figures.GENERIC]
    assert gallery.failed == (("made/1", "ValueError: no sinogram"),)
    assert figures.saved(folder) == gallery
    assert "no sinogram" in Page(page.render(results.read(folder), gallery)).text


def test_the_overview_is_the_figure_of_that_name_else_the_first_else_the_generic(tmp_path: Path):
    assert gallery_of(build(tmp_path / "a"), [drawn("first")], [drawn("overview")]).overview == "overview"
    assert gallery_of(build(tmp_path / "b"), [drawn("first")], [drawn("second")]).overview == "first"
    assert gallery_of(build(tmp_path / "c")).overview == figures.GENERIC
    for name in "abc":
        assert (tmp_path / name / "figures" / "overview.png").exists()


def test_names_of_figures_cannot_leave_the_folder_or_hide_each_other(tmp_path: Path):
    folder = build(tmp_path / "run")
    gallery = gallery_of(folder, [drawn("same"), drawn("same"), drawn("../../outside"), drawn("")])
    assert [picture.name for picture in gallery.pictures[:4]] == ["same", "same-2", "outside", "figure"]
    assert not (tmp_path.parent / "outside.png").exists()


def test_quality_against_time_has_every_number_it_shows(tmp_path: Path):
    run = results.read(build(tmp_path / "run", methods={"a $x_1$": {"name": "made/a"}, "dds": {"name": "made/b", "checkpoint": "made/p"}},
                             quality={"a $x_1$": 20, "dds": 22}, costs={"a $x_1$": (0, 1.0, 1.0), "dds": (20, 9.0, 1.0)}))  # fmt: skip
    shown = figures.quality_against_time(run)
    assert shown is not None
    assert len(shown.data) == 4
    assert set(shown.data.columns) >= {"task.views", "method", "seconds", "nfe", "psnr", "low", "high"}
    assert figures.png(shown.figure).startswith(b"\x89PNG")
    assert "8 views: dds is best" in shown.caption


def test_findings_say_who_is_ahead_by_how_much_and_of_whom(tmp_path: Path):
    run = results.read(build(tmp_path / "run"))
    text = findings.finding(run, run.settings[0], "psnr")
    assert text.startswith("dds-warm is best: psnr 29.7 dB (29.4 to 30.0), 2.45 dB (")
    assert text.endswith("above admm-tv (tuned), the best without a trained prior.")


def test_findings_admit_that_a_prior_does_not_help(tmp_path: Path):
    run = results.read(build(tmp_path / "run", quality={"fbp": 17, "admm-tv": 30, "dds": 20, "dds-warm": 25}))
    assert findings.finding(run, run.settings[0], "psnr").endswith("no method with a trained prior reaches it.")


def test_findings_call_a_tie_a_tie(tmp_path: Path):
    run = results.read(build(tmp_path / "run", quality={"fbp": 17, "admm-tv": 27.0, "dds": 20, "dds-warm": 27.0}, seed=3))
    text = findings.finding(run, run.settings[0], "psnr")
    assert "cannot be told apart" in text
    assert "is best" not in text


def test_the_data_card_and_the_users_own_files_are_told_apart(tmp_path: Path):
    run = results.read(build(tmp_path / "run"))
    assert provenance.data_card(run) == ("made/volumes", [])
    run.recipe["data"] = {"files": ["/home/someone/chest.nii.gz"]}
    assert provenance.data_card(run) == ("the user's own files", [("files", "chest.nii.gz")])


def test_pictures_drawn_before_are_kept_where_a_plugin_is_gone(tmp_path: Path):
    folder = build(tmp_path / "run", pictures=PICTURES)
    assert [image["alt"].partition(".")[0] for image in written(folder).all("img")] == ["Slices", "Residual", "psnr against time"]
    assert len(written(folder).all("img")) == 3
    assert json.loads((folder / "figures" / "index.json").read_text())["overview"] == "slices"
    assert Picture(**json.loads((folder / "figures" / "index.json").read_text())["pictures"][0]).case == "lung1"


def test_a_run_without_pictures_environment_or_log_still_gives_a_page(tmp_path: Path):
    folder = build(tmp_path / "run")
    (folder / "environment.json").unlink()
    (folder / "log.jsonl").unlink()
    assert "not recorded" in written(folder).text


def test_a_run_in_which_everything_failed_says_so(tmp_path: Path):
    text = written(build(tmp_path / "run", failed=dict.fromkeys(("fbp", "admm-tv", "dds", "dds-warm"), "it broke"))).text
    assert "8 jobs gave no number" in text
    assert "No picture was drawn of this case." in text


@pytest.mark.parametrize(("seconds", "text"), [(0.02, "0.02 s"), (12.3, "12 s"), (90, "2 min"), (7300, "2 h 2 min")])
def test_durations_read_as_words(seconds: float, text: str):
    assert results.duration(seconds) == text
