"""A network of any parameterisation as a denoiser.

D(x, t) = a z + b F(c x, label),     z = x - beta y,     a, b, c from alpha(t), sigma(t) and what F predicts
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser, Shape, anchor_of, check_shape
from unstir.denoiser.convert import PARAMETERISATIONS, scale_in, weights
from unstir.denoiser.normaliser import Normaliser
from unstir.errors import UnknownName, UserError
from unstir.process import Joint, Process
from unstir.process.base import spread
from unstir.space import Space

LABEL_LEVELS = (1e-4, 1e4)  # the noise levels at which the label of ``edm`` stops, so that it is finite at both ends


class NetworkDenoiser(Denoiser):
    """A network that predicts noise, data, velocity, score, flow or EDM's F, as a denoiser.

    D = a z + b F(c x, label), exact, and finite at both ends: where sigma is 0 the state is clean and the network is not asked.

    Args:
        network: called as ``network(x, label, condition)``: x (batch, *shape), label (batch,), in the network's own dtype (label
            at least float32); for a dict state both are dicts and so is the result. It sees the state with its anchor in it;
            an ``edm`` network sees (x - beta y)/sqrt(sigma^2 + s^2 alpha^2) and finds the anchor in the condition.
        process: how the data were made noisy; a ``Joint`` for a dict state.
        parameterisation: what the network predicts, ``eps``, ``x0``, ``v``, ``score``, ``flow`` or ``edm``; a dict for a dict state
            whose leaves differ. The label is ``process.label(t)``, and log(sigma/alpha)/4 for ``edm``.
        shape: shape of one state without its batch, -1 where any size works.
        space: where states live.
        sigma_data: s of ``edm``, the standard deviation of the data in units of the state.
        normaliser: from physical units to units of the state.
        card: the model card, a text.
        context: the first and the last ``context`` channels of the state are seen and not predicted (neighbouring slices); ``shape``
            counts them and the result lacks them.

    Raises:
        UnknownName: the parameterisation does not exist.
        UserError: process, shape and parameterisation disagree about the leaves.
    """

    def __init__(
        self,
        network: torch.nn.Module,
        process: Process,
        *,
        parameterisation: str | Mapping[str, str],
        shape: Shape,
        space: Space | None = None,
        sigma_data: float = 0.5,
        normaliser: Normaliser | None = None,
        card: str | None = None,
        context: int = 0,
    ) -> None:
        super().__init__(process, shape, space, normaliser, card)
        if isinstance(process, Joint) != isinstance(shape, dict):
            raise UserError("a dict state has a joint process and a dict of shapes; any other state neither")
        leaves = tuple(shape) if isinstance(shape, dict) else ("x",)
        kinds = parameterisation if isinstance(parameterisation, Mapping) else dict.fromkeys(leaves, parameterisation)
        for kind in kinds.values():
            if kind not in PARAMETERISATIONS:
                raise UnknownName("parameterisation", kind, PARAMETERISATIONS)
        if isinstance(process, Joint) and not set(process.leaves) == set(shape) == set(kinds):
            raise UserError(f"leaves differ: process {sorted(process.leaves)}, shape {sorted(shape)}, parameterisation {sorted(kinds)}")
        if not sigma_data > 0:
            raise UserError(f"sigma_data must be positive, got {sigma_data}")
        self.network = network
        self.parameterisation = parameterisation
        self.sigma_data = float(sigma_data)
        self.context = context
        self._kinds = dict(kinds)

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """E[x_0 | x_t = x, condition]; see ``Denoiser.forward``."""
        parts = self._parts(x, t, condition)
        if all(part.clean for part in parts.values()):
            clean = {leaf: self._centre(part.z * part.on_state) for leaf, part in parts.items()}
            return clean if isinstance(x, Mapping) else clean["x"]
        values = self.network(*self._inputs(x, parts), condition)
        if not isinstance(x, Mapping):
            return self._estimate(parts["x"], values)
        return {leaf: self._estimate(part, values[leaf]) for leaf, part in parts.items()}

    def network_input(self, x: Any, t: Any, condition: Condition | None = None) -> tuple[Any, Any]:
        """What the network is given: the scaled state and the label.

        Args:
            x: noisy state (batch, *shape).
            t: a float, or a tensor (batch,).
            condition: as in ``forward``.

        Returns:
            ``(c x, label)``, dicts for a dict state; the label is (batch,).
        """
        return self._inputs(x, self._parts(x, t, condition))

    def _parts(self, x: Any, t: Any, condition: Condition | None) -> dict[str, _Part]:
        check_shape(x, self.shape, "the denoiser")
        anchor = anchor_of(condition)
        if not isinstance(self.process, Joint):
            return {"x": self._part(self.process, "x", x, t, anchor)}
        times, anchors = self.process.times(t), anchor or {}
        return {leaf: self._part(process, leaf, x[leaf], times[leaf], anchors.get(leaf)) for leaf, process in self.process.leaves.items()}

    def _part(self, process: Process, leaf: str, x: Tensor, t: Any, anchor: Tensor | None) -> _Part:
        kind = self._kinds[leaf]
        if isinstance(t, Tensor):
            alpha, sigma, beta = process.alpha(t), process.sigma(t), spread(process.beta(t), x)
            on_value, on_state = (spread(c, x) for c in weights(kind, "x0", alpha, sigma, self.sigma_data))
            on_input = spread(scale_in(kind, alpha, sigma, self.sigma_data), x)
            label, clean = _label(process, kind, t).to(x.device).expand(x.shape[0]), False
        else:
            row = _row(process, kind, float(t), self.sigma_data)
            on_value, on_state, on_input, beta, clean = row.on_value, row.on_state, row.on_input, row.beta, row.clean
            label = torch.full((x.shape[0],), row.label, dtype=torch.float64, device=x.device)
        z = x - beta * process.need(anchor) if process.anchored else x
        seen = x if kind != "edm" else z * on_input
        return _Part(z, seen, label, on_value, on_state, clean)

    def _inputs(self, x: Any, parts: dict[str, _Part]) -> tuple[Any, Any]:
        dtype = self._dtype()
        inputs = {leaf: part.seen.to(dtype or part.seen.dtype) for leaf, part in parts.items()}
        # A label in half precision could not tell step 999 from step 1000.
        labels = {leaf: part.label.to(torch.promote_types(inputs[leaf].dtype, torch.float32)) for leaf, part in parts.items()}
        return (inputs, labels) if isinstance(x, Mapping) else (inputs["x"], labels["x"])

    def _estimate(self, part: _Part, value: Tensor) -> Tensor:
        z = self._centre(part.z)
        estimate = value.to(z.dtype) * part.on_value
        if isinstance(part.on_state, Tensor):
            return estimate + part.on_state * z
        return estimate.add_(z, alpha=part.on_state) if part.on_state else estimate

    def _centre(self, z: Tensor) -> Tensor:
        return z[:, self.context : z.shape[1] - self.context] if self.context else z

    def _dtype(self) -> torch.dtype | None:
        """The dtype of the network's parameters; None when it has none."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), None)


@dataclass
class _Part:
    """One leaf on its way through the network."""

    z: Tensor
    seen: Tensor
    label: Tensor
    on_value: Any
    on_state: Any
    clean: bool


@dataclass(frozen=True)
class _Row:
    """The coefficients of one time, on the host."""

    on_value: float
    on_state: float
    on_input: float
    beta: float
    label: float
    clean: bool


@lru_cache(maxsize=4096)
def _row(process: Process, kind: str, t: float, sigma_data: float) -> _Row:
    alpha, beta, sigma = float(process.alpha(t)), float(process.beta(t)), float(process.sigma(t))
    on_input = scale_in(kind, alpha, sigma, sigma_data)
    if sigma == 0 and alpha > 0:
        # Another leaf may still be noisy: the network is then told the earliest time it knows.
        return _Row(0.0, 1 / alpha, on_input, beta, float(_label(process, kind, process.t_min)), True)
    on_value, on_state = weights(kind, "x0", alpha, sigma, sigma_data)
    return _Row(on_value, on_state, on_input, beta, float(_label(process, kind, t)), False)


def _label(process: Process, kind: str, t: float | Tensor) -> Tensor:
    if kind != "edm":
        return process.label(t)
    low, high = LABEL_LEVELS
    return torch.log(process.rho(t)).clamp(math.log(low), math.log(high)) / 4
