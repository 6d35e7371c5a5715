"""Streaming: a thousand samples of 3 x 64 x 64 in memory that does not grow with their number."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from unstir import sample, stream
from unstir.denoiser import Denoiser
from unstir.process import EDM

SHAPE = (3, 64, 64)


class Shrink(Denoiser):
    """The simplest denoiser there is."""

    def __init__(self) -> None:
        super().__init__(EDM(), SHAPE)

    def forward(self, x: Any, t: Any, condition: Any = None) -> Any:
        return x * 0.1


class Peak(TorchDispatchMode):
    """The most bytes that tensors made while it is entered hold at once; a storage counts until nothing refers to it."""

    def __init__(self) -> None:
        super().__init__()
        self.held = self.most = 0
        self.known: dict[int, int] = {}

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(tensor, torch.Tensor):
                self.count(tensor.untyped_storage())
        return result

    def count(self, storage: Any) -> None:
        address = storage.data_ptr()
        if address and address not in self.known and storage.nbytes() >= 1024:
            self.known[address] = storage.nbytes()
            self.held += storage.nbytes()
            self.most = max(self.most, self.held)
            weakref.finalize(storage, self.release, address)

    def release(self, address: int) -> None:
        self.held -= self.known.pop(address, 0)


def peak(count: int, **options: Any) -> int:
    """Bytes held at most while a stream of that many samples is walked and forgotten."""
    gc.collect()
    with Peak() as watched:
        seen = 0
        for chunk in stream(Shrink(), count, grid="karras:2", batch=20, **options):
            assert chunk.x.shape == (len(chunk), *SHAPE)  # type: ignore[union-attr]
            seen += len(chunk)
            del chunk
    assert seen == count
    return watched.most


@pytest.mark.parametrize("solver", ["dpm++2m", "ancestral"])
def test_the_memory_of_a_stream_does_not_grow_with_its_length(solver: str) -> None:
    state = 20 * 3 * 64 * 64 * 4  # bytes of one chunk, float32
    few, many = peak(40, solver=solver), peak(240, solver=solver)
    assert many <= few + state // 2
    assert state < many < 12 * state  # a handful of states: the chunk, its history, its noise in float64


def test_the_measure_sees_a_stream_that_keeps_its_samples() -> None:
    gc.collect()
    with Peak() as watched:
        kept = [chunk.x for chunk in stream(Shrink(), 240, grid="karras:2", batch=20)]
    assert watched.most > 240 * 3 * 64 * 64 * 4 == sum(x.untyped_storage().nbytes() for x in kept)  # type: ignore[union-attr]


def test_a_thousand_samples_stream_in_the_memory_of_a_chunk() -> None:
    assert peak(1000) < 12 * 20 * 3 * 64 * 64 * 4


def test_a_stream_gives_the_samples_of_a_run() -> None:
    whole: Any = sample(Shrink(), 7, grid="karras:2", seed=3).x
    parts = [chunk.x for chunk in stream(Shrink(), 7, grid="karras:2", seed=3, batch=3)]
    assert torch.equal(torch.cat(parts), whole)  # type: ignore[arg-type]
