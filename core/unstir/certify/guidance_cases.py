"""What each guide is tried on, and the law in two dimensions that it should sample; see ``unstir.certify.guidance``.

CFG  p_c^w p^(1-w),   classifier  p p(c|x)^w,   product  p p_1^w,   event  p 1[C > 0],   value  p exp(v),   low temperature  p^w
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unstir.certify.laws import ClassOracle, classes3
from unstir.certify.oracles import GaussianOracle, MixtureOracle
from unstir.denoiser import Denoiser
from unstir.guide import (
    CFG,
    AdaptiveGuidance,
    Autoguidance,
    CFGPlusPlus,
    ClassifierGuidance,
    DynamicGuidance,
    EventGuidance,
    LossGuidance,
    Product,
    SemanticGuidance,
    UniteAndConquer,
    ValueGuidance,
)
from unstir.process import EDM
from unstir.steer import Annealed, AnnealedMCMC, ScaledNoise, TiltedCFG

LogDensity = Callable[[Tensor], Tensor]
_LABEL = 1
_EDGE = 0.2


@dataclass(frozen=True)
class Case:
    """A guide at work on a law, and the law it should give.

    Attributes:
        on: in words.
        law: the denoiser.
        log_density: of the law aimed at, up to a constant, at clean states.
        base: of the law without guide.
        options: of the class.
        exact: does the class declare that it samples that law?
        condition: of the run, one row.
        tolerance: of the estimate; the sum over the grid is exact for smooth laws but for tails beyond 4, to the square of its step for
            an edge.
        solver: what samples.
        steps: how many.
    """

    on: str
    law: Denoiser
    log_density: LogDensity
    base: LogDensity
    options: Mapping[str, Any] = field(default_factory=dict)
    exact: bool = False
    condition: Mapping[str, Tensor] = field(default_factory=dict)
    tolerance: float = 1e-5
    solver: str = "f3"
    steps: int = 40

    def make(self, part: Any) -> Any:
        """The guide or steer of this case."""
        return part(**self.options)


class Pair(Denoiser):
    """Two coordinates that have nothing to do with each other, each of a class of its own: entries ``first`` and ``second``."""

    def __init__(self) -> None:
        super().__init__(EDM(), (2,))
        self.parts = {
            "first": ClassOracle([0.5, 0.3, 0.2], [[-1.0], [0.5], [1.5]], [[0.2], [0.3], [0.4]], [0, 1, 1]),
            "second": ClassOracle([0.2, 0.8], [[0.0], [2.0]], [[0.5], [0.2]], [0, 1]),
        }

    def forward(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """The exact estimate."""
        return torch.cat([part(x[:, i : i + 1], t, self.told(name, condition)) for i, (name, part) in enumerate(self.parts.items())], 1)

    def log_density(self, x: Tensor, t: Any, condition: Mapping[str, Any] | None = None) -> Tensor:
        """log p(x_t | the classes told)."""
        parts = [part.log_density(x[:, i : i + 1], t, self.told(name, condition)) for i, (name, part) in enumerate(self.parts.items())]
        return torch.stack(parts).sum(0)

    def told(self, name: str, condition: Mapping[str, Any] | None) -> dict[str, Any] | None:
        """What one coordinate is told."""
        return {"class": condition[name]} if condition and name in condition else None


LAW, PAIR = classes3(), Pair()
SOFT = ClassOracle([0.5, 0.5], [[-0.6, 0.0], [0.7, 0.3]], [[1.0, 0.8], [0.7, 0.6]], [0, 1])  # classes that overlap
NORMAL = GaussianOracle(torch.tensor([0.2, -0.1]), torch.tensor([[0.8, 0.3], [0.3, 0.5]]))
ROUND = GaussianOracle(torch.zeros(2), 0.64 * torch.ones(2))
WIDE = MixtureOracle([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.5]], [[1.0, 0.9], [0.9, 1.0]])
CLASS = {"class": torch.tensor([_LABEL])}
BOTH = {"first": torch.tensor([1]), "second": torch.tensor([0])}
_SEEN, _NOISE = torch.tensor([0.7, -0.4], dtype=torch.float64), 0.5


def _clean(law: Any, condition: Mapping[str, Tensor] | None = None) -> LogDensity:
    """log p(x_0 | condition)."""

    def log_density(x: Tensor) -> Tensor:
        told = {key: value.expand(len(x)) for key, value in condition.items()} if condition else None
        return law.log_density(x, 0.0, told)

    return log_density


def _sum(*terms: tuple[float, LogDensity]) -> LogDensity:
    return lambda x: torch.stack([weight * term(x) for weight, term in terms]).sum(0)


P, P_SOFT, P_CLASS = _clean(LAW), _clean(SOFT), _clean(SOFT, CLASS)


def _log_class(x: Tensor, t: Any) -> Tensor:
    return SOFT.log_class(x, t)


def _own_class(x: Tensor, t: Any = 0.0) -> Tensor:
    return SOFT.log_class(x, t)[:, _LABEL]


def _event(x: Tensor) -> Tensor:
    return x[:, 0] - _EDGE


def _inside(x: Tensor) -> Tensor:
    return torch.where(_event(x) > 0, 0.0, -torch.inf).to(x.dtype)


def _bowl(x: Tensor, *_: Any) -> Tensor:
    return 0.5 * (x - _SEEN).square().sum(1) / _NOISE**2


def _embedding(x: Tensor, t: Any) -> Tensor:
    """(E[x_0 | x_t] - y)/std of y given x_t: minus half its square is log p(y | x_t) up to a constant, for one variance of all entries."""
    variance = 0.64 * float(t) ** 2 / (0.64 + float(t) ** 2)
    return (ROUND(x, t) - _SEEN) / (variance + _NOISE**2) ** 0.5


def _powered(weight: float) -> LogDensity:
    return _sum((weight, P_CLASS), (1 - weight, P_SOFT))


_FINE: dict[str, Any] = {"solver": "ancestral", "steps": 200}
CASES: Mapping[type, tuple[Case, ...]] = {
    CFG: (
        Case("w = 1", SOFT, P_CLASS, P_SOFT, {"weight": 1.0}, True, CLASS),
        Case("w = 4: p_c^4 p^-3", SOFT, _powered(4.0), P_CLASS, {"weight": 4.0}, False, CLASS),
    ),
    CFGPlusPlus: (Case("w = 0.6: p_c", SOFT, P_CLASS, P_SOFT, {"weight": 0.6}, False, CLASS, solver="ddim"),),
    AdaptiveGuidance: (Case("w = 4: p_c^4 p^-3", SOFT, _powered(4.0), P_CLASS, {"weight": 4.0}, False, CLASS),),
    TiltedCFG: (Case("w = 4: p_c^4 p^-3", SOFT, _powered(4.0), P_CLASS, {"weight": 4.0, "particles": 64}, True, CLASS, **_FINE),),
    Annealed: (Case("w = 2: p^2", WIDE, _sum((2.0, _clean(WIDE))), _clean(WIDE), {"weight": 2.0, "particles": 64}, True, **_FINE),),
    ClassifierGuidance: (
        Case("w = 1: p(c | x)", SOFT, P_CLASS, P_SOFT, {"model": _log_class, "label": _LABEL}, True),
        Case("w = 4: p p(c|x)^4", SOFT, _powered(4.0), P_SOFT, {"model": _log_class, "label": _LABEL, "weight": 4.0}),
    ),
    DynamicGuidance: (Case("p itself", SOFT, P_SOFT, P_SOFT, {"model": _log_class, "high": 1.0}),),
    UniteAndConquer: (
        Case("independent conditions", PAIR, _clean(PAIR, BOTH), _clean(PAIR), {"reliabilities": dict.fromkeys(BOTH, 1.0)}, True, BOTH),
    ),
    EventGuidance: (
        Case("a half space of a normal", NORMAL, _sum((1.0, _clean(NORMAL)), (1.0, _inside)), _clean(NORMAL), {"event": _event}, True,
             tolerance=5e-3),
        Case("a half space of C3", LAW, _sum((1.0, P), (1.0, _inside)), P, {"event": _event}),
    ),
    SemanticGuidance: (
        Case("log p(y | x_t) as similarity", ROUND, _sum((1.0, _clean(ROUND)), (-1.0, _bowl)), _clean(ROUND),
             {"model": _embedding, "reference": torch.zeros(2, dtype=torch.float64), "similarity": "distance"}, True),
    ),
    Autoguidance: (
        Case("w = 1", LAW, P, P, {"bad": WIDE, "weight": 1.0}, True),
        Case("w = 2: p^2/p_bad", LAW, _sum((2.0, P), (-1.0, _clean(WIDE))), P, {"bad": WIDE, "weight": 2.0}),
    ),
    Product: (Case("p p_1^0.5", LAW, _sum((1.0, P), (0.5, _clean(NORMAL))), P, {"factors": [NORMAL], "weights": [0.5]}),),
    LossGuidance: (Case("p exp(-L)", LAW, _sum((1.0, P), (-1.0, _bowl)), P, {"losses": _bowl}),),
    ValueGuidance: (Case("v = log p(c | x_t)", SOFT, P_CLASS, P_SOFT, {"function": _own_class}, True, **_FINE),),
    ScaledNoise: (
        Case("T = 1/2, normal", NORMAL, _sum((2.0, _clean(NORMAL))), _clean(NORMAL),
             {"temperature": 0.5, "mean": NORMAL.mean}, True),
        Case("T = 1/2, C3", LAW, _sum((2.0, P)), P, {"temperature": 0.5}),
    ),
    AnnealedMCMC: (Case("p itself", LAW, P, P, {"steps": 2, "data_std": 0.25}, solver="ancestral"),),
}  # fmt: skip
