"""Slopes of scores: of every leaf of a state, and in the space where the state lives.

    x0 <- x0 + (sigma^2/alpha) S S^T grad_x s,      noise of the space: S z, z unit normal

An edge of a symmetric matrix is two entries of the state and one number: S S^T adds the slopes of both, where a plain projection would
give half of it. In Euclidean space S is the identity.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from unstir.process import Joint, Process
from unstir.space import Euclidean, JointSpace, Space
from unstir.state import State, leaves, map_state


def value_and_slope(function: Callable[[Any], Tensor], x: State) -> tuple[Tensor, State]:
    """A function of each sample and its gradient, neither with a graph.

    Args:
        function: of states, each sample on its own; gives (batch,).
        x: where, leaves of real numbers.

    Returns:
        (batch,), and a state like ``x``; 0 in leaves that the function does not look at.
    """
    with torch.inference_mode(False), torch.enable_grad():
        x = map_state(lambda leaf: leaf.detach().clone().requires_grad_(), x)
        value = function(x)
        return value.detach(), slope(value, x)


def slope(value: Tensor, x: State) -> State:
    """The gradient of the sum of a value in a state that requires one.

    Args:
        value: (batch,), with a graph or without one.
        x: leaves that require a gradient.

    Returns:
        A state like ``x``; 0 in leaves that the value does not depend on.
    """
    parts = leaves(x)
    if not value.requires_grad:
        return map_state(torch.zeros_like, x)
    found = torch.autograd.grad(value.sum(), parts, allow_unused=True)
    whole = [torch.zeros_like(part) if one is None else one for part, one in zip(parts, found, strict=True)]
    return dict(zip(x, whole, strict=True)) if isinstance(x, dict) else whole[0]


def in_space(space: Space, gradient: State, condition: Mapping[str, Any] | None) -> State:
    """S S^T times a gradient, S z being the noise of the space.

    Args:
        space: where the state lives.
        gradient: like the state.
        condition: what the space reads (a mask).

    Returns:
        A state of the space; the gradient itself in Euclidean ones.
    """
    if isinstance(space, JointSpace) and isinstance(gradient, dict):
        return {leaf: in_space(space.of(leaf), value, condition) for leaf, value in gradient.items()}  # type: ignore[misc]
    if isinstance(space, Euclidean) or not isinstance(gradient, Tensor):
        return gradient
    with torch.inference_mode(False), torch.enable_grad():
        unit = torch.zeros_like(gradient).requires_grad_()
        (pulled,) = torch.autograd.grad(space.draw(unit, condition), unit, gradient.clone())
    return space.draw(pulled, condition)


def each_leaf(function: Callable[..., Tensor], process: Process, t: Any, *states: Any) -> Any:
    """``function(process, t, *leaves)`` of every leaf, each with its own process and time.

    Args:
        function: of one leaf.
        process: joint for dict states.
        t: a time, or one a leaf.
        *states: of one structure.
    """
    if not isinstance(states[0], dict):
        return function(process, t, *states)
    assert isinstance(process, Joint)
    times = process.times(t)
    return {leaf: function(own, times[leaf], *(state[leaf] for state in states)) for leaf, own in process.leaves.items()}
