"""Exact conversions between what networks predict.

Every prediction is a mixture P = p x_0 + q eps of the clean data and the noise, and so is the state z = alpha x_0 + sigma eps:

    prediction   p              q              means
    eps          0              1              the noise
    x0           1              0              the clean data
    v            -sigma         alpha          v = alpha eps - sigma x_0             [Salimans & Ho 2022, arXiv:2202.00512]
    flow         -1             1              v = eps - x_0                         [Liu et al. 2023, arXiv:2209.03003]
    edm          sigma/(s n)    -alpha s/n     F, n = sqrt(sigma^2 + s^2 alpha^2)    [Karras et al. 2022, arXiv:2206.00364, table 1]
    score        -eps/sigma

Two mixtures give the third, P' = (d'/d) P + ((q' p - p' q)/d) z with d = p sigma - q alpha, which loses nothing except where
the prediction itself says nothing: eps and score at alpha = 0, x0 at sigma = 0 (of anything but x0).
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from unstir.errors import UnknownName, UserError

PARAMETERISATIONS = ("eps", "x0", "v", "score", "flow", "edm")


def convert(
    value: Tensor,
    source: str,
    target: str,
    z: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    sigma_data: float = 0.5,
) -> Tensor:
    """One prediction turned into another.

    Args:
        value: the prediction (batch, *shape), of kind ``source``.
        source, target: two of ``eps``, ``x0``, ``v``, ``score``, ``flow``, ``edm``.
        z: the noisy state without its anchor, alpha x_0 + sigma eps (batch, *shape).
        alpha, sigma: scales of data and noise; floats, or tensors that broadcast against ``z``.
        sigma_data: s of the ``edm`` prediction, in units of the state.

    Returns:
        The prediction of kind ``target`` (batch, *shape).

    Raises:
        UnknownName: a kind does not exist.
        UserError: ``source`` says nothing at this noise level (checked for floats).
    """
    on_value, on_state = weights(source, target, alpha, sigma, sigma_data)
    return on_value * value + on_state * z


def weights(source: str, target: str, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> tuple[Any, Any]:
    """The two numbers of a conversion: prediction' = on_value prediction + on_state z.

    Args:
        source, target: kinds of prediction.
        alpha, sigma: floats (then singular cases are refused) or tensors (then they come out infinite or NaN).
        sigma_data: s of the ``edm`` prediction.

    Returns:
        ``on_value``, ``on_state``: floats or tensors, as ``alpha`` is.

    Raises:
        UnknownName: a kind does not exist.
        UserError: the conversion is singular here.
    """
    for kind in (source, target):
        if kind not in PARAMETERISATIONS:
            raise UnknownName("parameterisation", kind, PARAMETERISATIONS)
    if source == target:
        return (1.0, 0.0) if not isinstance(alpha, Tensor) else (torch.ones_like(alpha), torch.zeros_like(alpha))
    p, q = _mixture(source, alpha, sigma, sigma_data)
    to_p, to_q = _mixture(target, alpha, sigma, sigma_data)
    exact = not isinstance(alpha, Tensor)
    determinant = p * sigma - q * alpha
    if exact and target == "x0" and q == 0 and p != 0:
        return 1 / p, 0.0  # the prediction is the clean data but for a factor, whatever the noise level
    if exact and (determinant == 0 or (target == "score" and sigma == 0)):
        raise UserError(f"{target} cannot be computed from {source} at alpha={alpha:.6g}, sigma={sigma:.6g}: {_why(source, target, alpha)}")
    on_value = (to_p * sigma - to_q * alpha) / determinant
    on_state = (to_q * p - to_p * q) / determinant
    if source == "score":
        on_value = on_value * -sigma
    if target == "score":
        on_value, on_state = -on_value / sigma, -on_state / sigma
    return on_value, on_state


def scale_in(kind: str, alpha: Any, sigma: Any, sigma_data: float = 0.5) -> Any:
    """What the state is multiplied by on its way into the network: 1/sqrt(sigma^2 + s^2 alpha^2) for ``edm``, else 1."""
    if kind != "edm":
        return 1.0 if not isinstance(alpha, Tensor) else torch.ones_like(alpha)
    norm = _hypot(sigma, sigma_data * alpha)
    if not isinstance(norm, Tensor):
        return 1 / norm if norm else 1.0  # a pinned end: the state without its anchor is 0
    return 1 / norm


def _mixture(kind: str, alpha: Any, sigma: Any, s: float) -> tuple[Any, Any]:
    """p and q of a kind; the score stands as its eps."""
    if kind == "edm":
        norm = _hypot(sigma, s * alpha)
        if not isinstance(norm, Tensor) and norm == 0:
            return 1 / s, 0.0  # the limit at a pinned end, where the noise level is infinite
        return sigma / (s * norm), -alpha * s / norm
    return {"eps": (0.0, 1.0), "score": (0.0, 1.0), "x0": (1.0, 0.0), "v": (-sigma, alpha), "flow": (-1.0, 1.0)}[kind]


def _hypot(a: Any, b: Any) -> Any:
    return torch.hypot(a, b) if isinstance(a, Tensor) else math.hypot(a, b)


def _why(source: str, target: str, alpha: float) -> str:
    if source in ("eps", "score") and alpha == 0:
        return "there is no data left in the state; use a network that predicts x0, v, flow or edm, or a process with alpha > 0"
    if source == "x0" or target == "score":
        return "there is no noise left in the state"
    return "there is neither data nor noise in the state (a pinned end); predict x0 or edm"
