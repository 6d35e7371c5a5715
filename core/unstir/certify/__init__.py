"""The certificate: closed forms, and the checks they feed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from unstir.lazy import attach

_LAZY = {
    "GaussianOracle": "oracles",
    "MixtureOracle": "oracles",
    "CountOracle": "discrete",
    "Enumerated": "discrete",
    "EnumeratedGraph": "discrete",
    "count_law": "discrete",
    "every_graph": "discrete",
    "law_of": "discrete",
    "markov_source": "discrete",
    "states_of": "discrete",
    "two_tokens": "discrete",
    "JointOracle": "joint",
    "LinearGaussian": "oracles",
    "Oracle": "oracles",
    "gm4": "oracles",
    "gm4_points": "oracles",
    "lg3": "oracles",
}
_MODULES: tuple[str, ...] = ("checks", "oracles")
_MODULES += ("posterior",)
__all__ = [*_LAZY, *_MODULES]

if TYPE_CHECKING:
    from unstir.certify.discrete import CountOracle as CountOracle
    from unstir.certify.discrete import Enumerated as Enumerated
    from unstir.certify.discrete import EnumeratedGraph as EnumeratedGraph
    from unstir.certify.discrete import count_law as count_law
    from unstir.certify.discrete import every_graph as every_graph
    from unstir.certify.discrete import law_of as law_of
    from unstir.certify.discrete import markov_source as markov_source
    from unstir.certify.discrete import states_of as states_of
    from unstir.certify.discrete import two_tokens as two_tokens
    from unstir.certify.joint import JointOracle as JointOracle
    from unstir.certify.oracles import GaussianOracle as GaussianOracle
    from unstir.certify.oracles import LinearGaussian as LinearGaussian
    from unstir.certify.oracles import MixtureOracle as MixtureOracle
    from unstir.certify.oracles import Oracle as Oracle
    from unstir.certify.oracles import gm4 as gm4
    from unstir.certify.oracles import gm4_points as gm4_points
    from unstir.certify.oracles import lg3 as lg3

__getattr__, __dir__ = attach(__name__, _LAZY, _MODULES)
