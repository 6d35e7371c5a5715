"""Oracles of discrete laws by enumeration: small enough that every state can be listed.

    p(x_0 | x_t) ~ p(x_0) prod_i q(x_t,i | x_0,i),      E[x_0 | x_t] from it, entry by entry

and the law of a solver's samples, carried from the prior to the data by its own transition probabilities: nothing is drawn, so that
tests of stochastic solvers are deterministic.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from unstir.denoiser.base import Condition, Denoiser
from unstir.errors import UserError
from unstir.process import Joint, Process
from unstir.process.categorical import Categorical
from unstir.process.counts import Blackout, Counts, poisson_law
from unstir.process.discrete import SymmetricTokens, spread_over
from unstir.solver.discrete import DiscreteAncestral, TauLeaping
from unstir.space import Euclidean, JointSpace, Masked


class Enumerated(Denoiser):
    """The exact denoiser of a law over sequences, given by all its sequences and their probabilities.

    Args:
        support: the sequences (n, length), whole numbers.
        weights: their probabilities (n,).
        process: how they are made noisy.

    Attributes:
        time_free: does the belief not depend on the time? So it is with masks.
    """

    def __init__(self, support: Tensor, weights: Tensor, process: Categorical) -> None:
        super().__init__(process, (support.shape[1],))
        self.register_buffer("support", support.long())
        self.register_buffer("weights", weights.to(torch.float64) / weights.sum())
        self.time_free = process.mask is not None

    def forward(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """p(x_0,i | x_t) (batch, length, categories), float64."""
        chance = self.chances(x, t)
        hot = torch.nn.functional.one_hot(self.support, self.process.categories).to(torch.float64)  # type: ignore[attr-defined,arg-type]
        return torch.einsum("bn,nlk->blk", chance, hot)

    def chances(self, x: Tensor, t: Any) -> Tensor:
        """p(x_0 | x_t) over the support, (batch, n), float64; the weights themselves where x_t is impossible."""
        joint = self.weights * self.likelihood(x, t)  # type: ignore[operator]
        total = joint.sum(1, keepdim=True)
        return torch.where(total > 0, joint / total.clamp(min=1e-300), self.weights)  # type: ignore[arg-type]

    def likelihood(self, x: Tensor, t: Any) -> Tensor:
        """q(x_t | x_0) over the support, (batch, n)."""
        process: Any = self.process
        alpha = process.alpha(t)
        if process.mask is not None:
            alpha = alpha.clamp(1e-9, 1 - 1e-9)  # the belief does not depend on it; at the ends it would be 0/0
        kept = spread_over(alpha, x, 1)
        noise = process.stationary(torch.empty(0, dtype=torch.float64))[x][:, None]
        return (torch.eq(x[:, None], self.support).to(noise) * kept + (1 - kept) * noise).prod(-1)  # type: ignore[arg-type]

    def law(self, t: float) -> Tensor:
        """The exact law of x_t over all states, in the order of ``states_of``, (states^length,)."""
        return self.weights @ self.likelihood(states_of(self.process.states, self.shape[0]), t).mT  # type: ignore[operator,attr-defined,index,arg-type]

    def log_prob(self, x0: Tensor) -> Tensor:
        """log p(x_0), nats, (batch,)."""
        return torch.log((torch.eq(x0[:, None], self.support).all(-1) * self.weights).sum(1))  # type: ignore[operator,arg-type]

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Clean sequences (count, length)."""
        return self.support[torch.multinomial(self.weights, count, replacement=True, generator=generator)]  # type: ignore[index,arg-type]

    def with_process(self, process: Process) -> Denoiser:
        """The same law on another process of its categories."""
        return Enumerated(self.support, self.weights, process)  # type: ignore[arg-type]


def states_of(states: int, length: int) -> Tensor:
    """All sequences (states^length, length), the last entry running fastest.

    Args:
        states: number of values of an entry.
        length: of a sequence.
    """
    return torch.cartesian_prod(*[torch.arange(states)] * length).reshape(-1, length)


def markov_source(process: Categorical, length: int = 4) -> Enumerated:
    """SEQ: a Markov chain whose letters like to repeat and to step up, every sequence listed.

    Args:
        process: how it is made noisy; its number of categories is the alphabet.
        length: of a sequence.

    Returns:
        Its exact denoiser.
    """
    k = process.categories
    jump = torch.full((k, k), 0.1 / k, dtype=torch.float64) + 0.6 * torch.eye(k, dtype=torch.float64)
    jump = jump + 0.3 * torch.roll(torch.eye(k, dtype=torch.float64), 1, 1)
    first = torch.arange(k, 0, -1, dtype=torch.float64)
    support = states_of(k, length)
    weights = (first / first.sum())[support[:, 0]]
    for i in range(1, length):
        weights = weights * jump[support[:, i - 1], support[:, i]]
    return Enumerated(support, weights, process)


def two_tokens(process: Categorical | None = None) -> Enumerated:
    """Two binary tokens that mostly agree, .45/.05/.05/.45: unmasked in N parallel steps, .4/N off in total variation.

    Args:
        process: how they are made noisy; masks, linear, when absent.

    Returns:
        Their exact denoiser.
    """
    return Enumerated(states_of(2, 2), torch.tensor([0.45, 0.05, 0.05, 0.45], dtype=torch.float64), process or Categorical(2))


def law_of(denoiser: Enumerated, solver: DiscreteAncestral | TauLeaping, times: Sequence[float]) -> Tensor:
    """The exact law of a solver's samples: the prior carried through every step by the solver's own probabilities.

    Args:
        denoiser: an enumerated law (all states^length states are walked).
        solver: one that draws entries independently given the state.
        times: of the grid.

    Returns:
        Probabilities over ``states_of(process.states, length)``, (states^length,).
    """
    process: Any = denoiser.process
    length: int = denoiser.shape[0]  # type: ignore[assignment,index]
    everything = states_of(process.states, length)
    law = process.stationary(torch.empty(0, dtype=torch.float64))[everything].prod(-1)
    for row in solver.plan(process, times):
        reached = law > 0
        states = everything[reached]
        parts = solver.law(process, states, denoiser(states, row.t), row)
        joint = parts[:, 0]
        for i in range(1, length):
            joint = (joint[:, :, None] * parts[:, i, None, :]).flatten(1)
        law = law[reached] @ joint
    return law


class CountOracle(Denoiser):
    """The exact denoiser of independent counts with one law.

    Args:
        weights: probabilities of the counts 0, 1, ..., (n,).
        process: how they are made noisy.
        shape: of a state.
    """

    def __init__(self, weights: Tensor, process: Counts, shape: tuple[int, ...] = (1,)) -> None:
        super().__init__(process, shape)
        self.register_buffer("weights", weights.to(torch.float64) / weights.sum())

    def forward(self, x: Tensor, t: Any, condition: Condition | None = None) -> Tensor:
        """E[x_0 | x_t] (batch, *shape), float64."""
        clean = torch.arange(len(self.weights), dtype=torch.float64)  # type: ignore[arg-type]
        log = torch.log(self.weights) + self.log_likelihood(x, t, clean)  # type: ignore[arg-type]
        return (torch.softmax(log, -1) * clean).sum(-1)

    def log_likelihood(self, x: Tensor, t: Any, clean: Tensor) -> Tensor:
        """log q(x_t | x_0 = clean), (batch, *shape, n)."""
        alpha, lost, count = (spread_over(f(t), x, 1) for f in (self.process.alpha, self.process.sigma, lambda s: torch.as_tensor(0.0)))
        count = x[..., None].to(torch.float64)
        alpha, lost = (torch.as_tensor(c, dtype=torch.float64) for c in (alpha, lost))
        if isinstance(self.process, Blackout):
            dead = clean - count
            log = torch.lgamma(clean + 1) - torch.lgamma(count + 1) - torch.lgamma(dead.clamp(min=0) + 1)
            log = log + torch.xlogy(count, alpha) + torch.xlogy(dead.clamp(min=0), lost)
            return log.masked_fill(dead < 0, -torch.inf)
        mean = self.process.scale * alpha * clean  # type: ignore[attr-defined]
        return torch.xlogy(count, mean) - mean - torch.lgamma(count + 1)

    def with_process(self, process: Process) -> Denoiser:
        """The same law on another process of counts."""
        return CountOracle(self.weights, process, self.shape)  # type: ignore[arg-type]


def count_law(denoiser: CountOracle, solver: DiscreteAncestral | TauLeaping, times: Sequence[float], size: int) -> Tensor:
    """The exact law of one count sampled by a solver, carried from 0 at the first time to the last.

    Args:
        denoiser: the oracle.
        solver: one that draws entries independently given the state.
        times: of the grid.
        size: number of values a count may take on the way; births beyond it are lost.

    Returns:
        Probabilities of 0 ... size - 1, (size,).
    """
    process: Any = denoiser.process
    law = torch.zeros(size, dtype=torch.float64)
    law[0] = 1.0
    for row in solver.plan(process, times):
        x = law.nonzero()[:, 0]
        x0, alpha_t, alpha_s = denoiser(x, row.t), float(row.alpha_t), float(row.alpha_s)  # type: ignore[arg-type]
        if alpha_s == 1 and not isinstance(process, Blackout):
            return torch.zeros_like(law).index_add(0, process.ancestral(x, x0, alpha_t, alpha_s, x0), law[x])
        if isinstance(solver, TauLeaping) and alpha_s < 1:
            births = poisson_law(process.rates(x, x0, row.t) * (row.t - row.s), size)  # type: ignore[operator]
        else:
            births = process.birth_law(x, x0, alpha_t, alpha_s, size)
        new = torch.zeros_like(law)
        for n, chances in zip(x.tolist(), births, strict=True):
            new[n:] += law[n] * chances[: size - n]
        law = new
    return law


class EnumeratedGraph(Denoiser):
    """The exact denoiser of a law over small graphs: kinds of nodes ``x`` (nodes,) and of edges ``e`` (nodes, nodes), symmetric.

    Args:
        nodes: kinds of the nodes of every graph (n, nodes).
        edges: kinds of their edges, the entries above the diagonal row by row (n, nodes (nodes - 1)/2).
        weights: their probabilities (n,).
        process: joint, with the categorical leaves ``x`` and ``e`` and one time.
        key: name of the node mask in the condition, if there is one.

    Raises:
        UserError: the process has other leaves.
    """

    def __init__(self, nodes: Tensor, edges: Tensor, weights: Tensor, process: Joint, key: str | None = None) -> None:
        count = nodes.shape[1]
        space = JointSpace({"x": Masked(key), "e": SymmetricTokens(key)}) if key else JointSpace({"x": Euclidean(), "e": SymmetricTokens()})
        super().__init__(process, {"x": (count,), "e": (count, count)}, space)
        if set(process.leaves) != {"x", "e"}:
            raise UserError(f"a graph has the leaves 'x' and 'e', got {sorted(process.leaves)}")
        self.nodes = Enumerated(nodes, weights, process.leaves["x"])  # type: ignore[arg-type]
        self.edges = Enumerated(edges, weights, process.leaves["e"])  # type: ignore[arg-type]
        self.upper = torch.triu_indices(count, count, 1)
        self.key = key

    def forward(self, x: Any, t: Any, condition: Condition | None = None) -> Any:
        """p(x_0 | x_t) of both leaves, given both."""
        edges = x["e"][:, self.upper[0], self.upper[1]]
        joint = self.nodes.weights * self.nodes.likelihood(x["x"], t) * self.edges.likelihood(edges, t)  # type: ignore[operator]
        joint = joint / joint.sum(1, keepdim=True).clamp(min=1e-300)
        kinds = [leaf.process.categories for leaf in (self.nodes, self.edges)]  # type: ignore[attr-defined]
        hot = [torch.nn.functional.one_hot(leaf.support, k).to(joint) for leaf, k in zip((self.nodes, self.edges), kinds, strict=True)]  # type: ignore[arg-type]
        found, flat = torch.einsum("bn,nlk->blk", joint, hot[0]), torch.einsum("bn,nlk->blk", joint, hot[1])
        square = torch.zeros(*x["e"].shape, kinds[1], dtype=joint.dtype)
        square[..., 0] = 1.0  # the diagonal is no edge
        square[:, self.upper[0], self.upper[1]] = flat
        square[:, self.upper[1], self.upper[0]] = flat
        return {"x": found, "e": square}


def every_graph(nodes: int, node_kinds: int, edge_kinds: int) -> tuple[Tensor, Tensor]:
    """All kinds of nodes and edges: (n, nodes) and (n, nodes (nodes - 1)/2).

    Args:
        nodes: number of nodes.
        node_kinds, edge_kinds: numbers of kinds.
    """
    pairs = nodes * (nodes - 1) // 2
    listed = torch.tensor(list(itertools.product(*[range(node_kinds)] * nodes, *[range(edge_kinds)] * pairs)))
    return listed[:, :nodes], listed[:, nodes:]
