"""Training of TSDiff: one denoiser of windows, unconditional and, for a share of the batch, told what was observed.

    E w(sigma) || D(x_0 + sigma eps, sigma | calendar, observed or nothing) - x_0 ||^2

Windows that overlap the held-out ones are never drawn. ``style: published`` is TSDiff's own: noise of 100 linear steps, predicted noise.
Reference: Kollovieh et al. 2023 (TSDiff), arXiv:2307.11494; Tashiro et al. 2021 (CSDI: random masks), arXiv:2107.03502;
Karras et al. 2022 (EDM preconditioning), arXiv:2206.00364.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray

from unstir.denoiser import NetworkDenoiser, Normaliser
from unstir.errors import DataError, UserError
from unstir.process import EDM, VPTable
from unstir.space import Masked, Space
from unstir.train import DenoiserTraining, DenoisingLoss, Ended, LogNormal, Schedule, Trainer, Uniform
from unstir_timeseries.s4d import Backbone
from unstir_timeseries.windows import Known, Windows

Style = Literal["edm", "published"]
LEVELS = (0.05, 0.15, 0.5, 1.5, 5.0)
"""Noise levels, in standard deviations of the data, at which held-out windows are denoised."""
GEFCOM_HELD_OUT = (("2007-01-08", "2007-02-18"), ("2007-05-28", "2007-07-12"))
"""Days of the load whose windows choose options and are never trained on; the test begins on 2007-07-13."""


@dataclass(frozen=True)
class TSDiffTraining(DenoiserTraining["TrainingWindows"]):
    """Train TSDiff on a panel and write its checkpoint folder.

    Args:
        data: dataset whose first panel is learnt.
        options: its options.
        end: the first stamp that is not seen, as "2007-07-13"; empty for all.
        held_out: first and last day of each stretch kept for validation; empty: the last twentieth.
        context: C, steps.
        horizon: H, steps.
        lags: shifts given as channels, steps.
        calendar: parts of the calendar given as features.
        covariates: how many known covariates are given.
        scaling: ``"mean"``, ``"median"``, ``"std"``, ``"last"`` or ``"none"``.
        multivariate: do all series form one state, a channel each?
        aligned: share of the windows whose horizon begins where seasons do (midnight); the rest begin anywhere.
        told: share of the windows whose observed part the network is told: 0 is unconditional, 1 is TSDiff-Cond.
        style: ``"edm"`` or ``"published"``.
        width, blocks, states, patch: of the network, see :class:`Backbone`.
        init_skip: is the input added to the output?
        steps: optimiser steps.
        batch: windows a step.
        rate: learning rate of the plateau.
        warmup: steps of its warm-up.
        decay: steps of the linear way down at the end.
        ema: decay of the averaged weights.
        clip: largest norm of a gradient.
        level: mean and standard deviation of log(sigma) in training (``edm``).
        precision: as Lightning Fabric takes it.
        every: steps between saved states (each validated).
        seed: of everything.

    Raises:
        UserError: an option out of range.
    """

    data: str = "timeseries/gefcom"
    options: dict[str, Any] = field(default_factory=dict)
    end: str = "2007-07-13"
    held_out: tuple[tuple[str, str], ...] = GEFCOM_HELD_OUT
    context: int = 336
    horizon: int = 24
    lags: tuple[int, ...] = ()
    calendar: tuple[str, ...] = ("hour", "weekday", "year")
    covariates: int = 0
    scaling: str = "mean"
    multivariate: bool = False
    aligned: float = 0.5
    told: float = 0.5
    style: Style = "edm"
    width: int = 128
    blocks: int = 4
    states: int = 16
    patch: int = 6
    init_skip: bool = False
    steps: int = 30000
    batch: int = 64
    rate: float = 1e-3
    warmup: int = 500
    decay: int = 12000
    ema: float = 0.999
    clip: float = 1.0
    level: tuple[float, float] = (-0.5, 1.6)
    precision: str = "32-true"
    every: int = 1000
    seed: int = 0

    registered: ClassVar[str] = "timeseries/s4d"
    dtype: ClassVar[torch.dtype | None] = torch.float16
    measure: ClassVar[str] = "rmse"

    def __post_init__(self) -> None:
        if self.style not in get_args(Style):
            raise UserError(f"style is 'edm' or 'published', got {self.style!r}")
        for name, share in (("aligned", self.aligned), ("told", self.told)):
            if not 0 <= share <= 1:
                raise UserError(f"{name} is a share between 0 and 1, got {share}")

    def sampler(self, item: xr.Dataset) -> TrainingWindows:
        """The windows of a panel."""
        return TrainingWindows.of(item, self)

    def trainer(self, sampler: TrainingWindows, device: str = "cpu") -> Trainer:
        """The core's trainer, ready to run; gaps have no noise."""
        denoiser = self.denoiser(sampler, Masked("present") if sampler.has_gaps else None)
        loss = DenoisingLoss(LogNormal(*self.level), "edm") if self.style == "edm" else DenoisingLoss(Uniform(0.0), "eps")
        return self.prepared(denoiser, sampler, loss, self.steps, Schedule(self.rate, self.warmup, self.decay, 0.01), device)

    def network(self, sampler: TrainingWindows) -> dict[str, Any]:
        """Keyword arguments of the network."""
        windows = sampler.windows
        published = {"low": 1 / (2 * np.pi * 1e4), "high": 1 / (2 * np.pi)} if self.style == "published" else {}
        return {
            "channels": windows.channels, "width": self.width, "blocks": self.blocks, "states": self.states, "features": windows.features,
            "sees_observed": self.told > 0, "patch": self.patch, "init_skip": self.init_skip, "mixes": self.multivariate, **published,
        }  # fmt: skip

    def denoiser(self, sampler: TrainingWindows, space: Space | None = None) -> NetworkDenoiser:
        """The untrained denoiser; its weights depend on the seed alone. In training, gaps have no noise (``space``)."""
        windows, network = sampler.windows, self.untrained(Backbone, self.network(sampler))
        process = EDM() if self.style == "edm" else VPTable("linear", steps=100, beta_min=1e-4, beta_max=0.1)
        return NetworkDenoiser(
            network,
            process,
            parameterisation="edm" if self.style == "edm" else "eps",
            shape=(windows.channels, windows.length),
            sigma_data=1.0,
            space=space,
            normaliser=Normaliser(windows.mean, windows.std),
        )

    def score(self, denoiser: NetworkDenoiser, sampler: TrainingWindows) -> dict[str, float] | None:
        """Root mean square errors of the held-out windows; none where there are no such."""
        return sampler.score(denoiser) if len(sampler.held) else None

    def card(self, ended: Ended[TrainingWindows]) -> str:
        """The model card."""
        return card(self, ended.sampler, ended.found or {})

    def facts(self, ended: Ended[TrainingWindows]) -> dict[str, Any]:
        """Layout of the windows, step and season of the series, and whether the network is told what was observed."""
        panel = ended.item
        return {
            "windows": ended.sampler.windows.facts(), "freq": panel.attrs["freq"], "season": int(panel.attrs["season"]),
            "items": [str(name) for name in panel["item"].values], "is_told": self.told > 0, "is_free": self.told < 1,
        }  # fmt: skip


@dataclass(frozen=True)
class TrainingWindows:
    """Windows to train on, drawn by (step, generator) alone, and the held-out ones.

    Args:
        panel: what may be seen.
        windows: how windows become states.
        ends: (many, 2) item and end of every window that may be drawn.
        aligned: which of them begin their horizon where seasons do.
        held: (few, 2) item and end of the held-out windows.
        training: the options.
        known: what every window shares.
    """

    panel: xr.Dataset
    windows: Windows
    ends: NDArray[np.int64]
    aligned: NDArray[np.int64]
    held: NDArray[np.int64]
    training: TSDiffTraining
    known: Known

    @classmethod
    def of(cls, panel: xr.Dataset, training: TSDiffTraining) -> TrainingWindows:
        """The windows of a panel.

        Raises:
            DataError: no series is long enough; says which is longest and how many steps it lacks.
        """
        if training.end:
            panel = panel.isel(time=panel["time"].values < np.datetime64(training.end))
        series = panel.sizes["item"] if training.multivariate else 1
        shape = {name: getattr(training, name) for name in ("context", "horizon", "lags", "calendar", "covariates", "scaling")}
        if panel.attrs.get("calendar", "known") != "known":
            shape["calendar"] = ()
        windows = Windows(**shape, series=series)
        seen = np.isfinite(panel["y"].values)
        first, last = np.argmax(seen, 1), seen.shape[1] - np.argmax(seen[:, ::-1], 1)
        need = windows.length + windows.reach
        if not (lengths := np.where(seen.any(1), last - first, 0)).size or lengths.max() < need:
            longest = str(panel["item"].values[int(lengths.argmax())]) if lengths.size else "none"
            most = int(lengths.max(initial=0))
            raise DataError(f"a window with its lags takes {need} steps; the longest series, {longest}, has {most}: it lacks {need - most}")
        hidden = held_out_steps(panel, training.held_out)
        covered = np.concatenate([[0], np.cumsum(hidden)])
        pairs, held = [], []
        for item in range(1 if series > 1 else panel.sizes["item"]):
            ends = np.arange(first[item] + need, last[item] + 1)
            clean = covered[ends] == covered[ends - windows.length]
            pairs.append(np.stack((np.full(clean.sum(), item), ends[clean]), 1))
            days = ends[(covered[ends] - covered[ends - windows.horizon]) == windows.horizon]
            held.append(np.stack((np.full(len(days), item), days), 1)[:: 3 * windows.horizon])
        ends = np.concatenate(pairs)
        if not len(ends):
            raise DataError(f"every window of {windows.length} steps overlaps the held-out days: hold out less, or give more data")
        season = int(panel.attrs["season"])
        aligned = np.flatnonzero((ends[:, 1] - windows.horizon) % season == 0)
        made = cls(panel, windows, ends, aligned, np.concatenate(held), training, Known.of(panel, windows))
        return replace(made, windows=made.standardised())

    def standardised(self) -> Windows:
        """The windows with mean and standard deviation of their scaled values, over 4096 of them."""
        chosen = self.ends[np.random.default_rng(self.training.seed).integers(len(self.ends), size=4096)]
        drawn = self.windows.take(self.panel, *chosen.T, known=self.known)
        values = drawn.values[drawn.mask > 0].double()
        if not (spread := float(values.std())) > 0:
            raise DataError("the series are constant: there is nothing to learn")
        return replace(self.windows, mean=round(float(values.mean()), 4), std=float(f"{spread:.4g}"))

    @property
    def has_gaps(self) -> bool:
        """Are there missing values among what may be seen?"""
        first = np.argmax(np.isfinite(self.panel["y"].values), 1).max()
        return bool(np.isnan(self.panel["y"].values[:, first:]).any())

    def __call__(self, step: int, generator: np.random.Generator) -> Mapping[str, Any]:
        """The batch of a step: states, features, and for a share of them what was observed."""
        count = self.training.batch
        on_time = generator.random(count) < self.training.aligned if len(self.aligned) else np.zeros(count, bool)
        chosen = generator.integers(len(self.ends), size=count)
        if on_time.any():
            chosen[on_time] = self.aligned[generator.integers(len(self.aligned), size=int(on_time.sum()))]
        drawn = self.windows.take(self.panel, *self.ends[chosen].T, known=self.known)
        condition = drawn.condition()
        if self.training.told > 0:
            told = generator.random((count, 1, 1)) < self.training.told
            seen = torch.from_numpy(masks(generator, count, self.windows) & told).float() * drawn.mask
            condition["told"] = torch.cat((drawn.values * seen, seen), 1)
        if self.has_gaps:
            condition["present"] = drawn.mask
        return {"x0": drawn.values, "condition": condition}

    def score(self, denoiser: NetworkDenoiser) -> dict[str, float]:
        """Root mean square errors of held-out windows at `LEVELS`, told nothing, and of their horizons told the context."""
        chosen = self.held[np.linspace(0, len(self.held) - 1, min(len(self.held), 256)).astype(int)]
        drawn = self.windows.take(self.panel, *chosen.T, known=self.known)
        noise = torch.randn(drawn.values.shape, generator=torch.Generator().manual_seed(0))
        context = drawn.mask.clone()
        context[..., self.windows.context :] = 0
        told = {**drawn.condition(), "told": torch.cat((drawn.values * context, context), 1)}
        process, scores = denoiser.process, {}
        with torch.inference_mode():
            for level in LEVELS:
                t = float(process.time_at_rho(level))
                x_t = process.perturb(drawn.values, torch.full((len(chosen),), t, dtype=torch.float64), noise)
                for kind, condition in (("free", drawn.condition()), ("told", told)):
                    if self.training.told == 0 and kind == "told":
                        continue
                    error = (denoiser(x_t, t, condition) - drawn.values)[
                        ..., slice(None) if kind == "free" else slice(self.windows.context, None)
                    ]
                    scores[f"{kind} {level}"] = round(float(error.square().mean().sqrt()), 4)
        return scores


def masks(generator: np.random.Generator, count: int, windows: Windows) -> NDArray[np.bool_]:
    """What a conditional network is told of a window: mostly the context, some of it missing; sometimes any part.

    Half: the whole context. A quarter: the context without a share, at random or in a block. A quarter: random steps of the window.

    Args:
        generator: the only source of randomness.
        count: windows.
        windows: their layout.

    Returns:
        (count, 1, L), true where observed; the lags of what was observed are known with it.
    """
    place = np.arange(windows.length)
    made = np.broadcast_to(place < windows.context, (count, windows.length)).copy()
    kind, share, where = generator.random(count), generator.random(count), generator.random(count)
    draws = generator.random((count, windows.length))
    first = (where * windows.context * (1 - share))[:, None]
    block = (place >= first) & (place < first + (share * windows.context)[:, None])
    made &= ~(block & ((kind >= 0.5) & (kind < 0.65))[:, None])
    made &= ~((draws < share[:, None]) & ((kind >= 0.65) & (kind < 0.75))[:, None])
    anywhere = (kind >= 0.75)[:, None]
    return np.where(anywhere, draws >= share[:, None], made)[:, None]


def held_out_steps(panel: xr.Dataset, stretches: tuple[tuple[str, str], ...]) -> NDArray[np.bool_]:
    """Which steps of a panel are held out: the days of the stretches, or the last twentieth where there are none.

    Args:
        panel: with its stamps.
        stretches: first and last day of each.

    Returns:
        (steps,) true where held out.
    """
    stamps = panel["time"].values
    if not stretches:
        return np.arange(len(stamps)) >= len(stamps) - len(stamps) // 20
    made = np.zeros(len(stamps), dtype=bool)
    for begin, end in stretches:
        made |= (stamps >= np.datetime64(begin)) & (stamps < np.datetime64(end) + np.timedelta64(1, "D"))
    return made


def card(training: TSDiffTraining, sampler: TrainingWindows, errors: Mapping[str, float]) -> str:
    """The model card of a finished training."""
    levels = ", ".join(f"{value} ({key})" for key, value in errors.items()) or "none held out"
    held = ", ".join(f"{begin} to {end}" for begin, end in training.held_out) or "the last twentieth"
    windows, panel = sampler.windows, sampler.panel
    return f"""# TSDiff of {panel.attrs.get("key", "a panel")}

A denoiser of windows of {windows.context} + {windows.horizon} steps ({panel.attrs["freq"]}), scaled by the context ({windows.scaling}).

- **Data**: {training.data}, {panel.sizes["item"]} series up to {training.end or "their end"}; held out of training: {held}.
- **Network**: {training.blocks} S4D blocks of width {training.width}, {training.states} states, {training.patch} steps a token; \
{training.style} preconditioning; told what was observed for {training.told:.0%} of the windows, nothing for the rest.
- **Training**: {training.steps} steps of {training.batch} windows, AdamW {training.rate:g}, precision {training.precision}, \
EMA {training.ema}, seed {training.seed}; {platform.machine()} CPU unless said otherwise; recipe `unstir train timeseries/gefcom-training`.
- **Held-out error** (standard deviations of the data, at noise levels): {levels}.
- **Licence**: Apache-2.0 for the weights; the training data keep their own (see `unstir data list`).
- **Limits**: one utility, hourly load, windows of this length and step. Weather is not known to it.
"""
