"""Autoguidance: the worse model's evaluations are skipped where they would not count, and outliers fall without the classes shrinking."""

import math

import pytest
import torch

import unstir
from unstir.certify.distances import energy_distance, weights_of
from unstir.certify.laws import ClassOracle, ring8
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import NetworkDenoiser
from unstir.errors import UserError
from unstir.guide import CFG, Autoguidance
from unstir.guide.experts import minimise
from unstir.nn import MLP
from unstir.process import EDM, VP
from unstir.train import DenoisingLoss
from unstir.train.times import LogNormal

COUNT = 1200
LABELS = torch.arange(COUNT) % 2
NULL = torch.tensor([[0.0, 0.0, 1.0]])
CLASS = {"features": torch.cat((torch.nn.functional.one_hot(LABELS, 2).float(), torch.zeros(COUNT, 1)), 1)}


def tree():
    """A law of two classes, each a tree of four generations of thin branches: 120 narrow modes."""
    means, labels, weights = [], [], []
    for label, angle in ((0, math.pi), (1, 0.0)):
        nodes = [(torch.zeros(2, dtype=torch.float64), angle, 1.2)]
        for generation in range(4):
            grown = []
            for root, direction, length in nodes:
                for turn in (-0.5, 0.5) if generation else (0.0,):
                    along = length * torch.tensor([math.cos(direction + turn), math.sin(direction + turn)], dtype=torch.float64)
                    means += [root + share * along for share in (0.25, 0.5, 0.75, 1.0)]
                    labels += [label] * 4
                    weights += [length / 2**generation] * 4
                    grown.append((root + along, direction + turn, 0.75 * length))
            nodes = grown
    return ClassOracle(weights, torch.stack(means), torch.full((len(means), 2), 0.05), labels)


LAW = tree()


def trained(steps):
    """A small conditional network after so many steps of training on the tree."""
    generator = torch.Generator().manual_seed(0)
    which = torch.multinomial(LAW.log_weights.exp(), 20000, replacement=True, generator=generator)
    data = (LAW.means[which] + 0.05 * torch.randn(20000, 2, generator=generator, dtype=torch.float64)).float()
    told = torch.cat((torch.nn.functional.one_hot(LAW.labels[which], 2).float(), torch.zeros(20000, 1)), 1)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = MLP(2, width=64, depth=2, embedding=32, features=3)
    model = NetworkDenoiser(network, EDM(), parameterisation="edm", shape=(2,), sigma_data=1.0)
    loss = DenoisingLoss(LogNormal(), "edm")

    def batch():
        index = torch.randint(20000, (384,), generator=generator)
        hidden = torch.rand(384, 1, generator=generator) < 0.15
        return loss(model, data[index], generator, {"features": torch.where(hidden, NULL, told[index])})

    minimise(network.parameters(), batch, steps=steps, rate=3e-3)
    return model.requires_grad_(False)


@pytest.fixture(scope="module")
def models():
    return trained(600), trained(100)


def drawn(model, *guides):
    x = unstir.sample(model, COUNT, solver="dpm++2m", grid="karras:16", guides=guides, condition=CLASS).x.double()
    outliers = (torch.cdist(x, LAW.means).min(1).values > 4 * 0.05).double().mean().item()
    distance, covered = [], []
    for c in range(2):
        law, own = LAW.given(c), torch.eq(LABELS, c)
        shares = law.log_weights.exp()
        distance.append(energy_distance(x[own], law.marginal(COUNT // 2, 0.0, seed=c)))
        covered.append((weights_of(x[own], law) > 0.2 * shares).double().mean().item())
    return outliers, max(distance), min(covered)


def test_autoguidance_removes_outliers_and_keeps_the_classes_where_cfg_does_not(models):
    good, bad = models
    plain, auto, cfg = drawn(good), drawn(good, Autoguidance(bad, 2.0)), drawn(good, CFG(2.0, null={"features": NULL}))
    assert auto[0] < 0.9 * plain[0]  # outliers, .117 of .147; the starts are the same, so the ratio scatters by some hundredths
    assert auto[0] < 0.7 * cfg[0]
    assert auto[1] < 0.25 * cfg[1]  # energy distance to the class: cfg pushes its samples out of it
    assert auto[2] > plain[2] - 0.05  # modes of a class that get at least a fifth of their share


def test_autoguidance_between_normal_laws_moves_away_from_the_wider():
    good, bad = (GaussianOracle(torch.zeros(2), torch.full((2,), v)) for v in (1.0, 2.0))
    x = torch.ones(1, 2, dtype=torch.float64)
    expected = 2 / 3 + 3 * (1 / 2 - 2 / 3)  # sigma = 1: D = v/(v + 1) x
    torch.testing.assert_close(Autoguidance(bad, 3.0).wrap(good)(x, 1.0), torch.full((1, 2), expected, dtype=torch.float64))


def test_weight_1_is_the_good_model_and_never_asks_the_other():
    good, asked = ring8(), []
    bad = ring8()
    bad.register_forward_hook(lambda *_: asked.append(1))
    x = good.marginal(4, 1.0)
    assert torch.equal(Autoguidance(bad, 1.0).wrap(good)(x, 1.0), good(x, 1.0))
    assert torch.equal(Autoguidance(bad, 3.0, low=2.0).wrap(good)(x, 1.0), good(x, 1.0))
    assert not asked


def test_the_worse_models_evaluations_count_and_its_process_is_its_own_affair():
    good, bad = ring8(EDM()), GaussianOracle(torch.zeros(2), torch.full((2,), 9.0), VP())
    samples = unstir.sample(good, 4, grid="karras:10", guides=[Autoguidance(bad, 1.5, high=10.0)])
    inside = sum(t <= 10.0 for t in samples.times[:-1])
    assert samples.nfe == 10 + inside
    x = good.marginal(4, 1.0)
    same = Autoguidance(GaussianOracle(torch.zeros(2), torch.full((2,), 9.0), EDM()), 1.5).wrap(good)(x, 1.0)
    torch.testing.assert_close(Autoguidance(bad, 1.5).wrap(good)(x, 1.0), same, rtol=0, atol=1e-10)  # time found by inverting rho(t)
    moved = Autoguidance(bad, 1.5).wrap(good).with_process(VP())
    t = float(VP().time_at_rho(1.0))
    torch.testing.assert_close(moved(x * float(VP().alpha(t)), t), same, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Autoguidance(None), "needs a denoiser"),
        (lambda: Autoguidance(ring8(), math.inf), "finite weight"),
        (lambda: Autoguidance(ring8(), 2.0, low=2.0, high=1.0), "low < high"),
    ],
)
def test_autoguidance_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
