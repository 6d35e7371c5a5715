"""Where a trajectory begins: the times left on the grid, the shape, the first state, the part of a condition that belongs to a chunk."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.denoiser.base import check_shape
from unstir.errors import UserError
from unstir.evaluation import Evaluation, discrete_leaves
from unstir.grid import Grid
from unstir.noise import NoiseSource
from unstir.process import Joint, Process
from unstir.state import State, batch_size, clone, combine, map_state, nonzero

Shape = tuple[int, ...] | dict[str, tuple[int, ...]]


@lru_cache(maxsize=64)
def _laid(grid: Grid, process: Process) -> tuple[Any, ...]:
    return tuple(grid.times(process))


def times_of(grid: Grid, process: Process) -> list[Any]:
    """The times of a grid on a process; remembered, if both can be."""
    try:
        return list(_laid(grid, process))
    except TypeError:  # one of them cannot be hashed
        return grid.times(process)


def cut(times: Sequence[Any], t: Any | None) -> list[Any]:
    """The times of a grid from ``t`` on, ``t`` first; all of them for ``None``.

    Args:
        times: strictly decreasing; floats, or dicts with one a leaf.
        t: time of the start, like one of ``times``.
    """
    if t is None:
        return list(times)

    def later(s: Any, begin: Any) -> bool:
        return s < begin and not math.isclose(s, begin, rel_tol=1e-9)

    if isinstance(times[0], Mapping):
        begin = dict(t) if isinstance(t, Mapping) else dict.fromkeys(times[0], float(t))
        return [begin, *(time for time in times if all(later(s, begin[leaf]) for leaf, s in time.items()))]
    return [float(t), *(s for s in times if later(s, float(t)))]


def rows_of(condition: Mapping[str, Any] | None, chosen: range, count: int, device: torch.device) -> dict[str, Any] | None:
    """The part of a condition that belongs to the chosen samples, on their device.

    Args:
        condition: tensors with ``count`` rows or 1 row, nested dicts of such, and other values, which pass through.
        chosen: indices of the samples.
        count: number of samples of the whole run.
        device: where the samples are.

    Raises:
        UserError: a tensor has another number of rows.
    """
    if condition is None:
        return None

    def part(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {inner: part(f"{key}[{inner!r}]", v) for inner, v in value.items()}
        if not isinstance(value, Tensor) or value.ndim == 0:
            return value
        if value.shape[0] not in (1, count):
            raise UserError(f"condition {key!r} must have one row a sample ({count}) or one row for all, got shape {tuple(value.shape)}")
        return (value if value.shape[0] == 1 else value[chosen.start : chosen.stop]).to(device)

    return {key: part(key, value) for key, value in condition.items()}


def shape_of(denoiser: Denoiser, condition: Mapping[str, Any] | None) -> Shape:
    """The shape of one sample; sizes that the denoiser leaves free are those of the anchor.

    Raises:
        UserError: a size is free and nothing says it.
    """
    shape, anchor = denoiser.shape, (condition or {}).get("anchor")

    def known(own: tuple[int, ...], like: Any) -> tuple[int, ...]:
        if -1 not in own:
            return own
        if isinstance(like, Tensor) and like.ndim == len(own) + 1:
            return tuple(n if n >= 0 else int(m) for n, m in zip(own, like.shape[1:], strict=True))
        raise UserError(f"the denoiser works on states of any size {own}: say which by start=(state, t) or by condition['anchor']")

    if isinstance(shape, dict):
        return {leaf: known(own, anchor.get(leaf) if isinstance(anchor, Mapping) else None) for leaf, own in shape.items()}
    return known(shape, anchor)


def unit_noise(source: NoiseSource, shape: Shape, like: Tensor, stream: str) -> State:
    """Unit normals for a state, each leaf its own stream; dtype and device of ``like``."""
    if isinstance(shape, dict):
        return {leaf: source.draw(own, like.dtype, like.device, f"{stream}/{leaf}") for leaf, own in shape.items()}
    return source.draw(shape, like.dtype, like.device, stream)


def first_state(
    denoiser: Denoiser,
    evaluation: Evaluation,
    source: NoiseSource,
    times: Sequence[Any],
    like: Tensor,
    count: int,
    start: Sequence[Any] | None,
) -> State:
    """The state at the first time, without its anchor: ``start``, or a draw of the prior there. Shares no memory with ``start``.

    Raises:
        UserError: ``start`` does not fit the denoiser or the number of samples.
    """
    if start is not None:
        x = map_state(lambda leaf: leaf.to(device=like.device, dtype=like.dtype if leaf.is_floating_point() else None), start[0])
        rows = batch_size(x)
        if rows not in (1, count):
            raise UserError(f"the state at the start must have one row a sample ({count}) or one row for all, got {rows}")
        chosen = slice(source.indices[0], source.indices[-1] + 1)
        x = map_state(lambda leaf: leaf.expand(len(source), *leaf.shape[1:]) if rows == 1 else leaf[chosen], x)
        check_shape(x, denoiser.shape, "the denoiser")
        return clone(evaluation.with_anchor(x, times[0], -1.0))
    process, shape, anchor = denoiser.process, shape_of(denoiser, evaluation.condition), (evaluation.condition or {}).get("anchor")
    whole = discrete_leaves(process)
    if isinstance(process, Joint) and whole and isinstance(shape, dict):
        return {leaf: _first_leaf(denoiser, leaf, evaluation, source, times[0], shape[leaf], like) for leaf in shape}
    if whole:
        first = process.first(source, shape, "start").to(like.device)  # type: ignore[attr-defined]
        return denoiser.space.project(first, evaluation.condition)
    if not process.scalar:
        drawn: Any = denoiser.space.draw(unit_noise(source, shape, like, "start"), evaluation.condition)  # type: ignore[arg-type]
        return process.begin(drawn, times[0])  # type: ignore[attr-defined]
    mean, std = process.prior(anchor, times[0])
    if nonzero(std):
        unit: Any = denoiser.space.draw(unit_noise(source, shape, like, "start"), evaluation.condition)  # type: ignore[arg-type]
    else:  # pinned: nothing is drawn for it
        unit = unit_noise(NoiseSource(0, ()), shape, like, "")
        unit = map_state(lambda leaf: leaf.new_zeros(len(source), *leaf.shape[1:]), unit)
    if isinstance(unit, dict):
        return evaluation.with_anchor({leaf: _around(unit[leaf], std[leaf], mean[leaf]) for leaf in unit}, times[0], -1.0)
    return evaluation.with_anchor(_around(unit, std, mean), times[0], -1.0)


def _first_leaf(
    denoiser: Denoiser, leaf: str, evaluation: Evaluation, source: NoiseSource, t: Any, shape: tuple[int, ...], like: Tensor
) -> Tensor:
    """The first state of one leaf beside discrete ones, which may not be anchored."""
    process, space = denoiser.process.leaves[leaf], denoiser.space.of(leaf)  # type: ignore[attr-defined]
    if process.discrete:
        return space.project(process.first(source, shape, f"start/{leaf}").to(like.device), evaluation.condition)
    mean, std = process.prior(None, t[leaf] if isinstance(t, Mapping) else t)
    unit = source.draw(shape, like.dtype, like.device, f"start/{leaf}")
    return _around(space.draw(unit, evaluation.condition), std, mean)


def noise_for(denoiser: Denoiser, source: NoiseSource, shape: Shape, like: Tensor, condition: Mapping[str, Any] | None) -> State:
    """A solver's draw: unit noise in the space of the state; plain unit normals in float64 for discrete leaves."""
    whole, space = discrete_leaves(denoiser.process), denoiser.space
    if not whole:
        return space.draw(unit_noise(source, shape, like, "solver"), condition)  # type: ignore[arg-type]
    wide = like.new_empty(0, dtype=torch.float64)
    if not isinstance(shape, dict):
        return unit_noise(source, shape, wide, "solver")
    drawn = {leaf: source.draw(own, (wide if leaf in whole else like).dtype, like.device, f"solver/{leaf}") for leaf, own in shape.items()}
    return {leaf: unit if leaf in whole else space.of(leaf).draw(unit, condition) for leaf, unit in drawn.items()}  # type: ignore[attr-defined]


def known_at(start: Sequence[Any] | None, chosen: range, count: int) -> dict[Any, Any]:
    """The part of a start's memory that belongs to the chosen samples.

    Args:
        start: ``(state, t)`` or ``(state, t, memory)``.
        chosen: indices of the samples.
        count: number of samples of the whole run.
    """

    def part(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: part(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [part(inner) for inner in value]
        whole = isinstance(value, Tensor) and value.ndim > 0 and value.shape[0] == count
        return value[chosen.start : chosen.stop].clone() if whole else value

    return part(start[2]) if start is not None and len(start) > 2 else {}


def _around(unit: Tensor, std: float, mean: Any) -> Tensor:
    combine(unit, float(std))
    return unit.add_(mean.to(unit)) if isinstance(mean, Tensor) else unit
