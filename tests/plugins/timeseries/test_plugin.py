"""The plugin keeps the contract, and its parts run together: data, tasks, every baseline, every guide, refinement, metrics, figures."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

from unstir import registry
from unstir.testing import check_plugin
from unstir_timeseries.datasets import AR1
from unstir_timeseries.training import TSDiffTraining

PLUGIN = """
import unstir
from unstir.plugin.markers import hookimpl

UNSTIR_API = 1

@hookimpl
def unstir_recipes():
    return {"thin/forecast": "thin_series:forecast.yaml", "thin/impute": "thin_series:impute.yaml"}

@hookimpl
def unstir_data():
    return {"thin/ar1": "thin_series.data:Thin"}

@hookimpl
def unstir_tasks():
    return {"thin/forecast": "thin_series.data:Forecast"}

@hookimpl
def unstir_methods():
    return {"thin/naive": "thin_series.data:SeasonalNaive"}
"""

DATA = '''
from dataclasses import dataclass
from typing import ClassVar

from unstir_timeseries.baselines import SeasonalNaive
from unstir_timeseries.datasets import AR1
from unstir_timeseries.tasks import Forecast


@dataclass(frozen=True)
class Thin(AR1):
    """Three short series."""

    items: int = 3
    steps: int = 400
    tiny: ClassVar[bool] = True
'''

FORECAST = """
title: Thin forecasts
task: {{name: timeseries/forecast, horizon: 12, context: 48, windows: 3, stride: 24, missing: rm}}
data: {{name: thin/ar1}}
defaults: {{checkpoint: {prior}}}
methods:
  seasonal-naive: {{name: timeseries/seasonal-naive}}
  seasonal-residual: {{name: timeseries/seasonal-residual}}
  random-walk: {{name: timeseries/random-walk}}
  ridge: {{name: timeseries/ridge, windows: 200}}
  ridge-residual: {{name: timeseries/ridge-residual, windows: 200}}
  ets: {{name: timeseries/ets}}
  told: {{name: timeseries/tsdiff, guide: told, samples: 4, grid: "logistic:3", checkpoint: {prior}}}
  quantile: {{name: timeseries/tsdiff, guide: quantile, samples: 4, grid: "logistic:3", checkpoint: {prior}}}
  mse: {{name: timeseries/tsdiff, guide: mse, scale: 0.01, samples: 4, grid: "logistic:3", checkpoint: {prior}}}
  pigdm: {{name: timeseries/tsdiff, guide: pigdm, samples: 4, grid: "logistic:3", checkpoint: {prior}}}
  covariance: {{name: timeseries/tsdiff, guide: covariance, samples: 4, iterations: 3, grid: "logistic:3", checkpoint: {prior}}}
  refined: {{name: timeseries/refine, base: seasonal-naive, samples: 4, checkpoint: {prior}}}
metrics: [timeseries/crps, timeseries/sample-crps, timeseries/nd, timeseries/nrmse, timeseries/mase, timeseries/msis, timeseries/smape,
  timeseries/coverage, timeseries/width, timeseries/pit, timeseries/energy, timeseries/variogram]
figures: [timeseries/fans, timeseries/calibration, timeseries/per-horizon, timeseries/windows]
"""

IMPUTE = """
title: Thin gaps
task: {{name: timeseries/impute, length: 60, windows: 2, stride: 80}}
data: {{name: thin/ar1}}
defaults: {{checkpoint: {prior}}}
methods:
  linear: {{name: timeseries/linear-interpolation}}
  told: {{name: timeseries/tsdiff, guide: told, samples: 4, grid: "logistic:3", checkpoint: {prior}}}
metrics: [timeseries/crps, timeseries/nd]
figures: [timeseries/fans]
"""


def test_the_plugin_keeps_the_contract():
    assert check_plugin("timeseries", run=False) == []


def test_nothing_of_another_domain_is_imported():
    for name in registry.names("methods"):
        if name.startswith("timeseries/"):
            registry.resolve("methods", name)
    code = "import sys, unstir_timeseries.apply, unstir_timeseries.predict; assert not [n for n in sys.modules if 'unstir_medical' in n]"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.fixture
def thin(tmp_path, monkeypatch):
    """A plugin that puts the parts together on a tiny dataset, and a hardly trained prior."""
    options = {"width": 8, "blocks": 1, "states": 4, "batch": 4, "steps": 2, "decay": 0}
    options |= {"end": "", "held_out": (), "context": 48, "horizon": 12}
    prior = TSDiffTraining(**options).fit(next(iter(AR1(items=2, steps=300).load())), tmp_path / "prior")
    package = tmp_path / "site" / "thin_series"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    (package / "data.py").write_text(DATA)
    (package / "forecast.yaml").write_text(FORECAST.format(prior=prior))
    (package / "impute.yaml").write_text(IMPUTE.format(prior=prior))
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    yield importlib.import_module("thin_series")
    for name in [name for name in sys.modules if name.partition(".")[0] == "thin_series"]:
        del sys.modules[name]
    registry.reset()


@pytest.mark.slow
def test_tasks_methods_metrics_exports_and_figures_run_together(thin):
    assert check_plugin(thin) == ["thin/forecast", "thin/impute"]
