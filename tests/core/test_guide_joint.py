"""Guidance and twisted particles of states of leaves, one of them symmetric, and of categories: Bayes' rule in closed form."""

from __future__ import annotations

import math

import pytest
import torch

import unstir
from unstir import names
from unstir.certify.checks import invariance
from unstir.certify.discrete import Enumerated, markov_source, states_of, two_tokens
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import ClassifierGuidance, LossGuidance, TokenGuidance
from unstir.guide.slope import in_space, value_and_slope
from unstir.process import VP, Categorical, Joint
from unstir.process.discrete import SymmetricTokens
from unstir.solver.discrete import DiscreteAncestral
from unstir.space import Euclidean, JointSpace, Masked, Symmetric, ZeroMean
from unstir.steer import TDS, Moment

PROCESS = Joint({"x": VP(), "a": VP(beta_max=12.0)})
MEAN, VARIANCE = {"x": 0.2, "a": -0.3}, {"x": 0.5, "a": 0.8}
C, B = torch.tensor([0.5, -1.0, 0.3], dtype=torch.float64), torch.tensor([0.7, 0.4, -0.6], dtype=torch.float64)
UPPER = torch.triu_indices(3, 3, 1)
Y, NOISE = 1.1, 0.4
MASK = {"mask": torch.ones(1, 3, dtype=torch.bool)}


class Normal(Denoiser):
    """Independent normal entries: three nodes, and three edges of a symmetric matrix."""

    def __init__(self):
        super().__init__(PROCESS, {"x": (3,), "a": (3, 3)}, JointSpace({"x": Masked("mask"), "a": Symmetric("mask")}))
        self.register_buffer("zero", torch.zeros(1, dtype=torch.float64))

    def forward(self, x, t, condition=None):
        return {leaf: self.law(leaf, x[leaf], t)[0] for leaf in x}

    def law(self, leaf, x, t):
        own = PROCESS.leaves[leaf]
        alpha, sigma, v = float(own.alpha(t)), float(own.sigma(t)), VARIANCE[leaf]
        total = alpha**2 * v + sigma**2
        return (alpha * v * x + sigma**2 * MEAN[leaf]) / total, v * sigma**2 / total


LAW = Normal()


def seen(x, t):
    """Mean and variance of y = c.x + b.a + noise given the noisy state."""
    (mx, vx), (ma, va) = LAW.law("x", x["x"], t), LAW.law("a", x["a"], t)
    mean = mx @ C + ma[:, UPPER[0], UPPER[1]] @ B
    return mean, NOISE**2 + vx * C.square().sum() + va * B.square().sum()


def log_chance(x, t):
    """log p(1 | x_t) of the label with p(1 | x_0) = exp(-(y - c.x - b.a)^2/2 noise^2)."""
    mean, variance = seen(x, t)
    return 0.5 * math.log(NOISE**2) - 0.5 * torch.log(variance) - 0.5 * (Y - mean).square() / variance


def logits(x, t):
    chance = log_chance(x, t)
    return torch.stack([torch.log(-torch.expm1(chance)), chance], 1)


def bayes(x, t):
    mean, variance = seen(x, t)
    (mx, vx), (ma, va) = LAW.law("x", x["x"], t), LAW.law("a", x["a"], t)
    gain = ((Y - mean) / variance)[:, None]
    edges = torch.zeros_like(x["a"])
    edges[:, UPPER[0], UPPER[1]] = ma[:, UPPER[0], UPPER[1]] + gain * va * B
    return {"x": mx + gain * vx * C, "a": edges + edges.mT}


def noisy(count=16):
    generator = torch.Generator().manual_seed(0)
    unit = {"x": torch.randn(count, 3, generator=generator).double(), "a": torch.randn(count, 3, 3, generator=generator).double()}
    return LAW.space.draw(unit, MASK)


@pytest.mark.parametrize("t", [0.05, 0.4, 0.9])
def test_the_exact_classifier_of_leaves_gives_the_posterior_mean_of_each(t):
    x = noisy()
    found = LAW.space.project(ClassifierGuidance(logits, label=1).wrap(LAW)(x, t, MASK), MASK)
    for leaf, wanted in bayes(x, t).items():
        torch.testing.assert_close(found[leaf], wanted, rtol=0, atol=1e-12)


def test_an_edge_counts_once_whichever_of_its_halves_the_score_looks_at():
    def from_below(x, t):
        return logits({"x": x["x"], "a": x["a"].mT}, t)

    x = noisy()
    one, other = (ClassifierGuidance(model, label=1).wrap(LAW)(x, 0.4, MASK) for model in (logits, from_below))
    for leaf in one:
        torch.testing.assert_close(one[leaf], other[leaf], rtol=0, atol=1e-13)


def test_a_model_is_told_what_it_asks_of_the_condition():
    heard = []

    def model(x, t, mask):
        heard.append(mask)
        return -log_chance(x, t)

    guide = LossGuidance(model, losses=lambda value, _: value, on="noisy", told=("mask",))
    guide.wrap(LAW)(noisy(2), 0.5, MASK)
    assert heard[0] is MASK["mask"]


def test_gradients_are_multiplied_by_the_covariance_of_the_noise():
    g = torch.randn(2, 3, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    off = 1 - torch.eye(3, dtype=torch.float64)
    assert in_space(Euclidean(), g, None) is g
    torch.testing.assert_close(in_space(Symmetric(), g, None), (g + g.mT) * off)
    torch.testing.assert_close(in_space(ZeroMean(), g, None), g - g.mean(1, keepdim=True))
    _, slope = value_and_slope(lambda x: x["x"].sum(1), {"x": torch.ones(2, 3), "y": torch.ones(2, 1)})
    assert slope["x"].tolist() == [[1] * 3] * 2
    assert slope["y"].tolist() == [[0], [0]]


def test_twisted_particles_of_leaves_find_the_evidence_and_the_posterior():
    """24 problems of 64: the evidence and means over problems within 4 standard errors, the evidence known to 3 %."""

    def log_likelihood(x0, _):
        return -0.5 * (Y - x0["x"] @ C - x0["a"][:, UPPER[0], UPPER[1]] @ B).square() / NOISE**2

    problems, particles = 24, 64
    steer = TDS(log_likelihood, width=0.5, particles=particles)
    run = unstir.sample(LAW, problems * particles, solver="ancestral", grid="logsnr:50", condition=MASK, steers=[steer])
    clean = {"x": torch.full((1, 3), MEAN["x"], dtype=torch.float64), "a": torch.full((1, 3, 3), MEAN["a"], dtype=torch.float64)}
    mean = clean["x"] @ C + clean["a"][:, UPPER[0], UPPER[1]] @ B
    variance = NOISE**2 + VARIANCE["x"] * C.square().sum() + VARIANCE["a"] * B.square().sum()
    evidence = torch.exp(-0.5 * (Y - mean) ** 2 / variance) * NOISE / variance.sqrt()
    found = run.info["log_evidence"].exp()
    error = found.std() / problems**0.5
    assert float(error / evidence) < 0.03
    assert float((found.mean() - evidence).abs()) < 4 * float(error)
    gain = float((Y - mean) / variance)
    edge, node = run.x["a"][:, 0, 1].double(), run.x["x"][:, 1].double()
    for values, prior, size in ((edge, MEAN["a"], VARIANCE["a"] * B[0]), (node, MEAN["x"], VARIANCE["x"] * C[1])):
        means = values.view(problems, particles).mean(1)
        assert float((means.mean() - prior - gain * size).abs()) < 4 * float(means.std()) / problems**0.5
    assert torch.equal(run.x["a"], run.x["a"].mT)


def test_twisted_particles_refuse_whole_numbers_and_other_solvers():
    def zero(x0, _):
        return x0.sum(1) * 0.0 if isinstance(x0, torch.Tensor) else x0["x"].sum(1) * 0.0

    with pytest.raises(UserError, match="Gaussian steps of real numbers"):
        unstir.sample(two_tokens(), 4, solver="discrete-ancestral", grid="uniform:3", steers=[TDS(zero, particles=4)])
    with pytest.raises(UserError, match="the law of every step"):
        unstir.sample(LAW, 4, solver="euler-maruyama", grid="logsnr:5", condition=MASK, steers=[TDS(zero, particles=4)])


# ---- categories

SOURCE = markov_source(Categorical(3, "uniform"), 2)
CHANCE = torch.tensor([0.9, 0.2, 0.3, 0.1, 0.6, 0.4, 0.5, 0.25, 0.8], dtype=torch.float64)  # p(y | x_0) of the nine clean states


def table(law, t):
    """log p(y | x_t) of every state."""
    everything = states_of(law.process.states, 2)
    return torch.log(law.chances(everything, t) @ CHANCE)


def score(law):
    def function(hot, t, condition):
        return torch.einsum("bi,bj,ij->b", hot[:, 0], hot[:, 1], table(law, t).view(law.process.states, -1))

    return function


def guided_law(law, steps, weight=1.0):
    """The exact law of guided samples, carried from the prior through every step."""
    guide, process = TokenGuidance(score(law), weight), law.process
    everything = states_of(process.states, 2)
    here = process.stationary(torch.empty(0, dtype=torch.float64))[everything].prod(-1)
    for row in DiscreteAncestral().plan(process, names.grid(f"uniform:{steps}").times(process)):
        moment = Moment(row, None, process, trajectory=type("T", (), {"denoiser": law})())
        hot = torch.nn.functional.one_hot(everything, process.states).double()
        parts = guide.law(process, everything, law(everything, row.t), guide.slopes(hot, moment)[""], row)
        here = here @ (parts[:, 0, :, None] * parts[:, 1, None, :]).flatten(1)
    return here


@pytest.mark.parametrize("noise", ["uniform", "absorbing"])
def test_the_exact_score_gives_bayes_to_first_order_of_the_step(noise):
    """Total variation from p(x_0 | y) falls as 1/steps, and the plain law is far from it."""
    law = markov_source(Categorical(3, noise), 2)
    wanted = law.weights * CHANCE / (law.weights @ CHANCE)
    clean = (states_of(law.process.states, 2) < 3).all(1)
    few, many = ((guided_law(law, steps)[clean] - wanted).abs().sum() / 2 for steps in (40, 160))
    plain = (law.weights - wanted).abs().sum() / 2
    assert float(many) < 0.02 < float(plain) / 5
    assert 3 < float(few / many) < 5


def test_samples_have_the_law_that_is_carried_and_weight_0_is_the_plain_one():
    """4,000 draws of nine states: chi-square below its mean and four deviations."""
    for weight, wanted in ((1.0, guided_law(SOURCE, 20)), (0.0, guided_law(SOURCE, 20, 0.0))):
        guide = TokenGuidance(score(SOURCE), weight)
        made = unstir.sample(SOURCE, 4000, solver="discrete-ancestral", grid="uniform:20", steers=[guide], seed=3)
        found = torch.bincount(made.x[:, 0] * 3 + made.x[:, 1], minlength=9).double()
        assert float(((found - 4000 * wanted).square() / (4000 * wanted)).sum()) < 8 + 4 * 4
    assert made.nfe == 20


def test_an_edge_of_tokens_has_the_slopes_of_both_its_halves():
    g = torch.randn(1, 3, 3, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    law = Enumerated(torch.tensor([[0, 1]]), torch.ones(1, dtype=torch.float64), Categorical(2, "uniform"))
    law.space = SymmetricTokens("mask")
    moment = Moment(None, None, law.process, MASK, trajectory=type("T", (), {"denoiser": law})())
    moment.row = type("R", (), {"t": 0.5})()
    found = TokenGuidance(lambda hot, *_: (hot * g).sum((1, 2, 3))).slopes(torch.zeros(1, 3, 3, 2, dtype=torch.float64), moment)[""]
    torch.testing.assert_close(found, (g + g.transpose(1, 2)) * (1 - torch.eye(3, dtype=torch.float64))[..., None])


def test_guided_tokens_do_not_depend_on_their_batch_and_refuse_what_cannot_be():
    assert invariance(SOURCE, solver="discrete-ancestral", grid="uniform:5", steers=[TokenGuidance(score(SOURCE))]).same
    with pytest.raises(UserError, match="must be finite"):
        TokenGuidance(score(SOURCE), math.inf)
    with pytest.raises(UserError, match="one number a sample"):
        unstir.sample(SOURCE, 2, solver="discrete-ancestral", grid="uniform:2", steers=[TokenGuidance(lambda hot, *_: hot.sum())])
    with pytest.raises(UserError, match="reweights categories"):
        unstir.sample(LAW, 2, solver="ancestral", grid="logsnr:3", condition=MASK, steers=[TokenGuidance(score(SOURCE))])
