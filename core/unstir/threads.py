"""How many threads torch works on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """One thread of torch while inside, as before after it.

    Tensors of a few numbers are slower on several threads, by tens of times where other work runs; and sums do not depend on the machine's
    cores.
    """
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
