"""Heart-rate-conditioned generation of ECG by diffusion, and the classical answer: a record of nearly that rate, stretched.

    D(x_t, t, c),    x in standard deviations of its lead,    c the clock of the beats at rate r (see ``network.py``), or nothing

A small stand-in for DiffuSETS, which diffuses the latent codes of 12-lead MIMIC-IV records with T = 1000 and beta linear from 0.00085 to
0.012 (``VPTable("linear", 1000, 0.00085, 0.012)``; its numbers are latent diffusion's, its schedule is not), conditioned on text reports,
age, sex and heart rate.
Here the state is the signal itself, the condition is the heart rate alone, and the records are simulated: a demonstration. Whether
generated records help a classifier of a scarce class is out of scope.
[DiffuSETS, Lai et al. 2025, arXiv:2501.05932; EDM, Karras et al. 2022, arXiv:2206.00364; CFG, Ho and Salimans 2022, arXiv:2207.12598]
"""

from __future__ import annotations

import math
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unstir import checkpoint
from unstir.denoiser import Denoiser, NetworkDenoiser, Normaliser
from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process import EDM
from unstir.train import DenoisingLoss, LogNormal, Schedule, Training
from unstir_timeseries.ecg.leads import LEADS, complete, independent_of
from unstir_timeseries.ecg.metrics import heart_rate, r_peaks
from unstir_timeseries.ecg.network import GRID, KIND, SOLVER, BeatNetwork, generated, phase_of, told
from unstir_timeseries.ecg.records import RANGE, SIMULATED, SimulatedECG, dataset


@dataclass(frozen=True)
class ECGTraining(Training):
    """Train the heart-rate-conditioned denoiser on simulated records: about a minute of one core.

    Args:
        records: simulated training records.
        record_seconds: length of each; windows of ``seconds`` are cut from them at random.
        seconds: length of the state.
        sampling_rate: samples per second.
        data_seed: of the simulation.
        widths: channels of the network's levels.
        attention: levels with self-attention.
        blocks: residual blocks a level.
        stem: samples that the network folds into channels.
        drop: share of windows whose rate is not told, for classifier-free guidance.
        batch: windows a step.
        steps: optimiser steps.
        rate: learning rate of the plateau.
        decay: steps of the linear way down at the end.
        ema: decay of the averaged weights.
        seed: of everything else.

    Raises:
        UserError: an option outside its range.
    """

    records: int = 60
    record_seconds: float = 5.0
    seconds: float = 4.0
    sampling_rate: int = 100
    data_seed: int = 0
    widths: tuple[int, ...] = (40, 32, 48)
    attention: tuple[int, ...] = (2,)
    blocks: int = 1
    stem: int = 2
    drop: float = 0.1
    batch: int = 16
    steps: int = 2500
    rate: float = 3e-3
    decay: int = 1000
    ema: float = 0.995
    seed: int = 0

    def __post_init__(self) -> None:
        if not 2 <= self.seconds <= self.record_seconds:
            raise UserError(f"seconds must lie between 2 and record_seconds ({self.record_seconds:g}), got {self.seconds}")
        if not 0 <= self.drop < 1:
            raise UserError(f"drop must lie in [0, 1), got {self.drop}")
        at_least(self, batch=1, steps=1)

    def load(self) -> xr.Dataset:
        """The simulated training records."""
        return SimulatedECG(self.records, 1, self.record_seconds, self.sampling_rate, seed=self.data_seed).part("train")

    def fit(self, item: xr.Dataset, out: str | Path, *, device: str = "cpu", progress: Progress = None, resume: bool = False) -> Path:
        """Train (or go on) in ``out/training`` and write the checkpoint to ``out``.

        Args:
            item: the training records.
            out: the checkpoint folder.
            device: "cpu" or "cuda".
            progress: told of each step.
            resume: go on where a training stopped.

        Returns:
            The checkpoint folder.

        Raises:
            DataError: a training record has no R peak.
            MissingExtra: neurokit2 is not installed.
        """
        leads = item["ecg"].values.astype(np.float64)
        rates, peaks = item["heart_rate"].values, tuple(r_peaks(signal, self.sampling_rate) for signal in leads[:, LEADS.index("V3")])
        silent = [n for n, beats in enumerate(peaks) if not len(beats)]
        if silent:
            found = ", ".join(map(str, silent))
            raise DataError(f"no R peak is found in the training records {found}; take another data_seed or a higher sampling_rate")
        normaliser = Normaliser(_columns(leads.mean((0, 2))), _columns(leads.std((0, 2))))
        denoiser = self.denoiser(normaliser)
        state = normaliser.encode(torch.from_numpy(leads)).float()
        batches = Windows(state, rates, peaks, self.sampling_rate, self.samples, self.batch, self.drop)
        schedule = Schedule(self.rate, 100, self.decay, 0.02)
        trainer = self.prepared(denoiser, batches, DenoisingLoss(LogNormal(-0.5, 1.4), "edm"), self.steps, schedule, device)
        trainer.run(Path(out) / "training", resume=resume, progress=progress)
        denoiser.network.load_state_dict(trainer.averages["ema"].weights())
        return self.write(Path(out), denoiser.eval())

    @property
    def samples(self) -> int:
        """Samples of a window."""
        return round(self.seconds * self.sampling_rate)

    def network(self) -> dict[str, Any]:
        """Keyword arguments of the network."""
        size = {"widths": list(self.widths), "attention": list(self.attention), "blocks": self.blocks, "stem": self.stem}
        return {"leads": len(LEADS), "sampling_rate": self.sampling_rate, **size}

    def denoiser(self, normaliser: Normaliser) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone."""
        network = self.untrained(BeatNetwork, self.network())
        return NetworkDenoiser(
            network, EDM(), parameterisation="edm", shape=(len(LEADS), self.samples), sigma_data=1.0, normaliser=normaliser
        )

    def write(self, out: Path, denoiser: NetworkDenoiser) -> Path:
        """The checkpoint, in half precision on disk, with what its own draws measure.

        Args:
            out: its folder.
            denoiser: trained, on the CPU.
        """
        asked = np.repeat(np.linspace(*RANGE, 8), 4)
        found = generated(denoiser, asked, seed=1)
        errors = [
            abs(rate - np.nan_to_num(heart_rate(leads[LEADS.index("V3")], self.sampling_rate)))
            for rate, leads in zip(asked, found[0], strict=True)
        ]
        denoiser.card = card(self, float(np.mean(errors)), sum(p.numel() for p in denoiser.network.parameters()))
        facts = {"kind": KIND, "leads": list(LEADS), "sampling_rate": self.sampling_rate, "heart_rate": list(RANGE), "simulated": SIMULATED}
        return checkpoint.save(denoiser, out, network="timeseries/ecg-unet", config=self.network(), dtype=torch.float16, facts=facts)


@dataclass(frozen=True)
class Windows:
    """Batches of windows cut from records at random places, some without their beats.

    Args:
        state: (records, leads, samples) in state units.
        rates: (records,) beats per minute.
        peaks: sample numbers of the R peaks of each record.
        sampling_rate: samples per second.
        samples: length of a window.
        batch: windows a batch.
        drop: share of windows whose beats are not told.
    """

    state: Tensor
    rates: NDArray[np.floating]
    peaks: tuple[NDArray[np.int64], ...]
    sampling_rate: int
    samples: int
    batch: int
    drop: float

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step, drawn from ``generator`` alone."""
        records = generator.integers(len(self.state), size=self.batch)
        firsts = generator.integers(self.state.shape[-1] - self.samples + 1, size=self.batch)
        x0 = torch.stack([self.state[n, :, first : first + self.samples] for n, first in zip(records, firsts, strict=True)])
        phases = np.asarray([self.phase(n, first) for n, first in zip(records, firsts, strict=True)])
        kept = torch.from_numpy(generator.random((self.batch, 1)) >= self.drop)
        return {"x0": x0, "condition": {"features": told(self.rates[records], phases) * kept}}

    def phase(self, record: int, first: int) -> float:
        """Phase of the beats at the first sample of a window, from the R peaks inside it (of the record, where there is none)."""
        peaks = self.peaks[record] - first
        inside = peaks[(peaks >= 0) & (peaks < self.samples)]
        return phase_of(inside if len(inside) else peaks, float(self.rates[record]), self.sampling_rate)


@dataclass(frozen=True)
class DiffusionECG:
    """Draw records from a diffusion model that is told the heart rate.

    Exact in its law up to the network and the solver; guidance above weight 1 is biased.

    Args:
        samples: records a case.
        solver: name of the solver.
        grid: name of the grid.
        weight: of classifier-free guidance; 1 is the plain conditional law.
        conditioned: is the network told the rate? Without, it draws at any rate: what conditioning has to beat.
        leads: "all" as the network draws them, or "independent": III, aVR, aVL and aVF computed from I and II, exact.

    Raises:
        UserError: an option outside its range.

    Reference: Lai et al. 2025, arXiv:2501.05932.
    """

    samples: int = 16
    solver: str = SOLVER
    grid: str = GRID
    weight: float = 1.0
    conditioned: bool = True
    leads: Literal["all", "independent"] = "all"

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, samples=1)
        if not math.isfinite(self.weight) or self.weight < 0:
            raise UserError(f"weight must not be negative, got {self.weight}")
        if self.leads not in ("all", "independent"):
            raise UserError(f"leads must be 'all' or 'independent', got {self.leads!r}")

    def check_prior(self, prior: Denoiser) -> None:
        """Refuse a checkpoint that is not one of ECG.

        Raises:
            CheckpointError: it is of something else.
        """
        if getattr(prior, "facts", {}).get("kind") != KIND:
            raise CheckpointError(
                "this checkpoint does not generate ECG: take timeseries/ecg, or train one with 'unstir train timeseries/ecg'"
            )

    def __call__(self, case: Case, prior: Denoiser | None, seed: int, *, progress: Progress = None) -> Estimate:
        """Records at the rate of the case.

        Raises:
            CheckpointError: there is no checkpoint, or one of something else.
            DataError: the checkpoint was trained at another sampling rate or length, or for other heart rates.
        """
        if prior is None:
            raise CheckpointError("ecg-diffusion needs a checkpoint: timeseries/ecg")
        self.check_prior(prior)
        facts: Mapping[str, Any] = prior.facts  # type: ignore[assignment]
        asked, want = float(case.measurement["heart_rate"]), (case.measurement.sizes["time"], case.measurement.attrs["sampling_rate"])
        low, high = facts["heart_rate"]
        if not low <= asked <= high:
            raise DataError(f"{case.key} asks for {asked:g} beats per minute and this checkpoint was trained for {low:g} to {high:g}")
        samples = int(prior.shape[-1])  # type: ignore[index, arg-type]
        if want != (samples, facts["sampling_rate"]):
            raise DataError(
                f"{case.key} asks for {want[0]} samples at {want[1]} Hz and this checkpoint draws {samples} "
                f"at {facts['sampling_rate']} Hz: "
                "set task.seconds, or train another"
            )
        leads, nfe = generated(
            prior, np.full(self.samples, asked), seed=seed, solver=self.solver, grid=self.grid, weight=self.weight,
            conditioned=self.conditioned, progress=progress,
        )  # fmt: skip
        if self.leads == "independent":
            leads = complete(independent_of(leads))
        return _estimate(case, leads, nfe, {"simulated": SIMULATED})


@dataclass(frozen=True)
class Resampled:
    """The classical answer: a training record of nearly the rate, its time stretched to the rate, cut at a random place.

        y(t) = x(t0 + t r / r_x)

    It copies people and stretches their waves along with the time between beats, which a real heart does not do.

    Args:
        samples: records a case.
        neighbours: training records of the nearest rates that it draws from.

    Raises:
        UserError: an option outside its range.
    """

    samples: int = 16
    neighbours: int = 3

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(self, samples=1, neighbours=1)

    def __call__(self, case: Case, prior: Denoiser | None, seed: int, *, progress: Progress = None) -> Estimate:
        """Records at the rate of the case.

        Raises:
            DataError: no training record is long enough when stretched.
        """
        training: xr.Dataset = case.context["training"]
        asked, samples = float(case.measurement["heart_rate"]), case.measurement.sizes["time"]
        rates, have = training["heart_rate"].values, training.sizes["time"]
        room = have - 1 - (samples - 1) * asked / rates  # samples to choose the first one from
        fitting = np.flatnonzero(room >= 0)
        if not len(fitting):
            raise DataError(
                f"{case.key}: no training record of {have} samples is long enough to give {samples} at {asked:g} beats per minute"
            )
        nearest = fitting[np.argsort(np.abs(np.log(rates[fitting] / asked)), kind="stable")[: self.neighbours]]
        generator, made, told_to = np.random.default_rng(seed), [], progress or (lambda done, total: None)
        for n in range(self.samples):
            chosen = generator.choice(nearest)
            at = generator.uniform(0, room[chosen]) + np.arange(samples) * asked / rates[chosen]
            made.append([np.interp(at, np.arange(have), lead) for lead in training["ecg"].values[chosen]])
            told_to(n + 1, self.samples)
        return _estimate(case, np.asarray(made), 0, {"nearest_rates": [round(float(rate), 2) for rate in rates[nearest]]})


def _estimate(case: Case, leads: NDArray[Any], nfe: int, info: dict[str, Any]) -> Estimate:
    """Records in the shape of the task's truth."""
    rates = np.full(len(leads), float(case.measurement["heart_rate"]))
    made = dataset(leads, rates, case.measurement.attrs["sampling_rate"], key=case.key)
    made.attrs["simulated"] = "generated, not measured"
    return Estimate(made, nfe, info)


def _columns(values: NDArray[Any]) -> list[list[float]]:
    """A number a lead, to broadcast against (leads, time)."""
    return [[float(value)] for value in values]


def card(training: ECGTraining, error: float, parameters: int) -> str:
    """The model card of a finished training.

    Args:
        training: its options.
        error: mean heart-rate error of 32 draws over the range, beats per minute.
        parameters: of the network.
    """
    width = " / ".join(map(str, training.widths))
    return f"""# timeseries/ecg

A demonstration: a denoiser of 12-lead ECG of {training.seconds:g} s at {training.sampling_rate} Hz that is told the heart rate. \
**Trained on simulated records alone; it knows nothing of patients and must not be used on or about any.**

- **Data**: {training.records} records of {training.record_seconds:g} s, {SIMULATED}; rates {RANGE[0]:g} to {RANGE[1]:g} beats per minute, \
seed {training.data_seed}. Held-out records are other simulated persons.
- **Network**: 1D U-Net with a clock of the rate, widths {width}, \
{parameters} parameters, EDM preconditioning; \
the rate is left out of {training.drop:.0%} of windows.
- **Training**: {training.steps} steps of {training.batch} windows, Adam {training.rate:g}, EMA {training.ema}, seed {training.seed}; \
{platform.machine()} CPU; recipe `unstir train timeseries/ecg`.
- **Measured**: mean |asked - found| heart rate of 32 draws over the range: {error:.2f} beats per minute \
(R peaks of lead V3 by neurokit2; a draw without two peaks counts as rate 0).
- **Licence**: Apache-2.0 for the weights; the simulator is neurokit2 (MIT).
- **Limits**: no sex, age, disease, drift or artefact; every lead of the simulator spans at most 1.6 mV; \
leads III, aVR, aVL, aVF follow from I and II.
"""
