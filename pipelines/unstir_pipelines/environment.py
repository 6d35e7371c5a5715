"""What a run was made with: versions, hardware, device."""

from __future__ import annotations

import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from unstir import registry
from unstir.errors import UserError

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "xarray",
    "pandas",
    "pyarrow",
    "h5netcdf",
    "lightning-fabric",
    "safetensors",
    "distributed",
    "matplotlib",
)


def versions() -> dict[str, str]:
    """Versions of unstir, of every plugin's distribution and of the libraries that make numbers."""
    found = {}
    names = ["unstir", *(plugin.distribution for plugin in registry.plugins()), *PACKAGES]
    for name in dict.fromkeys(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """The machine: system, processor, cores, memory in bytes, graphics cards where torch is loaded."""
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "memory_bytes": memory_bytes(),
        "graphics": _graphics(),
    }


def memory_bytes() -> int | None:
    """Physical memory, ``None`` where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def device(name: str) -> str:
    """A device by name; ``"auto"`` is a CUDA card where there is one, else the CPU.

    Raises:
        UserError: there is no such device here.
    """
    if name == "cpu":
        return name
    import torch

    has_cuda, has_mps = torch.cuda.is_available(), torch.backends.mps.is_available()
    if name == "auto":
        return "cuda" if has_cuda else "cpu"
    kind = name.partition(":")[0]
    usable = ["cpu", *(["cuda"] if has_cuda else []), *(["mps"] if has_mps else [])]
    if kind not in usable:
        raise UserError(f"--device {name} is not here: this machine has {', '.join(usable)}")
    if kind == "cuda" and ":" in name and not name.partition(":")[2].isdigit() or name.endswith(":"):
        raise UserError(f"--device {name} is not a device: write cuda or cuda:0")
    if kind == "cuda" and ":" in name and int(name.partition(":")[2]) >= torch.cuda.device_count():
        raise UserError(f"--device {name} is not here: this machine has {torch.cuda.device_count()} CUDA device(s), counted from 0")
    return name


def describe(**more: Any) -> dict[str, Any]:
    """All of it, as ``environment.json`` holds it, with whatever else the run knows of itself."""
    return {"python": sys.version.split()[0], "versions": versions(), "hardware": hardware(), **more}


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _graphics() -> list[str]:
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
