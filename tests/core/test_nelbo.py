"""Bounds of discrete processes in nats: tight where the belief is exact, invariant to the schedule, equal to the loss over orders."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from unstir.certify import CountOracle, Enumerated, EnumeratedGraph, every_graph, markov_source, states_of
from unstir.denoiser import Denoiser, TokenDenoiser
from unstir.errors import UserError
from unstir.process import VP, Blackout, Categorical, Joint, Thinning
from unstir.process.discrete import SCHEDULES
from unstir.train import VLB, PathLoss, nelbo

MARGINALS = (0.5, 0.3, 0.2)
PROCESSES = [Categorical(3), Categorical(3, "uniform"), Categorical(3, "marginal", MARGINALS)]
LENGTH = 3


def entropy(weights: Tensor) -> float:
    return float(-torch.xlogy(weights, weights).sum())


def nodes(count: int, high: float) -> list[tuple[float, float]]:
    """Gauss-Legendre nodes and weights in u, t = high u^2: denser towards the data, where integrands have a logarithm."""
    points, weights = np.polynomial.legendre.leggauss(count)
    u = (points + 1) / 2
    return [(float(high * v * v), float(w / 2 * 2 * v * high)) for v, w in zip(u, weights, strict=True)]


def path_bound(exact: Enumerated, high: float = 1.0, count: int = 60) -> float:
    """E over x_0, the times and x_t of the divergence, all by enumeration and quadrature."""
    process, states, total = exact.process, states_of(exact.process.states, LENGTH), 0.0
    for t, weight in nodes(count, high):
        joint = exact.weights * exact.likelihood(states, t)  # (states, support)
        x, k = (joint > 0).nonzero(as_tuple=True)
        divergence = process.divergence(states[x], exact.support[k], exact(states, t)[x], t).sum(-1)
        total += weight * float((joint[x, k] * divergence).sum())
    return total


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_the_continuous_bound_of_the_exact_belief_is_the_entropy(process: Categorical) -> None:
    """The reverse jumps believed are the true ones, so only what is learnt about x_0 on the way is paid: all of it."""
    exact = markov_source(process, LENGTH)
    assert path_bound(exact) == pytest.approx(entropy(exact.weights), rel=2e-4)  # quadrature


def test_a_wrong_belief_pays_more() -> None:
    exact, other = markov_source(PROCESSES[1], LENGTH), markov_source(PROCESSES[1], LENGTH)
    other.weights = other.weights.flip(0)
    exact.forward = other.forward  # type: ignore[method-assign]
    assert path_bound(exact) > entropy(exact.weights) + 0.1


class Tilted(Denoiser):
    """A belief that is wrong on purpose, by the number of masks: conditionals to a power, normalised."""

    def __init__(self, exact: Enumerated) -> None:
        super().__init__(exact.process, exact.shape)
        self.exact = exact

    def forward(self, x: Tensor, t: object, condition: object = None) -> Tensor:
        p = self.exact(x, 0.5) ** (1 + 0.3 * (x == 3).sum(1)[:, None, None].double())
        return p / p.sum(-1, keepdim=True)


def assert_mean(estimates: Tensor, expected: float) -> None:
    """The mean of independent estimates is within 4 of its standard deviations, and these are below 3 %."""
    error = float(estimates.std()) / math.sqrt(len(estimates))
    assert error < 0.03 * expected
    assert float(estimates.mean()) == pytest.approx(expected, abs=4 * error)


def over_orders(model: Denoiser, x0: Tensor) -> float:
    """- the mean over all orders of revealing of the log-likelihood of an autoregressive model: AO-ARM."""
    total = 0.0
    for order in itertools.permutations(range(LENGTH)):
        x = torch.full((1, LENGTH), 3)
        for i in order:
            total -= math.log(model(x, 0.5)[0, i, x0[i]].item())
            x[0, i] = x0[i]
    return total / math.factorial(LENGTH)


def over_masks(model: Denoiser, x0: Tensor) -> float:
    """The integral of (1/level) E[cross-entropy of the masks] in closed form: subsets of m of L masks weigh (m - 1)! (L - m)!/L!."""
    total = 0.0
    for hidden in itertools.product([False, True], repeat=LENGTH):
        m = sum(hidden)
        if not m:
            continue
        x = torch.where(torch.tensor(hidden), torch.tensor(3), x0)[None]
        chance = model(x, 0.5)[0].gather(-1, x0[:, None])[:, 0]
        share = math.factorial(m - 1) * math.factorial(LENGTH - m) / math.factorial(LENGTH)
        total -= share * float(torch.log(chance)[torch.tensor(hidden)].sum())
    return total


def test_the_masked_bound_is_the_loss_over_all_orders() -> None:
    """Exactly for a wrong belief; and for the exact one both are -log p(x_0), whatever the order."""
    exact = markov_source(PROCESSES[0], LENGTH)
    for x0 in (torch.tensor([0, 1, 1]), torch.tensor([2, 0, 2])):
        tilted = Tilted(exact)
        assert over_masks(tilted, x0) == pytest.approx(over_orders(tilted, x0), rel=1e-10)
        assert over_masks(exact, x0) == pytest.approx(-float(exact.log_prob(x0[None])), rel=1e-10)
        assert_mean(nelbo(tilted, x0.expand(400, -1), draws=20), over_orders(tilted, x0))


def test_the_masked_bound_does_not_depend_on_the_schedule() -> None:
    """The same levels and uniforms: equal to rounding, at each draw; the rate and the time per level cancel."""
    x0 = torch.tensor([[0, 1, 1], [2, 2, 0]])
    found = []
    for schedule in SCHEDULES:
        process = Categorical(3, schedule=schedule, t_max=20.0 if schedule == "exponential" else 1.0)
        found.append(nelbo(Tilted(markov_source(process, LENGTH)), x0, draws=200, seed=4))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=2e-3, atol=0)  # log-linear stops at alpha = 1e-3
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=0)


def test_the_weight_of_the_linear_schedule_is_one_over_t() -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(Categorical(3).weight(t), 1 / t, rtol=1e-14, atol=0)
    process, x0 = Categorical(3), torch.tensor([[0, 1]])
    belief = torch.tensor([[[0.2, 0.3, 0.5], [0.1, 0.6, 0.3]]], dtype=torch.float64)
    found = process.divergence(torch.tensor([[3, 1]]), x0, belief, 0.25)
    assert found.tolist() == [[pytest.approx(-math.log(0.2) / 0.25), 0.0]]


def steps_bound(exact: Enumerated, steps: int) -> float:
    """The N-step bound by enumeration: E over x_0 and x_t of the sum over steps."""
    states, loss, total = states_of(exact.process.states, LENGTH), VLB(steps, cross_entropy=0.0), 0.0
    size, support = len(states), len(exact.support)
    for i in range(1, steps + 1):
        joint = exact.weights * exact.likelihood(states, i / steps)
        x, x0 = states.repeat_interleave(support, 0), exact.support.repeat(size, 1)
        known = _At(exact, x)
        step = torch.full((size * support,), float(i), dtype=torch.float64)
        total += (
            float((joint.flatten().nan_to_num() * loss.terms(known, x0, step, torch.zeros_like(x0, dtype=torch.float64))).sum()) / steps
        )
    return total


class _At(Denoiser):
    """The belief at states given beforehand, on a process that puts them in the place of its draws."""

    def __init__(self, exact: Enumerated, x: Tensor) -> None:
        class Fixed(Categorical):
            def perturb(self, x0: Tensor, t: object, noise: Tensor, anchor: object = None) -> Tensor:
                return x

        own = exact.process
        super().__init__(Fixed(own.categories, own.noise, own.marginals, own.schedule), exact.shape)
        self.exact = exact

    def forward(self, x: Tensor, t: Tensor, condition: object = None) -> Tensor:
        return self.exact(x, float(t[0]))


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.noise)
def test_the_bound_of_n_steps_falls_to_the_entropy(process: Categorical) -> None:
    """Above it by what independent draws lose, which halves with the step."""
    exact = markov_source(process, LENGTH)
    gaps = [steps_bound(exact, n) - entropy(exact.weights) for n in (4, 8, 16)]
    assert gaps[2] > 0
    for coarse, fine in itertools.pairwise(gaps):
        assert 1.6 < coarse / fine < 2.6


def test_the_estimated_bound_of_n_steps_is_the_enumerated_one() -> None:
    exact = markov_source(PROCESSES[2], LENGTH)
    x0 = exact.draw(300, torch.Generator().manual_seed(1))
    estimate = nelbo(exact, exact.support, draws=600, steps=8)
    assert float((exact.weights * estimate).sum()) == pytest.approx(steps_bound(exact, 8), rel=0.02)
    assert torch.equal(nelbo(exact, x0[:5], draws=3, seed=1), nelbo(exact, x0[:9], draws=3, seed=1)[:5])  # keyed by sample


PMF = torch.as_tensor(0.6 * stats.poisson.pmf(range(16), 2) + 0.4 * stats.binom.pmf(range(16), 15, 0.6))
PMF = PMF / PMF.sum()


def count_bound(process: Blackout | Thinning, high: float, size: int) -> float:
    oracle, x, clean, total = CountOracle(PMF, process), torch.arange(size), torch.arange(16), 0.0
    for t, weight in nodes(120, high):
        joint = PMF * torch.exp(oracle.log_likelihood(x, t, clean.double()))
        pairs, k = (joint > 0).nonzero(as_tuple=True)
        divergence = process.divergence(pairs, clean[k], oracle(x, t)[pairs], t)
        total += weight * float((joint[pairs, k] * divergence).sum())
    return total


def test_the_bound_of_dying_counts_is_their_entropy() -> None:
    assert count_bound(Blackout(), 15.0, 16) == pytest.approx(entropy(PMF), rel=1e-3)


def test_the_bound_of_thinned_counts_is_the_information_in_the_thickest() -> None:
    """States end in Poisson(scale x_0), not in x_0: the bound is their mutual information."""
    process = Thinning(scale=2.0)
    z = torch.arange(90)
    given = torch.exp(CountOracle(PMF, process).log_likelihood(z, 0.0, torch.arange(16.0, dtype=torch.float64)))
    marginal = (PMF * given).sum(-1, keepdim=True)
    information = (PMF * (torch.xlogy(given, given) - torch.xlogy(given, marginal))).sum()
    assert count_bound(process, 1.0, 90) == pytest.approx(float(information), rel=1e-3)


def test_bregman_of_counts_is_its_formula() -> None:
    process = Thinning(scale=3.0)
    found = process.divergence(torch.tensor([2, 0]), torch.tensor([4, 0]), torch.tensor([2.5, 0.7], dtype=torch.float64), 0.5)
    assert found.tolist() == pytest.approx([3 * (4 * math.log(4 / 2.5) - 4 + 2.5), 3 * 0.7])


def graph() -> EnumeratedGraph:
    listed = every_graph(3, 2, 2)
    weights = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64) ** 2
    return EnumeratedGraph(*listed, weights, Joint({"x": Categorical(2), "e": Categorical(2, schedule="cosine")}), key="nodes")


def test_an_edge_is_paid_once_and_an_absent_node_not_at_all() -> None:
    exact = graph()
    upper, edges = torch.triu_indices(3, 3, 1), torch.zeros(64, 3, 3, dtype=torch.long)
    edges[:, upper[0], upper[1]] = exact.edges.support
    edges = edges + edges.mT
    x0, everyone = {"x": exact.nodes.support, "e": edges}, torch.ones(64, 3)
    found = nelbo(exact, x0, draws=200, condition={"nodes": everyone})
    assert float((exact.nodes.weights * found).sum()) == pytest.approx(entropy(exact.nodes.weights), rel=0.04)  # 4 of 1 %
    alone = {"x": torch.zeros(300, 3, dtype=torch.long), "e": torch.zeros(300, 3, 3, dtype=torch.long)}
    lone = nelbo(_Even(exact), alone, draws=20, condition={"nodes": torch.tensor([[1, 1, 0]])})
    assert_mean(lone, 3 * math.log(2))  # two nodes and one edge, a coin each


class _Even(Denoiser):
    def __init__(self, like: EnumeratedGraph) -> None:
        super().__init__(like.process, like.shape, like.space)

    def forward(self, x: dict[str, Tensor], t: object, condition: object = None) -> dict[str, Tensor]:
        return {leaf: torch.full((*value.shape, 2), 0.5, dtype=torch.float64) for leaf, value in x.items()}


class Table(torch.nn.Module):
    """Logits for every state of three letters: it can say anything."""

    def __init__(self, states: int) -> None:
        super().__init__()
        self.states = states
        self.logits = torch.nn.Parameter(torch.zeros(states**LENGTH, LENGTH, 3))

    def forward(self, x: Tensor, label: Tensor, condition: object = None) -> Tensor:
        return self.logits[(x * self.states ** torch.arange(LENGTH - 1, -1, -1)).sum(-1)]


@pytest.mark.parametrize("loss", [PathLoss(), PathLoss(cross_entropy=1.0, bound=False), VLB(20)], ids=["path", "cross-entropy", "vlb"])
def test_training_by_each_loss_learns_the_conditionals(loss: PathLoss | VLB) -> None:
    exact = markov_source(PROCESSES[0], LENGTH)
    model = TokenDenoiser(Table(4), exact.process, (LENGTH,), time_free=True)
    generator, optimiser = torch.Generator().manual_seed(0), torch.optim.Adam(model.parameters(), lr=0.1)
    before = float((exact.weights * nelbo(model, exact.support, draws=50)).sum())
    for _ in range(120):
        optimiser.zero_grad()
        loss(model, exact.draw(256, generator), generator).backward()
        optimiser.step()
    after = float((exact.weights * nelbo(model, exact.support, draws=200)).sum())
    assert before == pytest.approx(LENGTH * math.log(3), rel=0.05)
    assert after < entropy(exact.weights) + 0.15


def test_the_loss_of_a_batch_is_the_bound_on_average() -> None:
    exact, generator = markov_source(PROCESSES[1], LENGTH), torch.Generator().manual_seed(0)
    batches = torch.stack([PathLoss()(exact, exact.draw(512, generator), generator) for _ in range(30)])
    assert float(batches.mean()) == pytest.approx(entropy(exact.weights), rel=0.03)


def test_a_leaf_counts_by_its_weight_and_a_continuous_one_by_its_error() -> None:
    exact = graph()
    x0 = {"x": torch.zeros(8, 3, dtype=torch.long), "e": torch.zeros(8, 3, 3, dtype=torch.long)}
    one, five = (
        PathLoss(weights=w)(_Even(exact), x0, torch.Generator().manual_seed(0), {"nodes": torch.ones(8, 3)}) for w in ((), (("e", 5.0),))
    )
    only = PathLoss(weights=(("x", 0.0),))(_Even(exact), x0, torch.Generator().manual_seed(0), {"nodes": torch.ones(8, 3)})
    assert float(five - one) == pytest.approx(4 * float(only), rel=1e-9)

    class Mixed(Denoiser):
        def forward(self, x: dict[str, Tensor], t: object, condition: object = None) -> dict[str, Tensor]:
            return {"point": torch.ones_like(x["point"]), "token": torch.full((*x["token"].shape, 2), 0.5)}

    mixed = Mixed(Joint({"point": VP(), "token": Categorical(2)}), {"point": (2,), "token": (1,)})
    clean = {"point": torch.zeros(4, 2), "token": torch.zeros(4, 1, dtype=torch.long)}
    assert float(PathLoss(weights=(("token", 0.0),))(mixed, clean, torch.Generator().manual_seed(0))) == pytest.approx(2.0)
    with pytest.raises(UserError, match="discrete"):
        nelbo(mixed, clean)


def test_losses_refuse_what_they_cannot_do() -> None:
    with pytest.raises(UserError):
        PathLoss(bound=False)
    with pytest.raises(UserError):
        VLB(steps=0)
    with pytest.raises(UserError, match="PathLoss"):
        VLB(4)(CountOracle(PMF, Blackout()), torch.ones(2, 1, dtype=torch.long), torch.Generator())
