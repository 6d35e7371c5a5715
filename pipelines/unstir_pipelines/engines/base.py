"""What every engine does: takes jobs whose needs are met, gives back records."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from unstir_pipelines.store import Job

Told = Callable[[Job, int, int], None]
"""``told(job, step, steps)``: a job's method has come so far."""


class Engine(ABC):
    """Runs jobs; use it as a context manager, which frees its workers."""

    slots: float = math.inf
    """How many jobs it can hold at once; they are handed over in the order of the run, so that a case is used while it is in memory."""

    @abstractmethod
    def submit(self, job: Job) -> None:
        """Take a job whose needs are met."""

    @abstractmethod
    def wait(self) -> list[tuple[Job, dict[str, Any]]]:
        """Wait until at least one job has ended and return those that have, each with its record.

        Raises:
            OSError: the disk is full.
        """

    @abstractmethod
    def close(self) -> None:
        """Stop at once and free the workers."""

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
