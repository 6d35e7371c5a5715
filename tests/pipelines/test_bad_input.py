"""Bad input to the runner: one clear sentence, a code other than zero, nothing half-written."""

import json
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from unstir.errors import CheckpointError
from unstir_pipelines import store
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


def test_a_file_that_may_not_be_read(refuse, monkeypatch):
    def forbidden(path):
        raise PermissionError(13, "Permission denied", str(path))

    np.save("x.npy", np.ones((4, 6)))
    monkeypatch.setattr(np, "load", forbidden)
    assert refuse("run", "toy/lines", "--data", "x.npy") == f"error: {Path('x.npy').resolve()}: permission denied\n"


def test_options_of_ones_own_data_are_those_the_task_reads_with(refuse, monkeypatch):
    import toy_parts

    np.save("x.npy", np.ones((4, 6)))
    said = refuse("run", "toy/lines", "--data", "x.npy", "--set", "data.count=2")
    assert "recipe toy/lines has no key 'data.count' (known: files)" in said
    read, given = toy_parts.Denoise.read, []

    def chosen(self, path, *, part: int = 0):
        given.append(part)
        return read(self, path)

    monkeypatch.setattr(toy_parts.Denoise, "read", chosen)
    assert "part must be a whole number, got 'x' (--set data.part=x)" in refuse(
        "run", "toy/lines", "--data", "x.npy", "--set", "data.part=x"
    )
    assert app.call(["run", "toy/lines", "--data", "x.npy", "--set", "data.part=2", "--out", "out", "--no-report", "-q"]) == 0
    assert set(given) == {2}
    assert "part: 2" in Path("out/recipe.yaml").read_text()


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


@pytest.fixture
def learned(recipe: Path) -> Path:
    """A recipe with a method of a prior, and its checkpoint ``prior``."""
    from unstir import checkpoint
    from unstir.denoiser import NetworkDenoiser
    from unstir.nn import MLP
    from unstir.process import EDM

    config = {"size": 2, "width": 4, "depth": 1}
    denoiser = NetworkDenoiser(MLP(**config), EDM(), parameterisation="edm", shape=(2,))
    checkpoint.save(denoiser, "prior", network="mlp", config=config)
    recipe.write_text(recipe.read_text().replace("{name: toy/keep}", "{name: toy/learned, checkpoint: prior}"))
    return recipe


def edit(**changes: Any) -> None:
    path = Path("prior/model.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_checkpoint_cut_short(refuse, learned: Path):
    whole = Path("prior/model.safetensors").read_bytes()
    for size in (0, 4, len(whole) // 2, len(whole) - 1):
        Path("prior/model.safetensors").write_bytes(whole[:size])
        assert f"checkpoint {Path('prior').resolve()} is damaged" in refuse("run", learned)
    Path("prior/model.safetensors").unlink()
    assert "model.safetensors" in refuse("run", learned)
    Path("prior/model.json").write_text("{")
    assert "model.json is not JSON" in refuse("run", learned)


def test_a_checkpoint_of_another_network(refuse, learned: Path):
    edit(config={"size": 2, "width": 5, "depth": 1})
    assert f"the weights of checkpoint {Path('prior').resolve()} belong to another network than mlp" in refuse("run", learned)


def test_a_checkpoint_that_does_not_fit_its_method(refuse, learned: Path, monkeypatch, toy):
    import toy_parts

    def check_prior(self, prior):
        raise CheckpointError(f"it was trained for states of shape {prior.shape}, and (24,) is needed here")

    monkeypatch.setattr(toy_parts.Learned, "check_prior", check_prior, raising=False)
    said = refuse("run", learned)
    assert f"checkpoint {Path('prior').resolve()} does not fit method 'keep': it was trained for states of shape (2,)" in said
    assert toy() == []


def test_no_cases(refuse):
    assert "--cases must be at least 1, got 0" in refuse("run", "toy/lines", "--cases", "0")
    assert "the data hold no cases" in refuse("run", "toy/lines", "--set", "data.count=0")


def test_a_changed_recipe_on_resume(refuse, capsys):
    assert app.call(["run", "toy/lines", "--out", "out", "--no-report", "-q"]) == 0
    before = {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")}
    assert "task.noise: 0.1 there, 0.7 now" in refuse("run", "toy/lines", "--out", "out", "--set", "task.noise=0.7")
    assert {path: path.stat().st_mtime_ns for path in Path("out").rglob("*")} == before


def test_a_disk_that_fills_up_under_an_estimate(refuse, monkeypatch):
    """A limit on the size of files, which the system enforces as it does a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    write = store.write_dataset

    def filling(data, path):
        resource.setrlimit(resource.RLIMIT_FSIZE, (2048, hard))
        try:
            write(data, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(store, "write_dataset", filling)
    said = refuse("run", "toy/lines", "--out", "out", "--no-report")
    assert "the disk that holds out is full: 0 of 9 jobs are done and kept; free some space and 'unstir run --resume out' goes on" in said
    assert [path for path in Path("out/estimates").rglob("*") if path.is_file()] == []


def test_a_device_that_is_not_here(refuse):
    assert "--device tpu is not here: this machine has cpu" in refuse("run", "toy/lines", "--device", "tpu")


def test_a_run_folder_that_cannot_be_made(refuse):
    Path("file").write_text("")
    assert "--out file is a file; name a folder" in refuse("run", "toy/lines", "--out", "file")
    assert "--out file/run cannot be made (not a directory); name a folder where you may write" in refuse(
        "run", "toy/lines", "--out", "file/run"
    )


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
