"""Experts by noise level: who is asked, what they learn without labels, and cheap copies."""

import math

import pytest
import torch

import unstir
from unstir.certify.laws import classes3
from unstir.errors import UserError
from unstir.guide import ClassifierGuidance, Experts, low_rank_copy
from unstir.process import EDM, VP

LAW = classes3()
LEVELS = (0.3, 0.7, 1.5, 4.0)


class Net(torch.nn.Module):
    """A small classifier of noisy states."""

    def __init__(self, width, seed=0):
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.first, self.second, self.third = torch.nn.Linear(3, width), torch.nn.Linear(width, width), torch.nn.Linear(width, 3)

    def forward(self, x, t):
        sigma = torch.as_tensor(t).to(x).expand(len(x))[:, None]
        h = torch.cat((x / (sigma**2 + 2).sqrt(), sigma.log() / 4), 1).to(self.first.weight)
        silu = torch.nn.functional.silu
        return self.third(silu(self.second(silu(self.first(h))))).to(x)


class Constant(torch.nn.Module):
    """Gives its number for every sample."""

    def __init__(self, value):
        super().__init__()
        self.value = float(value)

    def forward(self, x, t):
        return torch.full((len(x), 1), self.value) + 0 * torch.as_tensor(t).reshape(-1, 1)


def teacher(x0):
    return LAW.log_class(x0, 0.002)


def parameters(network):
    return sum(p.numel() for p in network.parameters())


def gradient_error(model, low, high):
    """E |grad log q(c|x_t) - grad log p(c|x_t)|^2 over the same of p, over levels from low to high."""
    wrong, size = 0.0, 0.0
    for t in torch.logspace(math.log10(low), math.log10(high), 5).tolist()[:-1]:
        x = LAW.marginal(500, t, seed=3).requires_grad_()
        weight = LAW.log_class(x, t).exp().detach()
        slopes = []
        for f in (model, LAW.log_class):
            logs = torch.log_softmax(f(x, t), 1)
            slopes.append(torch.stack([torch.autograd.grad(logs[:, c].sum(), x, retain_graph=True)[0] for c in range(3)], 1))
        wrong += float(((slopes[0] - slopes[1]).square().sum(2) * weight).sum())
        size += float((slopes[1].square().sum(2) * weight).sum())
    return wrong / size


@pytest.fixture(scope="module")
def taught():
    x0 = unstir.sample(LAW, 3000, solver="dpm++2m", grid="karras:20", seed=5).x
    options = {"low": 0.05, "high": 20.0, "steps": 250, "rate": 3e-2}
    experts = Experts([Net(16, k) for k in range(5)], LEVELS, EDM()).teach(teacher, x0, **options)
    alone = Experts([Net(38)], (), EDM()).teach(teacher, x0, **options)
    return experts.requires_grad_(False), alone.requires_grad_(False)


def test_experts_taught_without_labels_know_the_guiding_gradient_better_where_classes_are_sharp(taught):
    experts, alone = taught
    assert parameters(experts) < 1.15 * parameters(alone)
    errors = [[gradient_error(model, low, high) for model in taught] for low, high in zip((0.05, *LEVELS), (*LEVELS, 20.0), strict=True)]
    assert errors[0][0] < 0.3 * errors[0][1]
    assert errors[1][0] < 0.7 * errors[1][1]
    # at high noise one network of the same size is as good or better: the task is smooth there and its data are five times as many
    assert all(error[0] < 0.2 for error in errors[1:])


def test_experts_guide_samples_into_their_class(taught):
    label = torch.arange(300) % 3
    x = unstir.sample(LAW, 300, grid="karras:16", guides=[ClassifierGuidance(taught[0])], condition={"class": label}).x
    assert (LAW.log_class(x, 0.002).argmax(1) == label).double().mean() > 0.95


def test_each_is_asked_at_its_own_levels_one_time_or_one_a_sample():
    experts = Experts([Constant(k) for k in range(3)], (0.5, 2.0), EDM())
    x = torch.zeros(4, 2)
    assert [experts(x, t)[0].item() for t in (0.1, 0.5, 1.9, 2.0, 50.0)] == [0, 1, 1, 2, 2]
    times = torch.tensor([3.0, 0.1, 1.0, 0.2], dtype=torch.float64)
    assert experts(x, times)[:, 0].tolist() == [2, 0, 1, 0]
    moved = Experts([Constant(k) for k in range(3)], (0.5, 2.0), VP())
    assert moved(x, float(VP().time_at_rho(1.0)))[0].item() == 1


def test_a_low_rank_copy_is_the_network_until_it_is_taught_and_learns_with_few_parameters():
    base = Net(32)
    copy = low_rank_copy(base, 2)
    x = torch.randn(6, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(copy(x, 1.0), base(x, 1.0))
    free = sum(p.numel() for p in copy.parameters() if p.requires_grad)
    assert free < 0.3 * parameters(base)
    frozen = [p.clone() for p in base.parameters()]
    x0 = LAW.draw(2000, torch.Generator().manual_seed(0))
    before, options = gradient_error(copy, 1.5, 4.0), {"low": 1.5, "high": 4.0, "steps": 150, "rate": 3e-2}
    Experts([copy], (), EDM()).teach(teacher, x0, **options)
    assert gradient_error(copy, 1.5, 4.0) < 0.5 * before
    assert all(torch.equal(a, b) for a, b in zip(frozen, base.parameters(), strict=True))


def test_teaching_is_the_same_twice():
    x0 = LAW.draw(200, torch.Generator().manual_seed(0))
    found = [Experts([Net(8)], (), EDM()).teach(teacher, x0, low=0.1, high=2.0, steps=5, batch=16)(x0, 0.5) for _ in range(2)]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Experts([Net(4)], (1.0,), EDM()), "need 0 increasing positive levels"),
        (lambda: Experts([Net(4), Net(4), Net(4)], (2.0, 1.0), EDM()), "increasing"),
        (lambda: low_rank_copy(torch.nn.ReLU(), 2), "got 0 layers"),
        (lambda: low_rank_copy(Net(4), 0), "rank 0"),
    ],
)
def test_experts_refuse_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
