import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from unstir_pipelines import apply, display
from unstir_pipelines.cli import app

QUICK = ["--no-report"]


@pytest.fixture
def unstir(capsys: pytest.CaptureFixture):
    """Run the command line in this process: exit code, standard output, standard error."""

    def call(*words: str) -> tuple[int, str, str]:
        code = app.call([str(word) for word in words])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_run_prints_the_table_and_where_the_run_is(unstir):
    code, out, err = unstir("run", "toy/lines", "--out", "out", *QUICK)
    assert (code, err) == (0, "")
    assert "smooth" in out
    assert "RMSE mm" in out
    assert "Run      out" in out
    assert "Next     unstir run toy/lines --data YOUR_FILE" in out


def test_run_json_prints_metrics_json_and_nothing_else(unstir):
    code, out, err = unstir("run", "toy/lines", "--out", "out", "--json", *QUICK)
    assert (code, err) == (0, "")
    assert out == Path("out/metrics.json").read_text()
    assert json.loads(out)["run"] == "out"


def test_run_takes_methods_cases_seed_and_overrides(unstir):
    words = ["--methods", "refine", "--cases", "line-2,line-0", "--seed", "9", "--set", "task.noise=0.5", "--out", "out", "-q", *QUICK]
    assert unstir("run", "toy/lines", *words) == (0, "", "")
    recipe = Path("out/recipe.yaml").read_text()
    assert "seed: 9" in recipe
    assert "noise: 0.5" in recipe
    assert sorted(path.name for path in Path("out/estimates").iterdir()) == ["refine", "smooth"]
    assert sorted(path.stem for path in Path("out/estimates/smooth").glob("*.nc")) == ["line-0", "line-2"]


def test_run_takes_several_files_after_data(unstir):
    for name in ("a", "b"):
        np.save(f"{name}.npy", np.ones((4, 6)))
    assert unstir("run", "toy/lines", "--out", "out", "-q", *QUICK, "--data", "a.npy", "b.npy")[0] == 0
    assert sorted(path.stem for path in Path("out/estimates/keep").glob("*.nc")) == ["a", "b"]


def test_run_goes_on_with_a_run_folder_alone(unstir, toy):
    unstir("run", "toy/lines", "--out", "out", "-q", *QUICK)
    Path("out/estimates/keep/line-0.job.json").unlink()
    before = len(toy())
    assert unstir("run", "--resume", "out", "-q", *QUICK)[0] == 0
    assert toy()[before:] == ["keep line-0"]


def test_a_failed_job_exits_with_1_and_says_which(unstir, recipe: Path):
    recipe.write_text(recipe.read_text().replace("toy/keep", "toy/fail") + "vary: {task.noise: [0.1]}\n")
    code, out, err = unstir("run", recipe, "--out", "out", *QUICK)
    assert code == 1
    assert err == "error: keep failed on line-1, task.noise=0.1: RuntimeError: the toy broke\n"
    assert "smooth" in out


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (
            ["run", "toy/lines", "--set", "task.niose=1"],
            2,
            "recipe toy/lines has no key 'task.niose'; did you mean 'task.noise'? (unstir show toy/lines lists all)",
        ),
        (["run", "toy/lines", "--cases", "0"], 2, "--cases must be at least 1, got 0"),
        (["run", "toy/lines", "--cases", "-1"], 2, "--cases must be at least 1, got -1"),
        (["run", "toy/lines", "--cases", "line-9"], 2, "there is no case 'line-9'; did you mean 'line-2'"),
        (["run", "toy/line"], 2, "there is no recipe 'toy/line'; did you mean 'toy/lines'"),
        (["run"], 2, "name a recipe, as unstir run medical/sparse-view-ct (unstir recipes lists them), or a run with --resume"),
        (["run", "toy/lines", "surplus"], 2, "unexpected 'surplus': run takes one recipe; files come after --data"),
        (["run", "toy/lines", "--seed", "x"], 2, "error: --seed must be a whole number (unstir run --help shows how)"),
        (["run", "toy/lines", "--seed", "-1"], 2, "seed must be a whole number from 0, or a list of such, got -1 (--seed -1)"),
        (["run", "toy/lines", "--engine", "slurm"], 2, "--engine must be one of local, dask, got 'slurm'"),
        (["run", "toy/lines", "--methods", "smoth"], 2, "recipe toy/lines has no method 'smoth'; did you mean 'smooth'?"),
        (["run", "toy/lines", "--set", "task.noise"], 2, "--set needs KEY=VALUE, as --set task.views=8, got 'task.noise'"),
        (["run", "toy/lines", "--set", "task.noise=loud"], 2, "noise must be a number, got 'loud' (--set task.noise=loud)"),
        (["run", "toy/lines", "--set", "metrics=[toy/eror]"], 2, "did you mean 'toy/error' or 'toy/spread'"),
        (["run", "toy/lines", "--data", "toy/line"], 2, "there is no dataset 'toy/line'; did you mean 'toy/lines'? (--data)"),
        (["run", "toy/lines", "--data", "toy/lines", "x.npy"], 2, "--data takes files or one registered dataset: give toy/lines alone"),
        (["run", "--resume", "nothing"], 1, "run nothing does not exist"),
        (["run", "toy/lines", "--data", "nothing.npy"], 1, "nothing.npy does not exist"),
        (["run", "toy/train"], 2, "has no 'task', so there is nothing to run"),
        (["train", "toy/lines"], 2, "recipe toy/lines has no 'train', so there is nothing to train"),
        (["report", "nothing"], 1, "run nothing does not exist"),
        (["compare", "nothing"], 1, "run nothing does not exist"),
        (["report", "count.txt"], 1, "count.txt is a file, not a run folder"),
        (["train", "toy/train", "--data", "x.npy"], 2, "toy/training takes no --data (unstir show toy/train lists what it takes)"),
        (["train", "toy/train", "--out", "count.txt"], 1, "--out count.txt is a file; name a folder"),
        (["train", "toy/train", "--out", "count.txt/prior"], 1, "--out count.txt is a file; name a folder"),
        (["show", "karas:20"], 2, "nothing is registered as 'karas'; did you mean 'karras'"),
        (["show", "toy/linse"], 2, "nothing is registered as 'toy/linse'; did you mean 'toy/lines'"),
        (["nonsense"], 2, "no such command 'nonsense'"),
        (["run", "toy/lines", "--nonsense"], 2, "no such option: --nonsense"),
        (["apply", "toy/scale"], 2, "missing option '--out'"),
        (["apply", "toy/scael", "--out", "x"], 2, "there is no command 'toy/scael'; did you mean 'toy/scale'"),
        (["apply", "toy/scale", "nothing.npy", "--out", "x"], 1, "nothing.npy does not exist"),
        (["apply", "toy/scale", "--fcator", "3", "--out", "x"], 2, "toy/scale has no option --fcator; did you mean --factor?"),
        (["apply", "toy/scale", "--factor", "0", "--out", "x"], 2, "factor must be more than 0, got 0 (--factor)"),
        (["plugins", "--names", "nonsense"], 2, "there is no kind 'nonsense'"),
        (["data", "get", "nonsense/thing"], 2, "there is no dataset card 'nonsense/thing'"),
    ],
)
def test_wrong_usage_is_one_sentence_on_standard_error(unstir, words: list[str], code: int, said: str):
    got, out, err = unstir(*words)
    assert said in err
    assert (got, out) == (code, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not Path("runs").exists() or not any(Path("runs").iterdir())


def test_debug_shows_the_traceback():
    with pytest.raises(Exception, match="does not exist"):
        app.call(["run", "toy/lines", "--data", "nothing.npy"], is_debug=True)


def test_recipes_plugins_show_and_doctor_speak_json(unstir):
    listed = json.loads(unstir("recipes", "--json")[1])
    assert {"name": "toy/lines", "title": "Noisy lines", "does": "run", "plugin": "toy"} in listed
    plugins = {plugin["name"]: plugin for plugin in json.loads(unstir("plugins", "--json")[1])}
    assert plugins["toy"]["status"] == "ok"
    shown = json.loads(unstir("show", "toy/smooth", "--json")[1])[0]
    assert shown["summary"] == "A running mean."
    assert [option["key"] for option in shown["options"]] == ["steps", "edge", "pause"]
    assert {finding["what"] for finding in json.loads(unstir("doctor", "--json")[1])} >= {"python", "torch", "disk", "cache"}
    assert "toy/scale" in json.loads(unstir("plugins", "--names", "apply", "--json")[1])
    assert isinstance(json.loads(unstir("data", "list", "--json")[1]), list)


def test_show_lists_every_key_of_a_recipe_with_its_type_and_default(unstir):
    code, out, _ = unstir("show", "toy/lines")
    assert code == 0
    lines = [line.split() for line in out.splitlines()]
    assert ["methods.smooth.steps", "int,", "at", "least", "1", "3"] in lines
    assert ["methods.smooth.edge", "'nearest'", "or", "'mirror'", "'nearest'", "(default)"] in lines
    assert ["task.copies", "int", "1", "(default)"] in lines


def test_show_says_what_the_short_name_of_a_solver_stands_for(unstir):
    code, out, _ = unstir("show", "dpm++2m")
    assert code == 0
    assert out.splitlines()[:3] == [
        "solver dpm++2m  (plugin core)",
        "  Multistep(start_up='none', variant='midpoint')",
        "  A linear multistep solver of any order, one evaluation a step.",
    ]
    options = {row["key"]: row["value"] for row in json.loads(unstir("show", "dpm++2m", "--json")[1])[0]["options"]}
    assert (options["start_up"], options["variant"], options["predictor"]) == ("'none'", "'midpoint'", "2")


@pytest.mark.parametrize("name", ["karras", "karras:20,sigma_max=80", "log-snr", "logsnr", "times"])
def test_show_knows_the_grids(unstir, name: str):
    found = json.loads(unstir("show", name, "--json")[1])[0]
    assert (found["kind"], found["name"]) == ("grid", name.partition(":")[0])
    assert found["summary"]
    assert found["options"][0]["value"] == "(required)"


def test_compare_json_prints_compare_json(unstir):
    unstir("run", "toy/lines", "--out", "out", "-q", *QUICK)
    code, out, err = unstir("compare", "out", "--out", "both", "--json")
    assert (code, err) == (0, "")
    assert out == Path("both/compare.json").read_text()
    assert json.loads(out)["by"] == "method"
    code, _, err = unstir("compare", "out", "--by", "stepz")
    assert (code, err) == (2, "error: --by 'stepz' is not an option of any method of these runs; did you mean 'steps'?\n")
    assert unstir("compare", "out", "--out", "both/compare.json")[2] == "error: --out both/compare.json is a file; name a folder\n"


def test_apply_that_fails_leaves_no_empty_folder(unstir):
    Path("a.npy").write_text("no array")
    assert unstir("apply", "toy/scale", "a.npy", "--out", "better", "--device", "cpu")[0] == 1
    assert unstir("apply", "toy/scale", "a.npy", "--out", "better", "--device", "tpu")[0] == 1
    assert not Path("better").exists()


def test_show_reads_a_recipe_file_and_a_run_folder(unstir, recipe: Path):
    assert "Noisy lines" in unstir("show", recipe)[1]
    unstir("run", "toy/lines", "--out", "out", "-q", *QUICK)
    assert "methods.smooth.steps" in unstir("show", "out")[1]


def test_train_writes_where_it_is_told_and_never_over_something(unstir):
    assert unstir("train", "toy/train", "--out", "prior", "--set", "train.steps=5", "--device", "cpu") == (0, "Checkpoint  prior\n", "")
    assert Path("prior/model.txt").read_text() == "5 cpu False"
    code, _, err = unstir("train", "toy/train", "--out", "prior")
    assert code == 1
    assert "prior holds something already: add --resume" in err
    assert json.loads(unstir("train", "toy/train", "--out", "prior", "--resume", "--json", "--device", "cpu")[1]) == {"checkpoint": "prior"}
    assert "prior2 holds nothing to resume" in unstir("train", "toy/train", "--out", "prior2", "--resume")[2]
    assert "has no key 'train.stesp'; did you mean 'train.steps'?" in unstir("train", "toy/train", "--set", "train.stesp=5")[2]


def test_apply_gives_a_command_its_files_and_options(unstir):
    for name in ("a", "b"):
        np.save(f"{name}.npy", -np.ones(3))
    code, out, err = unstir("apply", "toy/scale", "a.npy", "--factor", "3", "b.npy", "--absolute", "--out", "better", "--device", "cpu")
    assert (code, err) == (0, "")
    assert out.split() == ["better/a.npy", "better/b.npy"]
    assert np.load("better/b.npy").tolist() == [3.0, 3.0, 3.0]
    assert json.loads(unstir("apply", "toy/scale", "a.npy", "--no-absolute", "--out", "c", "--json", "--device", "cpu")[1]) == {
        "files": ["c/a.npy"]
    }


def test_words_of_apply_are_files_flags_and_values():
    import toy_parts

    from unstir_pipelines.options import options_of

    known = options_of(toy_parts.Scale)
    assert apply.parse("x", ["a", "--factor=2.5", "--", "--b"], known) == (["a", "--b"], {"factor": 2.5})
    assert apply.parse("x", ["--absolute", "a", "--factor", "-1"], known) == (["a"], {"absolute": True, "factor": -1})
    for words, said in (["--factor"], "--factor needs a value"), (["--absolute", "--absolute"], "--absolute is given twice"):
        with pytest.raises(Exception, match=said):
            apply.parse("x", words, known)


def test_new_plugin_says_what_it_made(unstir):
    code, out, _ = unstir("new-plugin", "a-fresh-domain")
    assert code == 0
    assert out.startswith("created a-fresh-domain/: pyproject.toml")
    assert Path("a-fresh-domain/pyproject.toml").is_file()


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["plugins"],
        ["recipes"],
        ["show", "toy/lines"],
        ["show", "toy/smooth"],
        ["show", "dpm++2m"],
        ["show", "karras:20"],
        ["run", "--help"],
        ["--version"],
    ],
)
def test_looking_imports_no_heavy_library(words: list[str]):
    heavy = ["torch", "pandas", "xarray", "numpy", "matplotlib", "scipy", "pyarrow", "distributed"]
    code = f"import sys; from unstir_pipelines.cli.app import call; call({words!r}); print([n for n in {heavy!r} if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"


def test_a_reader_that_goes_away_is_no_error():
    command = f"{sys.executable} -m unstir_pipelines plugins --json | head -c 1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def alive(group: int) -> list[str]:
    """Workers of a process group that still live."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, owner = stat.read_text().rpartition(")")[2].split()[:3]
            words = stat.with_name("cmdline").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(owner) == group and state != "Z" and "spawn_main" in words:
            found.append(words)
    return found


@pytest.mark.slow
def test_ctrl_c_ends_workers_and_says_how_to_go_on(toy):
    words = [
        "run",
        "toy/lines",
        "--out",
        "out",
        "--workers",
        "2",
        "--set",
        "methods.smooth.pause=0.2",
        "--set",
        "methods.smooth.steps=400",
        *QUICK,
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "unstir_pipelines", *words], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not any(line.startswith("smooth") for line in toy()) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 1
    assert err.startswith("error: stopped: ")
    assert "'unstir run --resume out' goes on" in err
    assert err.count("\n") == 1
    assert alive(process.pid) == []


def test_the_bars_count_jobs_and_tell_the_time_left():
    from rich.console import Console

    console = Console(record=True, width=80, force_terminal=True, file=io.StringIO())
    bars = display.Bars(console)
    bars.start("Noisy lines · 2 cases", {"keep": 2, "smooth": 2}, {"keep": 2})
    bars.step("smooth", "a", 1, 4)
    assert "about" in bars._clock("smooth", 0.25)
    bars.ended("smooth", "a", 3.0)
    bars.stop()
    text = console.export_text()
    assert "Noisy lines · 2 cases" in text
    assert "2/2" in text
    assert "1/2" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (45.4, "0:45"), (61, "1:01"), (3723, "1:02:03"), (-1, "0:00")])
def test_a_clock_reads_as_on_a_wall(seconds: float, text: str):
    assert display.clock(seconds) == text
