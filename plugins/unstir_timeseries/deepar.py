"""DeepAR in plain torch: a recurrent network reads the past of a series and gives the law of its next step; paths are drawn step by step.

    h_t = LSTM(h_{t-1}, [x_{t-lags}, what of them was filled, calendar, covariates, log s]),   x_t | past ~ Student-t(df, loc, scale)(h_t)
    x = y / s,   loss = - mean log p(x_t) over the observed horizon,   draw: T = cos(2 pi v) sqrt(df (u^(-2/df) - 1)),  u, v uniform

The loss leaves out the context, other than GluonTS's: s is its mean, so that each of its scaled steps is partly told by the others, and a
network trained on them is too sure of itself (an AR(1) with a context of 48: its 80 % interval holds 75 %; of the horizon alone, 79 %).
A missing value of the context is drawn like a future one, so that a path carries what is not known. Lags before the unrolled part of the
context are filled from their past and marked.
Reference: Salinas et al. 2020, arXiv:1704.04110; Bailey 1994 (the polar draw of Student's t), Math. Comp. 62.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.functional import softplus

from unstir.errors import DataError
from unstir.plugin.protocols import Progress
from unstir.threads import one_thread
from unstir_timeseries import examples
from unstir_timeseries.windows import clock, usual_size

if TYPE_CHECKING:
    from unstir_timeseries.fits import Fit
    from unstir_timeseries.learned import DeepAR

CHECK = 100
"""Training steps between looks at the held-back weeks."""
HELD_WINDOWS = 400
"""Most windows of the held-back weeks that are looked at."""
NARROWEST = 1e-4
"""Smallest scale of the law, in scaled units."""
PARTS = ("hour", "weekday", "year")


class Network(nn.Module):
    """An LSTM with a Student-t head.

    Args:
        inputs: features of a step.
        hidden: units of a layer.
        layers: of the LSTM.
        dropout: between its layers.
        marks: slice of the inputs that marks filled lags; its weights start at zero, and stay there where nothing is ever missing.
    """

    def __init__(self, inputs: int, hidden: int, layers: int, dropout: float, marks: slice = slice(0)) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)
        self.law = nn.Linear(hidden, 3)
        with torch.no_grad():
            self.lstm.get_parameter("weight_ih_l0")[:, marks] = 0.0

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor] | None = None) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Degrees of freedom, location and scale of each step, each (rows, steps), and the state after the last."""
        read, state = self.lstm(x, state)
        df, loc, scale = self.law(read).unbind(-1)
        return 2.0 + softplus(df), loc, NARROWEST + softplus(scale), state


def log_density(x: Tensor, df: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """Log density of Student's t with location and scale.

    Args:
        x: where.
        df: degrees of freedom.
        loc: location.
        scale: above 0.
    """
    z = (x - loc) / scale
    gammas = torch.lgamma((df + 1) / 2) - torch.lgamma(df / 2)
    return gammas - 0.5 * torch.log(math.pi * df) - torch.log(scale) - (df + 1) / 2 * torch.log1p(z.square() / df)


def polar(u: Tensor, v: Tensor, df: Tensor) -> Tensor:
    """Draws of Student's t from uniform numbers.

    Args:
        u: in (0, 1].
        v: in [0, 1).
        df: degrees of freedom.
    """
    return torch.cos(2 * math.pi * v) * torch.sqrt(df * torch.expm1(-2 / df * torch.log(u)))


def lags_of(cycle: int, reach: int) -> tuple[int, ...]:
    """Lags of a series with a cycle: the last three steps, and around one to seven cycles, two and four times seven.

    Args:
        cycle: its steps.
        reach: the farthest that may be looked back; longer lags are left out.
    """
    near = {1, 2, 3} | {examples.LONG * cycle * k + d for k in (1, 2, 4) for d in (-1, 0, 1)}
    if cycle > 1:
        near |= {cycle * k + d for k in (1, 2) for d in (-1, 0, 1)} | {cycle * k for k in range(3, examples.LONG)}
    return tuple(sorted(lag for lag in near if 1 <= lag <= max(reach, 1)))


@dataclass(frozen=True)
class Shape:
    """What the inputs of a network look like.

    Attributes:
        context: C.
        horizon: H.
        unrolled: steps of the context over which the network is unrolled; the steps before serve as lags.
        lags: in steps.
        cycle: steps of the shortest cycle, by which holes are filled.
        covariates: how many known covariates.
        fleet: mean |y| of the training panel, the unit of log s.
    """

    context: int
    horizon: int
    unrolled: int
    lags: tuple[int, ...]
    cycle: int
    covariates: int
    fleet: float

    @classmethod
    def of(cls, options: DeepAR, training: xr.Dataset, context: int, horizon: int) -> Shape:
        """The shape of the inputs for a training panel.

        Raises:
            DataError: a lag reaches beyond the context.
        """
        cycle = examples.cycle_of(training.attrs)
        unrolled = max(1, min(options.unrolled, context // 2))
        lags = options.lags or lags_of(cycle, context - unrolled)
        if context < 2 or max(lags) > context - unrolled:
            raise DataError(f"lags reach {max(lags)} steps and {unrolled} of the context's {context} are unrolled: give a longer context")
        sizes = usual_size(training["y"].values)
        fleet = float(sizes[sizes > 0].mean()) if (sizes > 0).any() else 1.0
        return cls(context, horizon, unrolled, lags, cycle, training.sizes["covariate"] if "known" in training else 0, fleet)

    @property
    def features(self) -> int:
        """Of a step besides the lags."""
        return 18 + self.covariates + 1

    @property
    def places(self) -> NDArray[np.int64]:
        """(unrolled + H,) steps of the window whose law is given."""
        return np.arange(self.context - self.unrolled, self.context + self.horizon)

    @property
    def behind(self) -> NDArray[np.int64]:
        """(unrolled + H, lags) steps of the window that each of them looks back to."""
        return self.places[:, None] - np.asarray(self.lags)

    def network(self, options: DeepAR) -> Network:
        """A fresh network."""
        count = len(self.lags)
        return Network(2 * count + self.features, options.hidden, options.layers, options.dropout, slice(count, 2 * count))


@dataclass(frozen=True)
class Surroundings:
    """What is known of every step of a panel: its clock, and standardised covariates.

    Attributes:
        clock: (parts, steps).
        known: (covariates, items, steps).
    """

    clock: NDArray[np.float32]
    known: NDArray[np.float32]

    @classmethod
    def of(cls, panel: xr.Dataset, fit: Fit) -> Surroundings:
        """Of a panel; covariates are standardised as the fit's training panel says, 0 where missing."""
        steps = panel.sizes["time"]
        known = panel["known"].values if "known" in panel else np.zeros((0, panel.sizes["item"], steps))
        known = np.nan_to_num((known - fit["known_mean"][:, None, None]) / fit["known_std"][:, None, None])
        return cls(clock(panel, 0, steps, PARTS), known.astype(np.float32))

    def at(self, rows: examples.Examples, shape: Shape) -> Tensor:
        """Features (rows, unrolled + H, features) of windows."""
        index = np.maximum(rows.end[:, None] - shape.unrolled + np.arange(shape.unrolled + shape.horizon), 0)
        size = np.broadcast_to(np.log(rows.scale / shape.fleet)[:, None], index.shape)
        made = [self.clock[:, index], self.known[:, rows.item[:, None], index], size[None]]
        return torch.from_numpy(np.concatenate(made).transpose(1, 2, 0).astype(np.float32))


def moments(training: xr.Dataset) -> Fit:
    """Mean and standard deviation of the known covariates, ``known_mean`` and ``known_std``.

    Args:
        training: the training panel.
    """
    if "known" not in training:
        return {"known_mean": np.zeros(0), "known_std": np.ones(0)}
    known = training["known"].values.reshape(training.sizes["covariate"], -1)
    mean, std = np.nan_to_num(np.nanmean(known, 1)), np.nan_to_num(np.nanstd(known, 1))
    return {"known_mean": mean, "known_std": np.where(std > 0, std, 1.0)}


def fit(training: xr.Dataset, shape: Shape, options: DeepAR, seed: int, progress: Progress = None) -> Fit:
    """Train on the windows of a panel, and keep the weights that are best on its last weeks, which are held back.

    Args:
        training: the training panel.
        shape: of the inputs.
        options: of the method.
        seed: of weights, windows and dropout.

    Returns:
        Weights, moments of covariates, and ``loss`` (steps, mean negative log density of the held-back horizons).

    Raises:
        DataError: no window fits, or the training diverged.
    """
    y, known = training["y"].values, moments(training)
    around, usual, horizon = Surroundings.of(training, known), usual_size(y), shape.horizon
    held = max(horizon, min(4 * examples.LONG * shape.cycle, y.shape[1] // 10))
    early = y[:, : y.shape[1] - held]
    where = examples.ends(early, shape.context, horizon)
    late = examples.ends(y, shape.context, horizon)
    late = late[late[:, 1] >= early.shape[1]]
    rng = np.random.default_rng([seed, 1])
    late = late[np.sort(rng.permutation(len(late))[:HELD_WINDOWS])]
    watched = examples.cut(y, late, shape.context, horizon, options.floor, usual=usual)

    with one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = shape.network(options)
        optimiser = torch.optim.Adam(network.parameters(), options.rate)
        slowing = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, options.steps)
        best, best_loss, since, trace = _weights(network), math.inf, 0, []
        for step in range(options.steps):
            chosen = where[rng.integers(0, len(where), options.batch)]
            hidden = examples.hide(options.batch, shape.context, options.missing, rng)
            rows = examples.cut(y, chosen, shape.context, horizon, options.floor, usual=usual, hidden=hidden)
            loss = _loss(network, rows, around, shape)
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), options.clip)
            optimiser.step()
            slowing.step()
            if progress is not None:
                progress(step + 1, options.steps)
            if (step + 1) % CHECK and step + 1 < options.steps:
                continue
            trace.append((step + 1, _watch(network, watched, around, shape)))
            if trace[-1][1] < best_loss - 1e-4:
                best, best_loss, since = _weights(network), trace[-1][1], 0
            elif (since := since + 1) >= options.patience:
                break
    if not math.isfinite(best_loss):
        raise DataError("the training of DeepAR diverged: look for values far outside the others, or lower its rate")
    return {**best, **known, "loss": np.asarray(trace)}


def paths(
    rows: examples.Examples, panel: xr.Dataset, shape: Shape, options: DeepAR, fit: Fit, samples: int, seed: int
) -> NDArray[np.float64]:
    """Sample paths of the horizon.

    Args:
        rows: the contexts, a row a series.
        panel: the measurement, for its clock and covariates.
        shape: of the inputs.
        options: of the method.
        fit: what `fit` returned.
        samples: S.
        seed: path i of a series depends on (seed, name of the series, i) alone.

    Returns:
        (items, S, H) in the units of ``y``.
    """
    network = shape.network(options).eval()
    network.load_state_dict({key[4:]: torch.from_numpy(value) for key, value in fit.items() if key.startswith("net.")})
    features, begin = Surroundings.of(panel, fit).at(rows, shape), shape.context - shape.unrolled
    holes = np.flatnonzero(~np.isfinite(rows.x[:, begin:]).all(0))
    first = int(holes[0]) if len(holes) else shape.unrolled  # where drawing begins
    items, total = len(rows.x), shape.unrolled + shape.horizon
    chance = np.stack([np.random.default_rng([seed, crc32(str(n).encode())]).random((samples, total, 2)) for n in panel["item"].values])
    u, v = torch.from_numpy(chance.reshape(items * samples, total, 2)).unbind(-1)

    seen = torch.from_numpy(np.isfinite(rows.x)).repeat_interleave(samples, 0)
    filled = torch.from_numpy(examples.filled(rows.x, shape.cycle)).float()
    marks = torch.from_numpy(~np.isfinite(rows.x)).float()
    marks[:, begin:] = 0.0
    with one_thread(), torch.inference_mode():
        state = None
        if first:
            behind = torch.from_numpy(shape.behind[:first])
            *_, state = network(torch.cat([filled[:, behind], marks[:, behind], features[:, :first]], -1))
            state = tuple(part.repeat_interleave(samples, 1) for part in state)
        x = torch.cat([filled, torch.zeros(items, shape.horizon)], 1).repeat_interleave(samples, 0)
        marks = torch.cat([marks, torch.zeros(items, shape.horizon)], 1).repeat_interleave(samples, 0)
        features = features.repeat_interleave(samples, 0)
        for place in range(first, total):
            behind = torch.from_numpy(shape.behind[place])
            told = torch.cat([x[:, behind], marks[:, behind], features[:, place]], -1)
            df, loc, scale, state = network(told[:, None], state)
            drawn = loc[:, 0] + scale[:, 0] * polar(1 - u[:, place], v[:, place], df[:, 0].double()).float()
            at = begin + place
            x[:, at] = torch.where(seen[:, at], x[:, at], drawn) if place < shape.unrolled else drawn
    made = x[:, shape.context :].double().reshape(items, samples, shape.horizon).numpy()
    return made * rows.scale[:, None, None]


def _weights(network: Network) -> dict[str, Any]:
    return {f"net.{key}": value.detach().numpy().copy() for key, value in network.state_dict().items()}


def _inputs(rows: examples.Examples, around: Surroundings, shape: Shape) -> Tensor:
    """(rows, unrolled + H, inputs) with the true past as lags."""
    filled = torch.from_numpy(examples.filled(rows.x, shape.cycle).astype(np.float32))
    marks, behind = torch.from_numpy((~np.isfinite(rows.x)).astype(np.float32)), torch.from_numpy(shape.behind)
    return torch.cat([filled[:, behind], marks[:, behind], around.at(rows, shape)], -1)


def _loss(network: Network, rows: examples.Examples, around: Surroundings, shape: Shape) -> Tensor:
    """Mean negative log density of the horizons."""
    df, loc, scale, _ = network(_inputs(rows, around, shape))
    truth = torch.from_numpy(rows.x[:, shape.context :].astype(np.float32))
    seen, ahead = truth.isfinite(), slice(shape.unrolled, None)
    return -log_density(truth[seen], df[:, ahead][seen], loc[:, ahead][seen], scale[:, ahead][seen]).mean()


def _watch(network: Network, rows: examples.Examples, around: Surroundings, shape: Shape) -> float:
    network.eval()
    with torch.inference_mode():
        loss = float(_loss(network, rows, around, shape))
    network.train()
    return loss
