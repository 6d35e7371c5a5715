"""What several tests of the plugin share: a cache of their own, and rows as forecasters have them."""

import numpy as np
import pandas as pd
import pytest

from unstir_timeseries import fits


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Fits of a test are its own: the folder of its cache."""
    monkeypatch.setenv("UNSTIR_CACHE", str(tmp_path))
    fits.forget()
    yield tmp_path
    fits.forget()


def rows(steps=300, freq="h", names=("a", "b")):
    rng = np.random.default_rng(0)
    stamps = pd.date_range("2024-01-01", periods=steps, freq=freq)
    return pd.concat([pd.DataFrame({"unique_id": name, "ds": stamps, "y": rng.gamma(4.0, size=steps)}) for name in names])


@pytest.fixture
def table():
    """``table(steps, freq, names)``: series in long form."""
    return rows
