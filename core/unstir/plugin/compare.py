"""Looking into what crosses a plugin's border: are its numbers finite, are two of them the same bits?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def is_finite(data: Any) -> bool:
    """Is every number in ``data`` finite? Looks into xarray, pandas, numpy, torch, dicts and sequences; other objects count as finite."""
    if isinstance(data, float | complex):
        return math.isfinite(abs(data))
    return all(_all_finite(array) for array in _arrays(data))


def same(a: Any, b: Any) -> bool:
    """Are ``a`` and ``b`` the same bits? Looks where ``is_finite`` looks; other objects are compared by ``==``."""
    left, right = list(_arrays(a)), list(_arrays(b))
    if not left and not right:
        return bool(a == b)
    return len(left) == len(right) and all(
        x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes() for x, y in zip(left, right, strict=True)
    )


def _all_finite(array: Any) -> bool:
    import numpy

    return not numpy.issubdtype(array.dtype, numpy.inexact) or bool(numpy.isfinite(array).all())


def _arrays(data: Any) -> Iterator[Any]:
    import numpy

    if isinstance(data, Mapping):  # an xarray.Dataset too
        for key in data:
            yield from _arrays(data[key])
    elif hasattr(data, "detach"):
        yield data.detach().cpu().numpy()
    elif hasattr(data, "to_numpy"):
        array = data.to_numpy()
        yield array if array.dtype != object else numpy.asarray([repr(value) for value in array.ravel()])
    elif isinstance(data, numpy.ndarray | numpy.generic):
        yield numpy.asarray(data)
    elif isinstance(data, list | tuple):
        for item in data:
            yield from _arrays(item)
