"""The pages as a browser shows them: nothing broken, nothing said on the console, right on a phone, in the dark and on paper."""

from __future__ import annotations

import runpy
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from unstir_pipelines import report
from unstir_pipelines.compare import compare

build = runpy.run_path(str(Path(__file__).with_name("runs_by_hand.py")))["build"]

pytestmark = pytest.mark.browser

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync")
FLAGS += ("--no-first-run", "--disable-dev-shm-usage", "--force-color-profile=srgb")
PICTURES = (
    {"name": "slices", "title": "Slices", "caption": "dds-warm keeps the vessels.", "case": "lung1"},
    {"name": "residual", "title": "Residual", "caption": "The residual falls in ten steps."},
)
BROKEN = "return [...document.images].filter(image => !image.complete || image.naturalWidth === 0).map(image => image.alt)"
LOADED = "return performance.getEntriesByType('resource').map(entry => entry.name).filter(name => !name.startsWith('data:'))"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its chromedriver is installed (apt-get install chromium chromium-driver)")
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install 'unstir[dev]')")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    made = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield made
    made.quit()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    long = "a-method-with-a-name-that-somebody-should-have-thought-about-once-more"
    methods = {"fbp": {"name": "made/fbp"}, long: {"name": "made/x", "checkpoint": "made/prior", "solver": "heun", "grid": "karras:20"}}
    costs = {"fbp": (0, 0.1, 40), long: (40, 30.0, 600)}
    run = build(folder / "run", pictures=PICTURES)
    other = build(folder / "other", methods=methods, quality={"fbp": 17, long: 29}, costs=costs, failed={"fbp": "x" * 300}, title="T" * 90)
    return {"report": report.write(run), "long": report.write(other), "compare": compare([run, other], None, folder / "compare")}


def show(browser: Any, path: Path, *, width: int = 1200, scheme: str = "light", media: str = "screen") -> None:
    """Open a page at a width of so many CSS pixels, light or dark, on screen or on paper."""
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    )
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
    browser.get(path.as_uri())


def brightness(browser: Any, selector: str, part: str) -> float:
    """Mean of red, green and blue of a colour of an element, 0 to 255."""
    colour = browser.execute_script("return getComputedStyle(document.querySelector(arguments[0]))[arguments[1]]", selector, part)
    return sum(float(number) for number in colour[colour.index("(") + 1 : -1].split(",")[:3]) / 3


@pytest.mark.parametrize("name", ["report", "long", "compare"])
@pytest.mark.parametrize("width", [320, 390, 768, 1200])
def test_a_page_is_whole_at_every_width(browser: Any, pages: dict[str, Path], name: str, width: int):
    show(browser, pages[name], width=width)
    assert browser.execute_script(BROKEN) == []
    assert browser.execute_script(LOADED) == []
    assert browser.get_log("browser") == []
    assert browser.execute_script("return document.images.length") > 0
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width


def test_a_page_is_dark_where_the_reader_wants_it_and_its_pictures_stay_light(browser: Any, pages: dict[str, Path]):
    show(browser, pages["report"], scheme="dark")
    assert brightness(browser, "body", "backgroundColor") < 60
    assert brightness(browser, "h1", "color") > 200
    assert brightness(browser, "figure .paper", "backgroundColor") == 255
    show(browser, pages["report"], scheme="light")
    assert brightness(browser, "body", "backgroundColor") > 240


def test_paper_is_white_and_holds_what_was_folded(browser: Any, pages: dict[str, Path]):
    show(browser, pages["report"], scheme="dark", media="print")
    assert brightness(browser, "body", "backgroundColor") == 255
    assert brightness(browser, "h1", "color") == 0
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {"width": 700, "height": 990, "deviceScaleFactor": 1, "mobile": False})
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 700
    folded = "return [...document.querySelectorAll('details > :not(summary)')].every(part => part.getBoundingClientRect().height > 0)"
    assert browser.execute_script(folded)


def test_text_is_large_enough_to_read_on_a_phone(browser: Any, pages: dict[str, Path]):
    show(browser, pages["report"], width=390)
    sizes = "[...document.querySelectorAll('p, td, th, li, dd, dt, figcaption')].map(part => parseFloat(getComputedStyle(part).fontSize))"
    assert browser.execute_script(f"return Math.min(...{sizes})") >= 12


def test_the_methods_stay_in_sight_while_a_table_is_moved(browser: Any, pages: dict[str, Path]):
    show(browser, pages["report"], width=390)
    moved = "const box = document.querySelector('#numbers .scroll'); box.scrollLeft = 200; "
    left = browser.execute_script(f"{moved} return box.querySelector('th[scope=row]').getBoundingClientRect().left")
    assert 0 <= left < 40
