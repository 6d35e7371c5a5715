"""A small prior over a large field: overlapping tiles, blended at every evaluation.

    D(x, t) = sum_k w_k(place) D_small(x on tile k, t, condition of tile k),      sum_k w_k = 1 at every place

The noise of the field is one, so tiles agree where they overlap; a tile sees nothing beyond its edge, which the weights fade out.
Reference: Jimenez 2023 (mixture of diffusers), arXiv:2302.02412; Bar-Tal et al. 2023 (MultiDiffusion), arXiv:2302.08113.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce
from itertools import product
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser, check_shape
from unstir.errors import UserError

Fade = Literal["gaussian", "linear", "flat"]


class Tiled(Denoiser):
    """A field's denoiser from the denoiser of a window; one evaluation is as many of the window as there are tiles.

    Entries of the condition whose last axes are the field's are cut with it; those named in ``per_tile`` have a row a tile; others are
    given to every tile as they are. Biased: the exact estimate of a place would see the whole field.

    Args:
        prior: a denoiser of (batch, *channels, *window).
        window: sizes of a tile along the last axes.
        overlap: of neighbouring tiles, one number or one an axis; the last tile of an axis overlaps more where the sizes ask for it. At
            least the reach of the data's correlation, for seams not to show; 0 shows them.
        shape: of the field, (*channels, *cells), -1 where any size works; any cells when absent.
        fade: of a tile's weight towards its edge: ``"gaussian"`` (as published, its standard deviation a tenth of the window),
            ``"linear"`` or ``"flat"``, which shows seams.
        per_tile: names of entries of the condition with an axis of tiles after the batch, (1 or batch, tiles, ...), in the order of
            :meth:`corners`.
        chunk: windows that go through the prior at once, at least a tile of every sample.

    Raises:
        UserError: a window, overlap, fade or chunk that makes no sense, or a prior of another window.
    """

    def __init__(
        self,
        prior: Denoiser,
        window: Sequence[int],
        overlap: int | Sequence[int],
        shape: tuple[int, ...] | None = None,
        fade: Fade = "gaussian",
        *,
        per_tile: Sequence[str] = (),
        chunk: int = 64,
    ) -> None:
        window = tuple(window)
        overlaps = (overlap,) * len(window) if isinstance(overlap, int) else tuple(overlap)
        own, rank = prior.shape, len(window)
        if isinstance(own, Mapping) or len(own) < rank or any(a not in (-1, b) for a, b in zip(own[-rank:], window, strict=True)):
            raise UserError(f"the prior takes states of {own}, which do not end in windows of {window}")
        if len(overlaps) != rank or not all(0 <= o < w for o, w in zip(overlaps, window, strict=True)):
            raise UserError(f"an overlap lies between 0 and its window, one an axis, got {overlap} for windows of {window}")
        if fade not in get_args(Fade) or chunk < 1:
            raise UserError(f"fade is 'gaussian', 'linear' or 'flat' and chunk at least 1, got {fade!r} and {chunk}")
        super().__init__(prior.process, shape or (*own[:-rank], *(-1,) * rank), None, prior.normaliser, prior.card)
        self.prior, self.window, self.overlaps, self.fade, self.chunk = prior, window, overlaps, fade, chunk
        self.per_tile = tuple(per_tile)

    def forward(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """E[x_0 | x_t = x], each place by the tiles that hold it."""
        check_shape(x, self.shape, "the tiled denoiser")
        cells = tuple(x.shape[-len(self.window) :])
        corners, weight = self.corners(cells), self.weight().to(x)
        total, share = torch.zeros_like(x), torch.zeros(cells, dtype=x.dtype, device=x.device)
        at_once = max(self.chunk // max(len(x), 1), 1)
        for first in range(0, len(corners), at_once):
            chosen = range(first, min(first + at_once, len(corners)))
            places = [self._place(corners[k]) for k in chosen]
            given = [self._condition(condition, cells, k, place, len(x)) for k, place in zip(chosen, places, strict=True)]
            time = t.repeat(len(chosen)) if isinstance(t, Tensor) and t.ndim else t
            parts = self.prior(torch.cat([x[place] for place in places]), time, _joined(given)).chunk(len(chosen))
            for place, part in zip(places, parts, strict=True):
                total[place] += weight * part
                share[place] += weight
        return total / share

    def with_process(self, process: Any) -> Denoiser:
        """The same tiles with the prior moved to another process."""
        options: dict[str, Any] = {"per_tile": self.per_tile, "chunk": self.chunk}
        return Tiled(self.prior.with_process(process), self.window, self.overlaps, self.shape, self.fade, **options)  # type: ignore[arg-type]

    def corners(self, cells: Sequence[int]) -> list[tuple[int, ...]]:
        """Where the tiles begin, the last axis running fastest.

        Args:
            cells: sizes of the field along the axes of the window.

        Returns:
            One corner a tile.

        Raises:
            UserError: a field smaller than a window.
        """
        if len(cells) != len(self.window) or any(n < w for n, w in zip(cells, self.window, strict=True)):
            raise UserError(f"a field of {tuple(cells)} holds no tile of {self.window}")
        starts = []
        for size, window, overlap in zip(cells, self.window, self.overlaps, strict=True):
            starts.append(sorted({*range(0, size - window, window - overlap), size - window}))
        return list(product(*starts))

    def weight(self) -> Tensor:
        """The weight of a tile over its window, before they are scaled to sum to 1 at every place."""
        return reduce(lambda a, b: a[..., None] * b, [self._fading(window) for window in self.window])

    def _fading(self, window: int) -> Tensor:
        place = (torch.arange(window, dtype=torch.float64) + 0.5) / window * 2 - 1
        if self.fade == "flat":
            return torch.ones_like(place)
        return 1 - place.abs() if self.fade == "linear" else torch.exp(-12.5 * place.square())

    def _place(self, corner: tuple[int, ...]) -> tuple[Any, ...]:
        return (..., *(slice(start, start + size) for start, size in zip(corner, self.window, strict=True)))

    def _condition(
        self, condition: Condition | None, cells: tuple[int, ...], tile: int, place: tuple[Any, ...], batch: int
    ) -> dict[str, Any] | None:
        """What a tile is told."""
        if condition is None:
            return None
        told = {}
        for name, value in condition.items():
            if name in self.per_tile:
                value = value[:, tile]
            elif isinstance(value, Tensor) and value.ndim > len(cells) and tuple(value.shape[-len(cells) :]) == cells:
                value = value[place]
            told[name] = value.expand(batch, *value.shape[1:]) if isinstance(value, Tensor) and value.ndim else value
        return told


def _joined(given: list[dict[str, Any] | None]) -> dict[str, Any] | None:
    """The conditions of several tiles, one after the other, as one."""
    first = given[0]
    if first is None:
        return None
    rows: list[Any] = given

    def every(name: str, value: Any) -> Any:
        return torch.cat([told[name] for told in rows]) if isinstance(value, Tensor) and value.ndim else value

    return {name: every(name, value) for name, value in first.items()}
