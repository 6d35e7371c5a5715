"""Noise that depends on (seed, index of the sample, stream, draw) and on nothing else.

    key = blake2b-128(seed, index, stream, draw);      z = ziggurat normals of Philox4x64-10(key), in float64, then rounded

A sample's noise is the same in any batch, order, process and machine, for CPU and accelerator: it is drawn on the host and moved.
Why this and not re-seeded torch generators: ``docs/decisions/001-per-sample-noise.md``.
Reference: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3".
"""

from __future__ import annotations

import hashlib
import struct
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unstir.errors import UserError


class NoiseSource:
    """Unit normal noise for a range of samples, counted per stream.

    Args:
        seed: any integer; all of its bits matter (seeds 1 and 1 + 2**32 differ).
        indices: the index of each sample of the batch; sample ``i`` of a long run has the same index in every chunk.

    Raises:
        UserError: the seed is not an integer, or an index is negative.

    Example:
        >>> source = NoiseSource(seed=0, indices=range(4))
        >>> source.draw((3, 32, 32)).shape
        torch.Size([4, 3, 32, 32])
    """

    def __init__(self, seed: int, indices: Iterable[int]) -> None:
        if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)):
            raise UserError(f"seed must be an integer, got {seed!r}")
        self.seed, self.indices = int(seed), [int(index) for index in indices]
        if any(index < 0 for index in self.indices):
            raise UserError(f"indices of samples must not be negative, got {min(self.indices)}")
        self._draws: Counter[str] = Counter()
        self._generator: np.random.Generator | None = None

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def draws(self) -> int:
        """How many draws were made, over all streams."""
        return sum(self._draws.values())

    def draw(
        self,
        shape: Sequence[int],
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        stream: str = "",
    ) -> Tensor:
        """Draw unit normals for every sample, and count the draw.

        Args:
            shape: shape of one sample, without the batch.
            dtype: a floating dtype; narrower dtypes get the same numbers, rounded.
            device: where the result goes; the numbers do not depend on it.
            stream: independent sequences of draws have different names.

        Returns:
            Tensor ``(len(indices), *shape)``.
        """
        unit = np.empty((len(self.indices), *shape))
        if self.indices:
            generator, state = self.generator(self.indices[0], stream), _state(np.zeros(2, np.uint64))
            for row, key in zip(unit, _keys(self.seed, self.indices, stream, self._draws[stream]), strict=True):
                state["state"]["key"] = key
                generator.bit_generator.state = state
                generator.standard_normal(out=row)
        self._draws[stream] += 1
        return torch.from_numpy(unit).to(device=device, dtype=dtype)

    def generator(self, index: int, stream: str = "") -> np.random.Generator:
        """The numpy generator of one sample at the stream's present draw, at its beginning; valid until the next call.

        For other laws than the normal (categorical, Poisson): draw for every index, then call :meth:`advance`.
        """
        if self._generator is None:
            self._generator = np.random.Generator(np.random.Philox(0))
        self._generator.bit_generator.state = _state(_key(self.seed, index, stream, self._draws[stream]))
        return self._generator

    def advance(self, stream: str = "") -> None:
        """Count a draw made through :meth:`generator`."""
        self._draws[stream] += 1


def _key(seed: int, index: int, stream: str, draw: int) -> np.ndarray:
    return _keys(seed, [index], stream, draw)[0]


def _keys(seed: int, indices: Sequence[int], stream: str, draw: int) -> np.ndarray:
    """The 128-bit Philox key of each index, two uint64; every field has its own place or length, so no two tuples give one message."""
    seed_bytes = seed.to_bytes(seed.bit_length() // 8 + 1, "little", signed=True)
    tail = struct.pack("<QQ", draw, len(seed_bytes)) + seed_bytes + stream.encode()
    found = b"".join([hashlib.blake2b(struct.pack("<Q", index) + tail, digest_size=16).digest() for index in indices])
    return np.frombuffer(found, dtype="<u8").astype(np.uint64).reshape(-1, 2)


def _state(key: np.ndarray) -> dict[str, Any]:
    zeros = np.zeros(4, np.uint64)
    return {
        "bit_generator": "Philox",
        "state": {"counter": zeros, "key": key},
        "buffer": zeros,
        "buffer_pos": 4,
        "has_uint32": 0,
        "uinteger": 0,
    }
