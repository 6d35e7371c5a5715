"""Guide and rescale: the band, the features, and an edit that keeps the layout."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import classes3
from unstir.certify.oracles import gm4
from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.guide import CFG, GuideAndRescale, Recorded
from unstir.guide.rescale import features
from unstir.nn import MLP
from unstir.process import EDM, VP

COUNT = 150
LAW = classes3(dimension=10)
SOURCE, TARGET = {"class": torch.tensor([0])}, {"class": torch.ones(COUNT, dtype=torch.long)}
GRID = "karras:24"


def layout(now, source):
    """Energy of the coordinates that say nothing of the class."""
    return (now["estimate"][:, 2:] - source["estimate"][:, 2:]).square().sum(1)


@pytest.fixture(scope="module")
def source():
    """Samples of class 0 and the deterministic path that leads to them."""
    return unstir.sample(LAW.given(0), COUNT, solver="ddim", grid=GRID, seed=1, trace=True)


def edited(source, low, high, strength):
    guide = GuideAndRescale(
        3.0, layout, Recorded(source.times, source.path), source_condition=SOURCE, strength=strength, low=low, high=high
    )
    # a little noise at every step, so that the layout is not kept by the start alone
    start = (source.path[0], source.times[0])
    x = unstir.sample(LAW, COUNT, solver="ddim:eta=0.3", grid=GRID, guides=[guide], condition=TARGET, start=start).x
    kept = torch.corrcoef(torch.stack([x[:, 2:].flatten(), source.x[:, 2:].flatten()]))[0, 1].item()
    return kept, (LAW.log_class(x, 0.002).argmax(1) == 1).double().mean().item()


def test_an_edit_changes_the_class_and_keeps_the_layout_whatever_the_scale_of_the_energy(source):
    kept, hits = zip(*(edited(source, 3.0, 10.0, strength) for strength in (0.1, 0.3, 1.0)), strict=True)
    assert min(hits) == 1.0
    assert min(kept) > 0.9
    assert max(kept) - min(kept) < 0.02
    raw = [edited(source, 0.0, 1e9, strength)[0] for strength in (0.1, 1.0)]  # without the band the scale decides
    assert raw[1] - raw[0] > 0.08
    assert raw[0] < 0.85


@pytest.mark.parametrize("strength", [1e-3, 1.0, 1e3])
def test_the_norm_of_the_guider_stays_within_its_band_at_every_step(source, strength):
    guide = GuideAndRescale(3.0, layout, Recorded(source.times, source.path), strength=strength, low=0.5, high=2.0)
    x = source.path[0] + 0.1
    for row in source.times[:-1]:
        free, plain = LAW(x, row), CFG(3.0).wrap(LAW)(x, row, TARGET)
        guided = guide.wrap(LAW)(x, row, TARGET)
        ratio = (guided - plain).norm(dim=1) / (plain - free).norm(dim=1)
        moved = (plain - free).norm(dim=1) > 1e-6  # below it the difference of two estimates is rounding
        assert (ratio[moved] > 0.5 - 1e-4).all()
        assert (ratio[moved] < 2.0 + 1e-4).all()
        x = x + 0.5 * (guided - x)


def test_the_direction_is_that_of_steepest_descent_of_the_energy(source):
    guide, t = GuideAndRescale(3.0, layout, Recorded([1.5], [source.x]), low=0.0, high=1e9, strength=0.7), 1.5
    x = LAW.marginal(COUNT, t).requires_grad_()
    then = LAW(source.x, t)
    (slope,) = torch.autograd.grad((LAW(x, t, TARGET)[:, 2:] - then[:, 2:]).square().sum(), x)
    x = x.detach()
    torch.testing.assert_close(guide.wrap(LAW)(x, t, TARGET), CFG(3.0).wrap(LAW)(x, t, TARGET) - 0.7 * t**2 * slope)


def test_an_energy_without_slope_or_an_edit_of_nothing_leaves_classifier_free_guidance():
    guide = GuideAndRescale(2.0, layout, Recorded([1.0], [torch.zeros(1, 10)]), strength=0.0)
    x = LAW.marginal(COUNT, 1.0)
    torch.testing.assert_close(guide.wrap(LAW)(x, 1.0, TARGET), CFG(2.0).wrap(LAW)(x, 1.0, TARGET))
    still = guide.rescaled(torch.ones(2, 3), torch.zeros(2, 3))
    assert torch.equal(still, torch.zeros(2, 3))


def test_features_of_inner_layers_can_carry_the_energy():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(2, width=16, depth=2, embedding=8)
        torch.nn.init.normal_(network.leave.weight)
    model = NetworkDenoiser(network, EDM(), parameterisation="edm", shape=(2,)).requires_grad_(False)
    x = torch.randn(3, 2, generator=torch.Generator().manual_seed(0))
    estimate, heard = features(model, x, 1.0, None, ("second.1", "enter"))
    assert torch.equal(estimate, model(x, 1.0))
    assert {name: tuple(value.shape) for name, value in heard.items()} == {"estimate": (3, 2), "second.1": (3, 16), "enter": (3, 16)}
    assert not network.enter._forward_hooks

    def energy(now, then):
        return (now["second.1"] - then["second.1"]).square().mean(1)

    guide = GuideAndRescale(2.0, energy, lambda t: torch.zeros(1, 2), layers=("second.1",))
    guided = unstir.sample(model, 3, grid="karras:4", guides=[guide], condition={"c": torch.zeros(3)})
    assert torch.isfinite(guided.x).all()
    assert guided.nfe == 12
    with pytest.raises(UserError, match="0 modules .* 'third'"):
        features(model, x, 1.0, None, ("third",))
    with pytest.raises(UserError, match=r"\d+ modules .* '0'"):
        features(model, x, 1.0, None, ("norm.0", "0"))


def test_a_recorded_path_gives_its_states_at_its_times_only():
    path = Recorded([2.0, 1.0], [torch.zeros(1, 2), torch.ones(1, 2)])
    assert torch.equal(path(1.0), torch.ones(1, 2))
    with pytest.raises(UserError, match="other times than 1.5"):
        path(1.5)


def test_a_sample_does_not_depend_on_its_batch():
    guide = GuideAndRescale(2.0, lambda now, then: (now["estimate"] - then["estimate"]).square().sum(1), lambda t: torch.ones(1, 2))
    options = {"grid": "karras:6", "condition": {"class": torch.tensor([0, 1, 2, 1, 0])}}
    assert invariance(classes3(VP()), guides=[guide], **options).passed


def still(now, then):
    return torch.zeros(3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: GuideAndRescale(0.0, still, still), "other than 0"),
        (lambda: GuideAndRescale(1.0, still, still, low=2.0, high=1.0), "low <= high"),
        (lambda: GuideAndRescale(1.0, still, still, strength=-1.0), "strength >= 0"),
        (lambda: GuideAndRescale(math.nan, still, still), "finite weight"),
        (lambda: Recorded([1.0], []), "one state a time"),
        (lambda: GuideAndRescale(1.0, still, lambda t: torch.zeros(1, 2)).wrap(gm4())(torch.zeros(3, 2), 1.0, {"c": 1}), "differentiable"),
        (lambda: GuideAndRescale(1.0, still, still).wrap(gm4())({"a": torch.zeros(3, 2)}, 1.0, {"c": 1}), "dict of leaves"),
    ],
)
def test_guide_and_rescale_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
