"""What a person sees while a run works: a title, one line a method with a bar, jobs done and time left."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any


class Silent:
    """Shows nothing."""

    def start(self, title: str, totals: Mapping[str, int], done: Mapping[str, int]) -> None:
        """A run begins: jobs in all and jobs that were done before, by label."""

    def step(self, label: str, job: str, step: int, steps: int) -> None:
        """A job has come so far."""

    def ended(self, label: str, job: str, seconds: float) -> None:
        """A job has ended."""

    def say(self, text: str) -> None:
        """A sentence for the person."""

    def stop(self) -> None:
        """The run is over."""


class Bars(Silent):
    """Bars on a terminal (standard error), by rich."""

    def __init__(self, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self.console = console or Console(stderr=True, highlight=False)
        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[clock]}"),
        )
        self._progress = Progress(*columns, console=self.console, refresh_per_second=5)
        self._tasks: dict[str, Any] = {}
        self._totals: dict[str, int] = {}
        self._done: dict[str, int] = {}
        self._fresh: dict[str, int] = {}
        self._running: dict[str, dict[str, tuple[float, float]]] = {}
        self._spent: dict[str, float] = {}

    def start(self, title: str, totals: Mapping[str, int], done: Mapping[str, int]) -> None:
        """Print the title and draw an empty bar a method."""
        self.console.print(title, style="bold")
        width = max((len(label) for label in totals), default=0)
        for label, total in totals.items():
            self._totals[label], self._done[label] = total, done.get(label, 0)
            self._fresh[label], self._spent[label], self._running[label] = 0, 0.0, {}
            self._tasks[label] = self._progress.add_task(f"{label:<{width}}", total=total, completed=self._done[label], count="", clock="")
            self._draw(label)
        self._progress.start()

    def step(self, label: str, job: str, step: int, steps: int) -> None:
        """Move a bar inside a job."""
        began = self._running[label].get(job, (time.monotonic(), 0.0))[0]
        self._running[label][job] = (began, min(1.0, step / steps) if steps else 0.0)
        self._draw(label)

    def ended(self, label: str, job: str, seconds: float) -> None:
        """Count a job."""
        self._running[label].pop(job, None)
        self._done[label] += 1
        self._fresh[label] += 1
        self._spent[label] += seconds
        self._draw(label)

    def say(self, text: str) -> None:
        """Print above the bars."""
        self.console.print(text)

    def stop(self) -> None:
        """Leave the bars as they are."""
        self._progress.stop()

    def _draw(self, label: str) -> None:
        inside = sum(part for _, part in self._running[label].values())
        total, done = self._totals[label], self._done[label]
        self._progress.update(self._tasks[label], completed=done + inside, count=f"{done}/{total}", clock=self._clock(label, inside))

    def _clock(self, label: str, inside: float) -> str:
        total, done = self._totals[label], self._done[label]
        now = sum(time.monotonic() - began for began, _ in self._running[label].values())
        spent = self._spent[label] + now
        text = f" {clock(spent)}" if spent or done else ""
        came = self._fresh[label] + inside
        if done < total and came > 0 and self._running[label]:
            text += f"  about {clock(spent / came * (total - done - inside) / max(1, len(self._running[label])))} left"
        return text


class Counter:
    """One bar for work that counts its own steps: training, applying."""

    def __init__(self, what: str, console: Any = None) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("  {task.description}"),
            BarColumn(bar_width=20),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
        )
        self._progress = Progress(*columns, console=console or Console(stderr=True, highlight=False), refresh_per_second=5)
        self._task = self._progress.add_task(what, total=None)

    def __enter__(self) -> Counter:
        self._progress.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._progress.stop()

    def __call__(self, done: int, total: int) -> None:
        """Move the bar."""
        self._progress.update(self._task, completed=done, total=total)


def counter(what: str, *, is_silent: bool) -> contextlib.AbstractContextManager[Counter | None]:
    """A counter where somebody watches, else nothing: outside a terminal and when silenced."""
    return contextlib.nullcontext() if is_silent or not sys.stderr.isatty() else Counter(what)


def clock(seconds: float) -> str:
    """A duration as ``0:45`` or ``1:02:03``."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"
