"""Minority guidance: the score ranks the rare, a classifier of its bins leads there, and so does the denoiser alone."""

import math

import pytest
import torch
from torch import nn

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import weights_of
from unstir.certify.laws import ring8
from unstir.errors import UserError
from unstir.guide import ClassifierGuidance, SelfMinority, fit_classifier, minority_bins, minority_score
from unstir.train.times import LogUniform

RING = ring8(weights=[0.02, *[0.14] * 7])
OPTIONS = {"solver": "heun", "grid": "karras:16,sigma_max=40"}


def drawn(*guides, count=1000):
    return unstir.sample(RING, count, guides=guides, **OPTIONS).x.double()


def in_support(x):
    return (torch.cdist(x, RING.means).min(1).values < 4 * 0.3).double().mean().item()


def data(count=8000):
    x0 = RING.draw(count, torch.Generator().manual_seed(0))
    return x0, torch.cdist(x0, RING.means).argmin(1)


def auc(score, chosen):
    rank = score.argsort().argsort().double()
    return ((rank[chosen].mean() - (chosen.sum() - 1) / 2) / (~chosen).sum()).item()


class Small(nn.Module):
    """A classifier of noisy points."""

    def __init__(self, classes):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.layers = nn.Sequential(nn.Linear(3, 64), nn.SiLU(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, classes)).double()

    def forward(self, x, t):
        level = torch.as_tensor(t, dtype=x.dtype).expand(len(x))[:, None]
        return self.layers(torch.cat([x / (8 + level.square()).sqrt(), torch.log(level)], 1))


def test_the_score_ranks_the_minority_highest():
    x0, mode = data()
    score = minority_score(RING, x0, 1.5)
    assert auc(score, mode == 0) > 0.9
    assert torch.equal(score[:50], minority_score(RING, x0[:50], 1.5))  # each by its own place
    assert auc(minority_score(RING, x0, 1.5, seed=1), mode == 0) > 0.9  # not by the noise
    assert abs(auc(score, mode == 3) - 0.5) < 0.15  # the control: a mode like others is not ranked


def test_bins_hold_equally_many_and_the_last_is_the_rarest():
    scores = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    bins = minority_bins(scores, 10)
    assert torch.bincount(bins).tolist() == [100] * 10
    assert scores[bins == 9].min() >= scores[bins == 8].max()


def test_a_classifier_of_the_bins_leads_to_the_minority():
    x0, _ = data()
    bins = minority_bins(minority_score(RING, x0, 1.5, draws=32), 20)
    network = Small(20)
    losses = fit_classifier(network, RING.process, x0, bins, times=LogUniform(0.02, 40.0), steps=600)
    assert sum(losses[-50:]) < sum(losses[:50])
    x, free = drawn(ClassifierGuidance(network.requires_grad_(False), label=19)), drawn()
    assert weights_of(x, RING)[0] > 5 * weights_of(free, RING)[0]
    assert in_support(x) > 0.95


def test_the_denoiser_alone_leads_there_without_labels():
    x, free = drawn(SelfMinority(1.0, level=1.5, low=0.5)), drawn()
    assert weights_of(x, RING)[0] > 3 * weights_of(free, RING)[0]
    assert in_support(x) > 0.95
    far = drawn(SelfMinority(4.0, level=1.5))
    assert in_support(far) < 0.5  # the control: a weight that asks too much leaves the data


def test_it_rests_in_between_and_is_off_at_weight_0():
    run = {n: unstir.sample(RING, 8, guides=[SelfMinority(1.0, level=1.5, every=n)], **OPTIONS) for n in (1, 4)}
    plain = unstir.sample(RING, 8, **OPTIONS)
    assert plain.nfe < run[4].nfe < run[1].nfe / 2
    assert torch.equal(unstir.sample(RING, 8, guides=[SelfMinority(0.0)], **OPTIONS).x, plain.x)
    assert torch.equal(unstir.sample(RING, 8, guides=[SelfMinority(1.0, low=1e5, high=1e6)], **OPTIONS).x, plain.x)


def test_the_guidance_is_the_gradient_of_its_loss():
    x = RING.marginal(6, 1.2)
    guide = SelfMinority(0.7, level=1.5)
    x0 = RING(x, 1.2)
    again = guide._again(RING, x0, None)
    free = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad((RING(free, 1.2) - again).norm(dim=1).sum(), free)
    torch.testing.assert_close(guide.wrap(RING)(x, 1.2), x0 + 0.7 * 1.2**2 * slope, rtol=1e-10, atol=1e-12)


def test_samples_do_not_see_each_other():
    assert invariance(RING, grid="karras:5", guides=[SelfMinority(1.0, level=1.5)]).same


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: SelfMinority(math.inf), "finite weight"),
        (lambda: SelfMinority(draws=3), "even number"),
        (lambda: minority_bins(torch.zeros(3), 4), "2 bins or more"),
        (lambda: minority_score(RING, torch.zeros(1, 2), 1.0, draws=0), "at least 1 draw"),
        (lambda: fit_classifier(Small(2), RING.process, torch.zeros(3, 2), torch.zeros(2).long()), "one label a state"),
    ],
)
def test_what_makes_no_sense_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
