"""Examples of guides and steers: what they ask for by name, from a standard problem.

    part = Class(**{name: standard[name] for every argument without a default}),        or Class.example(), or a maker of its own

The standard problem is elementwise, so that a sample's bits cannot depend on its batch by way of the denoiser:
D = m_c + v/(v + rho^2) (z/alpha - m_c), exact for independent normal entries around the mean m_c of a class.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unstir import registry
from unstir.denoiser import Denoiser
from unstir.denoiser.base import anchor_of
from unstir.guide import Aggregator, DensityControl
from unstir.guide.base import Guide
from unstir.operator import Diagonal
from unstir.process import EDM, Process
from unstir.process.base import spread
from unstir.steer.base import Steer

SHAPE = (2, 4, 4)
GRID = "karras:6,sigma_max=20,sigma_min=0.05"
_VARIANCE = 0.25


class Classes(Denoiser):
    """The exact denoiser of independent normal entries, N(0, 1/4), or around +-1/2 where the condition's ``class`` is 1 or 0.

    Args:
        process: its process; EDM when absent.
        shape: of a sample.
        shift: of all means.
    """

    def __init__(self, process: Process | None = None, shape: tuple[int, ...] = SHAPE, shift: float = 0.0) -> None:
        super().__init__(process or EDM(), shape)
        self.shift = shift

    def forward(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The estimate."""
        alpha, sigma = (spread(f(t), x) for f in (self.process.alpha, self.process.sigma))
        z = x - spread(self.process.beta(t), x) * self.process.need(anchor_of(condition)) if self.process.anchored else x
        return (alpha * _VARIANCE * z + sigma**2 * self.mean(x, condition)) / (alpha**2 * _VARIANCE + sigma**2)

    def mean(self, x: Tensor, condition: Mapping[str, Any] | None) -> Tensor | float:
        """m_c of each sample."""
        label = (condition or {}).get("class")
        return self.shift if label is None else self.shift + (label.to(x) - 0.5).reshape(-1, *[1] * (x.ndim - 1))

    def log_density(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """log p(x_t | class) up to a constant of the level, (batch,)."""
        alpha, sigma = (spread(f(t), x) for f in (self.process.alpha, self.process.sigma))
        return (-0.5 * (x - alpha * self.mean(x, condition)).square() / (alpha**2 * _VARIANCE + sigma**2)).flatten(1).sum(1)

    def partial(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None, focus: Any, kept: Any) -> Tensor:
        """The estimate of some tokens: that of all, since entries do not see each other."""
        return self.forward(x, t, condition)

    def with_process(self, process: Process) -> Denoiser:
        """The same law on another process."""
        return Classes(process, self.shape, self.shift)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Example:
    """A run that a part takes part in.

    Attributes:
        part: the guide or steer.
        denoiser: the model it works on.
        solver: what samples.
        guides: that the part needs beside it.
    """

    part: Guide | Steer
    denoiser: Denoiser
    solver: Any = "ddim"
    guides: tuple[Guide, ...] = ()

    @property
    def particles(self) -> int:
        """Samples that are one problem."""
        return self.part.particles if isinstance(self.part, Steer) else 1

    @property
    def options(self) -> dict[str, Any]:
        """Keywords of ``unstir.sample``."""
        own = {"guides": [*self.guides, self.part]} if isinstance(self.part, Guide) else {"guides": [*self.guides], "steers": [self.part]}
        return {"solver": self.solver, **own}


def example_of(part: Any, name: str = "") -> Example | None:
    """A run of a part: itself where it is made, else its class made from its own ``example()``, the table, or the standard problem.

    Args:
        part: a guide or steer, or its class.
        name: as registered, where the table may know it.

    Returns:
        The example; None where nothing fits.
    """
    if name in _MAKERS and isinstance(part, type):
        return _MAKERS[name](part)
    denoiser = Classes()
    if not isinstance(part, type):
        made = part
    elif hasattr(part, "example"):
        made = part.example()
    else:
        given = standard(denoiser)
        asked = inspect.signature(part).parameters.values()
        needed = [one.name for one in asked if one.default is one.empty and one.kind not in (one.VAR_POSITIONAL, one.VAR_KEYWORD)]
        if not set(needed) <= set(given):
            return None
        small = {"particles": 4} if any(one.name == "particles" for one in asked) else {}
        made = part(**{key: given[key] for key in needed}, **small)
    return made if isinstance(made, Example) else Example(made, denoiser, solver_of(made))


def solver_of(made: Guide | Steer) -> str:
    """What a part is run with: the solver its class names; for particles one that draws noise, or copies would stay copies.

    Args:
        made: the part.
    """
    default = "ancestral" if isinstance(made, Steer) and made.particles > 1 else "ddim"
    return getattr(made, "solver", default)


def parts_of(kinds: tuple[str, ...]) -> dict[str, Any]:
    """The registered classes of some kinds, by name.

    Args:
        kinds: ``"guides"`` and ``"steers"``, or one of them.
    """
    return {name: registry.resolve(kind, name) for kind in kinds for name in registry.names(kind)}


def standard(denoiser: Denoiser) -> dict[str, Any]:
    """What the arguments of guides and steers are called, and a value for each: every function treats samples alone.

    Args:
        denoiser: what they will work on.
    """
    shape: tuple[int, ...] = denoiser.shape  # type: ignore[assignment]
    size = torch.Size(shape).numel()
    half = (torch.arange(size) % 2).reshape(1, *shape).to(torch.float64)
    operator = Diagonal(torch.linspace(0.5, 1.5, size, dtype=torch.float64).reshape(shape) * half[0])  # every other entry is seen

    def bowl(x: Tensor, *_: Any) -> Tensor:
        return -(x - 0.3).square().flatten(1).sum(1)

    def logits(x: Tensor, *_: Any) -> Tensor:
        total = x.flatten(1).sum(1)
        return torch.stack([-total, total], 1) / size

    found = {
        "operator": operator, "y": operator(torch.full((1, *shape), 0.3, dtype=torch.float64)), "noise": 0.3, "weight": 0.7, "scale": 1.0,
        "strength": 0.5, "lam": 0.1, "rho": 1.0, "eta": 0.5, "rate": 0.1, "steps": 3, "sigma": 1.0, "change": 1.0, "temperature": 0.8,
        "reward": bowl, "value": half, "log_likelihood": bowl, "log_twist": bowl, "log_ratio": bowl, "loss": lambda x, *c: -bowl(x),
        "energy": lambda now, then: (now["estimate"] - then["estimate"]).square().flatten(1).sum(1),
        "event": lambda x: x.flatten(1).mean(1) - 0.1, "function": bowl, "distance": 4.0,
        "reference": torch.linspace(-1, 1, 16).reshape(8, 2),
        "model": logits, "classifier": logits, "mask": half, "bad": Classes(shape=shape, shift=0.2), "others": [Classes(shape=shape)],
        "aggregator": Aggregator(shape[0], 2).double(), "factors": [Classes(shape=shape)], "weights": [0.5],
        "reliabilities": {"class": 1.0}, "degrade": lambda x0, phi: x0 * phi.reshape(-1, *[1] * (x0.ndim - 1)),
        "start": torch.ones(1, dtype=torch.float64), "source": lambda t: torch.full((1, *shape), 0.1, dtype=torch.float64),
        "acquire": lambda mask, problems: 0.2 * mask.to(torch.float64), "path": [half * step for step in range(7)],
    }  # fmt: skip
    return found


def _given(part: type, **options: Any) -> Any:
    """The standard problem's values for a class, some of them changed."""
    known = standard(Classes())
    asked = inspect.signature(part).parameters
    return part(**{key: known[key] for key, one in asked.items() if one.default is one.empty and key not in options}, **options)


def _with(part: type, **options: Any) -> Example:
    made = _given(part, **options)
    return Example(made, Classes(), solver_of(made))


def _linear(part: Any) -> Example:
    denoiser: Any = Classes()
    condition = {"class": torch.tensor([1, 0, 1])}
    return Example(part.fit(denoiser, 1.5, condition, solver="ddim", grid=GRID, count=3), denoiser)


def _reuse(part: Any) -> Example:
    from unstir.certify.discrete import two_tokens

    return Example(part(), two_tokens(), "discrete-ancestral")


def _tokens(part: Any) -> Example:
    from unstir.certify.discrete import two_tokens

    return Example(part(lambda hot, *_: hot[:, :, 1].sum(1)), two_tokens(), "discrete-ancestral")


def _leaf(part: Any) -> Example:
    from unstir.certify.joint import JointOracle
    from unstir.certify.oracles import gm4
    from unstir.steer import Projection

    operator = Diagonal(torch.ones(2, dtype=torch.float64))
    return Example(part("a", Projection(operator, torch.full((1, 2), 0.2))), JointOracle({"a": gm4(), "b": gm4()}))


def _probability(part: Any) -> Example:
    from unstir.guide import EventGuidance

    return Example(part(EventGuidance(standard(Classes())["event"])), Classes())


def _loss(part: Any) -> Example:
    return Example(part(losses=standard(Classes())["loss"], weight=0.3), Classes())


def _noise(part: Any) -> Example:
    return Example(part(0.3), Classes(), "ddim", (DensityControl(change=1.0, spread=0.3, divergence="exact"),))


def _known(part: Any) -> Example:
    y = torch.full((1, *SHAPE), 0.3, dtype=torch.float64)
    y[..., ::2] = torch.nan  # every other entry is seen
    return Example(part(_VARIANCE * torch.eye(y.numel(), dtype=torch.float64), 0.3, y), Classes())


_MAKERS: Mapping[str, Callable[[Any], Example]] = {
    "cfg": functools.partial(_with, weight=2.0),
    "adaptive": functools.partial(_with, weight=2.0),
    "density": functools.partial(_with, change=1.0),
    "semantic": functools.partial(_with, reference=torch.ones(2, dtype=torch.float64)),
    "linear-ag": _linear,
    "regions": functools.partial(_with, ratio=0.5, patch=2),
    "reuse": _reuse,
    "token-guidance": _tokens,
    "known-covariance": _known,
    "on-leaf": _leaf,
    "density-noise": _noise,
    "loss": _loss,
    "policy": functools.partial(_with, mask=torch.ones(SHAPE, dtype=torch.float64), scale=0.1),
    "event-probability": _probability,
    "active-subsampling": functools.partial(_with, steps=(1, 3), particles=4),
    "ensemble-kalman": functools.partial(_with, particles=4),
}
