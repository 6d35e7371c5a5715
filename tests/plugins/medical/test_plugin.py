"""The medical plugin keeps the contract of plugins, and its parts run together on a thinned test patient."""

from __future__ import annotations

import importlib
import sys

import pytest
import torch

from unstir import checkpoint, registry
from unstir.denoiser import NetworkDenoiser
from unstir.nn import UNet
from unstir.process import EDM
from unstir.testing import check_plugin

PLUGIN = """
import unstir
from unstir.plugin.markers import hookimpl

UNSTIR_API = 1

@hookimpl
def unstir_data():
    return {"thin/lung1": "thin_medical.data:Thin"}

@hookimpl
def unstir_recipes():
    return {"thin/sparse-view-ct": "thin_medical:recipe.yaml"}

@hookimpl
def unstir_tasks():
    return {"thin/sparse-view-ct": "thin_medical.data:SparseViewCT"}

@hookimpl
def unstir_methods():
    return {"thin/fbp": "thin_medical.data:FBP"}
"""

DATA = '''
from dataclasses import dataclass
from typing import ClassVar

from unstir_medical.classical import FBP
from unstir_medical.datasets import Lung1
from unstir_medical.tasks import SparseViewCT


@dataclass(frozen=True)
class Thin(Lung1):
    """Every fourth slice of the test patient."""

    every: int = 4
    tiny: ClassVar[bool] = True
'''

RECIPE = """
title: Thin CT
task: {{name: medical/sparse-view-ct, views: 6, size: 32, noise: poisson}}
data: {{name: thin/lung1}}
defaults: {{checkpoint: {prior}}}
methods:
  fbp: {{name: medical/fbp}}
  sirt: {{name: medical/sirt, iterations: 3}}
  admm-tv: {{name: medical/admm-tv, outer: 2, cg: 2}}
  dds: {{name: medical/dds, grid: "karras:2,sigma_max=1,sigma_min=0.1", iterations: 2, flip: true, checkpoint: {prior}}}
  dds-tv: {{name: medical/dds, grid: "karras:2,sigma_max=1,sigma_min=0.1", tv: true, checkpoint: {prior}}}
  dps: {{name: medical/dps, grid: "karras:2,sigma_max=1,sigma_min=0.1", checkpoint: {prior}}}
  diffusion-mbir: {{name: medical/diffusion-mbir, grid: "karras:2,sigma_max=1,sigma_min=0.1", checkpoint: {prior}}}
  mean:
    name: medical/dds
    start: admm-tv
    start_noise: true
    samples: 2
    grid: "log-snr:2,sigma_max=0.2,sigma_min=0.05"
    checkpoint: {prior}
metrics: [medical/psnr, medical/ssim, medical/nmse, medical/rmse-hu, medical/data-residual]
figures: [medical/overview, medical/slices, medical/error-maps, medical/residual, medical/std, medical/sinogram]
"""


def test_the_plugin_keeps_the_contract():
    assert check_plugin("medical", run=False) == []


@pytest.fixture
def thin(tmp_path, monkeypatch):
    """A plugin that puts the medical parts together on a tiny dataset, and an untrained prior."""
    config = {"dim": 2, "in_channels": 3, "out_channels": 1, "widths": [8, 8], "blocks": 1, "features": 2, "feature_key": "grid"}
    torch.manual_seed(0)
    denoiser = NetworkDenoiser(UNet(**config), EDM(), parameterisation="edm", shape=(3, -1, -1), sigma_data=0.25, context=1)
    prior = checkpoint.save(denoiser, tmp_path / "prior", network="unet", config=config)
    package = tmp_path / "site" / "thin_medical"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text(PLUGIN)
    (package / "data.py").write_text(DATA)
    (package / "recipe.yaml").write_text(RECIPE.format(prior=prior))
    monkeypatch.syspath_prepend(str(package.parent))
    importlib.invalidate_caches()
    yield importlib.import_module("thin_medical")
    for name in [name for name in sys.modules if name.partition(".")[0] == "thin_medical"]:
        del sys.modules[name]
    registry.reset()


def test_tasks_methods_metrics_exports_and_figures_run_together(thin):
    assert check_plugin(thin) == ["thin/sparse-view-ct"]
