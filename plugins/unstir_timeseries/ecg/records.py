"""Simulated ECG records: ECGSYN by neurokit2, every record a person of its own, split by record.

    dz/dt = -sum_i g_i a_i (theta - theta_i) exp(-(theta - theta_i)^2 / 2 b_i^2) - (z - z_0),      i in P, Q, R, S, T

Simulated data, a demonstration: no patient, no sex, no age, no disease, no electrode. Each lead spans at most 1.6 mV: ECGSYN scales it.
neurokit2's own "multileads" scales all twelve leads separately, so that its III is not II - I; here only the eight independent leads are
simulated (with neurokit2's weights g of the waves) and the other four follow.
[McSharry et al. 2003, IEEE Trans. Biomed. Eng. 50(3); Makowski et al. 2021, Behav. Res. Methods 53]
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from unstir.errors import DataError, MissingExtra, UserError
from unstir.plugin.options import at_least
from unstir_timeseries import fits
from unstir_timeseries.ecg.leads import INDEPENDENT, LEADS, complete

RANGE = (45.0, 150.0)
"""Heart rates of the records, beats per minute."""
SIMULATED = "simulated by neurokit2's ECGSYN: no patients, no sex, no age, no disease; a demonstration"
WEIGHTS = {
    "I": (1, 0.1, 1, 1.2, 1),
    "II": (2, 0.2, 0.2, 0.2, 3),
    "V1": (-0.5, 0.05, 0.2, 0.5, 1),
    "V2": (0.05, 0.05, 1.3, 2.5, 2),
    "V3": (1, 0.05, 1, 2, 1),
    "V4": (1.2, 0.05, 1, 2, 2),
    "V5": (1.5, 0.1, 0.8, 1, 2),
    "V6": (1.8, 0.05, 0.5, 0.1, 2),
}
"""Weights of the waves P, Q, R, S, T in each lead, those of neurokit2's "multileads"."""
ROLES = ("train", "test")
HEIGHTS = (1.2, -5.0, 30.0, -7.5, 0.75)
WIDTHS = (0.25, 0.1, 0.1, 0.1, 0.4)


@dataclass(frozen=True)
class SimulatedECG:
    """Records of twelve leads at heart rates from 45 to 150, for training and held out: never a window of one on both sides.

    Training rates are spread evenly over the range, held-out rates lie on the multiples of ten within it.

    Args:
        training: number of training records.
        each: held-out records at each rate.
        seconds: length of a record.
        sampling_rate: samples per second.
        variety: standard deviation of the logarithm of each wave's height and width from record to record.
        noise: amplitude of the noise on each independent lead, relative to its standard deviation.
        seed: a record depends on this, its role and its number alone.

    Raises:
        UserError: an option outside its range.
    """

    training: int = 60
    each: int = 2
    seconds: float = 5.0
    sampling_rate: int = 100
    variety: float = 0.1
    noise: float = 0.01
    seed: int = 0

    card: ClassVar[str] = "ecg-simulated"
    tiny: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, training=1, each=1, seed=0)
        if not 50 <= self.sampling_rate <= 1000:
            raise UserError(f"sampling_rate must lie between 50 and 1000 Hz, got {self.sampling_rate}")
        if not 3 <= self.seconds <= 60:
            raise UserError(f"seconds must lie between 3 (two beats of the slowest heart) and 60, got {self.seconds}")
        for name in ("variety", "noise"):
            if not 0 <= getattr(self, name) <= 0.5:
                raise UserError(f"{name} must lie between 0 and 0.5, got {getattr(self, name)}")

    def load(self) -> Iterator[xr.Dataset]:
        """One item ``ecg-simulated`` with the training records and the held-out ones, see `dataset`.

        Raises:
            MissingExtra: neurokit2 is not installed.
        """
        yield xr.concat((self.part("train"), self.part("test")), "record")

    def part(self, role: Literal["train", "test"]) -> xr.Dataset:
        """The records of one role.

        Args:
            role: which.

        Returns:
            ``ecg`` (record, lead, time), see `dataset`.

        Raises:
            MissingExtra: neurokit2 is not installed.
        """
        if role == "train":
            rates = np.linspace(*RANGE, self.training)
        else:
            rates = np.repeat(np.arange(np.ceil(RANGE[0] / 10) * 10, RANGE[1] + 1, 10), self.each)
        options, version = (self.seconds, self.sampling_rate, self.variety, self.noise), load_neurokit().__version__

        def simulate() -> fits.Fit:
            return {"mV": np.stack([record(float(rate), *options, (self.seed, ROLES.index(role), n)) for n, rate in enumerate(rates)])}

        name = hashlib.sha256(json.dumps([version, role, self.seed, *options, *rates]).encode()).hexdigest()[:32]
        leads = fits.recall(f"ecg-records-{name}", simulate)["mV"]
        return dataset(leads, rates, self.sampling_rate, key="ecg-simulated", roles=[role] * len(rates))


def dataset(
    leads: NDArray[Any], rates: NDArray[Any], sampling_rate: int, *, key: str, roles: list[str] | None = None, simulated: str = SIMULATED
) -> xr.Dataset:
    """Records as they cross the plugin's border.

    Args:
        leads: (records, 12, samples), mV.
        rates: (records,) heart rates, beats per minute.
        sampling_rate: samples per second.
        key: names the item.
        roles: "train" or "test" of each record; absent: not said.
        simulated: a sentence that says how they were made.

    Returns:
        ``ecg`` (record, lead, time) in mV float32, coordinates ``time`` in s, ``heart_rate`` and ``role`` of each record.
    """
    coords: dict[str, Any] = {
        "lead": list(LEADS),
        "time": ("time", np.arange(leads.shape[-1]) / sampling_rate, {"units": "s"}),
        "heart_rate": ("record", np.asarray(rates, dtype=np.float64), {"units": "1/min"}),
    }
    if roles is not None:
        coords["role"] = ("record", roles)
    attrs = {"key": key, "sampling_rate": sampling_rate, "simulated": simulated}
    return xr.Dataset({"ecg": (("record", "lead", "time"), leads.astype(np.float32), {"units": "mV"})}, coords, attrs)


def check(item: xr.Dataset) -> xr.Dataset:
    """An item, if it is what `dataset` makes.

    Args:
        item: as read or loaded.

    Returns:
        The item.

    Raises:
        DataError: variables, leads or values are not those of records.
    """
    key = item.attrs.get("key", "the item")
    if "ecg" not in item or item["ecg"].dims != ("record", "lead", "time") or "heart_rate" not in item.coords:
        raise DataError(
            f"{key} is not a set of ECG records: it needs a variable 'ecg' (record, lead, time) in mV and a 'heart_rate' (record)"
        )
    if tuple(item["lead"].values) != LEADS:
        raise DataError(f"{key} has the leads {', '.join(map(str, item['lead'].values))}; needed are {', '.join(LEADS)} in this order")
    if "sampling_rate" not in item.attrs:
        raise DataError(f"{key} does not say its sampling rate (attribute sampling_rate, Hz)")
    if not item.sizes["record"] or not np.isfinite(item["ecg"].values).all():
        raise DataError(f"{key} has no records, or values that are not finite; leave such records out")
    return item


def record(rate: float, seconds: float, sampling_rate: int, variety: float, noise: float, key: tuple[int, int, int]) -> NDArray[Any]:
    """One simulated record that begins at a random phase of a beat.

    Args:
        rate: heart rate, beats per minute (it varies by 1 within the record).
        seconds: length.
        sampling_rate: samples per second.
        variety: standard deviation of the logarithm of heights and widths of the waves.
        noise: amplitude of the noise on each independent lead, relative to its standard deviation.
        key: seed, role and number of the record.

    Returns:
        (12, samples) in mV.

    Raises:
        MissingExtra: neurokit2 is not installed.
    """
    neurokit = load_neurokit()
    generator = np.random.default_rng(key)
    heights = np.asarray(HEIGHTS) * np.exp(variety * generator.standard_normal(5))
    widths = np.asarray(WIDTHS) * np.exp(variety * generator.standard_normal(5))
    first, length, heart = (
        round(generator.uniform(0, 60 / rate) * sampling_rate),
        round(seconds * sampling_rate),
        int(generator.integers(2**31)),
    )
    leads = []
    for lead in INDEPENDENT:
        weights = np.asarray(WEIGHTS[lead]) * np.exp(variety * generator.standard_normal(5))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # neurokit2 warns of its own deprecated calls
            signal = neurokit.ecg_simulate(
                duration=int(np.ceil(seconds + 60 / rate)), sampling_rate=sampling_rate, heart_rate=rate, heart_rate_std=1, noise=0.0,
                method="ecgsyn", random_state=heart, ai=heights * weights, bi=widths,
            )  # fmt: skip
        leads.append(np.asarray(signal, dtype=np.float64)[first : first + length])
    clean = np.stack(leads)
    return complete(clean + noise * clean.std(-1, keepdims=True) * generator.standard_normal(clean.shape))


def load_neurokit() -> Any:
    """The neurokit2 module.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import neurokit2
    except ImportError as error:
        raise MissingExtra("ECG records and their heart rates need neurokit2: pip install 'unstir[ecg]'") from error
    return neurokit2
