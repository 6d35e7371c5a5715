"""Generation of ECG records at a heart rate that is asked for, judged by the rate that is found: a demonstration on simulated records."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pandas as pd
import xarray as xr

from unstir.errors import DataError, UserError
from unstir.plugin.options import positive
from unstir.plugin.protocols import Case, Estimate
from unstir_timeseries.ecg.leads import LEADS
from unstir_timeseries.ecg.records import check, dataset


@dataclass(frozen=True)
class ConditionedECG:
    """Records of twelve leads at given heart rates.

    A case is a heart rate; the truth are the held-out records around it, and a method may know the training records. Whether generated
    records help a classifier of a scarce class is out of scope: simulated records have no diagnosis.

    Args:
        rates: heart rates asked for, beats per minute.
        seconds: length of a record.
        within: how far the rate of a held-out record may be from the one asked for.

    Raises:
        UserError: an option outside its range.
    """

    rates: tuple[float, ...] = (50.0, 60.0, 80.0, 100.0, 120.0)
    seconds: float = 4.0
    within: float = 5.0

    case_noun: ClassVar[str] = "heart rate"
    part_noun: ClassVar[str] = "record"
    metrics: ClassVar[tuple[str, ...]] = ("timeseries/heart-rate", "timeseries/einthoven")
    figures: ClassVar[tuple[str, ...]] = ("timeseries/leads",)

    def __post_init__(self) -> None:
        if not self.rates or not all(np.isfinite(rate) and rate > 0 for rate in self.rates):
            raise UserError(f"rates must be positive heart rates in beats per minute, got {list(self.rates)}")
        if len(set(self.rates)) != len(self.rates):
            raise UserError(f"rates must differ from each other, got {list(self.rates)}")
        if not 2 <= self.seconds <= 60:
            raise UserError(f"seconds must lie between 2 and 60, got {self.seconds}")
        positive(self, "within")

    def read(self, path: Path) -> xr.Dataset:
        """A user's own records: the CSV that ``export`` writes, or netCDF with ``ecg`` (record, lead, time).

        Args:
            path: CSV with columns record, time_s, heart_rate and the twelve leads in mV, or a netCDF file.

        Raises:
            DataError: the file is missing or does not hold such records.
        """
        path = Path(path)
        if not path.is_file():
            raise DataError(f"{path} does not exist or is not a file")
        if path.suffix.lower() != ".csv":
            try:
                return check(xr.load_dataset(path).assign_attrs(key=path.stem))
            except (ValueError, OSError) as error:
                raise DataError(f"{path} is neither CSV nor netCDF that can be read ({error})") from error
        try:
            frame = pd.read_csv(path)
        except (ValueError, OSError) as error:
            raise DataError(f"{path} is not CSV that can be read ({error})") from error
        return _from_frame(frame, path)

    def cases(self, items: Iterable[xr.Dataset]) -> Iterator[Case]:
        """One case a rate.

        Args:
            items: sets of records, see `unstir_timeseries.ecg.records.dataset`; without roles every third in order of rate is held out.

        Raises:
            DataError: a rate outside those of the training records, records that are too short, or no held-out record around a rate.
        """
        for item in items:
            training, held, split = _split(check(item))
            samples = round(self.seconds * item.attrs["sampling_rate"])
            if item.sizes["time"] < samples:
                have = item.sizes["time"] / item.attrs["sampling_rate"]
                raise DataError(f"{item.attrs['key']} has records of {have:g} s and seconds is {self.seconds:g}: ask for less")
            for rate in self.rates:
                yield self._case(float(rate), training, held.isel(time=slice(0, samples)), split)

    def _case(self, rate: float, training: xr.Dataset, held: xr.Dataset, split: str) -> Case:
        key = training.attrs["key"]
        low, high = float(training["heart_rate"].min()), float(training["heart_rate"].max())
        if not low <= rate <= high:
            raise DataError(f"rate {rate:g} lies outside those of the training records of {key}, {low:g} to {high:g} beats per minute")
        truth = held.isel(record=np.flatnonzero(np.abs(held["heart_rate"].values - rate) <= self.within))
        if not truth.sizes["record"]:
            near = float(held["heart_rate"].values[np.abs(held["heart_rate"].values - rate).argmin()])
            raise DataError(f"{key} has no held-out record within {self.within:g} of rate {rate:g}; the nearest has {near:g}")
        asked = xr.Dataset({"heart_rate": ((), rate, {"units": "1/min"})}, {"lead": held["lead"], "time": held["time"]}, dict(held.attrs))
        facts = {"data": held.attrs.get("simulated", "records of your own"), "split": split, "held-out records": truth.sizes["record"]}
        context = {"training": training, "facts": facts}
        if "simulated" in held.attrs:
            context["simulated"] = held.attrs["simulated"]
        return Case(f"{key}-{rate:g}-bpm", truth, asked, context)

    def export(self, estimate: Estimate, case: Case, stem: Path) -> list[Path]:
        """Write the records as CSV: record, time_s, heart_rate (asked for) and the twelve leads in mV.

        Returns:
            The file written.
        """
        data = estimate.data
        records, _, samples = data["ecg"].shape
        columns = {"record": np.repeat(np.arange(records), samples), "time_s": np.tile(data["time"].values, records)}
        columns["heart_rate"] = np.repeat(data["heart_rate"].values, samples)
        columns |= {lead: data["ecg"].sel(lead=lead).values.ravel() for lead in LEADS}
        path = stem.with_name(f"{stem.name}.csv")
        part = path.with_name(f"{path.name}.tmp")
        pd.DataFrame(columns).to_csv(part, index=False, float_format="%.5g")
        part.replace(path)
        return [path]


def _split(item: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset, str]:
    """Training and held-out records, and how they were told apart."""
    if "role" in item.coords:
        is_held, said = item["role"].values == "test", "by record, as the data say"
    else:
        is_held, said = np.zeros(item.sizes["record"], dtype=bool), "by record: every third in order of heart rate is held out"
        is_held[np.argsort(item["heart_rate"].values, kind="stable")[1::3]] = True
    if is_held.all() or not is_held.any():
        raise DataError(f"{item.attrs['key']} needs training records and held-out ones; it has {item.sizes['record']} records in all")
    parts = [item.isel(record=np.flatnonzero(chosen)).drop_vars("role", errors="ignore") for chosen in (~is_held, is_held)]
    return parts[0], parts[1], said


def _from_frame(frame: pd.DataFrame, path: Path) -> xr.Dataset:
    """Records from the columns of a CSV file."""
    missing = [name for name in ("record", "time_s", "heart_rate", *LEADS) if name not in frame]
    if missing:
        raise DataError(
            f"{path} lacks the columns {', '.join(missing)}; needed are record, time_s, heart_rate and {', '.join(LEADS)} in mV"
        )
    groups = [group for _, group in frame.groupby("record", sort=False)]
    if not groups:
        raise DataError(f"{path} holds no records: it has a head and no rows")
    lengths = {len(group) for group in groups}
    if len(lengths) != 1:
        raise DataError(f"{path} has records of different lengths ({min(lengths)} to {max(lengths)} samples); cut them to one length")
    steps = np.diff(groups[0]["time_s"].to_numpy(dtype=float))
    if not len(steps) or not np.allclose(steps, steps[0], rtol=1e-2) or steps[0] <= 0:
        raise DataError(f"{path} has times that are not regular in its first record; time_s must increase by one step")
    leads = np.stack([group[list(LEADS)].to_numpy(dtype=np.float64).T for group in groups])
    rates = np.asarray([group["heart_rate"].iloc[0] for group in groups])
    made = dataset(leads, rates, round(1 / float(np.median(steps))), key=path.stem)
    del made.attrs["simulated"]
    return check(made)
