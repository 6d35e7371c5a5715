"""Classifier guidance: Bayes' rule to rounding, calibration, classes chosen on the way, and references."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import energy_distance, weights_distance
from unstir.certify.laws import ClassOracle, classes3
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.guide import ClassifierGuidance, DynamicGuidance, SemanticGuidance, channel_statistics, smoothed
from unstir.guide.experts import minimise
from unstir.nn import MLP
from unstir.process import EDM, OUVE, VP, RectifiedFlow, VPCosine
from unstir.train import DenoisingLoss
from unstir.train.times import LogNormal

LAW = classes3()
COUNT = 600
WANT = torch.arange(COUNT) % 3
CLASS = {"class": WANT}


def drawn(law, *guides, condition=CLASS, count=COUNT, grid="karras:12"):
    return unstir.sample(law, count, solver="heun", grid=grid, guides=guides, condition=condition).x.double()


def accuracy(x):
    return (LAW.log_class(x, 0.002).argmax(1) == WANT).double().mean().item()


def distance(x):
    return sum(energy_distance(x[torch.eq(WANT, c)], LAW.given(c).marginal(COUNT // 3, 0.0, seed=c)) for c in range(3)) / 3


# ---- Bayes' rule


@pytest.mark.parametrize("process", [VP(), EDM(), RectifiedFlow(), OUVE()], ids=["vp", "edm", "flow", "ouve"])
def test_the_exact_classifier_at_weight_1_gives_the_conditional_denoiser_to_rounding(process):
    law = classes3(process)
    anchor = {"anchor": torch.full((64, 2), 0.3, dtype=torch.float64)} if process.anchored else {}
    label = torch.arange(64) % 3
    for t in (0.05, 0.3, 0.9, torch.linspace(0.1, 0.9, 64, dtype=torch.float64)):
        x0, noise = (law.draw(64, torch.Generator().manual_seed(seed)) for seed in (0, 1))
        x = process.perturb(x0, t, noise, anchor.get("anchor"))
        guided = ClassifierGuidance(lambda z, t: law.log_class(z, t, anchor)).wrap(law)(x, t, {"class": label, **anchor})
        # rounding of float64 in a gradient multiplied by sigma^2/alpha; the classifier's logits reach some hundreds
        torch.testing.assert_close(guided, law(x, t, {"class": label, **anchor}), rtol=0, atol=1e-11)


def test_another_weight_is_another_law():
    x = LAW.marginal(64, 1.0)
    label = {"class": torch.zeros(64, dtype=torch.long)}
    assert (ClassifierGuidance(LAW.log_class, weight=1.01).wrap(LAW)(x, 1.0, label) - LAW(x, 1.0, label)).abs().max() > 1e-3


@pytest.mark.parametrize("on", ["noisy", "clean"])
def test_weight_0_a_closed_interval_and_pure_noise_leave_the_estimate(on):
    def model(x, t=None):
        return torch.stack([x[:, 0], x[:, 1]], 1)

    x = LAW.marginal(8, 1.0)
    for guide in (ClassifierGuidance(model, weight=0.0, on=on, label=1), ClassifierGuidance(model, on=on, label=1, low=2.0)):
        assert torch.equal(guide.wrap(LAW)(x, 1.0), LAW(x, 1.0))
    noise = classes3(VPCosine())
    flow = classes3(RectifiedFlow())
    assert torch.equal(ClassifierGuidance(model, on=on, label=1).wrap(flow)(x, 1.0), flow(x, 1.0))
    assert torch.isfinite(ClassifierGuidance(model, on=on, label=1, jacobian=False).wrap(noise)(x, 1.0)).all()


def test_on_clean_states_the_gradient_goes_through_the_denoiser():
    x = LAW.marginal(8, 1.0)
    free = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(LAW.log_class(LAW(free, 1.0), 0.3)[:, 2].sum(), free)
    guided = ClassifierGuidance(lambda x0: LAW.log_class(x0, 0.3), weight=0.5, on="clean", label=2).wrap(LAW)(x, 1.0)
    torch.testing.assert_close(guided, LAW(x, 1.0) + 0.5 * slope)  # sigma^2/alpha = 1
    assert not guided.requires_grad


def test_without_the_jacobian_it_is_exact_for_data_of_the_width_it_is_told():
    # x0 ~ N(0, s^2), a score linear in x0: J sigma^2/alpha = r^2, whatever the level
    law = GaussianOracle(torch.zeros(3), torch.full((3,), 0.49), VP())
    model, label = (lambda x0: torch.stack([x0.sum(1), torch.zeros(len(x0)).to(x0)], 1)), {"label": 0, "tau2": 0.0, "on": "clean"}
    x = law.marginal(4, 0.5)
    for t in (0.1, 0.5, 1.0):
        through = ClassifierGuidance(model, **label).wrap(law)(x, t)
        short = ClassifierGuidance(model, jacobian=False, data_std=0.7, **label).wrap(law)(x, t)
        torch.testing.assert_close(short, through)


# ---- calibration


@pytest.fixture(scope="module")
def off_the_shelf():
    """A ReLU classifier that has seen clean data only."""
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(LAW.log_weights.exp(), 3000, replacement=True, generator=generator)
    x0 = (LAW.means[which] + 0.25 * torch.randn(3000, 2, generator=generator, dtype=torch.float64)).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layers = [torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 64), torch.nn.ReLU(), torch.nn.Linear(64, 3)]
    network = torch.nn.Sequential(*layers)

    def loss():
        index = torch.randint(3000, (256,), generator=generator)
        return torch.nn.functional.cross_entropy(network(x0[index]), LAW.labels[which][index])

    minimise(network.parameters(), loss, steps=250, rate=3e-3)
    return network.requires_grad_(False).double()


def test_a_clean_classifier_of_the_estimate_is_the_less_calibrated_the_more_noise(off_the_shelf):
    errors = []
    for t in (0.1, 0.5, 1.0, 2.0, 4.0):
        x = LAW.marginal(1500, t, seed=3)
        sure, guess = torch.softmax(off_the_shelf(LAW(x, t)), 1).max(1)
        right = LAW.log_class(x, t).exp().gather(1, guess[:, None])[:, 0]
        cells = [(sure * 10).long().clamp(max=9) == cell for cell in range(10)]
        errors.append(
            sum(abs((sure[cell].mean() - right[cell].mean()).item()) * cell.double().mean().item() for cell in cells if cell.any())
        )
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] > 0.2  # the class of an average is no average of classes


def test_the_joint_direction_hits_the_class_more_often_and_leaves_its_law(off_the_shelf):
    guides = {tau2: ClassifierGuidance(off_the_shelf, weight=2.0, on="clean", tau2=tau2) for tau2 in (1.0, 0.5)}
    conditional, joint = (drawn(LAW, guides[tau2]) for tau2 in (1.0, 0.5))
    assert accuracy(conditional) < 0.97
    assert accuracy(joint) > 0.99
    assert distance(joint) > 2 * distance(conditional)  # logits grow without end: here the joint direction is no density's


def test_smooth_activations_guide_closer_to_the_law(off_the_shelf):
    smooth = smoothed(off_the_shelf, beta=5.0)
    rough, fine = (drawn(LAW, ClassifierGuidance(m, weight=2.0, on="clean", jacobian=False)) for m in (off_the_shelf, smooth))
    assert distance(fine) < 0.75 * distance(rough)
    assert accuracy(fine) > 0.99
    x = torch.randn(50, 2, dtype=torch.float64)
    torch.testing.assert_close(smoothed(off_the_shelf, beta=1e6)(x), off_the_shelf(x), rtol=0, atol=1e-4)
    assert sum(isinstance(m, torch.nn.ReLU) for m in off_the_shelf.modules()) == 2  # the original stays


def test_temperatures_are_those_of_the_equation():
    logits = torch.randn(5, 3, dtype=torch.float64)
    guide = ClassifierGuidance(LAW.log_class, tau1=1.5, tau2=0.5)
    label = torch.tensor([0, 1, 2, 0, 1])
    expected = torch.log((1.5 * logits).exp().gather(1, label[:, None])[:, 0] / (0.5 * logits).exp().sum(1))
    torch.testing.assert_close(guide.score(logits, {"class": label}), expected)


def test_the_sine_is_highest_in_the_middle_of_the_plan():
    seen = []
    guide = ClassifierGuidance(LAW.log_class, weight=2.0, sine=0.5)

    class Watched(ClassifierGuidance):
        def strength(self, t):
            seen.append(super().strength(t))
            return seen[-1]

    unstir.sample(
        LAW, 3, solver="ddim", grid="karras:8", guides=[Watched(LAW.log_class, weight=2.0, sine=0.5)], condition={"class": WANT[:3]}
    )
    assert seen == pytest.approx([2 * (1 + 0.5 * math.sin(math.pi * i / 8)) for i in range(8)])
    with pytest.raises(UserError, match=r"runs under unstir\.sample"):
        guide.wrap(LAW)(LAW.marginal(3, 1.0), 1.0, {"class": WANT[:3]})


# ---- dynamic guidance


@pytest.fixture(scope="module")
def grid():
    """A square of 25 modes of different weights, and a small network that has learned it too smoothly."""
    line = torch.arange(-2, 3, dtype=torch.float64)
    weights = torch.linspace(1, 3, 25)[torch.randperm(25, generator=torch.Generator().manual_seed(0))]
    law = ClassOracle(weights, torch.cartesian_prod(line, line), torch.full((25, 2), 0.07), torch.arange(25))
    generator = torch.Generator().manual_seed(0)
    x0 = law.draw(20000, generator).float()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(2, width=64, depth=2, embedding=32)
    model, loss = NetworkDenoiser(network, EDM(), parameterisation="edm", shape=(2,), sigma_data=1.4), DenoisingLoss(LogNormal(), "edm")
    minimise(
        network.parameters(), lambda: loss(model, x0[torch.randint(20000, (256,), generator=generator)], generator), steps=400, rate=3e-3
    )
    return law, model.requires_grad_(False)


def test_dynamic_guidance_empties_the_space_between_modes_and_keeps_their_weights(grid):
    law, model = grid

    def judged(*guides, condition=None):
        x = drawn(model, *guides, condition=condition, count=1500, grid="karras:16")
        between = (torch.cdist(x, law.means).min(1).values > 4 * 0.07).double().mean().item()
        return between, weights_distance(x, law)

    plain, dynamic = judged(), judged(DynamicGuidance(law.log_class, weight=2.0, high=0.5))
    assert dynamic[0] < 0.5 * plain[0]
    assert dynamic[1] < plain[1] + 0.05  # 1500 draws of the law itself are .05 away
    label = torch.randint(25, (1500,), generator=torch.Generator().manual_seed(1))
    control = judged(ClassifierGuidance(law.log_class, weight=2.0), condition={"class": label})
    assert control[1] > dynamic[1] + 0.03  # the labels' weights, not the law's
    assert judged(DynamicGuidance(law.log_class, weight=1.0))[1] > 0.3  # at all levels the largest modes take all: give it an interval


def test_dynamic_guidance_is_classifier_guidance_to_the_likeliest_class():
    x = LAW.marginal(16, 1.0)
    label = LAW.log_class(x, 1.0).argmax(1)
    found = DynamicGuidance(LAW.log_class, weight=1.5).wrap(LAW)(x, 1.0)
    assert torch.equal(found, ClassifierGuidance(LAW.log_class, weight=1.5).wrap(LAW)(x, 1.0, {"class": label}))


# ---- references


def test_samples_land_in_the_class_of_their_reference():
    def encoder(x, t):
        return LAW.log_class(x, t).exp()

    references = torch.cat([LAW.given(c).marginal(1, 0.0, seed=11 + c) for c in range(3)])
    condition = {"reference": encoder(references, 0.002)[WANT]}
    assert accuracy(drawn(LAW, SemanticGuidance(encoder, weight=10.0), condition=condition)) > 0.95


@pytest.mark.parametrize(("jacobian", "weight"), [(True, 10.0), (False, 100.0)])
def test_a_style_is_matched_and_the_content_stays_free(jacobian, weight):
    bars = torch.full((8, 1, 8, 8), -1.0, dtype=torch.float64)
    for place, at in enumerate((1, 3, 5, 6)):
        bars[place, 0, 1:7, at] = bars[place + 4, 0, at, 1:7] = 1.0
    means = torch.cat([contrast * bars + light for contrast in (0.5, 1.0, 1.5) for light in (-0.5, 0.0, 0.5)])
    law = ClassOracle([1.0] * 72, means, torch.full_like(means, 0.1), torch.arange(72) % 8)
    target = channel_statistics(1.5 * bars[:1] - 0.5)
    guide = SemanticGuidance(channel_statistics, weight, on="clean", jacobian=jacobian, reference=target, similarity="distance")
    x = drawn(law, guide, condition=None, count=150)
    assert ((channel_statistics(x) - target).abs() / target.abs()).mean(0).max() < 0.1
    shares = torch.bincount(law.log_class(x, 0.002).argmax(1), minlength=8) / 150
    assert -(shares * shares.log()).sum().item() / math.log(8) > 0.95


# ---- all


@pytest.mark.parametrize(
    "guide",
    [
        ClassifierGuidance(LAW.log_class, weight=2.0, sine=0.3),
        DynamicGuidance(LAW.log_class),
        SemanticGuidance(lambda x, t: x, reference=torch.ones(2)),
    ],
    ids=["classifier", "dynamic", "semantic"],
)
def test_a_sample_does_not_depend_on_its_batch(guide):
    assert invariance(LAW, guides=[guide], grid="karras:6", condition={"class": WANT[:5]}).passed


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ClassifierGuidance(LAW.log_class, weight=math.nan), "finite weight"),
        (lambda: ClassifierGuidance(LAW.log_class, on="both"), "'noisy' or 'clean'"),
        (lambda: ClassifierGuidance(LAW.log_class, low=2.0, high=1.0), "low < high"),
        (lambda: ClassifierGuidance(LAW.log_class, tau2=math.inf), "tau1, tau2 and sine"),
        (lambda: ClassifierGuidance(LAW.log_class).wrap(LAW)(LAW.marginal(2, 1.0), 1.0), "looks for labels"),
        (lambda: ClassifierGuidance(LAW.log_class).wrap(LAW)(LAW.marginal(2, 1.0), 1.0, {"class": torch.ones(2)}), "whole numbers"),
        (lambda: ClassifierGuidance(lambda x, t: x.detach(), label=0).wrap(LAW)(LAW.marginal(2, 1.0), 1.0), "has no gradient"),
        (lambda: DynamicGuidance(LAW.log_class, label="class"), "takes no label"),
        (lambda: SemanticGuidance(LAW.log_class, similarity="l1"), "'cosine' or 'distance'"),
        (lambda: SemanticGuidance(LAW.log_class).wrap(LAW)(LAW.marginal(2, 1.0), 1.0), "looks for a reference"),
        (lambda: SemanticGuidance(LAW.log_class, reference=torch.ones(5)).wrap(LAW)(LAW.marginal(2, 1.0), 1.0), "gives embeddings"),
        (lambda: smoothed(torch.nn.Linear(2, 2)), "found 0"),
        (lambda: ClassifierGuidance(LAW.log_class).wrap(LAW)({"a": torch.ones(2, 2).long()}, 1.0), "a leaf of the state is of whole ones"),
        (lambda: ClassifierGuidance(LAW.log_class, label=0, told=("mask",)).wrap(LAW)(LAW.marginal(2, 1.0), 1.0), "is told 'mask'"),
    ],
)
def test_classifier_guides_refuse_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
