"""A toy plugin as a distribution in a temporary folder, found by this process and by every process it starts."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import pytest

from unstir import registry

PLUGIN = '''
"""A plugin of tests: estimate a line from noisy points."""
import unstir
from unstir.plugin.markers import hookimpl

UNSTIR_API = 1

@hookimpl
def unstir_data():
    return {"toy/lines": "toy_parts:Lines"}

@hookimpl
def unstir_tasks():
    return {"toy/denoise": "toy_parts:Denoise"}

@hookimpl
def unstir_methods():
    return {
        "toy/keep": "toy_parts:Keep",
        "toy/smooth": "toy_parts:Smooth",
        "toy/refine": "toy_parts:Refine",
        "toy/fail": "toy_parts:Fail",
        "toy/die": "toy_parts:Die",
        "toy/peek": "toy_parts:Peek",
        "toy/spoil": "toy_parts:Spoil",
        "toy/learned": "toy_parts:Learned",
        "toy/heavy": "toy_heavy:Heavy",
        "toy/training": "toy_parts:Training",
    }

@hookimpl
def unstir_metrics():
    return {"toy/error": "toy_parts:Error", "toy/spread": "toy_parts:Spread"}

@hookimpl
def unstir_recipes():
    return {"toy/lines": "toy_files:lines.yaml", "toy/train": "toy_files:train.yaml"}

@hookimpl
def unstir_apply():
    return {"toy/scale": "toy_parts:Scale"}
'''

PARTS = '''
from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import numpy as np
import xarray as xr
from pydantic import Field

from unstir.errors import DataError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score

COUNT = Path(os.environ.get("TOY_COUNT", os.devnull))


def note(text):
    with open(COUNT, "a") as file:
        file.write(text + "\\n")


@dataclass(frozen=True)
class Lines:
    """Straight lines."""
    count: int = 3
    card: ClassVar[str] = ""

    def load(self):
        for index in range(self.count):
            values = np.linspace(0, index + 1, 24).reshape(4, 6)
            attrs = {"key": f"line-{index}", "affine": [[1, 0], [0, 1]], "good": True}
            yield xr.Dataset({"line": (("row", "x"), values)}, attrs=attrs)


@dataclass(frozen=True)
class Denoise:
    """Take the noise away."""
    noise: Annotated[float, Field(ge=0)] = 0.1
    copies: int = 1
    metrics: ClassVar[tuple[str, ...]] = ("toy/error",)
    figures: ClassVar[tuple[str, ...]] = ()

    def __post_init__(self):
        if self.copies < 1:
            raise ValueError(f"copies must be at least 1, got {self.copies}")

    def read(self, path):
        if path.suffix != ".npy":
            raise DataError(f"{path} is not an array of numpy (.npy)")
        return xr.Dataset({"line": (("row", "x"), np.load(path))})

    def cases(self, items):
        for item in items:
            generator = np.random.default_rng(len(item.attrs["key"]))
            measured = item.copy(deep=True)
            measured["line"] = measured["line"] + self.noise * generator.standard_normal(item["line"].shape)
            yield Case(item.attrs["key"], item, measured, {"noise": self.noise})

    def export(self, estimate, case, stem):
        path = stem.parent / f"{stem.name}.txt"
        np.savetxt(path, estimate.data["line"].values)
        return [path]


@dataclass(frozen=True)
class Keep:
    """The measurement itself."""
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        note(f"keep {case.key}")
        return Estimate(case.measurement, nfe=0, info={"trace": {"residual": [1.0, 0.5]}})


@dataclass(frozen=True)
class Smooth:
    """A running mean."""
    steps: Annotated[int, Field(ge=1)] = 2
    edge: Literal["nearest", "mirror"] = "nearest"
    pause: float = 0.0
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        from scipy.ndimage import uniform_filter1d
        note(f"smooth {case.key}")
        data = case.measurement.copy()
        for step in range(self.steps):
            data["line"] = (("row", "x"), uniform_filter1d(data["line"].values, 3, axis=1, mode=self.edge))
            time.sleep(self.pause)
            if progress:
                progress(step + 1, self.steps)
        data["line"] = data["line"] + 1e-3 * np.random.default_rng(seed).standard_normal(data["line"].shape)
        return Estimate(data, nfe=self.steps)


@dataclass(frozen=True)
class Refine:
    """Half of another method's estimate, half of the measurement."""
    start: str = "smooth"
    uses_prior: ClassVar[bool] = False

    @property
    def needs(self):
        return (self.start,)

    def __call__(self, case, prior, seed, *, progress=None):
        note(f"refine {case.key}")
        other = case.context["estimates"][self.start]
        return Estimate((other.data + case.measurement) / 2, nfe=other.nfe)


@dataclass(frozen=True)
class Fail:
    """Raises on one case."""
    on: str = "line-1"
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        if case.key == self.on or self.on == "all":
            raise RuntimeError("the toy broke\\nsecond line")
        return Estimate(case.measurement)


@dataclass(frozen=True)
class Die:
    """Kills its own process on one case, the first so many times."""
    on: str = "line-1"
    times: int = 1
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        if case.key == self.on and COUNT.read_text().count("die") < self.times:
            note("die")
            os.kill(os.getpid(), signal.SIGKILL)
        return Estimate(case.measurement)


@dataclass(frozen=True)
class Peek:
    """Looks for the truth."""
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        assert case.truth is None
        return Estimate(case.measurement, info={"context": sorted(case.context)})


@dataclass(frozen=True)
class Spoil:
    """Writes into its measurement."""
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case, prior, seed, *, progress=None):
        case.measurement["line"].values[:] = 99
        return Estimate(case.measurement)


@dataclass(frozen=True)
class Learned:
    """Asks for a prior."""
    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __call__(self, case, prior, seed, *, progress=None):
        return Estimate(case.measurement, info={"prior": str(prior)})


@dataclass(frozen=True)
class Error:
    """Root mean square error."""
    scale: float = 1.0

    def describe(self):
        rmse = MetricInfo("rmse", "RMSE", "mm", "down", "Root mean square error.")
        return [rmse, MetricInfo("bias", "Bias", "mm", "down", "Mean error.")]

    def __call__(self, estimate, case):
        gap = self.scale * (estimate.data["line"] - case.truth["line"]).values
        rows = np.sqrt((gap**2).mean(1))
        return {"rmse": Score(float(np.sqrt((gap**2).mean())), tuple(rows), "rms"), "bias": Score(float(gap.mean()))}


@dataclass(frozen=True)
class Spread:
    """A number over the whole set."""

    def describe(self):
        return [MetricInfo("spread", "Spread", "", "up", "Standard deviation over the set.")]

    def over(self, pairs):
        return {"spread": Score(float(np.std([float(e.data["line"].mean()) for e, _ in pairs])))}


@dataclass(frozen=True)
class Training:
    """Writes a file."""
    steps: int = 3

    def run(self, out, *, device, progress, resume):
        out.mkdir(parents=True, exist_ok=True)
        for step in range(self.steps):
            if progress:
                progress(step + 1, self.steps)
        (out / "model.txt").write_text(f"{self.steps} {device} {resume}")
        return out


@dataclass(frozen=True)
class Scale:
    """Multiply arrays by a factor."""
    factor: Annotated[float, Field(gt=0)] = 2.0
    absolute: bool = False

    def __call__(self, files, out, *, device, progress):
        written = []
        for index, path in enumerate(files):
            values = np.load(path) * self.factor
            target = out / path.name
            np.save(target, np.abs(values) if self.absolute else values)
            written.append(str(target))
            if progress:
                progress(index + 1, len(files))
        return {"files": written}
'''

RECIPE = """\
title: Noisy lines
task: {name: toy/denoise, noise: 0.1}
data: {name: toy/lines, count: 3}
methods:
  keep: {name: toy/keep}
  smooth:
    name: toy/smooth
    steps: 3
  refine: {name: toy/refine, start: smooth}
metrics: [toy/error]
figures: []
seed: 4
"""

TRAIN = """\
title: Train nothing
train: {name: toy/training, steps: 2}
"""


@pytest.fixture(scope="session")
def toy_site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    site = tmp_path_factory.mktemp("site")
    (site / "toy_plugin.py").write_text(PLUGIN)
    (site / "toy_parts.py").write_text(PARTS)
    (site / "toy_heavy.py").write_text("import a_library_nobody_has\n")
    (site / "toy_files").mkdir()
    (site / "toy_files" / "__init__.py").write_text("")
    (site / "toy_files" / "lines.yaml").write_text(RECIPE)
    (site / "toy_files" / "train.yaml").write_text(TRAIN)
    info = site / "toy_lines-0.0.1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy-lines\nVersion: 0.0.1\n")
    (info / "entry_points.txt").write_text("[unstir.plugins]\ntoy = toy_plugin\n")
    return site


@pytest.fixture(autouse=True)
def toy(toy_site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The toy plugin is installed, the working folder is empty, and ``toy`` counts what methods did."""
    count = tmp_path / "count.txt"
    count.write_text("")
    monkeypatch.setenv("TOY_COUNT", str(count))
    monkeypatch.setenv("PYTHONPATH", f"{toy_site}:{':'.join(path for path in sys.path if path)}")
    monkeypatch.syspath_prepend(str(toy_site))
    importlib.invalidate_caches()
    monkeypatch.chdir(tmp_path)
    registry.reset()
    if "toy_parts" in sys.modules:
        sys.modules["toy_parts"].COUNT = count
    yield lambda: count.read_text().split("\n")[:-1]
    registry.reset()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    path.write_text(RECIPE)
    return path


def numbers(folder: Path, *, skip: tuple[str, ...] = ("seconds", "memory")) -> list[dict]:
    """The rows of ``metrics.json`` without what a clock decides."""
    return [row for row in json.loads((folder / "metrics.json").read_text())["rows"] if row["metric"] not in skip]


@pytest.fixture
def read_numbers():
    return numbers
