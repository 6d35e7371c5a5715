"""The twelve leads of an ECG, of which eight are measured and four follow.

    III = II - I        aVR = -(I + II)/2        aVL = I - II/2        aVF = II - I/2
[Einthoven 1912; Goldberger 1942]
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError

INDEPENDENT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
DERIVED = ("III", "aVR", "aVL", "aVF")
LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")
"""The leads in the order in which an ECG is printed."""


def derived(first: NDArray[Any], second: NDArray[Any]) -> NDArray[Any]:
    """The four leads that follow from leads I and II.

    Args:
        first: (..., time) lead I, mV.
        second: (..., time) lead II, mV.

    Returns:
        (..., 4, time) III, aVR, aVL and aVF in mV.

    Reference: Einthoven 1912, Goldberger 1942.
    """
    return np.stack((second - first, -(first + second) / 2, first - second / 2, second - first / 2), -2)


def complete(independent: NDArray[Any]) -> NDArray[Any]:
    """All twelve leads from the eight that are independent.

    Args:
        independent: (..., 8, time) leads I, II, V1 to V6, mV.

    Returns:
        (..., 12, time) in the order of `LEADS`; the four derived ones satisfy the identities exactly.

    Raises:
        DataError: there are not eight leads.
    """
    if independent.shape[-2] != len(INDEPENDENT):
        raise DataError(f"twelve leads follow from the 8 leads {', '.join(INDEPENDENT)}; got {independent.shape[-2]}")
    limb = independent[..., :2, :]
    return np.concatenate((limb, derived(limb[..., 0, :], limb[..., 1, :]), independent[..., 2:, :]), -2)


def independent_of(leads: NDArray[Any]) -> NDArray[Any]:
    """The eight independent leads among twelve: the inverse of `complete`.

    Args:
        leads: (..., 12, time) in the order of `LEADS`.

    Returns:
        (..., 8, time).
    """
    return leads[..., [LEADS.index(lead) for lead in INDEPENDENT], :]


def residual(leads: NDArray[Any]) -> NDArray[Any]:
    """How far each derived lead is from what leads I and II say.

    Args:
        leads: (..., 12, time) in the order of `LEADS`, mV.

    Returns:
        (..., 4, time) residuals of III, aVR, aVL and aVF, mV.

    Reference: Einthoven 1912, Goldberger 1942.
    """
    four = leads[..., [LEADS.index(lead) for lead in DERIVED], :]
    return np.asarray(four - derived(leads[..., 0, :], leads[..., 1, :]))
