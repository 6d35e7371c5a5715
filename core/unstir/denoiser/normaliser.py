"""From physical units to the units of a state and back: state = (physical - shift) / scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unstir.errors import UserError


@dataclass(frozen=True)
class Normaliser:
    """An affine change of units.

    state = (physical - shift) / scale

    Args:
        shift, scale: in physical units; numbers, or nested lists that broadcast against a state without its batch, or dicts of
            these (one entry a leaf).

    Raises:
        UserError: a scale is not positive.
    """

    shift: Any = 0.0
    scale: Any = 1.0

    def __post_init__(self) -> None:
        if not _positive(self.scale):
            raise UserError(f"the scale of a normaliser must be positive, got {self.scale}")

    def encode(self, physical: Any) -> Any:
        """A state (batch, *shape) from values in physical units."""
        return self._map(physical, lambda x, shift, scale: (x - shift) / scale)

    def decode(self, state: Any) -> Any:
        """Values in physical units from a state (batch, *shape)."""
        return self._map(state, lambda x, shift, scale: x * scale + shift)

    def _map(self, x: Any, change: Any) -> Any:
        if isinstance(x, Mapping):
            return {leaf: Normaliser(_of(self.shift, leaf), _of(self.scale, leaf))._map(value, change) for leaf, value in x.items()}
        return change(x, _like(self.shift, x), _like(self.scale, x))


def _of(value: Any, leaf: str) -> Any:
    return value[leaf] if isinstance(value, Mapping) else value


def _like(value: Any, x: Any) -> Any:
    return x.new_tensor(value) if isinstance(x, Tensor) and isinstance(value, list | tuple) else value


def _positive(value: Any) -> bool:
    if isinstance(value, Mapping):
        return all(_positive(part) for part in value.values())
    if isinstance(value, list | tuple):
        return bool(value) and all(_positive(part) for part in value)
    return bool((value > 0).all()) if isinstance(value, Tensor) else value > 0
