"""How much memory a piece of work takes at its peak."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")
_PERIOD = 0.02


@dataclass
class Peak:
    """What was measured: ``megabytes`` (1e6 bytes) of resident memory at the peak above the start."""

    megabytes: float = float("nan")


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure the rise of resident memory inside a ``with`` block.

    On Linux the kernel's own high-water mark, reset at the start; where it cannot be reset, a thread looks every 20 ms;
    elsewhere the process's maximum, which earlier work may hide.
    """
    peak = Peak()
    if _reset():
        before = _read("VmRSS")
        yield peak
        peak.megabytes = max(0, _read("VmHWM") - before) / 1e6
        return
    if _STATUS.exists():
        before = highest = _read("VmRSS")
        stop = threading.Event()

        def watch() -> None:
            nonlocal highest
            while not stop.wait(_PERIOD):
                highest = max(highest, _read("VmRSS"))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield peak
        finally:
            stop.set()
            watcher.join()
        peak.megabytes = max(0, max(highest, _read("VmRSS")) - before) / 1e6
        return
    start = _maximum()
    yield peak
    peak.megabytes = max(0, _maximum() - start) / 1e6


def _reset() -> bool:
    try:
        _RESET.write_text("5")
    except OSError:
        return False
    return True


def _read(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    return 0


def _maximum() -> int:
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
