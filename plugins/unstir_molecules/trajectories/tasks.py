"""The question: where do these bodies go, given their first frames?

A case is some test trajectories. Methods see the given frames (and charges and springs), and training trajectories; what they say is one
future, or several, of each. The future of a simulation is known, and it is the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate

ORDER = ("trajectory", "time", "body", "axis")


@dataclass(frozen=True)
class Trajectories:
    """The frames to come of the test trajectories.

    Args:
        given: frames that are known.
        batch: trajectories of a case.
        test: share of a user's own trajectories that is for the test: the last of them.

    Raises:
        UserError: an option out of range.
    """

    given: int = 10
    batch: int = 50
    test: float = 0.2

    metrics: ClassVar[tuple[str, ...]] = ("molecules/displacement", "molecules/energy")
    figures: ClassVar[tuple[str, ...]] = ()
    case_noun: ClassVar[str] = "batch"
    part_noun: ClassVar[str] = "trajectory"

    def __post_init__(self) -> None:
        if min(self.given, self.batch) < 1 or not 0 < self.test < 1:
            raise UserError(f"given and batch must be at least 1 and test a share, got {self.given}, {self.batch} and {self.test}")

    def read(self, path: Path) -> xr.Dataset:
        """A user's own trajectories: a netCDF file as ``export`` writes, with ``position`` (trajectory, time, body, axis).

        Args:
            path: the file.

        Raises:
            DataError: the file is missing or holds no trajectories.
        """
        path = Path(path)
        try:
            item = xr.load_dataset(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path} cannot be read as netCDF ({error})") from error
        item = checked(item, str(path))
        if "split" not in item:
            count = item.sizes["trajectory"]
            tested = max(1, round(self.test * count))
            item = item.assign(split=("trajectory", np.where(np.arange(count) < count - tested, "train", "test")))
        return item.assign_attrs(key=str(item.attrs.get("key", path.name.partition(".")[0])))

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a batch of test trajectories.

        Args:
            items: trajectories, with ``split``.

        Raises:
            DataError: a set has no test trajectories, or too few frames.
        """
        for item in items:
            key = str(item.attrs.get("key", "trajectories")).lower()
            item = checked(item, key)
            if item.sizes["time"] <= self.given:
                raise DataError(f"{key} has {item.sizes['time']} frames, and {self.given} are given of more than that")
            sides = item["split"].values if "split" in item else np.full(item.sizes["trajectory"], "test")
            chosen, learnt = np.flatnonzero(sides == "test"), item.isel(trajectory=np.flatnonzero(sides == "train"))
            if not len(chosen):
                raise DataError(f"{key} has no trajectory in its part 'test'")
            for number, start in enumerate(range(0, len(chosen), self.batch)):
                part = item.isel(trajectory=chosen[start : start + self.batch]).drop_vars("split", errors="ignore")
                future = part.isel(time=slice(self.given, None))
                facts = {
                    "given frames": str(self.given),
                    "frames to come": str(future.sizes["time"]),
                    "trajectories": str(part.sizes["trajectory"]),
                }
                seen = part.isel(time=slice(None, self.given)).drop_vars("velocity", errors="ignore")
                context = {"times": future["time"].values, "training": learnt, "facts": facts}
                yield Case(f"{key}-{number}", future, seen, context)

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write a netCDF file that `read` takes.

        Args:
            estimate: futures.
            case: what it answers.
            stem: path without suffix.

        Returns:
            The file written.
        """
        written = stem.with_name(f"{stem.name}.nc")
        estimate.data.to_netcdf(written)
        return [written]


def checked(item: xr.Dataset, name: str) -> xr.Dataset:
    """The trajectories, if they are some.

    Args:
        item: a set.
        name: of it, for what is said.

    Raises:
        DataError: there are no finite places of at least two bodies.
    """
    if "position" not in item or set(ORDER) - set(item["position"].dims):
        raise DataError(f"{name} holds no trajectories: it needs 'position' with the dimensions {', '.join(ORDER)}")
    x = item["position"].transpose(..., *ORDER).values
    if x.shape[-2] < 2 or not np.isfinite(x).all():
        raise DataError(f"{name} needs finite places of 2 bodies or more")
    return item if "time" in item.coords else item.assign_coords(time=np.arange(item.sizes["time"], dtype=float))


def futures(places: np.ndarray, case: Case, **attrs: object) -> xr.Dataset:
    """Futures as they cross the border.

    Args:
        places: (trajectory, time, body, axis), or (sample, trajectory, time, body, axis).
        case: what they answer.
        attrs: more facts.
    """
    over = ORDER if places.ndim == 4 else ("sample", *ORDER)
    times = np.asarray(case.context["times"])
    return xr.Dataset({"position": (over, places)}, coords={"time": times}, attrs={"key": case.key, **attrs})


def given_of(case: Case) -> np.ndarray:
    """Places of the given frames (trajectory, time, body, axis).

    Args:
        case: of the task.
    """
    return np.asarray(case.measurement["position"].transpose(*ORDER).values, dtype=float)
