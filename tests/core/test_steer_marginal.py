"""Values matched to a reference: histograms to rounding, colours of a set, and diversity that stays."""

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.laws import ring8
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.process import EDM, VP
from unstir.steer import MatchMarginal

CELLS = 64
PLACE = torch.arange(CELLS, dtype=torch.float64)
COV = torch.exp(-((PLACE[:, None] - PLACE) / 4).square() / 2) + 1e-6 * torch.eye(CELLS)
FIELD = GaussianOracle(torch.zeros(1, CELLS, dtype=torch.float64), COV)
WIND = torch.distributions.Weibull(torch.tensor(1.5), torch.tensor(2.0)).icdf((torch.arange(500) + 0.5) / 500) - 1.3


def w1(values, reference):
    """The Wasserstein-1 distance of two sets of values, on a fine grid of quantiles."""
    u = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    return (torch.quantile(values.double(), u) - torch.quantile(reference.double(), u)).abs().mean().item()


def spread(x):
    return torch.pdist(x.flatten(1).double()).mean().item()


def field(*steers, count=40, process=None):
    return unstir.sample(FIELD.with_process(process or EDM()), count, solver="ddim", grid="karras:20", steers=steers).x


@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
def test_each_sample_ends_with_the_climatology_of_the_reference(process):
    options = {"count": 10, "process": process}
    x = field(MatchMarginal(WIND[:, None], strength=0.3, high=2.0), **options)
    fine = WIND[:, None].double().repeat(1, 1)[:, 0]
    want = torch.quantile(fine, (torch.arange(CELLS) + 0.5).double() / CELLS)
    for sample in x:
        assert w1(sample, want) < 1e-2  # 64 cells: the 64 quantiles of the reference
    assert min(w1(sample, want) for sample in field(count=10, process=process)) > 0.1


def test_diversity_and_the_shape_of_the_field_stay():
    free, matched = field(), field(MatchMarginal(WIND[:, None], strength=0.3, high=2.0))
    # samples of the reference's spread would have this distance if they were as independent as the free ones
    fair = spread(free) * WIND.std().item() / free.std().item()
    assert spread(matched) > 0.9 * fair

    def rough(x):
        return (x[..., 1:] - x[..., :-1]).square().mean().item() / (2 * x.var().item())

    assert rough(matched) < 2 * rough(free)  # neighbours stay alike; shuffled cells would give 1
    assert rough(free) < 0.1


def test_nearest_gives_values_of_the_set_and_no_others():
    colours = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, -1.0]])
    x = torch.randn(5, 2, 30, generator=torch.Generator().manual_seed(0))
    matched = MatchMarginal(colours, "nearest").matched(x)
    distance = torch.cdist(x.mT, colours[None])
    assert torch.equal(matched.mT, colours[distance.argmin(2)])
    law = GaussianOracle(torch.zeros(2, 9), torch.ones(2, 9))
    done = unstir.sample(law, 4, solver="ancestral", grid="karras:6", steers=[MatchMarginal(colours, "nearest")]).x
    assert torch.cdist(done.mT.float(), colours[None]).min(2).values.max() < 1e-6


def test_sorted_matching_keeps_ranks_and_equal_sizes_give_a_permutation():
    x = torch.randn(3, 2, 50, generator=torch.Generator().manual_seed(0))
    reference = torch.randn(50, 2, generator=torch.Generator().manual_seed(1))
    matched = MatchMarginal(reference).matched(x)
    assert torch.equal(matched.argsort(2), x.argsort(2))
    assert torch.equal(matched.sort(2).values, reference.mT.sort(1).values.expand(3, 2, 50))


def test_sliced_matching_brings_the_joint_law_of_the_channels_and_sorted_does_not():
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(400, generator=generator)
    reference = torch.stack([base, base + 0.2 * torch.randn(400, generator=generator)], 1)  # channels that go together
    x = torch.randn(2, 2, 400, generator=generator)

    def correlation(values):
        return torch.stack([torch.corrcoef(one)[0, 1] for one in values])

    want = torch.corrcoef(reference.mT)[0, 1]
    assert (correlation(MatchMarginal(reference, "sliced", directions=40).matched(x)) - want).abs().max() < 0.05
    assert (correlation(MatchMarginal(reference).matched(x)) - want).abs().min() > 0.5


def test_a_state_without_channels_takes_one_list_of_values_and_strength_0_acts_at_the_end_only():
    law = ring8()
    x = unstir.sample(law, 6, solver="ddim", grid="karras:8", steers=[MatchMarginal(torch.tensor([1.0, 2.0]), strength=0.0)]).x
    torch.testing.assert_close(x.sort(1).values, torch.tensor([1.0, 2.0]).expand(6, 2).to(x.dtype))
    free = unstir.sample(law, 6, solver="ddim", grid="karras:8").x
    assert torch.equal(x.argsort(1), free.argsort(1))


def test_samples_do_not_see_each_other():
    assert invariance(ring8(), grid="karras:5", steers=[MatchMarginal(torch.tensor([0.0, 1.0, 4.0]))]).same


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: MatchMarginal(torch.zeros(2, 2, 2)), "values by channels"),
        (lambda: MatchMarginal(torch.tensor([float("nan")])), "finite"),
        (lambda: MatchMarginal(torch.zeros(3), "closest"), "'nearest', 'sorted' or 'sliced'"),
        (lambda: MatchMarginal(torch.zeros(3, 2)).matched(torch.zeros(1, 3, 4)), "2 channels"),
    ],
)
def test_what_does_not_fit_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
