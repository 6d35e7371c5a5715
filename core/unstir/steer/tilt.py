"""Particles under any twist: the exact-weights identity behind all of them.

In reverse time dtau the prior moves with drift b = -f x + g^2 score. Under a twist l_tau(x), with l_end the log-likelihood (or reward),

    dx = [b + kappa g^2 grad l] dtau + g dw,   x ~ p_T,  log w = l_T at the start
    kappa = 1:      dlog w = [dl/dtau + b.grad l + (g^2/2)(Laplacian l + |grad l|^2)] dtau
    kappa = 1/2:    dlog w = [dl/dtau + (b - (g^2/2) score).grad l] dtau           the probability-flow drift: no Laplacian

carries the weighted particles to p_0 exp(l_end). Here it is used for the solver's own chain, x_s = a x_t + b D + d z, where only the
gradient of l is needed, and where (kappa = 1) it is exact for that chain:

    w <- w  exp(l_s(x_s) - l_t(x_t))  p(x_s | x_t)/q(x_s | x_t)  [L(x_t | x_s)/f(x_t | x_s)]
    q: p with its mean moved by kappa d^2 grad l_t(x_t);
    for kappa = 1/2,  f: the noising step N(r x_s, v),  L: f with its mean moved by (v/2) grad l_s(x_s)

Of a dict of leaves all of this is summed over the leaves; in a space whose noise is S z, u = kappa d^2 S S^T grad l, and
log p/q = -kappa (d S z . grad l + u . grad l/2).

In these brackets the noise of kappa = 1/2 cancels to first order; with twists far from p(y | x_t) its weights are much the steadier.
l fixed in time is the approximation-free ensemble; l of the denoiser's estimate is TDS (``unstir.steer.tds``).
Reference: Chen et al. 2025 (approximation-free ensemble), arXiv:2506.03979; Skreta et al. 2025 (Feynman-Kac correctors), arXiv:2503.02819.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from unstir.errors import UserError
from unstir.guide.cfg import unconditional
from unstir.guide.slope import in_space, value_and_slope
from unstir.operator.cg import inner
from unstir.space import Euclidean, JointSpace, Masked, Space, Symmetric, ZeroMean
from unstir.state import batch_size, leaves, map_state
from unstir.steer.base import Moment
from unstir.steer.particles import ParticleSteer

if TYPE_CHECKING:
    from unstir.solver.base import Row
    from unstir.state import State

Twist = Callable[[Any, Any, Mapping[str, Any] | None], Tensor]


@dataclass(frozen=True, eq=False)
class Twisted(ParticleSteer):
    """Weighs a Gaussian chain under a twist whose value and gradient a subclass gives; the last step is made as the solver makes it.

    Args:
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: an option out of range.
    """

    needs_grad: ClassVar[bool] = True
    solver: ClassVar[str] = "ancestral"

    @abstractmethod
    def twist(self, x: State, moment: Moment) -> tuple[Tensor, State]:
        """l (batch,) and its gradient, of the state at ``row.t``."""

    @abstractmethod
    def end(self, x: State, moment: Moment) -> Tensor:
        """l (batch,) of the state at ``row.s`` of the last step."""

    @property
    def share(self) -> float:
        """kappa: by how much of d^2 S S^T grad l the mean of a step is moved."""
        return 1.0

    def back(self, x: State, gradient: State, moment: Moment) -> Tensor | float:
        """log L(x_t | x_s)/f(x_t | x_s) of the step just made, (batch,)."""
        return 0.0

    def before(self, x: State, moment: Moment) -> State:
        """The state, resampled by the weights of the step that led here."""
        check_gaussian(x, moment, type(self).__name__, joint=True)
        notes = moment.memory
        value, gradient = self.twist(x, moment)
        log_factor = value.double() - notes.get("log_twist", 0.0) + notes.get("log_ratio", 0.0) + self.back(x, gradient, moment)
        notes["log_twist"], notes["gradient"] = value.double(), gradient
        x = self.weighted(x, moment, log_factor)
        notes["mean"] = mean_of_step(x, moment)
        return x

    def after(self, x: State, moment: Moment) -> State:
        """The state, moved up the twist; at the end resampled by the last weights."""
        notes, row = moment.memory, moment.row
        if moment.last:
            return self.weighted(x, moment, self.end(x, moment).double() - notes["log_twist"], final=True)
        notes["log_ratio"] = 0.0
        noise: Any = map_state(torch.sub, plain(x, moment, row.s), notes["mean"])
        pointed: Any = in_space(moment.denoiser.space, notes["gradient"], moment.condition)

        def moved(leaf: Tensor, drawn: Tensor, gradient: Tensor, direction: Tensor, d: float) -> Tensor:
            if d == 0:
                return leaf
            move = self.share * d**2 * direction
            spent = inner(drawn, gradient) + inner(move, gradient) / 2
            notes["log_ratio"] = notes["log_ratio"] - self.share * spent.double()
            return leaf + move

        d: Any = row.c[2]
        if isinstance(x, dict):
            return {leaf: moved(x[leaf], noise[leaf], notes["gradient"][leaf], pointed[leaf], d[leaf]) for leaf in x}
        return moved(x, noise, notes["gradient"], pointed, d)


@dataclass(frozen=True, eq=False)
class Tilt(Twisted):
    """Sample p(x_0) exp(l_end(x_0)) by weighted particles, for any twist; the approximation-free ensemble for one that is fixed in time.

    A twist that is strong where the noise is still large leaves few particles alive: let it grow with time, or start at a moderate sigma.

    Args:
        log_twist: l(x_t, t, condition) of noisy states, differentiable by autograd, each sample on its own; gives (batch,). At the last
            time it is the log-likelihood.
        kappa: 0.5 (steady weights; exact as steps grow) or 1 (exact for the solver's chain; heavy-tailed weights under a rough twist).
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: another kappa, or a solver whose steps have no known law.
    """

    log_twist: Twist
    kappa: float = 0.5
    exactness: ClassVar[str] = "exact for the solver's chain times exp(l) as particles grow (kappa = 1/2: and as steps grow)"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kappa not in (0.5, 1.0):
            raise UserError(f"kappa of a Tilt is 1 or 0.5, got {self.kappa}")

    def twist(self, x: State, moment: Moment) -> tuple[Tensor, State]:
        """l and its gradient by autograd."""
        return slope_of(lambda state: self.log_twist(state, moment.row.t, moment.condition), x)

    def end(self, x: State, moment: Moment) -> Tensor:
        """l of the last state."""
        return self.log_twist(x, moment.row.s, moment.condition).detach()

    @property
    def share(self) -> float:
        """kappa."""
        return self.kappa

    def back(self, x: Any, gradient: Any, moment: Moment) -> Tensor | float:
        """((x_t - r x_s).u - |u|^2/2)/v with u = (v/2) grad l_s."""
        if self.kappa == 1:
            return 0.0
        if not isinstance(moment.denoiser.space, Euclidean):
            raise UserError("a Tilt with kappa = 0.5 weighs independent normal noise of one tensor: take kappa=1 elsewhere")
        notes, row = moment.memory, moment.row
        log_back: Tensor | float = 0.0
        if "from" in notes:
            ratio, variance = notes["noising"]
            log_back = (
                inner(notes["from"] - ratio * plain(x, moment, row.t), gradient) / 2 - variance * inner(gradient, gradient) / 8
            ).double()
        if row.c[2] and not moment.last:
            check_ancestral(row, "a Tilt with kappa = 0.5")
            notes["from"], notes["noising"] = plain(x, moment, row.t).clone(), noising(row)
        else:
            notes.pop("from", None)
        return log_back


@dataclass(frozen=True, eq=False)
class TiltedCFG(ParticleSteer):
    """Classifier-free guidance that samples p_c(x_0)^w p_u(x_0)^(1-w): guided steps, and the weights that correct them.

    D_w = D_c + (w - 1)(D_c - D_u),     dlog w = (g^2/2) w (w - 1) |score_c - score_u|^2 dtau,   for ancestral steps x_s = a x + b D_w + d z
    exactly  log w <- log w + w (w - 1) b^2 |D_c - D_u|^2/(2 d^2)          (p_c(x_s|x_t)^w p_u(x_s|x_t)^(1-w)/q(x_s|x_t): no noise in it)

    A steer, without a guide beside it: it moves the state itself. Two evaluations a step.       [Skreta et al. 2025, arXiv:2503.02819]

    Args:
        weight: w; 1 is the plain conditional law.
        null: entries of the unconditional branch that replace those of the condition; when absent ``keys`` are left out.
        keys: entries left out of the unconditional branch; all but ``anchor`` and ``mask`` when absent.
        particles: K, consecutive samples of one problem.
        threshold: resample where ESS is below this share of K.

    Raises:
        UserError: a weight that is not finite, or a solver that is not ancestral.
    """

    weight: float
    null: Mapping[str, Any] | None = None
    keys: tuple[str, ...] | None = None
    exactness: ClassVar[str] = "exact as particles and steps grow; CFG alone is not"
    solver: ClassVar[str] = "ancestral"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.weight):
            raise UserError(f"the weight of guidance must be finite, got {self.weight}")

    def before(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """Nothing but a look at both branches."""
        check_gaussian(x, moment, "TiltedCFG")
        check_ancestral(moment.row, "TiltedCFG")
        free = unconditional(moment.condition, x.shape[0], self.null, self.keys)
        moment.memory["gap"] = moment.look() - moment.denoiser(x, moment.row.t, free)
        return x

    def after(self, x: Tensor, moment: Moment) -> Tensor:  # type: ignore[override]
        """The state moved from the conditional to the guided step, and weighed."""
        (_, b, d), gap = (moment.row.c, moment.memory["gap"])
        size = inner(gap, gap).double()
        log_factor = self.weight * (self.weight - 1) * b**2 / (2 * d**2) * size if d else torch.zeros_like(size)  # type: ignore[operator]
        moment.memory["moved"] = x + b * (self.weight - 1) * gap  # type: ignore[operator]
        self.weighted(x, moment, log_factor, final=moment.last)
        return moment.memory["moved"]


def slope_of(function: Callable[[Any], Tensor], x: Any) -> tuple[Tensor, Any]:
    """The value (batch,) of a function of each sample, and its gradient, like x; neither remembers a graph."""

    def checked(state: Any) -> Tensor:
        value, batch = function(state), batch_size(x)
        if value.shape != (batch,):
            raise UserError(f"a twist gives one number a sample, ({batch},), got {tuple(value.shape)}")
        return value

    return value_and_slope(checked, x)


def plain(x: Any, moment: Moment, t: Any) -> Any:
    """The state without its anchor, x - beta(t) y."""
    return x - float(moment.process.beta(t)) * moment.anchor if moment.process.anchored else x


def mean_of_step(x: Any, moment: Moment) -> Any:
    """a x + b D: where a step begins to draw, without the anchor; the denoiser is asked once, for the solver too."""
    (a, b, _), z, x0 = moment.row.c, plain(x, moment, moment.row.t), moment.look()
    if isinstance(z, dict):
        return {leaf: a[leaf] * z[leaf] + b[leaf] * x0[leaf] for leaf in z}  # type: ignore[call-overload]
    return a * z + b * x0  # type: ignore[operator]


def noising(row: Row) -> tuple[float, float]:
    """r and v of the noising step x_t | x_s ~ N(r x_s, v)."""
    ratio = row.alpha_t / row.alpha_s  # type: ignore[operator]
    return ratio, row.sigma_t**2 - (ratio * row.sigma_s) ** 2  # type: ignore[operator]


def check_gaussian(x: Any, moment: Moment, who: str, joint: bool = False) -> None:
    """Refuse steps whose law is not known: they must be x_s = a x + b D + d z of the DDIM family, with noise wherever the level allows.

    Args:
        x: the state.
        moment: the step.
        who: asks, for the message.
        joint: are leaves and spaces of other normal noise welcome, too?

    Raises:
        UserError: another solver, leaves of whole numbers, or a space whose noise is not normal.
    """
    space, row = moment.denoiser.space, moment.row
    if not all(leaf.is_floating_point() for leaf in leaves(x)) or (isinstance(x, dict) and not joint):
        what = "real numbers" if joint else "one tensor"
        raise UserError(f"{who} weighs Gaussian steps of {what}: FK and SVDD take any state")
    if not (_is_normal(space) if joint else isinstance(space, Euclidean)):
        noise = "normal" if joint else "independent normal"
        raise UserError(f"{who} weighs {noise} noise, and {space!r} has another: FK and SVDD take any space")
    if isinstance(x, dict) and moment.process.anchored:
        raise UserError(f"{who} weighs leaves without an anchor: FK and SVDD take any state")
    rows = [moment.leaf(leaf).row for leaf in x] if isinstance(x, dict) else [row]
    coefficients = [tuple(c[leaf] for c in row.c) for leaf in x] if isinstance(x, dict) else [row.c]
    if not all(_is_known(one, c) for one, c in zip(rows, coefficients, strict=True)):
        raise UserError(f"{who} needs the law of every step, which it knows of the DDIM family with noise only: use solver='ancestral'")


def _is_normal(space: Space) -> bool:
    """Is its noise a linear function of unit normals?"""
    if isinstance(space, JointSpace):
        return all(map(_is_normal, space.leaves.values()))
    return type(space) in (Euclidean, Masked, Symmetric, ZeroMean)


def _is_known(row: Row, c: Any) -> bool:
    """Is a step of one leaf of the DDIM family, with noise?"""
    known = len(c) == 3 and row.sigma_t > 0  # type: ignore[operator]
    if known and row.sigma_s > 0 and row.alpha_t > 1e-8 * row.sigma_t:  # type: ignore[operator]
        a, b, d = (float(v) for v in c)
        known = d > 0 and math.isclose(math.hypot(a * row.sigma_t, d), row.sigma_s, rel_tol=1e-6)  # type: ignore[operator, arg-type]
        known = known and math.isclose(b, row.alpha_s - a * row.alpha_t, rel_tol=1e-6, abs_tol=1e-12)  # type: ignore[operator]
    return known


def check_ancestral(row: Row, who: str) -> None:
    """Refuse a step with another share of fresh noise than the ancestral one, d^2 = sigma_s^2 (1 - rho_s^2/rho_t^2).

    Raises:
        UserError: names what is needed.
    """
    d: Any = row.c[2]
    if d and not math.isclose(d**2, row.sigma_s**2 * (1 - (row.rho_s / row.rho_t) ** 2), rel_tol=1e-6):  # type: ignore[operator]
        raise UserError(f"{who} is exact for ancestral steps (eta = 1) only: use solver='ancestral'")
