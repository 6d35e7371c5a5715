"""Numbers that judge futures of bodies: how far they are from what happened, and whether they keep the energy.

    ADE = mean over trajectories, bodies and frames to come of |x - y|,       FDE the same at the last frame
    of K futures: the mean over them; the best of them, chosen for each trajectory by that very number; and that of their mean place
    energy: E(t) = sum |v|^2/2 + U(x), velocities by central differences of the places, in the future and in the truth alike

Energies are in units of the mean kinetic energy of the truth: the whole energy of attracting bodies may be 0, and nothing is a share of it.

A rule that gives one future is a mean already, so compare it with the mean place; a single future has its own spread on top. The best of K
falls with K even for noise: compare methods at one K only.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from unstir.errors import DataError
from unstir.plugin.protocols import Case, Estimate, MetricInfo, Score
from unstir_molecules.trajectories.simulator import Forces
from unstir_molecules.trajectories.tasks import ORDER

TRAJECTORIES = "the interval resamples trajectories"
PARTS = (("-best", " best", "the best future of each trajectory"), ("-mean", " of the mean", "x the mean place over the futures"))


def compared(estimate: Estimate, case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Futures (sample, trajectory, time, body, axis) and the truth (trajectory, time, body, axis).

    Args:
        estimate: one future of each trajectory, or several.
        case: with its truth.

    Raises:
        DataError: there is no truth, or the shapes differ.
    """
    if case.truth is None:
        raise DataError(f"case {case.key} has no truth to compare with")
    found = estimate.data["position"]
    found = found.expand_dims("sample") if "sample" not in found.dims else found
    x = np.asarray(found.transpose("sample", *ORDER).values, dtype=float)
    y = np.asarray(case.truth["position"].transpose(*ORDER).values, dtype=float)
    if x.shape[1:] != y.shape:
        raise DataError(f"the futures of case {case.key} have the shape {x.shape[1:]}, and the truth {y.shape}")
    return x, y


@dataclass(frozen=True)
class Displacement:
    """Average and final displacement error, of single futures, of the best one and of their mean."""

    def describe(self) -> list[MetricInfo]:
        """Six entries."""
        infos = []
        for key, title, when in (("ade", "ADE", "all frames to come"), ("fde", "FDE", "the last frame")):
            how = f"mean over trajectories, bodies and {when} of |x - y|, in units of the places"
            for name, which, what in (("", "", "mean over the futures"), *PARTS):
                infos.append(MetricInfo(f"{key}{name}", f"{title}{which}", "", "down", f"{how}; {what}; {TRAJECTORIES}", digits=4))
        return infos

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare.

        Args:
            estimate: futures.
            case: with its truth.
        """
        x, y = compared(estimate, case)
        apart, middle = (np.linalg.norm(places - y, axis=-1).mean(-1) for places in (x, x.mean(0)))  # (..., trajectory, time)
        scores = {}
        for key, values, together in (("ade", apart.mean(-1), middle.mean(-1)), ("fde", apart[..., -1], middle[..., -1])):
            for name, parts in ((key, values.mean(0)), (f"{key}-best", values.min(0)), (f"{key}-mean", together)):
                scores[name] = Score(float(parts.mean()), tuple(parts.tolist()))
        return scores


@dataclass(frozen=True)
class Energy:
    """How far the energy of futures is from the true one, in its mean and in its spread, and how much it wanders on the way."""

    def describe(self) -> list[MetricInfo]:
        """Three entries."""
        energy = "energy, velocities by central differences of the places"
        mean = f"mean {energy} over futures, frames and trajectories"
        bias = f"|{mean}, minus the same of the truth|, divided by the mean kinetic energy of the truth"
        spread = f"|standard deviation over trajectories and futures of the mean {energy} over frames, divided by the truth's, minus 1|"
        drift = f"standard deviation over frames of the {energy}, divided by the mean kinetic energy of the truth; mean over futures"
        return [
            MetricInfo("energy-bias", "energy bias", "", "down", bias, digits=3),
            MetricInfo("energy-spread", "energy spread", "", "down", spread, digits=3),
            MetricInfo("energy-drift", "energy drift", "", "down", f"{drift}; {TRAJECTORIES}", digits=3),
        ]

    def __call__(self, estimate: Estimate, case: Case) -> dict[str, Score]:
        """Compare; all are NaN where the law is not known or there are fewer than three frames; the spread is with one trajectory, too.

        Args:
            estimate: futures.
            case: with its truth, whose attributes give the law.
        """
        x, y = compared(estimate, case)
        truth = case.truth
        if truth is None or "law" not in truth.attrs or "coupling" not in truth or y.shape[1] < 3:
            return {info.key: Score(float("nan")) for info in self.describe()}
        forces = Forces(truth.attrs["law"], float(truth.attrs["strength"]), float(truth.attrs["softening"]))
        coupling, times = np.asarray(truth["coupling"].values), np.asarray(truth["time"].values)
        found, wanted = (energies(forces, places, coupling, times) for places in (x, y))
        kinetic = wanted[0].mean()
        drift = found[1].std(-1).mean(0) / kinetic
        bias = abs(found[1].mean() - wanted[1].mean()) / kinetic
        truly = wanted[1].mean(-1).std()
        spread = abs(found[1].mean(-1).std() / truly - 1) if truly > 0 else float("nan")
        whole = {"energy-bias": Score(float(bias)), "energy-spread": Score(float(spread))}
        return whole | {"energy-drift": Score(float(drift.mean()), tuple(drift.tolist()))}


def energies(forces: Forces, places: np.ndarray, coupling: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Kinetic and whole energy at all frames but the first and the last (..., trajectory, time - 2).

    Args:
        forces: the law.
        places: (..., trajectory, time, body, axis).
        coupling: (trajectory, body, body).
        times: of the frames.
    """
    v = (places[..., 2:, :, :] - places[..., :-2, :, :]) / (times[2:] - times[:-2])[:, None, None]
    kinetic = (v**2).sum((-1, -2)) / 2
    return kinetic, kinetic + forces.potential(places[..., 1:-1, :, :], coupling[:, None])
