"""The run folder: everything in it is written whole or not at all.

recipe.yaml  environment.json  log.jsonl
estimates/METHOD[/SETTING]/CASE.nc + CASE.job.json      a job's estimate and, written last, its record
metrics.parquet  metrics.json  figures/  report.html
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_pipelines import document, settings

if TYPE_CHECKING:
    import xarray as xr

RECORD = ".job.json"
_JSON = "json:"


@dataclass(frozen=True)
class Job:
    """One method on one case with one seed under one setting.

    Args:
        method: label of the method.
        case: key of the case.
        seed: the seed.
        setting: index into the recipe's settings.
        stem: path of what it writes, relative to the run folder, without suffix.
        needs: stems of the jobs whose estimates it starts from, by label.
    """

    method: str
    case: str
    seed: int
    setting: int
    stem: str
    needs: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.stem.removeprefix("estimates/")


class RunFolder:
    """A run on disk.

    Args:
        path: the folder.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, parent: Path, recipe_name: str) -> RunFolder:
        """Make ``parent/YYYY-MM-DD-NAME-N`` with the first free N."""
        parent.mkdir(parents=True, exist_ok=True)
        stem = f"{datetime.now().astimezone():%Y-%m-%d}-{settings.file_name(recipe_name.rpartition('/')[2])}"
        number = 1
        while True:
            try:
                (parent / f"{stem}-{number}").mkdir()
                return cls(parent / f"{stem}-{number}")
            except FileExistsError:
                number += 1

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """A folder that holds a run.

        Raises:
            DataError: it does not exist or holds no run.
        """
        folder = cls(path)
        if not folder.path.is_dir():
            raise DataError(f"{path} is a file, not a run folder" if folder.path.exists() else f"run {path} does not exist")
        if not folder.holds_run():
            raise DataError(f"{path} is not a run folder: it has no recipe.yaml")
        return folder

    def holds_run(self) -> bool:
        """Was a run begun here?"""
        return (self.path / "recipe.yaml").is_file()

    @property
    def recipe(self) -> dict[str, Any]:
        """``recipe.yaml`` as a dict."""
        return document.read(self.path / "recipe.yaml").content

    @property
    def environment(self) -> dict[str, Any]:
        """``environment.json``, empty where it is missing."""
        path = self.path / "environment.json"
        return json.loads(path.read_text()) if path.exists() else {}

    def log(self, event: str, **fields: Any) -> None:
        """Append one line to ``log.jsonl``; a line that a kill cut short before is ended first."""
        line = json.dumps({"time": datetime.now(UTC).isoformat(timespec="milliseconds"), "event": event, **fields}, default=str)
        path = self.path / "log.jsonl"
        with open(path, "ab+") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(line.encode() + b"\n")

    def events(self) -> Iterator[dict[str, Any]]:
        """The whole lines of ``log.jsonl``."""
        path = self.path / "log.jsonl"
        for line in path.read_text().splitlines() if path.exists() else ():
            with contextlib.suppress(ValueError):
                yield json.loads(line)

    def record(self, stem: str) -> dict[str, Any] | None:
        """A job's record; ``None`` where it has none or its estimate is gone."""
        path = self.path / f"{stem}{RECORD}"
        try:
            record = json.loads(path.read_text())
        except (FileNotFoundError, ValueError):
            return None
        return record if all((path.parent / name).exists() for name in record.get("files", ())) else None

    def is_done(self, stem: str) -> bool:
        """Did the job end with an estimate?"""
        record = self.record(stem)
        return record is not None and record["status"] == "done"

    def commit(self, stem: str, record: dict[str, Any], write: Callable[[Path], Sequence[Path]]) -> dict[str, Any]:
        """Write a job's files, then its record.

        Args:
            stem: the job's.
            record: what is known of it; ``files`` is added.
            write: writes files at a stem it is given and returns their paths.

        Returns:
            The record as written.
        """
        target = self.path / stem
        target.parent.mkdir(parents=True, exist_ok=True)
        staging = target.parent / f".{target.name}.{os.getpid()}.tmp"
        shutil.rmtree(staging, ignore_errors=True)
        (target.parent / f"{target.name}{RECORD}").unlink(missing_ok=True)
        staging.mkdir()
        try:
            names = []
            for path in write(staging / target.name):
                path = Path(path)
                if path.parent != staging:
                    raise DataError(f"an export of {stem} was written to {path}, which is not beside the stem it was given")
                sync(path)
                names.append(path.name)
            for name in names:
                os.replace(staging / name, target.parent / name)
            record = {**record, "files": sorted(names)}
            write_whole(target.parent / f"{target.name}{RECORD}", to_json(record))
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return record

    def fail(self, stem: str, record: dict[str, Any]) -> None:
        """Write the record of a job that failed."""
        path = self.path / f"{stem}{RECORD}"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, to_json({**record, "files": []}))

    def forget(self, stem: str) -> None:
        """Remove the record of an earlier attempt."""
        (self.path / f"{stem}{RECORD}").unlink(missing_ok=True)

    def estimate(self, stem: str, task: Any) -> Estimate | None:
        """Read a job's estimate back, ``None`` where the job is not done.

        Args:
            stem: the job's.
            task: reads an estimate that is not an ``xarray.Dataset`` from the task's own file.
        """
        record = self.record(stem)
        if record is None or record["status"] != "done":
            return None
        path = self.path / f"{stem}.nc"
        if path.name in record["files"]:
            data = read_dataset(path)
        else:
            if not record["files"]:
                raise DataError(f"{path.with_suffix('')} holds no file of the estimate: the task's export wrote none")
            data = task.read(path.parent / record["files"][0])
        return Estimate(data, nfe=int(record["nfe"]), info=dict(record["info"]))

    def tidy(self) -> None:
        """Remove what a kill left half-written."""
        for path in [*self.path.glob("*.tmp"), *self.path.glob(".*.tmp"), *self.path.glob("estimates/**/.*.tmp")]:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """Leave no folder behind where a run fails before its recipe is written."""
        try:
            yield
        finally:
            left = {path.name for path in self.path.iterdir()} if self.path.is_dir() else set()
            if not self.holds_run() and left <= {"environment.json", "log.jsonl", ".lock"}:
                shutil.rmtree(self.path, ignore_errors=True)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Hold the folder while a run writes it.

        Raises:
            UserError: another process holds it.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise UserError(f"another process is writing {self.path}: wait for it, or give another --out") from None
            try:
                yield
            finally:
                (self.path / ".lock").unlink(missing_ok=True)


def write_estimate(estimate: Estimate, case: Case, task: Any, stem: Path) -> list[Path]:
    """Write an estimate at a stem: netCDF where it is an ``xarray.Dataset``, and what the task exports."""
    import xarray as xr

    written = []
    if isinstance(estimate.data, xr.Dataset):
        path = stem.parent / f"{stem.name}.nc"
        write_dataset(estimate.data, path)
        written.append(path)
    exported = [Path(path) for path in task.export(estimate, case, stem)]
    return [*written, *(path for path in exported if path not in written)]


def write_dataset(data: xr.Dataset, path: Path) -> None:
    """Write a Dataset as netCDF; attributes that netCDF cannot hold (nested lists, dicts, booleans) become JSON text.

    The file is made in memory: HDF5 crashes the process when a disk fills up under it.
    """
    data = data.copy(deep=False)
    data.attrs = _encoded(data.attrs)
    for name in data.variables:
        data[name].attrs = _encoded(data[name].attrs)
    has_complex = any(variable.dtype.kind == "c" for variable in data.variables.values())
    with warnings.catch_warnings(), _no_cluster():
        # complex numbers are HDF5 compound types: read back here, but not by every netCDF tool
        warnings.filterwarnings("ignore", message="You are writing invalid netcdf features")
        whole = data.to_netcdf(engine="h5netcdf", invalid_netcdf=has_complex)
    with open(path, "wb") as file:
        file.write(whole)


def _no_cluster() -> contextlib.AbstractContextManager[Any]:
    """On a Dask worker, keep xarray from asking the cluster for a lock on a file that is in this process's memory."""
    dask = sys.modules.get("dask")
    return dask.config.set(scheduler="threads") if dask is not None else contextlib.nullcontext()


def read_dataset(path: Path) -> xr.Dataset:
    """Read what ``write_dataset`` wrote, into memory."""
    import xarray as xr

    data = xr.load_dataset(path, engine="h5netcdf")
    data.attrs = _decoded(data.attrs)
    for name in data.variables:
        data[name].attrs = _decoded(data[name].attrs)
    return data


def keep_datasets(items: Sequence[xr.Dataset], folder: Path) -> list[Path]:
    """Write Datasets under names that their content decides, and return the absolute paths."""
    import hashlib

    folder.mkdir(parents=True, exist_ok=True)
    kept = []
    for index, item in enumerate(items):
        item = item.copy(deep=False)
        item.attrs = {"key": f"item-{index}", **item.attrs}
        staging = folder / f".{os.getpid()}-{index}.tmp"
        try:
            write_dataset(item, staging)
            digest = hashlib.sha256(repr(item.attrs).encode())
            for name in sorted(item.variables, key=str):
                digest.update(f"{name}{item[name].dims}".encode() + item[name].values.tobytes())
            path = folder / f"{settings.file_name(str(item.attrs['key']))}-{digest.hexdigest()[:12]}.nc"
            sync(staging)
            _replace(staging, path)
        finally:
            staging.unlink(missing_ok=True)
        kept.append(path.resolve())
    return kept


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file under a temporary name, flush it to the disk, and rename it."""
    staging = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(staging, "wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        _replace(staging, path)
    except BaseException:
        staging.unlink(missing_ok=True)
        raise


def make_folder(path: Path, option: str) -> None:
    """Make a folder that the user named, and those above it.

    Args:
        path: the folder; it may be there already.
        option: where it was named (``"--out"``).

    Raises:
        UserError: it is a file, or it cannot be made there.
    """
    if path.exists() and not path.is_dir():
        raise UserError(f"{option} {path} is a file; name a folder")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        if is_disk_full(error):
            raise
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{option} {path} cannot be made ({reason}); name a folder where you may write") from error


def sync(path: Path) -> None:
    """Flush a written file to the disk."""
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def is_disk_full(error: BaseException) -> bool:
    """Does an error mean that the disk, or what the user may write to it, is full?"""
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return True
        if isinstance(error, OSError | RuntimeError) and "No space left on device" in str(error):
            return True
        error = error.__cause__  # type: ignore[assignment]
    return False


def to_json(content: Any) -> str:
    """JSON text that every reader takes: numbers that are not finite become ``null``."""
    return json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {str(key): _finite(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_finite(value) for value in content]
    if content is None or isinstance(content, str | bool):
        return content
    if hasattr(content, "tolist"):
        return _finite(content.tolist())
    if isinstance(content, int):
        return int(content)
    if isinstance(content, float):
        return float(content) if math.isfinite(content) else None
    return str(content)


def _replace(source: Path, target: Path) -> None:
    os.replace(source, target)
    with contextlib.suppress(OSError):
        handle = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _encoded(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    made = {}
    for key, value in attrs.items():
        flat = isinstance(value, str | int | float) and not isinstance(value, bool)
        made[str(key)] = value if flat and not str(value).startswith(_JSON) else _JSON + json.dumps(_finite(value))
    return made


def _decoded(attrs: Mapping[Any, Any]) -> dict[str, Any]:
    made = {}
    for key, value in attrs.items():
        if isinstance(value, str) and value.startswith(_JSON):
            value = json.loads(value.removeprefix(_JSON))
        elif hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
            value = value.item()
        made[key] = value
    return made
