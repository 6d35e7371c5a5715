"""Products, reliabilities and learned weights of several models."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import ClassOracle, classes3, ring8
from unstir.certify.oracles import GaussianOracle, MixtureOracle, gm4
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import AFA, Aggregator, Product, UniteAndConquer
from unstir.process import EDM, OUVE, VP, RectifiedFlow, VPCosine

CLASS = {"class": torch.tensor([0, 1, 2, 1])}


def states(count, t, process=None):
    return gm4(process).marginal(count, t)


# ---- products


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow(), OUVE()], ids=["vp", "edm", "flow", "ouve"])
def test_the_score_of_a_product_is_the_weighted_sum_of_scores(process):
    first, second = gm4(process), GaussianOracle(torch.zeros(2), torch.full((2,), 0.5), process)
    condition = {"anchor": torch.full((4, 2), 0.3, dtype=torch.float64)} if process.anchored else None
    x, t = states(4, 0.5), 0.5
    guided = Product([second], [-0.4], own=1.5).wrap(first)(x, t, condition)
    z = x - (float(process.beta(t)) * condition["anchor"] if condition else 0.0)
    score = (float(process.alpha(t)) * guided - z) / float(process.sigma(t)) ** 2
    torch.testing.assert_close(score, 1.5 * first.score(x, t, condition) - 0.4 * second.score(x, t, condition))


def test_conditions_are_factors_too():
    law = classes3()
    x = law.marginal(4, 1.0)
    both = Product([{"class": torch.tensor([0])}, {"class": torch.tensor([2])}], [0.7, -0.2], own=0.5).wrap(law)(x, 1.0)
    first, last = (law(x, 1.0, {"class": torch.full((4,), c)}) for c in (0, 2))
    torch.testing.assert_close(both, 0.5 * law(x, 1.0) + 0.7 * first - 0.2 * last)  # weights sum to 1: no term of the state
    only = Product([{"class": torch.tensor([1])}], [1.0], own=0.0).wrap(law)(x, 1.0)
    torch.testing.assert_close(only, law(x, 1.0, {"class": torch.ones(4, dtype=torch.long)}))


def test_the_log_density_of_a_product_has_its_score():
    first, second = gm4(), GaussianOracle(torch.zeros(2), torch.full((2,), 0.5))
    guided, x = Product([second], [0.8]).wrap(first), states(5, 0.5).requires_grad_()
    (slope,) = torch.autograd.grad(guided.log_density(x, 0.5).sum(), x)
    torch.testing.assert_close(slope, (guided(x, 0.5) - x).detach() / 0.25)


def test_every_factor_that_counts_is_counted():
    assert unstir.sample(gm4(), 2, grid="karras:5", guides=[Product([gm4(VP()), gm4()], [0.5, 0.0], own=0.5)]).nfe == 10


def test_a_product_that_has_no_estimate_at_pure_noise_says_so():
    law = gm4(RectifiedFlow())
    with pytest.raises(UserError, match="begin where alpha is above 0"):
        Product([gm4(RectifiedFlow())], [1.0]).wrap(law)(states(2, 1.0), 1.0)
    assert torch.isfinite(Product([gm4(RectifiedFlow())], [0.5], own=0.5).wrap(law)(states(2, 1.0), 1.0)).all()


# ---- Unite and Conquer


class Two(Denoiser):
    """Two coordinates that have nothing to do with each other, each a mixture of its own classes; reads ``first`` and ``second``."""

    def __init__(self, process, reads=("first", "second")):
        super().__init__(process, (2,))
        self.reads = reads
        self.parts = [
            ClassOracle([0.5, 0.3, 0.2], [[-1.0], [0.5], [1.5]], [[0.2], [0.3], [0.4]], [0, 1, 1], process),
            ClassOracle([0.2, 0.8], [[0.0], [2.0]], [[0.5], [0.2]], [0, 1], process),
        ]

    def forward(self, x, t, condition=None):
        estimates = []
        for i, (name, part) in enumerate(zip(("first", "second"), self.parts, strict=True)):
            told = {"class": condition[name]} if condition and name in condition and name in self.reads else None
            estimates.append(part(x[:, i : i + 1], t, told))
        return torch.cat(estimates, 1)


BOTH = {"first": torch.tensor([0, 1, 0, 1]), "second": torch.tensor([0, 0, 1, 1])}


@pytest.mark.parametrize("process", [VP(), EDM()], ids=["vp", "edm"])
def test_two_conditions_independent_given_the_state_give_the_exact_posterior(process):
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    one = UniteAndConquer({"first": 1.0, "second": 1.0}).wrap(Two(process))
    several = UniteAndConquer({"first": 1.0, "second": 1.0}, {"second": Two(process, ("second",))}).wrap(Two(process, ("first",)))
    for t in (0.05, 0.3, 0.9):
        exact = Two(process)(x, t, BOTH)
        torch.testing.assert_close(one(x, t, BOTH), exact, rtol=0, atol=1e-8)  # rounding only
        torch.testing.assert_close(several(x, t, BOTH), exact, rtol=0, atol=1e-8)


def test_independence_given_the_clean_data_alone_is_enough_only_without_noise():
    # x0 ~ N(0, 1), two measurements of it with variance 1/2: their laws given x_t are not independent
    class Measured(Denoiser):
        def __init__(self):
            super().__init__(EDM(), (1,))

        def forward(self, x, t, condition=None):
            known = [value for key, value in (condition or {}).items() if key.startswith("y")]
            return (x / t**2 + sum(2 * y for y in known)) / (1 + 1 / t**2 + 2 * len(known))

    told = {"y1": torch.full((1, 1), 0.8, dtype=torch.float64), "y2": torch.full((1, 1), 1.2, dtype=torch.float64)}
    guided, errors = UniteAndConquer({"y1": 1.0, "y2": 1.0}).wrap(Measured()), []
    for t in (1.0, 0.1, 0.01):
        x = torch.full((1, 1), 0.5, dtype=torch.float64)
        errors.append((guided(x, t, told) - Measured()(x, t, told)).abs().item())
    assert errors[0] > 0.05
    assert errors[2] < 1e-4 * errors[0]  # it falls with the fourth power of sigma


def test_reliability_0_removes_a_model_exactly_and_does_not_ask_it():
    asked, other = [], Two(EDM())
    other.register_forward_hook(lambda *_: asked.append(1))
    x = torch.randn(4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    off, without = (UniteAndConquer(a, m) for a, m in (({"first": 0.7, "second": 0.0}, {"second": other}), ({"first": 0.7}, {})))
    expected = without.wrap(Two(EDM()))(x, 0.5, {"first": BOTH["first"]})
    assert torch.equal(off.wrap(Two(EDM()))(x, 0.5, BOTH), expected)
    assert not asked


def test_the_evaluations_of_all_models_count():
    shared = UniteAndConquer({"first": 1.0, "second": 1.0})
    other = UniteAndConquer({"first": 1.0, "second": 1.0}, {"second": Two(VP())})
    assert [unstir.sample(Two(EDM()), 4, grid="karras:5", guides=[g], condition=BOTH).nfe for g in (shared, other)] == [15, 20]


# ---- adaptive fusion


RING = ring8()
HALVES = [MixtureOracle([1.0] * 4, RING.means[4 * k : 4 * k + 4], torch.full((4, 2), 0.3)) for k in range(2)]


@pytest.fixture(scope="module")
def fused():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        guide = AFA([HALVES[1]], Aggregator(2, 2))
    guide.fit(HALVES[0], RING.draw(4000, torch.Generator().manual_seed(0)), low=0.05, high=20.0, steps=250)
    guide.aggregator.requires_grad_(False)
    return guide


def denoising_loss(model, t):
    generator = torch.Generator().manual_seed(1)
    x0 = RING.draw(1500, generator)
    noise = torch.randn(x0.shape, generator=generator, dtype=torch.float64)
    return (model(x0 + t * noise, t) - x0).square().sum(1).mean().item()


@pytest.mark.parametrize("t", [0.3, 1.0, 2.0, 4.0])
def test_models_of_half_the_modes_are_merged_into_one_of_all(fused, t):
    either = [denoising_loss(half, t) for half in HALVES]
    mean = denoising_loss(lambda x, t: (HALVES[0](x, t) + HALVES[1](x, t)) / 2, t)
    merged, best = denoising_loss(fused.wrap(HALVES[0]), t), denoising_loss(RING, t)
    assert merged < 0.9 * min(*either, mean)
    assert merged < 1.1 * best  # the exact denoiser of all eight modes: no merging can do better


def test_the_learned_weights_are_who_the_state_is_from_and_vary_with_the_level(fused):
    spread = []
    for t in (0.3, 2.0, 8.0):
        x = RING.marginal(500, t, seed=2)
        weights, _ = fused.weights(HALVES[0], x, t)
        true = torch.softmax(torch.stack([half.log_density(x, t) for half in HALVES], 1), 1)
        assert torch.corrcoef(torch.stack([weights[:, 0], true[:, 0]]))[0, 1] > 0.95
        torch.testing.assert_close(weights.sum(1), torch.ones(500, dtype=torch.float64), rtol=0, atol=1e-6)  # a float32 softmax
        spread.append(weights[:, 0].std().item())
    assert spread == sorted(spread, reverse=True)
    assert spread[0] > 1.5 * spread[2]


def test_before_training_the_weights_are_equal_and_a_place_has_its_own():
    images = [GaussianOracle(torch.full((3, 4, 5), m), torch.ones(3, 4, 5)) for m in (0.0, 1.0)]
    guide = AFA([images[1]], Aggregator(3, 2))
    x = images[0].marginal(2, 1.0)
    weights, estimates = guide.weights(images[0], x, 1.0)
    assert weights.shape == (2, 2, 4, 5)
    assert estimates.shape == (2, 2, 3, 4, 5)
    torch.testing.assert_close(guide.wrap(images[0])(x, 1.0), estimates.mean(1))
    assert torch.isfinite(AFA([images[1].on(VPCosine())], Aggregator(3, 2)).wrap(images[0].on(VPCosine()))(x, 1.0)).all()


# ---- all


@pytest.mark.parametrize(
    ("denoiser", "guide", "condition"),
    [
        (classes3(), Product([gm4()], [0.5], own=0.5), {"class": torch.tensor([0, 1, 2, 1, 0])}),
        (Two(EDM()), UniteAndConquer({"first": 1.0}), {"first": torch.tensor([0, 1, 0, 1, 1])}),
    ],
    ids=["product", "unite-and-conquer"],
)
def test_a_sample_does_not_depend_on_its_batch(denoiser, guide, condition):
    assert invariance(denoiser, guides=[guide], grid="karras:6", condition=condition).passed


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Product([gm4()], [1.0, 2.0]), "a finite weight each"),
        (lambda: Product([gm4()], [math.inf]), "a finite weight each"),
        (lambda: Product([3], [1.0]), "denoiser or a condition"),
        (lambda: Product([Two(EDM())], [1.0]).wrap(Two(EDM())).log_density(torch.zeros(1, 2), 1.0), "no log-density"),
        (lambda: UniteAndConquer({}), "finite reliability"),
        (lambda: UniteAndConquer({"a": 1.0}, {"b": gm4()}), "models for"),
        (lambda: UniteAndConquer({"a": 1.0}).wrap(gm4())(torch.zeros(1, 2), 1.0, {"b": 1}), "leaves out"),
        (lambda: AFA([], Aggregator(2, 2)), "other denoisers"),
        (lambda: Product([gm4()], [1.0]).wrap(gm4())({"a": torch.zeros(1, 2)}, 1.0), "dict of leaves"),
    ],
)
def test_fusion_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
