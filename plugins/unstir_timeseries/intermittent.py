"""Baselines for intermittent demand, each a law of counts around what an item sold before.

    empirical            F(y) = share of the item's past of at most y
    negative binomial    Var = m + m^2/r, moments of the item's past;  Poisson where the past is not overdispersed
    Croston              size z <- z + a (y - z), interval p <- p + a (q - p), at sales only, q steps after the last;  rate z/p
    SBA                  rate (1 - a/2) z/p                                          [Syntetos & Boylan 2005]
    TSB                  chance b <- b + a (1[y > 0] - b) at every step, z as Croston;  rate b z         [Teunter, Syntetos & Babai 2011]

The rate is spread over the season by factors pooled over all items. What a user would tune is tuned: an option left at 0 is the candidate
whose quantiles lose least on the last windows before the first origin.

Reference: Croston 1972; Syntetos & Boylan 2005; Teunter, Syntetos & Babai 2011.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from unstir.errors import UnknownName, UserError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_timeseries import fits
from unstir_timeseries.demand import Array, Demand, counts_of, demand_of, generator, midpoints, phases, shuffled
from unstir_timeseries.panel import LEVELS, NINE, forecast, history_of, horizon_of
from unstir_timeseries.scores import weighted_quantile_loss

WINDOWS = 4
"""Windows at the end of the training panel that candidates are judged on."""
_CHOSEN: OrderedDict[str, float] = OrderedDict()


@dataclass(frozen=True)
class _Law:
    """A baseline: quantiles of every item and step from its past."""

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False
    candidates: ClassVar[tuple[float, ...]] = ()
    samples: int = 100

    def __post_init__(self) -> None:
        at_least(self, samples=2)

    @property
    @abstractmethod
    def option(self) -> float:
        """The tuned option, 0 to choose it."""

    @abstractmethod
    def quantiles(self, demand: Demand, levels: Sequence[float], option: float) -> Array:
        """Quantiles (items, levels, horizon) of the law of a demand.

        Args:
            demand: the past.
            levels: of the quantiles.
            option: a value of the tuned option.
        """

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Quantiles and integer paths of independent steps."""
        demand = demand_of(case)
        option = self.option or self._chosen(case, demand)
        quantiles, ordered = (
            np.where(demand.ever[:, None, None], self.quantiles(demand, levels, option), 0.0)
            for levels in (LEVELS, midpoints(self.samples))
        )
        data = forecast(
            horizon_of(case.measurement), samples=shuffled(ordered, generator(seed, case)), quantiles=quantiles, mean=ordered.mean(1)
        )
        return Estimate(data, info={"option": option, "said": list(demand.said)})

    def _chosen(self, case: Case, demand: Demand) -> float:
        """The candidate of least quantile loss on the last windows of what was known before the first origin."""
        panel = case.context.get("training")
        panel = history_of(case.measurement) if panel is None else panel
        name = fits.fingerprint(panel, {"method": repr(self), "horizon": demand.horizon})
        if name not in _CHOSEN:
            y, (place, period) = counts_of(panel), phases(panel["time"].values, panel.attrs["freq"], panel.attrs["season"])
            whole = Demand(y, place, demand.future, period, np.nansum(y, axis=1) > 0)
            ends = [y.shape[1] - k * demand.horizon for k in range(1, WINDOWS + 1)]
            asked = [whole.cut(end, demand.horizon) for end in ends if end >= 2 * demand.horizon]
            _CHOSEN[name] = min(self.candidates, key=lambda option: self._loss(asked, option)) if asked else self.candidates[-1]
            while len(_CHOSEN) > 64:
                _CHOSEN.popitem(last=False)
        return _CHOSEN[name]

    def _loss(self, asked: Sequence[tuple[Demand, Array]], option: float) -> float:
        found = [np.where(past.ever[:, None, None], self.quantiles(past, NINE, option), 0.0) for past, _ in asked]
        loss = weighted_quantile_loss(np.concatenate(found), np.concatenate([truth for _, truth in asked]), NINE)
        return loss if np.isfinite(loss) else 0.0


@dataclass(frozen=True)
class _Recent(_Law):
    """A baseline from the last steps of the past, whose number is tuned."""

    last: int = 0

    candidates: ClassVar[tuple[float, ...]] = (28, 56, 112, 224, 10**9)

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least(self, last=0)

    @property
    def option(self) -> float:
        """``last``."""
        return self.last

    def quantiles(self, demand: Demand, levels: Sequence[float], option: float) -> Array:
        """Quantiles of the law of the last ``option`` steps."""
        return self.of(demand.y[:, -int(option) :], demand.past[-int(option) :], demand, levels)

    @abstractmethod
    def of(self, y: Array, place: Array, demand: Demand, levels: Sequence[float]) -> Array:
        """Quantiles (items, levels, horizon) of the law of the last steps.

        Args:
            y: (items, steps) their sales.
            place: (steps,) their places of the season.
            demand: the whole past.
            levels: of the quantiles.
        """


@dataclass(frozen=True)
class Empirical(_Recent):
    """Quantiles of what the item sold before.

    Args:
        samples: paths.
        last: steps of the past that count; 0: chosen among `candidates`.
        weekday: only steps at the same place of the season (the same weekday, the same hour)?

    Raises:
        UserError: an option outside its range.
    """

    weekday: bool = False

    def of(self, y: Array, place: Array, demand: Demand, levels: Sequence[float]) -> Array:
        """Smallest observed count whose share of the past reaches the level."""
        everywhere = _observed_quantiles(y, levels)
        if not self.weekday:
            return np.repeat(everywhere[:, :, None], demand.horizon, axis=2)
        at = {}
        for phase in np.unique(demand.future):
            of_phase = y[:, place == phase]
            seen = np.asarray(np.isfinite(of_phase)).any(axis=1, keepdims=True)
            at[phase] = np.where(seen, _observed_quantiles(of_phase, levels), everywhere)
        return np.stack([at[phase] for phase in demand.future], axis=2)


@dataclass(frozen=True)
class NegativeBinomial(_Recent):
    """A negative binomial law with the mean and the variance of the item's past, the mean spread over the season.

    Args:
        samples: paths.
        last: steps of the past that count; 0: chosen among `candidates`.
        seasonal: is the mean spread over weekdays (hours, months) by factors pooled over items?

    Raises:
        UserError: an option outside its range.
    """

    seasonal: bool = True

    def of(self, y: Array, place: Array, demand: Demand, levels: Sequence[float]) -> Array:
        """Quantiles of the fitted law."""
        factors = seasonal_factors(demand) if self.seasonal else np.ones(demand.period)
        exposure = np.where(np.isfinite(y), factors[place], 0.0).sum(1)
        mean = np.nansum(y, axis=1) / np.maximum(exposure, 1e-12)
        return count_quantiles(mean[:, None] * factors[demand.future], inverse_size(y, mean[:, None] * factors[place]), levels)


@dataclass(frozen=True)
class Croston(_Law):
    """Croston's method or one of its corrections, with a law of counts around the rate.

    Args:
        samples: paths.
        variant: "croston", "sba" or "tsb".
        alpha: smoothing of sizes, and of intervals or chances, in (0, 1]; 0: chosen among `candidates`.
        law: "negative-binomial", its dispersion that of the item's past around the one-step rates, or "poisson".
        seasonal: is the rate spread over weekdays (hours, months) by factors pooled over items?

    Raises:
        UnknownName: there is no such variant or law.
        UserError: an option outside its range.
    """

    variant: str = "tsb"
    alpha: float = 0.0
    law: str = "negative-binomial"
    seasonal: bool = True

    candidates: ClassVar[tuple[float, ...]] = (0.02, 0.05, 0.1, 0.2, 0.3)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, known in (("variant", ("croston", "sba", "tsb")), ("law", ("negative-binomial", "poisson"))):
            if getattr(self, kind) not in known:
                raise UnknownName(kind, getattr(self, kind), known)
        if not 0 <= self.alpha <= 1:
            raise UserError(f"alpha must lie in (0, 1], or be 0 to be chosen, got {self.alpha}")

    @property
    def option(self) -> float:
        """``alpha``."""
        return self.alpha

    def quantiles(self, demand: Demand, levels: Sequence[float], option: float) -> Array:
        """Quantiles of the law around the last rate; ``option`` is the smoothing."""
        factors = seasonal_factors(demand) if self.seasonal else np.ones(demand.period)
        rates = demand_rates(demand.y, option, self.variant)
        before = np.where(np.isfinite(demand.y), rates[:, :-1] * factors[demand.past], np.nan)
        excess = inverse_size(demand.y, before) if self.law == "negative-binomial" else np.zeros(len(rates))
        return count_quantiles(rates[:, -1:] * factors[demand.future], excess, levels)


def demand_rates(y: Array, alpha: float, variant: str = "croston") -> Array:
    """The rate that Croston's method, SBA or TSB forecasts before the first step and after each one.

    The first sale starts the size and, with the steps up to it, the interval or the chance; the rate is NaN before it. Steps that were
    not observed change nothing and count for no interval.

    Args:
        y: (items, steps) counts, NaN where not observed.
        alpha: smoothing in (0, 1].
        variant: "croston", "sba" or "tsb".

    Returns:
        (items, steps + 1), sales a step.
    """
    items, steps = y.shape
    size, interval, chance, since = (np.full(items, np.nan) for _ in range(4))
    since[:] = 0
    rates = np.full((items, steps + 1), np.nan)
    for step in range(steps):
        seen, sold = np.isfinite(y[:, step]), y[:, step] > 0
        since = since + seen
        first, later = sold & np.isnan(size), sold & ~np.isnan(size)
        chance = np.where(first, 1 / np.maximum(since, 1), np.where(seen, chance + alpha * (sold - chance), chance))
        interval = np.where(first, since, np.where(later, interval + alpha * (since - interval), interval))
        size = np.where(first, y[:, step], np.where(later, size + alpha * (y[:, step] - size), size))
        since = np.where(sold, 0, since)
        rates[:, step + 1] = chance * size if variant == "tsb" else size / interval * (1 - alpha / 2 if variant == "sba" else 1)
    return rates


def seasonal_factors(demand: Demand) -> Array:
    """Mean sale at each place of the season over the mean of all, pooled over items: of mean 1 over the steps observed.

    Args:
        demand: the past.

    Returns:
        (period,); 1 where no step was observed.
    """
    seen = np.isfinite(demand.y)
    sold, steps = np.nansum(demand.y, axis=0), seen.sum(0)
    total = [np.bincount(demand.past, weights=part, minlength=demand.period) for part in (sold, steps)]
    mean = sold.sum() / max(steps.sum(), 1)
    if mean == 0:
        return np.ones(demand.period)
    return np.where(total[1] > 0, total[0] / np.maximum(total[1], 1) / mean, 1.0)


def inverse_size(y: Array, mean: Array) -> Array:
    """1/r of a negative binomial law of variance m + m^2/r by moments: sum of (y - m)^2 - m over sum of m^2, at least 0.

    Args:
        y: (items, steps) counts, NaN where not observed.
        mean: their means, NaN where there is none.

    Returns:
        (items,); 0 (Poisson) where the variance is not above the mean.
    """
    known = np.isfinite(y) & np.isfinite(mean)
    excess = np.where(known, (y - mean) ** 2 - mean, 0.0).sum(1)
    return np.maximum(excess / np.maximum(np.where(known, mean**2, 0.0).sum(1), 1e-12), 0.0)


def count_quantiles(mean: Array, inverse: Array, levels: Sequence[float]) -> Array:
    """Quantiles of negative binomial laws, Poisson where 1/r is 0.

    Args:
        mean: (items, steps); NaN is taken as 0.
        inverse: (items,) 1/r.
        levels: of the quantiles.

    Returns:
        (items, levels, steps) whole numbers.
    """
    from scipy.stats import nbinom, poisson

    mean = np.nan_to_num(mean)[:, None, :]
    level = np.asarray(levels)[None, :, None]
    spread = np.maximum(inverse, 1e-6)[:, None, None]
    found = np.where(inverse[:, None, None] > 1e-6, nbinom.ppf(level, 1 / spread, 1 / (1 + mean * spread)), poisson.ppf(level, mean))
    return np.maximum(np.nan_to_num(found), 0.0)


def _observed_quantiles(y: Array, levels: Sequence[float]) -> Array:
    """Quantiles (items, levels) of each row's observed values: the sorted one number ceil(q n); 0 where there is none."""
    ordered, count = np.sort(y, axis=1), np.isfinite(y).sum(1)  # NaN last
    if y.shape[1] == 0:
        return np.zeros((len(y), len(levels)))
    index = np.ceil(np.asarray(levels)[None] * count[:, None] - 1e-9).astype(int) - 1
    return np.nan_to_num(np.take_along_axis(ordered, np.clip(index, 0, y.shape[1] - 1), axis=1))
