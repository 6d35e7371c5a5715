"""The trace of a denoiser's Jacobian: exactly, entry by entry, or in expectation from one probe.

    tr J = sum_i e_i . J e_i = E[v . J v],      J = dD/dx,  v of independent random signs

References: Hutchinson 1989; Grathwohl et al. 2019, arXiv:1810.01367 (a probe held fixed along a trajectory keeps the equation an ODE).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.noise import NoiseSource
from unstir.operator.cg import inner
from unstir.start import unit_noise
from unstir.state import State, leaves, map_state

if TYPE_CHECKING:
    from unstir.denoiser import Denoiser

EXACT = 64  # entries of a sample up to which the exact trace is offered: it takes one vector-Jacobian product an entry


def check_divergence(divergence: str, x: State) -> None:
    """Raise unless ``divergence`` is ``"exact"`` or ``"hutchinson"``, and the samples of ``x`` are small enough for it."""
    if divergence not in ("exact", "hutchinson"):
        raise UserError(f"divergence is 'exact' or 'hutchinson', got {divergence!r}")
    size = sum(leaf[:1].numel() for leaf in leaves(x))
    if divergence == "exact" and size > EXACT:
        raise UserError(f"the exact divergence is for states of up to {EXACT} entries, and these have {size}: take 'hutchinson'")


def signs(source: NoiseSource, x: State, stream: str = "probe") -> State:
    """A probe a sample, each entry 1 or -1, keyed by seed and sample, of the structure and dtype of ``x``."""
    shape = map_state(lambda leaf: tuple(leaf.shape[1:]), x)
    drawn = unit_noise(source, shape, leaves(x)[0], stream)
    return map_state(lambda leaf: torch.where(leaf < 0, -torch.ones_like(leaf), torch.ones_like(leaf)), drawn)


def estimate_and_trace(
    denoiser: Denoiser, x: State, t: Any, condition: Mapping[str, Any] | None, probe: State | None
) -> tuple[State, dict[str, Tensor] | Tensor]:
    """The estimate, in the space of the state, and the trace of its Jacobian for each leaf: exact where there is no probe.

    Args:
        denoiser: the denoiser, guided or not.
        x: the noisy state, batch first.
        t: its time.
        condition: what the denoiser is given, batch first.
        probe: v, like ``x``, in the space; None for the exact trace.

    Returns:
        x0, without a graph, and (batch,) for each leaf.

    Raises:
        UserError: the denoiser gives no gradient.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = map_state(lambda leaf: leaf.detach().clone().requires_grad_(), x)
        x0 = denoiser.space.project(denoiser(x, t, condition), condition)  # type: ignore[arg-type]
        if not all(leaf.requires_grad for leaf in leaves(x0)):
            raise UserError("a divergence needs a denoiser that gives a gradient, and a guide that keeps it")
        if probe is None:
            traces = map_state(_exact, x0, x)
        else:
            pulled = torch.autograd.grad(leaves(x0), leaves(x), leaves(probe), allow_unused=True)
            pairs = zip(pulled, leaves(probe), strict=True)
            products = [v.new_zeros(v.shape[0]) if g is None else inner(g, v) for g, v in pairs]
            traces = dict(zip(x, products, strict=True)) if isinstance(x, dict) else products[0]
    return map_state(torch.Tensor.detach, x0), traces


def _exact(x0: Tensor, x: Tensor) -> Tensor:
    """sum_i d x0_i/d x_i, (batch,)."""
    flat, total = x0.flatten(1), x.new_zeros(x.shape[0])
    for i in range(flat.shape[1]):
        (row,) = torch.autograd.grad(flat[:, i].sum(), x, retain_graph=True, allow_unused=True)
        total = total if row is None else total + row.flatten(1)[:, i]
    return total
