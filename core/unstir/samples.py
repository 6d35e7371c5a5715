"""What sampling gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstir.state import State, batch_size, cat, map_state, take


@dataclass
class Samples:
    """What sampling gave; converts to an array of ``x``.

    Attributes:
        x: the samples, a tensor ``(count, *shape)`` or a dict of such leaves, in units of the state.
        nfe: evaluations of the denoiser that one sample took, counted, guides included.
        times: the times of the grid, first to last.
        path: with ``trace``, the state at each of these times.
        estimates: with ``trace``, the last clean estimate of each step.
        info: what steers reported, by name: tensors with one row a sample, or one a problem.
    """

    x: State
    nfe: int
    times: list[Any]
    path: list[State] | None = field(default=None, repr=False)
    estimates: list[State] | None = field(default=None, repr=False)
    info: dict[str, Tensor] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return batch_size(self.x)

    def __getitem__(self, index: Any) -> State:
        return take(self.x, index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if isinstance(self.x, dict):
            raise TypeError(f"samples have leaves {sorted(self.x)}; take one, samples.x[leaf]")
        return np.asarray(self.x.detach().cpu().numpy(), dtype=dtype)


def joined(chunks: Sequence[Samples]) -> Samples:
    """The samples of several chunks of one run, as one."""
    first = chunks[0]
    if len(chunks) == 1:
        return first

    def each(name: str) -> list[State] | None:
        states = [getattr(chunk, name) for chunk in chunks]
        return None if states[0] is None else [cat(step) for step in zip(*states, strict=True)]

    nfe = max(chunk.nfe for chunk in chunks)
    info = {name: torch.cat([chunk.info[name] for chunk in chunks]) for name in first.info}
    return Samples(cat([chunk.x for chunk in chunks]), nfe, first.times, each("path"), each("estimates"), info)


def plain(state: State) -> State:
    """The state as tensors that automatic differentiation accepts, which those made in inference mode are not."""
    return map_state(lambda leaf: leaf.clone() if leaf.is_inference() else leaf, state)
