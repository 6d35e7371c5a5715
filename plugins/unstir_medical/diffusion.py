"""Reconstruction with a diffusion prior of slices: DPS, DDS and DiffusionMBIR, with any process, solver and grid of the core.

All three are one call of ``unstir.sample`` on the volume: the prior goes over its slices (``Sliced``), the measurement enters as a guide
(DPS) or as a steer (DDS, DiffusionMBIR). ``start: LABEL`` begins at that method's reconstruction, taken as the state at ``start_level``.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

import unstir
from unstir import checkpoint, names
from unstir.denoiser import Denoiser, Sliced
from unstir.errors import CheckpointError
from unstir.guide import DPS as PosteriorGuide
from unstir.guide import Guide
from unstir.plugin.options import at_least, positive
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir.steer import AdmmTV, DataConsistency, Moment, Steer
from unstir_medical import volume as volumes
from unstir_medical.classical import pixel_problem
from unstir_medical.slabs import features
from unstir_medical.tasks import reconstruction
from unstir_medical.tomography import ParallelBeamCT

PAPER = 2 / math.pi
"""DiffusionMBIR and DDS scale the back-projection by pi / (2 n): times ``PAPER * n`` their lambda and rho fit the exact adjoint."""


class SliceBySlice(Denoiser):
    """A prior of slices with neighbours, given none: a plain 2D prior.

    Args:
        prior: a denoiser of ``(slices, 1 + 2 context, height, width)`` that returns the middle.
        context: its neighbours on either side.
    """

    def __init__(self, prior: Denoiser, context: int) -> None:
        super().__init__(prior.process, (1, -1, -1), normaliser=prior.normaliser, card=prior.card)
        self.prior, self.context = prior, context

    def forward(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """E[x_0 | x_t = x] of single slices ``(slices, 1, height, width)``."""
        return self.prior(torch.nn.functional.pad(x, (0, 0, 0, 0, self.context, self.context)), t, condition)

    def with_process(self, process: Any) -> Denoiser:
        """The same prior on another process."""
        return SliceBySlice(self.prior.with_process(process), self.context)


class ResidualTrace(Steer):
    """Notes the relative data residual ``||A x0 - y|| / ||y||`` after each step; changes nothing.

    Args:
        operator, y: the measurement.
        values: filled with one number a step (the mean over samples).
    """

    exactness: ClassVar[str] = "exact: the state is left as it is"

    def __init__(self, operator: ParallelBeamCT, y: Tensor, values: list[float]) -> None:
        self.operator, self.y, self.values = operator, y, values

    def after(self, x: Any, moment: Moment) -> Any:
        """The state, unchanged."""
        clean: Any = x if float(moment.row.sigma_s) == 0 else moment.x0  # type: ignore[arg-type]
        self.values.append(float((self.operator(clean) - self.y).norm() / (self.y.norm() * math.sqrt(len(clean))).clamp_min(1e-30)))
        return x


@dataclass(frozen=True)
class DiffusionReconstruction(ABC):
    """What the diffusion methods share.

    Args:
        solver: short name of a solver of the core.
        grid: short name of a grid of the core.
        process: short name of a process the prior is moved to; its own when empty.
        samples: posterior samples; above 1 the estimate is their mean, with their standard deviation.
        start: label of the method of the recipe whose reconstruction the trajectory starts from; a cold start when empty.
        start_level: noise level sigma/alpha (state unit, 1 = 2000 HU) the start is taken to have; the grid must begin there or below.
        start_noise: is noise of that level added to the start (a posterior sample), or the start taken as it is?
        neighbours: may the prior see the neighbouring slices (where it was trained to)?
        flip: is every estimate averaged with that of the mirrored volume (left and right)? Twice the evaluations.
        clip: is the result clipped to the window [-1000, 1000] HU?
        chunk: slices that go through the network at once.
    """

    solver: str = "ddim"
    grid: str = "karras:20"
    process: str = ""
    samples: int = 1
    start: str = ""
    start_level: float = 0.1
    start_noise: bool = False
    neighbours: bool = True
    flip: bool = False
    clip: bool = True
    chunk: int = 8

    uses_prior: ClassVar[bool] = True

    def __post_init__(self) -> None:
        at_least(self, samples=1, chunk=1)
        positive(self, "start_level")
        names.solver(self.solver)
        names.grid(self.grid)
        if self.process:
            names.process(self.process)

    @property
    def needs(self) -> tuple[str, ...]:
        """The label the trajectory starts from, where there is one."""
        return (self.start,) if self.start else ()

    @abstractmethod
    def guidance(self, operator: ParallelBeamCT, y: Tensor, case: Case, rows: Any) -> tuple[Sequence[Guide], Sequence[Steer]]:
        """Guides and steers that bring the measurement in.

        Args:
            operator, y: the problem in pixel units.
            case: whose context may say more (noise).
            rows: makes the solver's plan for a process and times.
        """

    def finish(self, x: Tensor, operator: ParallelBeamCT, y: Tensor) -> Tensor:
        """A last edit of the samples (count, z, y, x); none by default."""
        return x

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Reconstruct.

        Args:
            case: a CT case of ``unstir_medical.tasks``.
            prior: a checkpoint's denoiser of slices.
            seed: of the noise.
            progress: told of steps.

        Returns:
            The estimate; ``info["trace"]["residual"]`` has the relative data residual of every step.

        Raises:
            CheckpointError: the prior is of another kind or was trained for another window.
        """
        operator, y = pixel_problem(case)
        device = next((p.device for p in prior.parameters()), torch.device("cpu"))
        y = y.to(device)
        denoiser = self.volume_prior(prior, case)
        process, residuals = denoiser.process, []  # type: ignore[var-annotated]
        grid, solver = names.grid(self.grid), names.solver(self.solver)
        guides, steers = self.guidance(operator, y, case, solver.plan)
        start = self.begin(case, process, operator, seed, device)
        spacing = case.context["spacing_mm"]
        found = unstir.sample(
            denoiser,
            self.samples,
            solver=solver,
            grid=grid,
            guides=list(guides),
            steers=[*steers, ResidualTrace(operator, y, residuals)],
            condition={"grid": features(spacing[0], spacing[1])[None].to(device)},
            start=start,
            seed=seed,
            batch=1,
            progress=progress,
        )
        x = self.finish(found.x, operator, y)  # type: ignore[arg-type]
        if self.clip:
            x = x.clamp(0, 1)
        mean, std = (x.mean(0), x.std(0)) if len(x) > 1 else (x[0], None)
        info = {"seed": seed, "solver": self.solver, "grid": self.grid, "samples": self.samples, "trace": {"residual": residuals}}
        info["prior_sha256"] = getattr(prior, "sha256", None)
        return Estimate(reconstruction(mean, case, std=std), nfe=found.nfe * self.samples, info=info)

    def check_prior(self, prior: Any) -> None:
        """Refuse a checkpoint that is no prior of slices in the window of the CT cases, before anything runs.

        Args:
            prior: a checkpoint's denoiser.

        Raises:
            CheckpointError: it is of another kind or was trained for another window.
        """
        checkpoint.check(prior, shape=(1 + 2 * int(getattr(prior, "context", 0)), -1, -1))
        window = getattr(prior, "facts", {}).get("window_hu", [-1000, 1000])
        if list(window) != [-1000, 1000]:
            raise CheckpointError(f"this prior was trained on the window {window} HU, and CT cases are on [-1000, 1000] HU")

    def volume_prior(self, prior: Any, case: Case) -> Denoiser:
        """The checkpoint as a denoiser of the volume."""
        self.check_prior(prior)
        context = int(getattr(prior, "context", 0))
        slices: Denoiser = prior
        if context and not self.neighbours:
            slices, context = SliceBySlice(prior, context), 0
        if self.process:
            slices = slices.with_process(names.process(self.process))
        volume: Denoiser = Sliced(slices, tuple(case.context["shape"]), axis=0, chunk=self.chunk, context=context)
        return Mirrored(volume) if self.flip else volume

    def begin(self, case: Case, process: Any, operator: ParallelBeamCT, seed: int, device: torch.device) -> tuple[Tensor, float] | None:
        """The start of the trajectory, (state, time), or None for the prior's noise."""
        if not self.start:
            return None
        given = case.context["estimates"][self.start].data["hu"].values
        u = torch.from_numpy(np.clip(volumes.to_unit(given.astype(np.float32)), 0, 1))[None].to(device)
        t = float(process.time_at_rho(self.start_level))
        state = float(process.alpha(t)) * u
        if self.start_noise:
            source = unstir.noise.NoiseSource(seed, tuple(range(self.samples)))
            state = state + float(process.sigma(t)) * source.draw(tuple(u.shape[1:]), u.dtype, device, "warm-start")
        return state, t


class Mirrored(Denoiser):
    """The average of a volume's estimate and that of its mirror image, mirrored back.

    Args:
        prior: a denoiser of volumes ``(batch, Z, Y, X)``.
    """

    def __init__(self, prior: Denoiser) -> None:
        super().__init__(prior.process, prior.shape, normaliser=prior.normaliser, card=prior.card)
        self.prior = prior

    def forward(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """(D(x) + M D(M x)) / 2, M: left to right."""
        return (self.prior(x, t, condition) + self.prior(x.flip(-1), t, condition).flip(-1)) / 2


@dataclass(frozen=True)
class DPS(DiffusionReconstruction):
    """Diffusion posterior sampling: descend the residual through the denoiser.

        x_s <- x_s - weight grad_x ||y - A D(x, t)||        [Chung et al. 2023, arXiv:2209.14687; norm of each volume]

    Args:
        weight: step length, at least 0.
    """

    solver: str = "ddim:eta=1"
    grid: str = "karras:50,sigma_max=3,sigma_min=0.01"
    weight: float = 10.0

    def guidance(self, operator: ParallelBeamCT, y: Tensor, case: Case, rows: Any) -> tuple[Sequence[Guide], Sequence[Steer]]:
        """The gradient of the residual's norm, in the score's form."""
        return [PosteriorGuide(operator, y, self.weight)], []


@dataclass(frozen=True)
class DDS(DiffusionReconstruction):
    """Decomposed diffusion sampling: conjugate gradients on the clean estimate after every step.

        x0' = CG_M[(I + gamma A^T A) x = x0 + gamma A^T y]   or, with ``tv``, one ADMM-TV iteration along z on x0

    Args:
        iterations: conjugate-gradient iterations M.
        gamma: weight of the data, fixed; from ``misfit`` when 0.
        misfit: standard deviation the measurement is allowed (pixel units, for 8 views; scaled by sqrt(views / 8)), to which the
            case's own noise is added in squares: gamma = rho_t^2/misfit^2. Where all are 0 the data alone count.
        tv: is the data step DDS's ADMM along z?
        lam, rho: of that ADMM.
        paper_units: are ``lam`` and ``rho`` those of the published scripts (pi / (2 n) back-projection)?

    Reference: Chung, Lee and Ye 2024, arXiv:2303.05754.
    """

    solver: str = "ddim:eta=0.85,kind=dds"
    grid: str = "karras:20,sigma_max=20,sigma_min=0.01"
    iterations: int = 5
    gamma: float = 0.0
    misfit: float = 0.0
    tv: bool = False
    lam: float = 0.04
    rho: float = 10.0
    paper_units: bool = True

    def guidance(self, operator: ParallelBeamCT, y: Tensor, case: Case, rows: Any) -> tuple[Sequence[Guide], Sequence[Steer]]:
        """One data step after each step of the solver."""
        views = operator.geometry.views
        if self.tv:
            scale = PAPER * views if self.paper_units else 1.0
            return [], [AdmmTV(operator, y, self.lam * scale, self.rho * scale, outer=1, cg=self.iterations)]
        if self.gamma > 0:
            return [], [DataConsistency(operator, y, self.iterations, gamma=self.gamma)]
        noise = float(case.context.get("noise_sigma", 0.0)) / case.context["operator"].pixel_unit
        allowed = math.sqrt(self.misfit**2 * views / 8 + noise**2)
        return [], [DataConsistency(operator, y, self.iterations, noise=allowed or None)]


@dataclass(frozen=True)
class DiffusionMBIR(DiffusionReconstruction):
    """DiffusionMBIR: total variation along z and the data, by one warm-started ADMM iteration after every step.

        x <- CG[(A^T A + rho D_z^T D_z) x = A^T y + rho D_z^T (z - w)];   z <- S(D_z x + w, lam/rho);   w <- w + D_z x - z

    Neumann borders (the published code wraps the last slice to the first), exact adjoint; a last SIRT step as published. The published
    sampler is ``solver: pc``, ``on: noisy``, ``cg: 1``, ``rho: 10`` (hundreds of steps); in tens of steps it does not reach the data, so
    the defaults edit the clean estimate with five conjugate-gradient iterations, with ``rho`` chosen on a held-out slab.

    Args:
        lam: weight of the total variation along z.
        rho: penalty of the splitting.
        paper_units: are they those of the published scripts (pi / (2 n) back-projection)?
        outer: ADMM iterations a step.
        cg: conjugate-gradient iterations in each.
        on: "noisy" as published, or "clean".
        boundary: "neumann" or "periodic".
        last_step: is the closing SIRT step made?

    Reference: Chung et al. 2023, arXiv:2211.10655.
    """

    solver: str = "ddim:eta=0.85,kind=dds"
    grid: str = "karras:50,sigma_max=20,sigma_min=0.01"
    lam: float = 0.04
    rho: float = 1.0
    paper_units: bool = True
    outer: int = 1
    cg: int = 5
    on: Literal["noisy", "clean"] = "clean"
    boundary: Literal["neumann", "periodic"] = "neumann"
    last_step: bool = True

    def guidance(self, operator: ParallelBeamCT, y: Tensor, case: Case, rows: Any) -> tuple[Sequence[Guide], Sequence[Steer]]:
        """The ADMM that never starts anew."""
        scale = PAPER * operator.geometry.views if self.paper_units else 1.0
        steer = AdmmTV(operator, y, self.lam * scale, self.rho * scale, outer=self.outer, cg=self.cg, boundary=self.boundary, on=self.on)
        return [], [steer]

    def finish(self, x: Tensor, operator: ParallelBeamCT, y: Tensor) -> Tensor:
        """x + A^T (y - A x) / (A^T A 1)."""
        if not self.last_step:
            return x
        weight = operator.normal(torch.ones_like(x[:1]))
        return x + torch.where(weight > 1e-6, operator.adjoint(y - operator(x)) / weight.clamp_min(1e-6), 0.0)
