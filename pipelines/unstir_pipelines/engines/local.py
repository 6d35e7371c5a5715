"""The local engine: in the process, or in spawned worker processes."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing import connection
from typing import Any

from unstir.errors import UserError
from unstir_pipelines.engines.base import Engine, Told
from unstir_pipelines.jobs import Plan, failure, perform
from unstir_pipelines.store import Job, RunFolder, is_disk_full

ATTEMPTS = 2
"""How often a job is tried whose worker was killed."""

_QUIET = 0.1


class InProcess(Engine):
    """One job after the other, here.

    Args:
        plan: the run.
        told: told of progress.
    """

    slots = 1

    def __init__(self, plan: Plan, told: Told) -> None:
        self.plan, self.told = plan, told
        self._queue: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        """Take a job."""
        self._queue.append(job)

    def wait(self) -> list[tuple[Job, dict[str, Any]]]:
        """Do the next job."""
        job = self._queue.popleft()
        self.told(job, 0, 0)
        return [(job, perform(self.plan, job, lambda step, steps: self.told(job, step, steps)))]

    def close(self) -> None:
        """Forget the queue."""
        self._queue.clear()


@dataclass
class _Worker:
    process: Any
    pipe: connection.Connection
    job: Job | None = None


class Spawned(Engine):
    """Worker processes, started fresh (``spawn``); one that is killed costs one job, which is tried once more.

    Args:
        plan: the run.
        told: told of progress.
        workers: how many processes.
        settings: settings of the recipe by index, for records of lost jobs.
    """

    def __init__(self, plan: Plan, told: Told, workers: int, settings: list[dict[str, Any]]) -> None:
        self.plan, self.told, self.count, self.settings = plan, told, workers, settings
        self.slots = workers
        self._context = multiprocessing.get_context("spawn")
        self._queue: deque[Job] = deque()
        self._workers: list[_Worker] = []
        self._attempts: dict[Job, int] = {}

    def submit(self, job: Job) -> None:
        """Take a job and give it to a free worker, a new one while there may be more."""
        self._queue.append(job)
        self._deal()

    def wait(self) -> list[tuple[Job, dict[str, Any]]]:
        """Listen to the workers until a job ends."""
        ended: list[tuple[Job, dict[str, Any]]] = []
        while not ended:
            for pipe in connection.wait([worker.pipe for worker in self._workers if worker.job is not None]):
                worker = next(worker for worker in self._workers if worker.pipe is pipe)
                ended += self._hear(worker)
            self._deal()
        return ended

    def close(self) -> None:
        """End every worker."""
        self._queue.clear()
        for worker in self._workers:
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join(5)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.pipe.close()
        self._workers.clear()

    def _deal(self) -> None:
        while self._queue:
            free = next((worker for worker in self._workers if worker.job is None), None)
            if free is None:
                if len(self._workers) >= self.count:
                    return
                free = self._hire()
            free.job = self._queue.popleft()
            try:
                free.pipe.send(free.job)
            except OSError:
                self._queue.appendleft(free.job)
                self._dismiss(free)

    def _hire(self) -> _Worker:
        here, there = self._context.Pipe()
        process = self._context.Process(target=_work, args=(there, self.plan), daemon=True)
        with _passive_threads():
            process.start()
        there.close()
        worker = _Worker(process, here)
        self._workers.append(worker)
        return worker

    def _dismiss(self, worker: _Worker) -> int | None:
        worker.pipe.close()
        worker.process.join()
        self._workers.remove(worker)
        return worker.process.exitcode

    def _hear(self, worker: _Worker) -> list[tuple[Job, dict[str, Any]]]:
        job = worker.job
        if job is None:
            return []
        try:
            kind, content = worker.pipe.recv()
        except (EOFError, OSError):
            return self._lost(job, self._dismiss(worker))
        if kind == "step":
            self.told(job, *content)
            return []
        worker.job = None
        if kind == "record":
            return [(job, content)]
        raise content

    def _lost(self, job: Job, code: int | None) -> list[tuple[Job, dict[str, Any]]]:
        folder = RunFolder(self.plan.folder)
        if (record := folder.record(job.stem)) is not None:
            return [(job, record)]
        self._attempts[job] = self._attempts.get(job, 0) + 1
        if self._attempts[job] < ATTEMPTS:
            self._queue.append(job)
            return []
        how = f"by signal {signal.Signals(-code).name}" if code is not None and code < 0 else f"with exit code {code}"
        hint = "; it may need more memory than there is" if code == -signal.SIGKILL else ""
        record = failure(job, self.settings[job.setting], f"its worker was ended {ATTEMPTS} times, the last {how}{hint}")
        folder.fail(job.stem, record)
        return [(job, record)]


@contextlib.contextmanager
def _passive_threads() -> Any:
    """Have the workers' OpenMP threads sleep, not spin, while they wait: several workers share the cores."""
    ours = {"OMP_WAIT_POLICY": "PASSIVE", "KMP_BLOCKTIME": "0"}
    added = {key: value for key, value in ours.items() if key not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for key in added:
            del os.environ[key]


def _work(pipe: connection.Connection, plan: Plan) -> None:
    """Do jobs as they come, until the other end closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    last = 0.0

    def tell(step: int, steps: int) -> None:
        nonlocal last
        if step >= steps or time.monotonic() - last > _QUIET:
            last = time.monotonic()
            pipe.send(("step", (step, steps)))

    while True:
        try:
            job = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            pipe.send(("step", (0, 0)))
            pipe.send(("record", perform(plan, job, tell)))
        except BaseException as error:
            portable = (
                OSError(getattr(error, "errno", None), str(error))
                if is_disk_full(error)
                else UserError(f"{job}: {type(error).__name__}: {error}")
            )
            pipe.send(("error", portable))
