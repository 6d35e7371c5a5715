"""The Dask engine: jobs on any ``distributed`` cluster whose workers see the run folder and have the same plugins."""

from __future__ import annotations

from typing import Any

from unstir.errors import MissingExtra, UserError
from unstir_pipelines.engines.base import Engine, Told
from unstir_pipelines.jobs import Plan, failure, perform
from unstir_pipelines.store import Job, RunFolder, is_disk_full


class OnDask(Engine):
    """Jobs as futures of a ``distributed`` client; a lost worker's job is run again elsewhere by the scheduler.

    Args:
        plan: the run.
        told: told when a job is handed over; steps inside a job are not reported.
        scheduler: address (``"tcp://host:8786"``) or scheduler file; ``None`` starts a cluster on this machine.
        workers: processes of that cluster (0: as many as there are cores).
        settings: settings of the recipe by index, for records of lost jobs.
        client: a client that exists, in place of the above.
    """

    def __init__(
        self, plan: Plan, told: Told, scheduler: str | None, workers: int, settings: list[dict[str, Any]], client: Any = None
    ) -> None:
        try:
            from distributed import Client, LocalCluster, as_completed
        except ModuleNotFoundError as error:
            raise MissingExtra("--engine dask needs the extra 'dask': pip install 'unstir[dask]'") from error
        self.plan, self.told, self.settings = plan, told, settings
        self._cluster: Any = None
        self._owns = client is None
        if client is None:
            client = self._connect(Client, LocalCluster, scheduler, workers)
        self._client = client
        self._done = as_completed(loop=client.loop, with_results=False)
        self._jobs: dict[str, Job] = {}

    def _connect(self, client: Any, cluster: Any, scheduler: str | None, workers: int) -> Any:
        if scheduler is None:
            self._cluster = cluster(n_workers=workers or None, threads_per_worker=1, processes=True, dashboard_address=None)
            return client(self._cluster)
        try:
            if scheduler.endswith(".json"):
                return client(scheduler_file=scheduler, timeout=30)
            return client(scheduler, timeout=30)
        except (OSError, TimeoutError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
            ) from error

    def submit(self, job: Job) -> None:
        """Hand a job to the cluster."""
        future = self._client.submit(perform, self.plan, job, key=f"unstir-{id(self)}-{job}", pure=False)
        self._jobs[future.key] = job
        self.told(job, 0, 0)
        self._done.add(future)

    def wait(self) -> list[tuple[Job, dict[str, Any]]]:
        """Wait for the next future."""
        future = next(self._done)
        job = self._jobs.pop(future.key)
        if future.status == "finished":
            return [(job, future.result())]
        error = future.exception() if future.status == "error" else None
        if error is not None and (is_disk_full(error) or isinstance(error, UserError)):
            raise error
        folder = RunFolder(self.plan.folder)
        record = folder.record(job.stem)
        if record is None:
            why = (
                "its worker was lost too often"
                if type(error).__name__ == "KilledWorker"
                else f"{type(error).__name__}: {error}".splitlines()[0]
            )
            record = failure(job, self.settings[job.setting], why)
            folder.fail(job.stem, record)
        return [(job, record)]

    def close(self) -> None:
        """Cancel what is left and let go of the cluster."""
        if self._jobs:
            self._client.cancel(list(self._jobs), force=True)
            self._jobs.clear()
        if self._owns:
            self._client.close()
        if self._cluster is not None:
            self._cluster.close()
