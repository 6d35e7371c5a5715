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


def classified(rows: Array, is_real: Array, fold: Array, trees: int) -> tuple[list[float], list[float]]:
    """Balanced accuracy and area under the ROC curve of each fold, of trees grown on the others.

    Args:
        rows: (samples, features).
        is_real: (samples,) which are real.
        fold: (samples,) fold of each.
        trees: of the classifier.

    Returns:
        One number a fold each.

    Raises:
        DataError: fewer than two folds hold both kinds.
        MissingExtra: scikit-learn is not installed.
    """
    try:
        from sklearn.ensemble import ExtraTreesClassifier
        from sklearn.metrics import roc_auc_score
    except ImportError as error:
        raise missing("the discriminative score") from error
    folds = np.intersect1d(fold[is_real], fold[~is_real])
    if len(folds) < 2:
        raise DataError("real and synthetic windows share fewer than two stretches of time: a classifier cannot be cross-validated")
    accuracy, area = [], []
    for one in folds:
        test = fold == one
        model = ExtraTreesClassifier(trees, min_samples_leaf=2, class_weight="balanced", random_state=0).fit(rows[~test], is_real[~test])
        share, kind = model.predict_proba(rows[test])[:, 1], is_real[test]
        accuracy.append(float(((share[kind] > 0.5).mean() + (share[~kind] <= 0.5).mean()) / 2))
        area.append(float(roc_auc_score(kind, share)))
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
        seen = np.isfinite(y)
        begins = np.flatnonzero(_sums(seen, length) == length) if len(y) >= length else np.zeros(0, int)
        if not len(begins):
            continue
        size = np.abs(y[seen]).mean()
        z = np.where(seen, y, 0.0) / (size if size > 0 else 1.0)  # of order 1: float32 will do
        scale = np.maximum(_sums(np.abs(z), context)[begins] / context, 0.1 if size > 0 else 1.0)
        square = _sums(z**2, length)[begins] / scale**2
        every = np.lib.stride_tricks.sliding_window_view(z.astype(np.float32), length)
        for first in range(0, len(begins), BLOCK):
            chosen = slice(first, first + BLOCK)
            gap = every[begins[chosen]] @ asked.T
            gap *= (-2 / scale[chosen, None]).astype(np.float32)
            gap += square[chosen, None].astype(np.float32)
            least = np.minimum(least, gap.min(0))
    if not np.isfinite(least).all():
        raise DataError(f"what the method saw holds no complete window of {length} steps")
    return np.asarray(np.sqrt(np.maximum(least + (windows**2).sum(1), 0.0) / length))


def _sums(values: Array, count: int) -> Array:
    """Sums of every ``count`` values in a row."""
    total = np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])
    return np.asarray(total[count:] - total[:-count])
