"""Learning to jump, for intermittent demand: sales of a window are thinned away to nothing, and grown again sale by sale.

    z_0 ~ Poisson(lambda x),    z_t ~ Binomial(z_0, alpha_t), so that z_t ~ Poisson(lambda alpha_t x)                      thinning
    z_s = z_t + Poisson(lambda (alpha_s - alpha_t) f(z_t, t)),    f = E[x | z_t]                                         thickening

The paper draws z_0 from data x >= 0 with a lambda of its choice, and has to divide and round at the end. Sales are counts already: here
lambda is the item's own mean sale a step, x of mean 1 is its hidden rate, and z_0 **is** the sale. Paths are therefore whole numbers, zeros
need no threshold, and no lambda is tuned: a larger one would add jumps that the data do not have, a smaller one throw sales away.
As x is never seen, f is trained by thinning the sales themselves: z_0 - z_t is an unbiased draw of (1 - alpha_t) lambda x, and the
paper's Bregman loss between it and its belief is the path loss of pure death. In the limit of many steps sampling is exact for the exact
f; in N of them it is biased by the first order of 1/N, towards too few zeros (about .01 of the days at 40 steps).

References: Chen & Zhou 2023 (Learning to jump), arXiv:2305.18375; Santos et al. 2023 (Blackout diffusion), arXiv:2305.11089.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

import unstir
from unstir.denoiser import TokenDenoiser
from unstir.errors import UserError
from unstir.plugin.options import at_least
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.process import Blackout, Thinning
from unstir.samples import Samples
from unstir.space import Masked
from unstir.train import EMA, PathLoss, Schedule, Trainer
from unstir_timeseries import fits
from unstir_timeseries.count_network import CountNetwork as CountNetwork
from unstir_timeseries.count_network import Missing
from unstir_timeseries.count_windows import FACTS, Windows
from unstir_timeseries.demand import counts_of, demand_of, generator, phases
from unstir_timeseries.intermittent import Croston as Croston
from unstir_timeseries.intermittent import Empirical as Empirical
from unstir_timeseries.intermittent import NegativeBinomial as NegativeBinomial
from unstir_timeseries.panel import forecast, history_of, horizon_of

END = 1e-6
"""Time of the last state: one sale in a million is still missing. At 0 the process would give the rounded rate, not the count."""
ROWS = 20000
"""Paths drawn at a time."""


@dataclass(frozen=True)
class Jump:
    """Forecast counts by learning to jump: whole paths of the horizon, whole numbers.

    The network is trained once on the panel before the first origin and kept, in the process and in the cache folder of fits. An item
    that never sold is forecast to be 0. Biased by the training and by the number of steps; see the module.

    Args:
        samples: paths.
        steps: jumps of the sampler; each costs one evaluation a path.
        spacing: see `levels`.
        context: steps of the past that the network sees; 0: those the task allows, at most eight seasons.
        width: channels of the network.
        depth: its residual blocks.
        updates: optimiser steps.
        batch: windows a step.
        rate: learning rate.
        weight_decay: of AdamW.
        training_seed: of the training.

    Raises:
        UserError: an option outside its range.
    """

    samples: int = 100
    steps: int = 40
    spacing: float = 0.03
    context: int = 0
    width: int = 32
    depth: int = 2
    updates: int = 2000
    batch: int = 64
    rate: float = 2e-3
    weight_decay: float = 0.01
    training_seed: int = 0

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        at_least(self, samples=2, steps=1, context=0, width=2, depth=1, updates=1, batch=1)
        if not (self.spacing > 0 and self.rate > 0):
            raise UserError(f"spacing and rate must be positive, got {self.spacing} and {self.rate}")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Fit, if that was not done, and draw paths of every item."""
        demand = demand_of(case)
        network = self.fit(case, demand.horizon, progress)
        windows = Windows(demand.y, demand.past, demand.period, network.context)
        paths = np.zeros((len(demand.y), self.samples, demand.horizon), np.float32)
        selling, size, nfe = np.flatnonzero(demand.ever), max(ROWS // self.samples, 1), 0
        root, times = int(generator(seed, case).integers(2**62)), levels(self.steps, self.spacing)
        for first in range(0, len(selling), size):
            items = selling[first : first + size]
            told = windows.told(items, np.full(len(items), demand.y.shape[1]), np.tile(demand.future, (len(items), 1)))
            told = {name: value.repeat_interleave(self.samples, 0) for name, value in told.items()}
            found = draw_counts(network, told, demand.horizon, len(items) * self.samples, times=times, seed=root + first)
            paths[items], nfe = np.asarray(found).reshape(len(items), self.samples, -1), self.samples * found.nfe
            if progress is not None:
                progress(first + len(items), len(selling))
        return Estimate(forecast(horizon_of(case.measurement), samples=paths), nfe=nfe, info={"said": list(demand.said)})

    def fit(self, case: Case, horizon: int, progress: Progress = None) -> CountNetwork:
        """The network trained on what the case allows; from the process or the disk where it is there.

        Args:
            case: with ``training`` in its context, else its own history serves.
            horizon: steps of a window.
            progress: told of each update.

        Returns:
            The network, in evaluation mode, on the case's device.

        Raises:
            DataError: no window fits into the training panel, or its values are no counts.
        """
        panel, device = case.context.get("training"), str(case.context.get("device", "cpu"))
        panel = history_of(case.measurement) if panel is None else panel
        place, period = phases(panel["time"].values, panel.attrs["freq"], panel.attrs["season"])
        context = self.context or min(int(case.context.get("context", 8 * period)), 8 * period)
        config = {"profile": period + 1, "facts": FACTS, "context": context, "width": self.width, "depth": self.depth}
        learnt = {key: value for key, value in asdict(self).items() if key not in ("samples", "steps", "spacing")}
        name = fits.fingerprint(panel, {**learnt, **config, "horizon": horizon, "torch": torch.__version__})

        def make() -> fits.Fit:
            windows = Windows(counts_of(panel), place, period, context)
            made = self._train(windows, config, horizon, device, progress).state_dict()
            return {key: value.detach().cpu().numpy() for key, value in made.items()}

        network = CountNetwork(**config)
        network.load_state_dict({key: torch.from_numpy(value.copy()) for key, value in fits.recall(f"jump-{name}", make).items()})
        return network.eval().to(device)

    def _train(self, windows: Windows, config: dict[str, int], horizon: int, device: str, progress: Progress) -> CountNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.training_seed)
            network = CountNetwork(**config)
        return train_counts(
            network,
            lambda step, rng: windows.batch(rng, self.batch, horizon),
            horizon,
            updates=self.updates,
            rate=self.rate,
            weight_decay=self.weight_decay,
            seed=self.training_seed,
            device=device,
            progress=progress,
        )


def train_counts(
    network: CountNetwork,
    batches: Any,
    steps: int,
    *,
    updates: int,
    rate: float = 2e-3,
    weight_decay: float = 0.01,
    seed: int = 0,
    device: str = "cpu",
    progress: Progress = None,
) -> CountNetwork:
    """Train a network of rates on counts, thinned by pure death; exact in what it converges to, E[r | z].

    Args:
        network: untrained.
        batches: ``batches(step, generator)`` gives ``x0`` (long) and a ``condition`` with ``present``, as for the core's trainer.
        steps: steps of a window.
        updates: optimiser steps.
        rate: learning rate.
        weight_decay: of AdamW.
        seed: of the training.
        device: where it trains.
        progress: told of each update.

    Returns:
        The network with the averaged weights, in evaluation mode.
    """
    denoiser = TokenDenoiser(Missing(network), Blackout("linear", t_max=1.0), (steps,), space=Masked("present"))
    trainer = Trainer(
        denoiser,  # type: ignore[arg-type]
        batches,
        PathLoss(),  # type: ignore[arg-type]
        updates,
        Schedule(rate, warmup=min(100, updates), decay=updates // 2, last=0.01),
        {"ema": EMA(decay=0.99)},
        seed,
        weight_decay=weight_decay,
        accelerator="cuda" if device.startswith("cuda") else "cpu",
        every=updates,
    )
    with tempfile.TemporaryDirectory() as folder:
        trainer.run(folder, progress=progress)
    averaged = trainer.averages["ema"].weights()
    network.load_state_dict({name.removeprefix("network."): value for name, value in averaged.items()})
    return network.eval()


def draw_counts(
    network: torch.nn.Module, condition: dict[str, Tensor], steps: int, count: int, *, times: Sequence[float], seed: int = 0
) -> Samples:
    """Draw counts by thickening: the core's ancestral solver of `Thinning` at scale 1, whose estimate is the rate.

    Args:
        network: of rates, before the softplus.
        condition: of the network, one row a sample or one for all.
        steps: steps of a window.
        count: number of samples.
        times: of the sampler, from 1 down to `END`.
        seed: sample i depends on it and i alone.

    Returns:
        The samples: whole numbers (count, steps).
    """
    denoiser = TokenDenoiser(network, Thinning(), (steps,))
    return unstir.sample(denoiser, count, solver="discrete-ancestral", grid=list(times), condition=condition, seed=seed, batch=ROWS)


def levels(steps: int, spacing: float = 0.03) -> list[float]:
    """Times at which survival is spacing ((1 + 1/spacing)^(k/steps) - 1), k = 0 ... steps; the last is `END`.

    The log-rate of a gamma law moves by log(lambda alpha + b): equal steps of it resolve the first sales of an item that sells much.

    Args:
        steps: jumps.
        spacing: survival up to which the levels are equally spaced.
    """
    alpha = spacing * ((1 + 1 / spacing) ** (np.arange(1, steps) / steps) - 1)
    return [1.0, *(1 - alpha).tolist(), END]
