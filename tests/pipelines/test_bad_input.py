"""Bad input to the runner: one clear sentence, a code other than zero, nothing half-written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from unstir_pipelines.cli import app


@pytest.fixture
def refuse(capsys: pytest.CaptureFixture):
    """The command line fails with one sentence and leaves no run behind."""

    def call(*words: str) -> str:
        code = app.call([*map(str, words)])
        out, err = capsys.readouterr()
        assert code != 0
        assert out == ""
        assert err.startswith("error: ")
        assert err.count("\n") == 1, err
        assert "fault of unstir" not in err
        left = list(Path("runs").glob("*")) if Path("runs").exists() else []
        assert left == []
        return err

    return call


def test_a_missing_file(refuse):
    assert refuse("run", "toy/lines", "--data", "chest.nii.gz") == f"error: {Path('chest.nii.gz').resolve()} does not exist\n"


def test_a_file_the_task_cannot_read(refuse):
    Path("notes.txt").write_text("hello")
    assert "notes.txt is not an array of numpy (.npy)" in refuse("run", "toy/lines", "--data", "notes.txt")


def test_two_files_of_one_name(refuse):
    for folder in ("a", "b"):
        Path(folder).mkdir()
        np.save(f"{folder}/x.npy", np.ones((4, 6)))
    assert "two files of --data have the name 'x'" in refuse("run", "toy/lines", "--data", "a/x.npy", "--data", "b/x.npy")


def test_a_typo_in_a_recipe(refuse, recipe: Path):
    recipe.write_text(recipe.read_text().replace("steps: 3", "stesp: 3"))
    assert "has no key 'methods.smooth.stesp'; did you mean 'methods.smooth.steps'? (recipe.yaml:8;" in refuse("run", recipe)


def test_a_recipe_that_is_not_text(refuse):
    Path("recipe.yaml").write_bytes(b"\xff\xfe\x00")
    assert "recipe recipe.yaml is not text in UTF-8" in refuse("run", "recipe.yaml")


def test_a_folder_in_place_of_a_recipe(refuse):
    Path("folder.yaml").mkdir()
    assert "recipe folder.yaml is a folder" in refuse("run", "folder.yaml")


def test_an_unknown_plugin(refuse):
    assert "no plugin 'qqqq' is installed" in refuse("run", "qqqq/zzzz")


def test_a_missing_library(refuse, recipe: Path):
    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/heavy"))
    assert "toy/heavy of toy-lines needs the module 'a_library_nobody_has', which is not installed" in refuse("run", recipe)


def test_a_checkpoint_that_is_not_there(refuse, recipe: Path):
    recipe.write_text(recipe.read_text().replace("{name: toy/keep}", "{name: toy/learned, checkpoint: nowhere/prior}"))
    assert "nowhere/prior" in refuse("run", recipe)


def test_a_checkpoint_cut_short(refuse, recipe: Path):
    Path("prior").mkdir()
    Path("prior/model.json").write_text("{")
    Path("prior/model.safetensors").write_bytes(b"\x10")
    recipe.write_text(recipe.read_text().replace("{name: toy/keep}", "{name: toy/learned, checkpoint: prior}"))
    assert "prior" in refuse("run", recipe)


def test_no_cases(refuse):
    assert "--cases must be at least 1, got 0" in refuse("run", "toy/lines", "--cases", "0")
    assert "the data hold no cases" in refuse("run", "toy/lines", "--set", "data.count=0")


def test_a_changed_recipe_on_resume(refuse, capsys):
    assert app.call(["run", "toy/lines", "--out", "out", "--no-report", "-q"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert "task.noise: 0.1 there, 0.7 now" in refuse("run", "toy/lines", "--out", "out", "--set", "task.noise=0.7")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_a_device_that_is_not_here(refuse):
    assert "--device tpu is not here: this machine has cpu" in refuse("run", "toy/lines", "--device", "tpu")


def test_a_run_folder_that_cannot_be_made(refuse):
    Path("file").write_text("")
    assert "file" in refuse("run", "toy/lines", "--out", "file/run")


def test_a_damaged_metrics_json_is_made_again(capsys):
    assert app.call(["run", "toy/lines", "--out", "out", "--no-report", "-q"]) == 0
    whole = json.loads(Path("out/metrics.json").read_text())
    Path("out/metrics.json").write_text("{")
    assert app.call(["run", "--resume", "out", "--no-report", "-q"]) == 0
    assert json.loads(Path("out/metrics.json").read_text()) == whole


def test_a_run_whose_recipe_is_gone(refuse):
    assert app.call(["run", "toy/lines", "--out", "out", "--no-report", "-q"]) == 0
    Path("out/recipe.yaml").unlink()
    assert "out is not a run folder: it has no recipe.yaml" in refuse("run", "--resume", "out")
    assert "--out out holds other files and no run" in refuse("run", "toy/lines", "--out", "out")
    shutil.rmtree("out")
