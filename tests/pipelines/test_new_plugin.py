"""``unstir new-plugin NAME`` writes a plugin that works at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib

import pytest

from unstir.errors import UserError
from unstir_pipelines.new_plugin import create


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The generated plugin ``tide-gauge``: its folder, and an environment in which it is installed."""
    folder = tmp_path_factory.mktemp("new")
    create("tide-gauge", folder)
    site = folder / "site"
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    source = folder / "tide-gauge"
    command = [sys.executable, "-m", "pip", "install", *quiet, "--target", site, source]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return source, os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])}


def run(installed, *arguments):
    source, environment = installed
    done = subprocess.run([sys.executable, *arguments], env=environment, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """An empty folder."""
    made = tmp_path / "folder"
    made.mkdir()
    return made


def test_the_files_are_those_that_were_promised(folder):
    target = folder / "seismic"
    written = create("seismic", folder)
    names = [path.relative_to(target).as_posix() for path in written]
    assert names[:4] == ["pyproject.toml", "unstir_seismic/__init__.py", "unstir_seismic/task.py", "unstir_seismic/methods.py"]
    assert {"unstir_seismic/recipes/first.yaml", "tests/test_plugin.py"} <= set(names)
    assert sorted(written) == sorted(path for path in target.rglob("*") if path.is_file())


def test_nothing_of_the_template_is_left(folder):
    for path in create("tide-gauge", folder):
        assert "skeleton" not in path.read_text().lower(), path
        assert "skeleton" not in str(path.relative_to(folder))
    project = tomllib.loads((folder / "tide-gauge" / "pyproject.toml").read_text())
    assert project["project"]["name"] == "unstir-tide-gauge"
    assert project["project"]["entry-points"]["unstir.plugins"] == {"tide-gauge": "unstir_tide_gauge"}


@pytest.mark.parametrize("name", ["", "Sea", "sea_level", "7seas", "a--b", "-sea", "sea-", "a b", "../sea", "a/b", "sé"])
def test_a_bad_name_is_refused_and_nothing_is_written(folder, name):
    with pytest.raises(UserError, match="is not allowed: use lower-case letters and digits"):
        create(name, folder)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("name", ["medical", "core", "data", "pipelines"])
def test_a_name_that_is_taken_is_refused(folder, name):
    with pytest.raises(UserError, match=f"plugin name '{name}' is taken"):
        create(name, folder)
    assert list(folder.iterdir()) == []


def test_an_existing_folder_is_never_overwritten(folder):
    (folder / "seismic").mkdir()
    (folder / "seismic" / "notes.txt").write_text("years of work")
    with pytest.raises(UserError, match="seismic exists already: choose another name, or remove it"):
        create("seismic", folder)
    assert [path.name for path in (folder / "seismic").iterdir()] == ["notes.txt"]


def test_a_missing_parent_is_said(folder):
    with pytest.raises(UserError, match="is not a folder: create it first"):
        create("seismic", folder / "nowhere")


def test_a_failure_half_way_leaves_nothing(folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_text", full)
    with pytest.raises(UserError, match="seismic cannot be written: No space left on device"):
        create("seismic", folder)
    assert list(folder.iterdir()) == []


def test_the_new_plugin_is_listed_and_passes_its_own_tests(installed):
    code = "from unstir import registry; print(*(f'{p.name} {p.status}' for p in registry.plugins() if p.name == 'tide-gauge'))"
    assert run(installed, "-c", code).strip() == "tide-gauge ok"
    assert "2 passed" in run(installed, "-m", "pytest", "-q", "-p", "no:cacheprovider")


def test_its_recipe_runs_at_once_on_generated_data(installed, tmp_path):
    run(installed, "-m", "unstir_pipelines", "run", "tide-gauge/first", "--out", str(tmp_path / "run"))
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    assert {row["method"] for row in rows} == {"linear", "diffusion"}
    assert {row["setting"]["task.keep"] for row in rows} == {4, 6}
    error = {(row["method"], row["setting"]["task.keep"]): row["mean"] for row in rows if row["metric"].endswith("rmse")}
    for keep in (4, 6):  # across gaps of about half a bump, a prior that is right beats straight lines
        assert error["diffusion", keep] < error["linear", keep]
