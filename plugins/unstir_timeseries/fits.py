"""Fitted baselines, kept: in the process, and in the user's cache folder, so that the windows of a run and a resumed run fit once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr

from unstir.plugin import kept
from unstir.plugin.kept import Arrays, Shelf
from unstir_data import fetch

Fit = Arrays


def folder() -> Path:
    """Where fits lie: ``fits`` beside the cache of fetched data."""
    return fetch.cache_folder().parent / "fits"


_shelf = Shelf(lambda: folder(), "fit")


def fingerprint(panel: xr.Dataset, facts: Mapping[str, Any]) -> str:
    """A name for what is fitted on a panel.

    Args:
        panel: the training panel; its values, covariates, first stamp and step count.
        facts: everything else that the fit depends on, JSON-able.
    """
    stamp = str(panel["time"].values[0]) if panel.sizes["time"] else ""
    told = {**facts, "stamp": stamp, "shape": panel["y"].shape, **{key: panel.attrs.get(key) for key in ("freq", "season", "calendar")}}
    return kept.fingerprint(told, *(panel[name].values for name in ("y", "known") if name in panel))


def recall(name: str, make: Callable[[], Fit]) -> Fit:
    """The fit of this name: from the process, from the disk, else made and kept.

    Args:
        name: kind and fingerprint.
        make: fits.

    Returns:
        Its arrays.
    """
    return _shelf.of(name, make)


def forget() -> None:
    """Let go of the fits in the process; those on disk stay."""
    _shelf.forget()
