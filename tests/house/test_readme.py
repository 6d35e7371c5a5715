"""What the README and the guides show is there and works: links, names, options, commands. Long commands are shortened or only read."""

from __future__ import annotations

import re
import shlex
import shutil
import tomllib
from pathlib import Path
from typing import Any

import pytest

import unstir
from unstir import registry
from unstir.plugin import hookspecs
from unstir_pipelines import apply, options, recipe
from unstir_pipelines.cli import app

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
SAMPLE = ROOT / "data" / "unstir_data" / "samples" / "medical" / "lung1.nii.gz"
PICTURE = "docs/_static/overview.png"
"""Drawn by `make demo`, which needs the prior."""
SHORTER = {
    "run": ["--set", "methods.admm-tv.outer=2", "--no-report"],
    "apply": ["--method", "fbp"],
    "certify": ["--section", "closed-forms"],
}
"""What makes a verb of the README quick; all else is run as written."""
ONLY_READ = {"train", "data get"}
"""Hours, and a network."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.S | re.M)


def commands(page: Path, program: str) -> list[list[str]]:
    """Words of the commands that a page shows behind a dollar sign, without the program's own name."""
    lines = [line[2:] for block in blocks(page, "console") for line in block.splitlines() if line.startswith("$ ")]
    every = [shlex.split(part, comments=True) for line in lines for part in line.split("&&")]
    return [words[1:] for words in every if words and words[0] == program]


def verb(words: list[str]) -> str:
    return " ".join(words[:2]) if words[0] == "data" else words[0]


SHOWN = [pytest.param(words, id=f"{page.stem}: {' '.join(words)}") for page in PAGES for words in commands(page, "unstir")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder as the README has it: a volume of one's own, and the demo's run (its baseline alone)."""
    made = tmp_path_factory.mktemp("readme")
    shutil.copy(SAMPLE, made / "chest.nii.gz")
    unstir.run("medical/demo", methods=["fbp"], out=made / "runs" / "demo", report=False)
    return made


def read(words: list[str]) -> None:
    """Take a command apart as the command line does, and look up every name in it, without running it."""
    import typer

    command = typer.main.get_command(app.app)
    rest = words
    while hasattr(command, "commands"):
        assert rest[0] in command.commands, f"there is no {rest[0]!r}"
        command, rest = command.commands[rest[0]], rest[1:]
    context = command.make_context(words[0], list(rest))
    given = context.params
    if words[0] in ("run", "train"):
        known = recipe.prepare(given["recipe"], sets=given["sets"], methods=_split(given.get("methods")))
        assert known.schema.train is not None if words[0] == "train" else known.schema.methods
    elif words[0] == "apply":
        target = registry.resolve("apply", given["task"])
        files, _ = apply.parse(given["task"], context.args, options.options_of(target))
        assert files or given["task"].endswith("/generate")  # made of a model alone
    elif words[0] == "show":
        assert any(given["name"] in registry.names(kind) for kind in registry.KINDS)


def _split(text: str | None) -> list[str] | None:
    return text.split(",") if text else None


@pytest.mark.parametrize("words", SHOWN)
def test_a_shown_command_has_only_verbs_options_and_names_that_exist(words, folder, monkeypatch):
    monkeypatch.chdir(folder)
    if "seismic/first" in words:
        pytest.skip("a recipe that `unstir new-plugin seismic` makes: tests/pipelines/test_new_plugin.py runs it")
    read(words)


def test_the_readme_shows_every_verb():
    import typer

    command = typer.main.get_command(app.app)
    assert {words[0] for words in commands(README, "unstir")} == set(command.commands)


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_the_order_shown(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    for words in commands(README, "unstir"):
        if verb(words) not in ONLY_READ:
            code = app.call([*words, *SHORTER.get(words[0], [])])
            said = capsys.readouterr()
            assert code == 0, f"unstir {' '.join(words)}: {said.err or said.out}"
    assert (folder / "runs" / "chest" / "report.html").is_file()
    assert (folder / "runs" / "compare" / "compare.html").is_file()
    assert list((folder / "reconstructed").glob("*.nii.gz"))
    assert (folder / "seismic" / "pyproject.toml").is_file()


@pytest.mark.slow
def test_the_python_of_the_readme_runs(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    code = blocks(README, "python")[0]
    made: dict[str, Any] = {}
    exec(compile(code.replace("methods=", "report=False, methods="), "README.md", "exec"), made)
    assert "torch.Size([1000, 2]) 20" in capsys.readouterr().out
    assert "mean" in made["run"].table()
    assert made["run"].estimates["sirt"].hu.dims == ("z", "y", "x")


def test_the_hooks_of_the_readme_are_hooks():
    hooks = blocks(README, "python")[1]
    shown: dict[str, Any] = {}
    exec(compile(hooks, "README.md", "exec"), shown)
    assert shown["UNSTIR_API"] == unstir.plugin.API_VERSION
    found = {name for name, value in shown.items() if name.startswith("unstir_") and callable(value)}
    assert found
    assert found <= set(vars(hookspecs))


def test_make_has_the_targets_that_are_shown():
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for page in PAGES:
        shown = {words[0] for words in commands(page, "make")} | set(re.findall(r"`make ([a-z]+)`", page.read_text()))
        assert shown <= targets, page.name


def test_every_link_of_the_readme_and_the_guides_leads_to_a_file():
    for page in PAGES:
        links = re.findall(r"\]\((?!https?:|#)([^)#]+)[^)]*\)", re.sub(r"```.*?```", "", page.read_text(), flags=re.S))
        missing = [link for link in links if not (page.parent / link).exists()]
        assert missing == [], page.name


def test_the_picture_of_the_readme_is_there():
    assert f"]({PICTURE})" in README.read_text()
    assert (ROOT / PICTURE).is_file()


def test_the_table_of_domains_says_what_is_there():
    rows = re.findall(r"^\| (\w+) \| [^|]+ \| ([^|]+) \|$", README.read_text().partition("## Domains")[2].partition("\n## ")[0], re.M)
    rows = [row for row in rows if row[0] != "domain"]
    assert len(rows) == 8
    built_in = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["unstir.plugins"]
    assert {domain for domain, said in rows if said.startswith("**works**")} == set(built_in)
    assert {said for domain, said in rows if domain not in built_in} == {"planned"}
