"""The how-to pages run as they stand, and print what they show."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

HOWTO = Path(__file__).parents[2] / "docs" / "howto"
PAGES = [page for page in sorted(HOWTO.glob("*.md")) if page.stem != "index"]
BLOCK = re.compile(r"^```python\n(.*?)^```(?:\s*?\n\s*```text\n(.*?)^```)?", re.S | re.M)
NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")
DIGITS = 2  # of the last place shown: sums in another order, on another machine, move a rounded number by one of them


def shown(page: Path) -> list[tuple[str, str]]:
    """Blocks of Python in order, each with the text that follows it, "" where none does."""
    return BLOCK.findall(page.read_text())


def same(printed: str, expected: str) -> bool:
    """The same words; numbers with a point within two of the last place shown, others equal."""
    if NUMBER.sub("#", printed).split() != NUMBER.sub("#", expected).split():
        return False
    return all(near(a, b) for a, b in zip(NUMBER.findall(printed), NUMBER.findall(expected), strict=True))


def near(a: str, b: str) -> bool:
    if "." not in b and "e" not in b:
        return a == b
    mantissa, _, exponent = b.partition("e")
    place = 10.0 ** (int(exponent or 0) - len(mantissa.partition(".")[2]))
    return math.isclose(float(a), float(b), abs_tol=(DIGITS + 0.01) * place)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_runs_and_prints_what_it_shows(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "__main__"}
    blocks = shown(page)
    assert blocks
    for code, expected in blocks:
        exec(compile(code, page.name, "exec"), names)
        printed = capsys.readouterr().out
        assert same(printed, expected), f"{page.name} shows\n{expected}\nand prints\n{printed}"


def test_a_page_that_shows_something_else_is_found():
    assert same("W2 0.0042 of 20\n", "W2  0.0043 of 20\n")
    assert not same("W2 0.0042 of 20\n", "W2 0.0092 of 20\n")
    assert not same("W2 0.0042 of 21\n", "W2 0.0042 of 20\n")
    assert not same("W2 0.0042\n", "")


def test_every_page_is_in_the_index_twice():
    """In the table, and in the tree."""
    table, _, tree = (HOWTO / "index.md").read_text().partition("```{toctree}")
    listed = [line for line in tree.splitlines() if re.fullmatch(r"[a-z-]+", line)]
    assert re.findall(r"\{doc\}`([a-z-]+)`", table) == listed
    assert sorted(listed) == [page.stem for page in PAGES]
