"""Fitted baselines, kept: in the process, and in the user's cache folder, so that the windows of a run and a resumed run fit once.

A fit is a dict of arrays in a safetensors file, named by a hash of what it was made from; nothing is ever unpickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import warnings
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir_data import fetch

Fit = dict[str, NDArray[Any]]
KEPT = 8
"""Fits kept in the process."""
_kept: OrderedDict[str, Fit] = OrderedDict()


def folder() -> Path:
    """Where fits lie: ``fits`` beside the cache of fetched data."""
    return fetch.cache_folder().parent / "fits"


def fingerprint(panel: xr.Dataset, facts: Mapping[str, Any]) -> str:
    """A name for what is fitted on a panel.

    Args:
        panel: the training panel; its values, covariates, first stamp and step count.
        facts: everything else that the fit depends on, JSON-able.
    """
    stamp = str(panel["time"].values[0]) if panel.sizes["time"] else ""
    told = {**facts, "stamp": stamp, "shape": panel["y"].shape, **{key: panel.attrs.get(key) for key in ("freq", "season", "calendar")}}
    made = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for name in ("y", "known"):
        if name in panel:
            made.update(np.ascontiguousarray(panel[name].values).data)
    return made.hexdigest()[:32]


def recall(name: str, make: Callable[[], Fit]) -> Fit:
    """The fit of this name: from the process, from the disk, else made and kept.

    Args:
        name: kind and fingerprint.
        make: fits.

    Returns:
        Its arrays.
    """
    if name not in _kept:
        _kept[name] = _read(folder() / f"{name}.safetensors") or _write(folder() / f"{name}.safetensors", make())
    _kept.move_to_end(name)
    while len(_kept) > KEPT:
        _kept.popitem(last=False)
    return _kept[name]


def forget() -> None:
    """Let go of the fits in the process; those on disk stay."""
    _kept.clear()


def _read(path: Path) -> Fit | None:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        return dict(load(path.read_bytes()))
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError, ValueError) as error:
        warnings.warn(f"the fit {path} cannot be read ({error}); it is made again", stacklevel=4)
        return None


def _write(path: Path, fit: Fit) -> Fit:
    """Keep a fit on disk, whole or not at all; a disk that takes nothing is said, and costs a fit the next time."""
    from safetensors.numpy import save

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, part = tempfile.mkstemp(dir=path.parent, prefix=".part-")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(save({key: np.ascontiguousarray(value) for key, value in fit.items()}))
            os.replace(part, path)
        except BaseException:
            Path(part).unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(f"the fit could not be kept in {path.parent} ({error.strerror or error})", stacklevel=4)
    return fit
