"""What ``unstir doctor`` looks at: is this installation able to do its work?"""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from unstir import registry
from unstir_pipelines import environment

EXTRAS = {"medical": ("nibabel", "pydicom", "SimpleITK", "skimage"), "dask": ("dask", "distributed")}
"""Modules that show an extra to be installed."""


@dataclass(frozen=True)
class Finding:
    """One thing looked at: ``ok``, ``note`` (works, but worth knowing) or ``fault``, and what to do."""

    what: str
    state: Literal["ok", "note", "fault"]
    said: str


def examine() -> list[Finding]:
    """Look at everything."""
    return [_python(), *_packages(), _torch(), *_plugins(), *_extras(), _memory(), _disk(), _cache()]


def _python() -> Finding:
    is_new = sys.version_info >= (3, 11)
    return Finding("python", "ok" if is_new else "fault", f"{sys.version.split()[0]}" + ("" if is_new else ": unstir needs 3.11 or newer"))


def _packages() -> list[Finding]:
    findings = []
    for module, package in (
        ("h5netcdf", "h5netcdf"),
        ("h5py", "h5py"),
        ("pyarrow", "pyarrow"),
        ("matplotlib", "matplotlib"),
        ("xarray", "xarray"),
    ):
        if importlib.util.find_spec(module) is None:
            findings.append(Finding(package, "fault", f"not installed: pip install {package}"))
        else:
            findings.append(Finding(package, "ok", metadata.version(package)))
    return findings


def _torch() -> Finding:
    try:
        import torch
    except Exception as error:
        return Finding("torch", "fault", f"cannot be imported ({error}): install it again, see pytorch.org")
    device = environment.device("auto")
    if device == "cpu":
        return Finding("torch", "ok", f"{torch.__version__}, on the CPU with {torch.get_num_threads()} thread(s)")
    return Finding("torch", "ok", f"{torch.__version__}, on {torch.cuda.get_device_name(0)}")


def _plugins() -> list[Finding]:
    findings = []
    for plugin in registry.plugins():
        state: Literal["ok", "fault"] = "ok" if plugin.status == "ok" else "fault"
        said = f"{plugin.distribution} {plugin.version}" + (f": {plugin.status}, {plugin.reason}" if plugin.reason else "")
        findings.append(Finding(f"plugin {plugin.name}", state, said))
    return findings


def _extras() -> list[Finding]:
    findings = []
    for extra, modules in EXTRAS.items():
        missing = [module for module in modules if importlib.util.find_spec(module) is None]
        said = "installed" if not missing else f"not installed ({', '.join(missing)}): pip install 'unstir[{extra}]'"
        findings.append(Finding(f"extra {extra}", "note" if missing else "ok", said))
    return findings


def _memory() -> Finding:
    memory = environment.memory_bytes()
    if memory is None:
        return Finding("memory", "note", "the system does not tell")
    is_enough = memory >= 3e9
    return Finding("memory", "ok" if is_enough else "note", f"{memory / 1e9:.1f} GB" + ("" if is_enough else ": the demo needs 3 GB"))


def _disk() -> Finding:
    free = shutil.disk_usage(Path.cwd()).free
    is_enough = free >= 1e9
    said = f"{free / 1e9:.1f} GB free in {Path.cwd()}" + ("" if is_enough else ": runs need room for their estimates")
    return Finding("disk", "ok" if is_enough else "note", said)


def _cache() -> Finding:
    from unstir_data import fetch

    folder = fetch.cache_folder()
    parent = next(path for path in [folder, *folder.parents] if path.exists())
    if not os.access(parent, os.W_OK):
        return Finding("cache", "fault", f"{folder} cannot be written: set UNSTIR_CACHE to a folder that can")
    try:
        with tempfile.TemporaryFile(dir=parent):
            return Finding("cache", "ok", str(folder))
    except OSError as error:
        return Finding("cache", "fault", f"{folder} cannot be written ({error.strerror}): set UNSTIR_CACHE to a folder that can")
