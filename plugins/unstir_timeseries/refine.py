"""Refinement: the forecast of any method, moved towards what a model of windows finds likely, and held near where it was.

    E(y; y~) = -log p(y) + lambda R(y, y~),     y~ the observed context with a path of the base forecast after it

Samples of the base are sorted at each step and matched to the levels k_i = (i + 1)/(S + 1); a point is repeated. TSDiff's code holds the
context alone under "mse", and context and horizon under "quantile": here ``hold`` says which, for both. The walk is `refinement.Langevin`.
Reference: Kollovieh et al. 2023 (TSDiff, "refine"), arXiv:2307.11494, section 4.
"""

from __future__ import annotations

import warnings
import zlib
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args
from weakref import WeakKeyDictionary

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from unstir.denoiser import Denoiser
from unstir.errors import CheckpointError, UserError
from unstir.noise import NoiseSource
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries.panel import forecast, history_of, horizon_of
from unstir_timeseries.predict import check_panel, shuffled
from unstir_timeseries.refinement import Langevin, losses, representative, training_times
from unstir_timeseries.windows import Encoded, Windows

Hold = Literal["context", "horizon", "both"]


@dataclass(frozen=True)
class Refine:
    """Refine the forecast of another method of the recipe; one that is a point is repeated.

    Args:
        base: label of that method.
        regulariser: "mse" or "quantile".
        weight: lambda.
        hold: what R holds: the observed "context", the base's "horizon", or "both".
        optimiser: "langevin" or "likelihood" (maximum likelihood, no noise).
        noise: of "langevin".
        rate: eta.
        iterations: of the walk.
        samples: S, paths a series.
        level: noise level sigma/alpha of tau; found on training windows when 0.
        windows: how many those are.
        draws: noises each.
        batch: paths worked on at a time.

    Raises:
        UserError: an option out of range.
    """

    base: str = "seasonal-naive"
    regulariser: Literal["mse", "quantile"] = "quantile"
    weight: float = 1.0
    hold: Hold = "both"
    optimiser: Literal["langevin", "likelihood"] = "langevin"
    noise: float = 0.1
    rate: float = 0.1
    iterations: int = 20
    samples: int = 100
    level: float = 0.0
    windows: int = 64
    draws: int = 4
    batch: int = 2000

    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.base:
            raise UserError("a refinement needs the label of the method it refines: base: seasonal-naive")
        if self.hold not in get_args(Hold) or self.optimiser not in ("langevin", "likelihood"):
            raise UserError(
                "a refinement holds 'context', 'horizon' or 'both' and goes by 'langevin' or 'likelihood', "
                f"got {self.hold!r} and {self.optimiser!r}"
            )
        at_least(self, samples=1, windows=1, draws=1, batch=1)
        if not 0 <= self.level < np.inf:
            raise UserError(f"the noise level of a refinement must be positive, or 0 to be found, got {self.level}")
        self.langevin  # noqa: B018 (its own checks)

    @property
    def needs(self) -> tuple[str, ...]:
        """The label of the base."""
        return (self.base,)

    @property
    def langevin(self) -> Langevin:
        """The walk's options."""
        noise = self.noise if self.optimiser == "langevin" else 0.0
        return Langevin(self.regulariser, self.weight, noise, self.rate, self.iterations)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no unconditional model of windows.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind.
        """
        facts = getattr(prior, "facts", {})
        Windows.of(facts)
        if not facts.get("is_free", True):
            raise CheckpointError("this checkpoint is conditional only (it was trained with told: 1), and a refinement takes a free one")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Refine the base's estimate of this case.

        Args:
            case: a forecast case, with the base's estimate in its context.
            prior: a model of windows.
            seed: of the noise; the case's key goes with it.
            progress: told of batches.

        Returns:
            Paths and their quantiles; ``nfe`` counts the evaluations of one path.

        Raises:
            CheckpointError: the model is of another kind, step or length.
            DataError: the panel does not fit the model.
            UserError: there is nothing to refine.
        """
        self.check_prior(prior)
        estimate = case.context.get("estimates", {}).get(self.base)
        if estimate is None or "horizon" not in case.measurement.attrs:
            raise UserError(f"a refinement needs a forecast and the estimate of {self.base!r}: name that method in the recipe")
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            windows = Windows.of(prior.facts)
            check_panel(case.measurement, prior.facts, windows)
            t = self.time(prior, windows, case.context.get("training") or history_of(case.measurement))
            keyed = zlib.crc32(f"{seed}/{case.key}".encode())
            paths = self.refined(prior, windows, case.measurement, base_paths(estimate.data, self.samples), t, keyed, progress)
        for warning in said:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
        info = {"seed": seed, "base": self.base, "time": t, "rho": float(prior.process.rho(t)), "samples": self.samples}
        info |= {"prior_sha256": getattr(prior, "sha256", None), "said": [str(warning.message) for warning in said]}
        return Estimate(forecast(horizon_of(case.measurement), samples=shuffled(paths, keyed)), nfe=self.iterations, info=info)

    def time(self, prior: Any, windows: Windows, training: xr.Dataset) -> float:
        """tau of a model on a panel, kept for both.

        Args:
            prior: the model.
            windows: of the model.
            training: the panel.
        """
        if self.level:
            return float(prior.process.time_at_rho(self.level))
        key = (training.attrs.get("key"), training.sizes["time"], float(np.nansum(training["y"].values)), self.windows, self.draws)
        known = _TIMES.setdefault(prior, {})
        if key not in known:
            rng, length = np.random.default_rng(0), training.sizes["time"]
            first = min(windows.length + windows.reach, length)
            items = rng.integers(0, training.sizes["item"], self.windows)
            some = windows.take(training, items, rng.integers(first, length + 1, self.windows))
            times = training_times(prior.process)
            told = some.condition() or None
            found = losses(prior, some.values, times, mask=some.mask, condition=told, draws=self.draws)
            known[key] = representative(found, times)
        return known[key]

    def refined(
        self,
        prior: Denoiser,
        windows: Windows,
        panel: xr.Dataset,
        base: NDArray[np.float64],
        t: float,
        seed: int,
        progress: Progress = None,
    ) -> NDArray[np.float64]:
        """Refined paths of the horizon, (items, samples, steps) in the units of the series, in the order of their levels.

        Args:
            prior: the model.
            windows: of the model.
            panel: a measurement, NaN in its horizon.
            base: (items, samples, steps) paths of the base, ascending.
            t: tau.
            seed: of the noise.
            progress: told of batches.
        """
        encoded, count, steps = windows.encode(panel), base.shape[1], base.shape[2]
        start, held = begin(windows, encoded, base, self.hold)
        levels = ((torch.arange(count, dtype=start.dtype) + 1) / (count + 1)).repeat(len(encoded.values))
        told, made = encoded.condition(count), []
        for first in range(0, len(start), self.batch):
            chosen = slice(first, min(first + self.batch, len(start)))
            given = {key: value[chosen] for key, value in told.items()} or None
            source = NoiseSource(seed, range(chosen.start, chosen.stop))
            made.append(self.langevin.walk(prior, start[chosen], held[chosen], levels[chosen], t, source=source, condition=given))
            if progress:
                progress(chosen.stop, len(start))
        return windows.decode(torch.cat(made), encoded)[..., windows.length - steps :]


_TIMES: WeakKeyDictionary[Any, dict[Any, float]] = WeakKeyDictionary()


def base_paths(data: xr.Dataset, count: int) -> NDArray[np.float64]:
    """Paths of a forecast in the order of their levels k_i = (i + 1)/(S + 1): its samples sorted at each step, or its quantiles at k_i.

    A point forecast gives equal paths. Levels beyond the outermost quantile get that one.

    Args:
        data: of an estimate, with ``samples`` or ``quantiles``.
        count: S.

    Returns:
        (items, S, steps), ascending along S.
    """
    levels = (np.arange(count) + 1) / (count + 1)
    if "samples" in data:
        samples = np.asarray(data["samples"].transpose("item", "sample", "time").values, dtype=np.float64)
        return np.sort(samples, 1) if samples.shape[1] == count else np.moveaxis(np.quantile(samples, levels, axis=1), 0, 1)
    quantiles = np.sort(data["quantiles"].transpose("item", "time", "level").values, -1)
    known = data["level"].values
    place = np.clip(np.searchsorted(known, levels) - 1, 0, len(known) - 2)
    part = np.clip((levels - known[place]) / (known[place + 1] - known[place]), 0, 1)
    return np.moveaxis(quantiles[..., place] * (1 - part) + quantiles[..., place + 1] * part, -1, 1)


def begin(windows: Windows, encoded: Encoded, base: NDArray[np.float64], hold: Hold) -> tuple[Tensor, Tensor]:
    """y~ in units of the state, the base's paths after what was observed, and where R holds it.

    Where neither was observed nor forecast, y~ is the mean of what was observed in the channel, and free.

    Args:
        windows: of the model.
        encoded: one window a row, its horizon not observed.
        base: (items, samples, steps), in the units of the series.
        hold: what R holds.

    Returns:
        Two tensors (rows samples, channels, L).
    """
    rows, series = encoded.scale.shape
    count, steps = base.shape[1:]
    own = base.reshape(rows, series, count, steps)
    own = ((own - encoded.shift[..., None, None]) / encoded.scale[..., None, None] - windows.mean) / windows.std
    level = (encoded.values * encoded.mask).sum(-1, keepdim=True) / encoded.mask.sum(-1, keepdim=True).clamp(min=1)
    filled = torch.where(encoded.mask > 0, encoded.values, level)
    y, seen = (part.repeat_interleave(count, 0) for part in (filled, encoded.mask))
    future = torch.zeros_like(y)
    paths = torch.from_numpy(own.transpose(0, 2, 1, 3).reshape(rows * count, series, steps)).to(y)
    y[:, :series, -steps:], future[:, :series, -steps:] = paths, 1.0
    for channel, lag in enumerate(windows.lags, 1):
        if lag < steps:  # a lag that ends in the horizon is the base's own
            y[:, channel, lag - steps :], future[:, channel, lag - steps :] = paths[:, 0, : steps - lag], 1.0
    held = {"context": seen * (1 - future), "horizon": future, "both": torch.maximum(seen, future)}[hold]
    return y, held
