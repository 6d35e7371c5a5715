"""A plugin by somebody else, a distribution of its own, is installed, found, checked and run; the guide quotes it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from unstir.plugin import hookspecs, protocols

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "tests" / "third_party"
GUIDE = ROOT / "docs" / "plugins.md"


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Run Python in an environment where the example is installed: ``python("-c", code)`` gives what it printed."""
    site = tmp_path_factory.mktemp("site")
    quiet = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    command = [sys.executable, "-m", "pip", "install", *quiet, "--target", site, EXAMPLE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(site), *(entry for entry in sys.path if entry)])}

    def run(*arguments: str, cwd: Path | None = None) -> str:
        done = subprocess.run([sys.executable, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    return run


def test_an_installed_plugin_is_found_and_its_names_resolve(python):
    code = """
import json
from unstir import registry
info = next(found for found in registry.plugins() if found.name == "seismic-example")
assert registry.resolve("tasks", "seismic-example/deconvolution").__name__ == "Deconvolution"
assert registry.path("recipes", "seismic-example/first").is_file()
print(json.dumps([info.status, info.version, info.distribution, {kind: n for kind, n in info.counts.items() if n}]))
"""
    status, version, distribution, counts = json.loads(python("-c", code))
    assert (status, version, distribution) == ("ok", "0.3.0", "unstir-seismic-example")
    assert counts == {"data": 1, "tasks": 1, "methods": 2, "metrics": 1, "figures": 1, "recipes": 1}


def test_it_keeps_the_contract(python):
    code = "from unstir.testing import check_plugin; print(check_plugin('seismic-example'))"
    assert python("-c", code).strip() == "['seismic-example/first']"


def test_its_recipe_runs_from_the_command_line(python, tmp_path):
    python("-m", "unstir_pipelines", "run", "seismic-example/first", "--out", str(tmp_path / "run"), cwd=tmp_path)
    rows = json.loads((tmp_path / "run" / "metrics.json").read_text())["rows"]
    correlation = {row["method"]: row["mean"] for row in rows if "correlation" in row["metric"]}
    assert set(correlation) == {"wiener", "diffusion"}
    assert min(correlation.values()) > 0.5  # a trace unrelated to the truth has 0 +- 0.1
    assert all(row["cases"] == 2 for row in rows)
    assert (tmp_path / "run" / "report.html").is_file()
    assert {path.suffix for path in (tmp_path / "run" / "estimates").rglob("trace-0.*")} >= {".nc", ".npy"}


def test_the_guide_quotes_the_example_as_it_is():
    blocks = re.findall(r"```(?:python|toml|yaml)\n# (\S+)\n(.*?)```", GUIDE.read_text(), re.S)
    assert len(blocks) >= 6
    for file, code in blocks:
        assert code.strip("\n") in (EXAMPLE / file).read_text(), f"docs/plugins.md quotes {file} as it is not"


def test_the_guide_names_every_hook_and_every_protocol_of_a_plugin():
    text = GUIDE.read_text()
    for hook in (name for name in vars(hookspecs) if name.startswith("unstir_")):
        assert f"`{hook}`" in text, hook
    for protocol in re.findall(r"^class (\w+)\(Protocol\)", Path(protocols.__file__).read_text(), re.M):
        assert f"`{protocol}`" in text, protocol


def test_every_file_that_the_guide_names_is_there():
    named = re.findall(r"`((?:core|plugins|tests|data)/[^`\s]*)`", GUIDE.read_text())
    assert len(named) >= 8
    assert [path for path in named if not (ROOT / path).exists()] == []
