"""States: a tensor, batch first, or a dict of such tensors (leaves), and the few operations a solver needs on them.

    combine(out, a, (c_1, y_1), ...):   out <- a out + sum_j c_j y_j      one pass over memory per non-trivial term

A coefficient is a number, the same for every leaf, or a dict with a number per leaf (a joint process).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

State = Tensor | dict[str, Tensor]
Coefficient = float | dict[str, float]


def map_state(function: Callable[..., Any], *states: Any) -> Any:
    """Apply a function to each leaf of states of one structure.

    Args:
        function: takes one tensor per state.
        *states: tensors, or dicts with the same keys.

    Returns:
        What the function gave: itself for tensors, a dict of it for dicts.

    Raises:
        ValueError: the states differ in structure.
    """
    if not isinstance(states[0], dict):
        if any(isinstance(state, dict) for state in states[1:]):
            raise ValueError("states differ in structure: one is a tensor, another a dict of leaves")
        return function(*states)
    for state in states[1:]:
        if not isinstance(state, dict) or state.keys() != states[0].keys():
            raise ValueError(f"states differ in structure: the first has leaves {sorted(states[0])}")
    return {leaf: function(*(state[leaf] for state in states)) for leaf in states[0]}


def leaves(state: State) -> list[Tensor]:
    """The tensors of a state, in order."""
    return list(state.values()) if isinstance(state, dict) else [state]


def nonzero(coefficient: Coefficient) -> bool:
    """Does a coefficient contribute to any leaf?"""
    return any(coefficient.values()) if isinstance(coefficient, dict) else coefficient != 0


def combine(out: State, a: Coefficient, *terms: tuple[Coefficient, State]) -> State:
    """Write a linear combination over a state, in place: ``out = a out + sum_j c_j y_j``.

    One pass per term; ``a = 1`` and every ``c_j = 0`` cost nothing, and with ``a = 0`` the old content is not read.

    Args:
        out: the state to overwrite, leaves ``(batch, ...)``.
        a: its own coefficient.
        *terms: pairs ``(c_j, y_j)`` of a coefficient and a state of the same structure, dtype and device; no ``y_j`` shares memory
            with ``out``.

    Returns:
        ``out``.
    """
    if isinstance(out, dict):
        for leaf, tensor in out.items():
            _combine(tensor, _of(a, leaf), [(_of(c, leaf), y[leaf]) for c, y in terms])  # type: ignore[call-overload, index]
    else:
        _combine(out, a, terms)  # type: ignore[arg-type]
    return out


def _of(coefficient: Coefficient, leaf: str) -> float:
    return coefficient[leaf] if isinstance(coefficient, dict) else coefficient


def _combine(out: Tensor, a: float, terms: Sequence[tuple[float, Tensor]]) -> None:
    fresh = a == 0
    if not fresh and a != 1:
        out.mul_(a)
    for c, y in terms:
        if c == 0:
            continue
        if not fresh:
            out.add_(y, alpha=c)
        elif c == 1:
            out.copy_(y)
        else:
            torch.mul(y, c, out=out)
        fresh = False
    if fresh:
        out.zero_()


def shifted(out: State, y: State, p: Coefficient, x: State) -> State:
    """Write ``out = y + p x`` in one pass (a copy of ``y`` where ``p = 0``), allocating nothing.

    Returns:
        ``out``.
    """
    if isinstance(out, dict):
        for leaf, tensor in out.items():
            _shifted(tensor, y[leaf], _of(p, leaf), x[leaf])  # type: ignore[call-overload, index]
    else:
        _shifted(out, y, p, x)  # type: ignore[arg-type]
    return out


def _shifted(out: Tensor, y: Tensor, p: float, x: Tensor) -> None:
    if p == 0:
        out.copy_(y)
    else:
        torch.add(y, x, alpha=p, out=out)


def empty_like(state: State) -> State:
    """An uninitialised state of the same leaves, shapes, dtype and device."""
    return map_state(torch.empty_like, state)


def clone(state: State) -> State:
    """A copy of a state that shares no memory with it."""
    return map_state(torch.clone, state)


def batch_size(state: State) -> int:
    """Number of samples in a state.

    Raises:
        ValueError: the leaves differ in batch size, or a leaf has no batch axis.
    """
    sizes = {leaf.shape[0] if leaf.ndim else -1 for leaf in leaves(state)}
    if len(sizes) != 1 or -1 in sizes:
        shapes = [tuple(leaf.shape) for leaf in leaves(state)]
        raise ValueError(f"a state needs one batch size, first axis of every leaf; got shapes {shapes}")
    return sizes.pop()


def take(state: State, indices: Any) -> State:
    """The samples of a state at ``indices`` (a slice, an int sequence or an index tensor), structure kept."""
    return map_state(lambda leaf: leaf[indices], state)


def cat(states: Sequence[State]) -> State:
    """Join states along the batch."""
    return map_state(lambda *parts: parts[0] if len(parts) == 1 else torch.cat(parts), *states)


def is_finite(state: State) -> Tensor:
    """Which samples are finite in every entry of every leaf.

    Returns:
        bool tensor ``(batch,)`` on the state's device.
    """
    per_leaf = [torch.isfinite(leaf).flatten(1).all(dim=1) if leaf.ndim > 1 else torch.isfinite(leaf) for leaf in leaves(state)]
    result = per_leaf[0]
    for other in per_leaf[1:]:
        result = result & other
    return result


def followed(value: Any, index: Tensor, count: int) -> Any:
    """What belongs to samples, after some took the place of others: tensors with one row a sample at ``index``, the rest as it is.

    Args:
        value: a tensor, or lists and dicts of such; anything else passes.
        index: (count,) long.
        count: number of samples.
    """
    if isinstance(value, Tensor):
        return value[index] if value.ndim and value.shape[0] == count else value
    if isinstance(value, dict):
        return {key: followed(item, index, count) for key, item in value.items()}
    if isinstance(value, list):
        return [followed(item, index, count) for item in value]
    return value
