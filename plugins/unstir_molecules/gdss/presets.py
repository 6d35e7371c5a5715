"""GDSS's published settings, one a data set, and the denoiser they make.

    dx = f(x, t) dt + g(t) dw on t in (0, 1], nodes and edges each with their own:  vp beta(low -> high),  ve sigma(low -> high)

**The prior gap.** The published schedules end early: ``vp`` 0.1 -> 1 leaves 0.76 x_0 + 0.65 eps at t = 1, a signal-to-noise ratio of 1.4,
and sampling begins at N(0, 1) all the same. ``closed`` lengthens the schedule (vp to 20, ve to 10 times the data's scale), which needs
weights trained so.
Reference: Jo et al. 2022 (GDSS), arXiv:2202.02514, table 6 and the released settings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from unstir.denoiser import NetworkDenoiser
from unstir.errors import UnknownName, UserError
from unstir.process import VE, VP, Joint, Process, SubVP
from unstir.space import JointSpace, Masked, Symmetric
from unstir_molecules.gdss.attention import Conv
from unstir_molecules.gdss.networks import GDSSNetwork

Predictor = Literal["euler", "reverse", "s4"]
Terminal = Literal["gap", "closed"]
T_MIN = 1e-5
"""The smallest time of training, where the process begins."""
CLOSED = {"vp": 20.0, "sub-vp": 20.0, "ve": 10.0}
"""The upper end of a schedule without a prior gap; that of ``ve`` for entries of the order of 1."""


@dataclass(frozen=True)
class Leaf:
    """How nodes or edges become noise.

    Args:
        kind: ``"vp"``, ``"ve"`` or ``"sub-vp"``.
        low, high: noise rate (vp) or noise level (ve) at t = 0 and t = 1.

    Raises:
        UserError: no such kind.
    """

    kind: str
    low: float
    high: float

    def __post_init__(self) -> None:
        if self.kind not in CLOSED:
            raise UserError(f"the process of a leaf must be one of {', '.join(CLOSED)}, got {self.kind!r}")

    def __str__(self) -> str:
        return f"{self.kind} {self.low:g} to {self.high:g}"

    @property
    def process(self) -> Process:
        """The process of the core. Its ve keeps sigma(t) whole at t = 0, as GDSS does: t = 0 is not clean."""
        if self.kind == "ve":
            return VE(self.low, self.high, t_min=T_MIN)
        return (SubVP if self.kind == "sub-vp" else VP)(self.low, self.high, t_min=T_MIN)

    @property
    def parameterisation(self) -> str:
        """What the network's output is: score = -net/sigma says net = eps; of ve, score = net."""
        return "score" if self.kind == "ve" else "eps"


@dataclass(frozen=True)
class Preset:
    """Everything that was published about one data set.

    Args:
        nodes: largest graph.
        features: F: degrees 0 to F - 1 one-hot, or kinds of atom.
        x, a: processes of nodes and edges.
        depth, layers, linears, hidden, attention, heads, channels, conv, gmh: of the networks, see :class:`GDSSNetwork`.
        batch, rate, epochs: of the training.
        predictor: of the sampler; ``"s4"`` takes one evaluation a step.
        snr, scale: relative length of a Langevin step and the factor on its noise; 0 for none.
        steps: of the sampler.
        average: are the averaged weights sampled from?
        molecules: are the graphs molecules?
        seed: the authors' seed of sampling.
    """

    nodes: int
    features: int
    x: Leaf = Leaf("vp", 0.1, 1.0)
    a: Leaf = Leaf("vp", 0.1, 1.0)
    depth: int = 2
    layers: int = 5
    linears: int = 2
    hidden: int = 32
    attention: int = 32
    heads: int = 4
    channels: tuple[int, int, int] = (2, 8, 4)
    conv: Conv = "gcn"
    gmh: bool = False
    batch: int = 128
    rate: float = 0.01
    epochs: int = 5000
    predictor: Predictor = "euler"
    snr: float = 0.0
    scale: float = 0.0
    steps: int = 1000
    average: bool = False
    molecules: bool = False
    seed: int = 42

    def __post_init__(self) -> None:
        if self.predictor not in get_args(Predictor):
            raise UserError(f"predictor must be one of {', '.join(get_args(Predictor))}, got {self.predictor!r}")

    def network(self) -> dict[str, Any]:
        """Keyword arguments of :class:`GDSSNetwork`, JSON-able."""
        names = ("features", "depth", "layers", "hidden", "attention", "linears", "heads", "conv", "gmh")
        return {name: getattr(self, name) for name in names} | {"channels": list(self.channels)}

    def closed(self) -> Preset:
        """The same with schedules that end in noise."""
        return replace(self, x=replace(self.x, high=CLOSED[self.x.kind]), a=replace(self.a, high=CLOSED[self.a.kind]))

    @property
    def process(self) -> Joint:
        """The process of the pair."""
        return Joint({"x": self.x.process, "a": self.a.process})

    def terminal(self) -> dict[str, float]:
        """Signal-to-noise ratio (of variances, for data of variance 1) at t = 1, a number a leaf; 0 where there is no prior gap."""
        return {leaf: float(process.rho(process.t_max)) ** -2 for leaf, process in self.process.leaves.items()}

    def terminal_text(self) -> str:
        """The same in words."""
        return ", ".join(f"{leaf} {value:.3g}" for leaf, value in self.terminal().items())


_MOLECULES: dict[str, Any] = {
    "linears": 3, "hidden": 16, "attention": 16, "batch": 1024, "rate": 0.005, "predictor": "reverse", "snr": 0.2, "molecules": True,
}  # fmt: skip
PRESETS: Mapping[str, Preset] = {
    "ego-small": Preset(18, 17, seed=12),
    "community-small": Preset(20, 10, depth=3, snr=0.05, scale=0.7, seed=11),
    "enzymes": Preset(
        125, 10, a=Leaf("ve", 0.2, 1.0), depth=5, layers=7, batch=64, predictor="s4", snr=0.15, scale=0.7, average=True, seed=12
    ),
    "grid": Preset(
        361, 5, a=Leaf("vp", 0.2, 0.8), depth=5, layers=7, batch=8, predictor="reverse", snr=0.1, scale=0.7, average=True, seed=13
    ),
    "qm9": Preset(9, 4, x=Leaf("ve", 0.1, 1.0), a=Leaf("ve", 0.1, 1.0), layers=3, epochs=300, scale=0.7, **_MOLECULES),
    "zinc250k": Preset(38, 9, a=Leaf("ve", 0.2, 1.0), layers=6, epochs=500, scale=0.9, **_MOLECULES),
    "zinc250k-gmh": Preset(38, 9, a=Leaf("ve", 0.2, 1.0), layers=6, epochs=800, scale=0.8, gmh=True, **_MOLECULES),
}
"""Published settings by data set."""


def preset(name: str) -> Preset:
    """The published settings of a data set.

    Args:
        name: of `PRESETS`.

    Raises:
        UnknownName: there is none.
    """
    if name not in PRESETS:
        raise UnknownName("GDSS preset", name, PRESETS)
    return PRESETS[name]


def denoiser_of(settings: Preset, network: GDSSNetwork) -> NetworkDenoiser:
    """The denoiser of a network: states ``{"x": (N, F), "a": (N, N)}`` of any N, told ``mask`` (B, N).

    The core's estimates follow exactly: x_0 = (x - sigma net)/alpha where net is noise, x + sigma^2 net where it is a score.

    Args:
        settings: with the processes.
        network: as :class:`GDSSNetwork`.
    """
    return NetworkDenoiser(
        network,
        settings.process,
        parameterisation={"x": settings.x.parameterisation, "a": settings.a.parameterisation},
        shape={"x": (-1, settings.features), "a": (-1, -1)},
        space=JointSpace({"x": Masked("mask"), "a": Symmetric("mask")}),
    )


def facts_of(settings: Preset, more: Mapping[str, Any]) -> dict[str, Any]:
    """What a checkpoint says of itself beside its weights.

    Args:
        settings: of the model.
        more: what else is known: ``sizes`` (how many training graphs have how many nodes, or None), ``vocabulary`` (of molecules, or
            None), ``moments`` (mean and variance of the entries of the data).

    Returns:
        JSON-able facts, with the sampler that the settings ask for and the signal-to-noise ratio at the end of the process.
    """
    sampler = {name: getattr(settings, name) for name in ("predictor", "snr", "scale", "steps")}
    known = {"sizes": None, "vocabulary": None, "moments": None, **more}
    return known | {"model": "gdss", "nodes": settings.nodes, "sampler": sampler, "terminal_snr": settings.terminal()}
