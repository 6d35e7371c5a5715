"""Two checks of generated ECG that need no reference: the heart rate that was asked for, and Einthoven's identities.

heart rate = 60 (n - 1) / (t_n - t_1) of n R peaks            residual = rms(III - (II - I), ...) / rms(leads)
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from unstir.errors import DataError
from unstir.plugin.options import one_of
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_timeseries.ecg.leads import LEADS, residual
from unstir_timeseries.ecg.records import load_neurokit


def r_peaks(signal: NDArray[np.floating], sampling_rate: float) -> NDArray[np.int64]:
    """R peaks of one lead by neurokit2's own method (cleaning, then steep gradients).

    Args:
        signal: (time,) mV.
        sampling_rate: samples per second.

    Returns:
        Their sample numbers, increasing; none where none is found.

    Raises:
        MissingExtra: neurokit2 is not installed.

    Reference: Makowski et al. 2021, Behav. Res. Methods 53.
    """
    neurokit = load_neurokit()
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        try:
            clean = neurokit.ecg_clean(signal, sampling_rate=sampling_rate, method="neurokit")
            found = neurokit.ecg_peaks(clean, sampling_rate=sampling_rate, method="neurokit")[1]["ECG_R_Peaks"]
        except (IndexError, ValueError, ZeroDivisionError):  # how neurokit2 says that a signal has no beat
            return np.empty(0, np.int64)
    found = np.asarray(found, dtype=float)
    return found[np.isfinite(found)].astype(np.int64)


def heart_rate(signal: NDArray[np.floating], sampling_rate: float) -> float:
    """Heart rate of one lead: 60 (n - 1) / (t_n - t_1).

    Args:
        signal: (time,) mV.
        sampling_rate: samples per second.

    Returns:
        Beats per minute; nan where fewer than two R peaks are found.

    Raises:
        MissingExtra: neurokit2 is not installed.
    """
    peaks = r_peaks(signal, sampling_rate)
    return 60 * sampling_rate * (len(peaks) - 1) / float(peaks[-1] - peaks[0]) if len(peaks) > 1 else math.nan


@dataclass(frozen=True)
class HeartRate:
    """Is the heart rate that was asked for the one that is found?

    Args:
        lead: where R peaks are looked for; V3, for neurokit2 takes the tall simulated T wave of lead II for a beat.

    Raises:
        UserError: there is no such lead.
    """

    lead: str = "V3"

    def __post_init__(self) -> None:
        one_of(self, lead=LEADS)

    def describe(self) -> list[MetricInfo]:
        """Error, share without a rate, and the error of real (held-out) records."""
        found = f"60 (n - 1)/(t_n - t_1) of the R peaks that neurokit2 finds in lead {self.lead}"
        return [
            MetricInfo(
                "heart-rate-error", "HR error", "bpm", "down",
                f"mean of |asked - found| heart rate over records; found: {found}; a record with fewer than two peaks counts as rate 0",
            ),
            MetricInfo("heart-rate-absent", "no HR", "%", "down", f"share of records without two R peaks in lead {self.lead}"),
            MetricInfo(
                "heart-rate-held-out", "HR error held out", "bpm", "down",
                "the same error of held-out records around this rate, asked their own: what data and detector leave to any method",
            ),
        ]  # fmt: skip

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Parts are records.

        Raises:
            DataError: an estimate without records.
        """
        if not estimate.data.sizes["record"]:
            raise DataError(f"the estimate of {case.key} holds no records")
        asked = float(case.measurement["heart_rate"])
        found = [heart_rate(signal, case.measurement.attrs["sampling_rate"]) for signal in estimate.data["ecg"].sel(lead=self.lead).values]
        errors = [abs(asked - (0.0 if math.isnan(rate) else rate)) for rate in found]
        absent = [100.0 * math.isnan(rate) for rate in found]
        scores = {
            "heart-rate-error": Score(float(np.mean(errors)), tuple(errors)),
            "heart-rate-absent": Score(float(np.mean(absent)), tuple(absent)),
        }
        if case.truth is not None:
            held = case.truth["ecg"].sel(lead=self.lead).values
            real = [
                abs(float(told) - np.nan_to_num(heart_rate(signal, case.measurement.attrs["sampling_rate"])))
                for signal, told in zip(held, case.truth["heart_rate"].values, strict=True)
            ]
            scores["heart-rate-held-out"] = Score(float(np.mean(real)), tuple(real))
        return scores


@dataclass(frozen=True)
class Einthoven:
    """Do the derived leads follow from leads I and II?"""

    def describe(self) -> list[MetricInfo]:
        """One number."""
        text = (
            "100 rms(derived lead - its identity) / rms(leads about their means), over III = II - I, aVR = -(I + II)/2, aVL = I - II/2, "
            "aVF = II - I/2, a record at a time; 0 where a method computes these leads from I and II"
        )
        return [MetricInfo("einthoven", "Einthoven", "%", "down", text)]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Parts are records."""
        leads = estimate.data["ecg"].transpose("record", "lead", "time").values.astype(np.float64)
        size = np.sqrt(np.square(leads - leads.mean(-1, keepdims=True)).mean((1, 2)))
        parts = 100 * np.sqrt(np.square(residual(leads)).mean((1, 2))) / np.maximum(size, 1e-12)
        return {"einthoven": Score(float(parts.mean()), tuple(parts.tolist()))}
