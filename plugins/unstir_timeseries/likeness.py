"""Functions of windows that say how alike two sets of them are: a ridge, a classifier, second moments, nearest neighbours.

    r_k = sum (x_t - m)(x_{t+k} - m) / sum (x_t - m)^2,        P_f = |DFT_f|^2 / L,        d(x) = min over seen windows w of rms(x - w)

Reference: Geurts et al. 2006 (extremely randomised trees); Meehan et al. 2020 (data copying), arXiv:2004.05675.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra

Array = NDArray[Any]
BLOCK = 20000  # seen windows compared at a time


def ridge_predictions(windows: Array, contexts: Array) -> Array:
    """Horizons that ridge regression (scikit-learn's defaults: alpha 1, an intercept) predicts.

    Args:
        windows: (samples, C + H) to learn on.
        contexts: (rows, C) to predict from.

    Returns:
        (rows, H).

    Raises:
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.linear_model import Ridge
    except ImportError as error:
        raise missing("the linear predictive score") from error
    count = contexts.shape[1]
    return np.asarray(Ridge(alpha=1.0).fit(windows[:, :count], windows[:, count:]).predict(contexts))


def missing(what: str) -> MissingExtra:
    """The sentence for an environment without scikit-learn.

    Args:
        what: needs it.
    """
    return MissingExtra(f"{what} needs scikit-learn: pip install 'unstir[timeseries]'")


def classified(real: Array, synthetic: Array, fold: Array, trees: int) -> tuple[list[float], list[float]]:
    """Accuracy and area under the curve of each fold, the two classes in balance.

    Args:
        real: (samples, features).
        synthetic: (samples, features), as many.
        fold: (samples,) fold of each real row; synthetic rows take the same folds in order.
        trees: of the classifier.

    Returns:
        One number a fold each.

    Raises:
        DataError: all windows are in one fold.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise missing("the discriminative score") from error
    folds = np.unique(fold)
    if len(folds) < 2:
        raise DataError("the discriminative score needs held-out windows of at least two series or two origins")
    rows, kind, fold = np.concatenate([real, synthetic]), np.repeat([1, 0], len(real)), np.concatenate([fold, fold])
    accuracy, area = [], []
    for one in folds:
        model = ExtraTreesClassifier(trees, min_samples_leaf=2, random_state=0).fit(rows[fold != one], kind[fold != one])
        share = model.predict_proba(rows[fold == one])[:, 1]
        accuracy.append(float(((share > 0.5) == kind[fold == one]).mean()))
        area.append(float(roc_auc_score(kind[fold == one], share)))
    return accuracy, area


def autocorrelation(windows: Array, lags: int) -> Array:
    """Autocorrelations of windows at lags 1, 2...: sum (x_t - m)(x_{t+k} - m) / sum (x_t - m)^2, m the window's mean.

    Args:
        windows: (samples, steps).
        lags: how many, fewer than steps.

    Returns:
        (samples, lags); 0 for a constant window.
    """
    steps = windows.shape[1]
    centred = windows - windows.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred, 2 * steps, axis=1)) ** 2
    products = np.fft.irfft(power, 2 * steps, axis=1)[:, : lags + 1]
    size = products[:, :1]
    return np.where(size > 1e-12, products[:, 1:] / np.where(size > 1e-12, size, 1.0), 0.0)


def log_periodogram(windows: Array) -> Array:
    """10 log10 of |DFT|^2 / steps at the frequencies 1/L, 2/L ... 1/2 a step, at least -120 dB.

    Args:
        windows: (samples, L).

    Returns:
        (samples, L // 2) dB.
    """
    power = np.abs(np.fft.rfft(windows, axis=1)[:, 1:]) ** 2 / windows.shape[1]
    return 10 * np.log10(np.maximum(power, 1e-12))


def nearest_seen(windows: Array, panel: xr.Dataset, context: int) -> Array:
    """Root mean square difference to the nearest complete window of a panel, each scaled by its own context, at every step of every series.

    Args:
        windows: (samples, C + H) in units of their context.
        panel: dims (item, time).
        context: C.

    Returns:
        (samples,) in units of the context.

    Raises:
        DataError: the panel holds no complete window.
    """
    length, asked = windows.shape[1], windows.astype(np.float32)
    least = np.full(len(windows), np.inf)
    for y in panel["y"].values:
        if len(y) < length or not np.isfinite(y).any():
            continue
        every = np.lib.stride_tricks.sliding_window_view(y, length)
        size = np.nanmean(np.abs(y))
        for first in range(0, len(every), BLOCK):
            rows = every[first : first + BLOCK]
            rows = rows[np.isfinite(rows).all(1)]
            scale = np.maximum(np.abs(rows[:, :context]).mean(1), 0.1 * size)
            rows = (rows / np.where(scale > 0, scale, 1.0)[:, None]).astype(np.float32)
            if len(rows):
                square = (rows**2).sum(1)[:, None] - 2 * rows @ asked.T
                least = np.minimum(least, square.min(0).astype(np.float64))
    if not np.isfinite(least).all():
        raise DataError(f"what the method saw holds no complete window of {length} steps")
    return np.sqrt(np.maximum(least + (windows**2).sum(1), 0.0) / length)
