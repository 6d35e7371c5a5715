"""Active measurement: the next look goes where the posterior is widest, and beats looking at random."""

import math

import pytest
import torch

from unstir import sample
from unstir.certify import GaussianOracle
from unstir.errors import UserError
from unstir.posterior import ActiveSubsampling, mixture_entropy

D, NOISE = 8, 0.05


def prior():
    """A random walk of 8 entries with growing steps: correlated, and widest at the end."""
    steps = torch.tril(torch.ones(D, D, dtype=torch.float64)) * torch.linspace(0.3, 1.0, D, dtype=torch.float64)
    return GaussianOracle(torch.zeros(D, dtype=torch.float64), steps @ steps.T)


PRIOR = prior()
TRUTHS = PRIOR.draw(6, torch.Generator().manual_seed(5))


def acquire(mask, problems):
    return torch.where(mask, TRUTHS[list(problems)], 0.0)


def conditioned(cov, known):
    """Covariance after measuring the known entries."""
    a = torch.eye(D, dtype=torch.float64)[known]
    gain = torch.linalg.solve(a @ cov @ a.T + NOISE**2 * torch.eye(len(known), dtype=torch.float64), a @ cov).T
    return cov - gain @ a @ cov


def steer(**options):
    return ActiveSubsampling(acquire, noise=NOISE, **({"steps": (), "particles": 64} | options))


@pytest.mark.parametrize("entropy", ["variance", "mixture"])
def test_the_choice_is_that_of_the_largest_posterior_variance(entropy):
    # particles are exact posterior draws; the measurement noise of the mixture bound is wide enough not to saturate
    known = []
    chooser = ActiveSubsampling(acquire, (), noise=0.5 if entropy == "mixture" else NOISE, particles=512, entropy=entropy)
    for _ in range(4):
        cov = conditioned(PRIOR.cov, known) if known else PRIOR.cov
        x0 = GaussianOracle(torch.zeros(D, dtype=torch.float64), cov).draw(512, torch.Generator().manual_seed(1))
        mask = torch.zeros(1, D, dtype=torch.bool)
        mask[0, known] = True
        picked = int(chooser.chosen(x0[None], mask).nonzero()[0, 1])
        assert picked == int(cov.diagonal().argmax())
        known.append(picked)


def test_entropy_by_pairs_lies_between_its_ends_and_saturates():
    same, far = torch.zeros(1, 16, 1, dtype=torch.float64), 1e3 * torch.arange(16, dtype=torch.float64).reshape(1, 16, 1)
    assert float(mixture_entropy(same, 0.1)) == pytest.approx(0.0)
    assert float(mixture_entropy(far, 0.1)) == pytest.approx(math.log(16))
    # of a normal cloud it is an upper bound of the entropy above that of the noise, 1/2 log(1 + v/noise^2), as particles grow
    cloud = torch.randn(1, 2000, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found, exact = float(mixture_entropy(cloud, 0.5)), 0.5 * math.log(1 + 1 / 0.25)
    assert exact < found < exact + 0.5


def test_looking_where_it_is_uncertain_beats_looking_at_random():
    looks = (8, 14, 20, 26)

    def error(choose):
        class Chosen(ActiveSubsampling):
            def chosen(self, x0, known):
                return super().chosen(x0, known) if choose else at_random(known)

        generator = torch.Generator().manual_seed(2)

        def at_random(known):
            score = torch.rand(known.shape, generator=generator).masked_fill(known, -1)
            return torch.zeros_like(known).scatter_(1, score.argmax(1, keepdim=True), True)

        made = Chosen(acquire, looks, noise=NOISE, particles=8)
        found = sample(PRIOR, 48, solver="ancestral", grid="log-snr:40,sigma_max=30,sigma_min=0.01", steers=[made])
        assert found.info["mask"].shape == (6, D)
        assert (found.info["mask"].sum(1) == len(looks)).all()
        return float((found.x.reshape(6, 8, D).mean(1) - TRUTHS).square().mean())

    assert error(True) < 0.7 * error(False)


def test_measured_entries_end_at_their_values_and_chunks_do_not_matter():
    made = steer(steps=(3, 6), particles=4, budget=2)
    keywords = {"solver": "ancestral", "grid": "log-snr:30,sigma_max=30,sigma_min=0.01", "steers": [made]}
    together, apart = sample(PRIOR, 24, **keywords), sample(PRIOR, 24, batch=8, **keywords)
    torch.testing.assert_close(together.x, apart.x)
    assert torch.equal(together.info["mask"], apart.info["mask"])
    mask = together.info["mask"]
    assert (mask.sum(1) == 4).all()
    values = together.x.reshape(6, 4, D)
    off = (values - TRUTHS[:, None]).abs().masked_fill(~mask[:, None], 0)
    assert off.max() < 5 * NOISE


def test_entries_of_a_group_are_measured_together():
    made = steer(steps=(2,), particles=4, groups=torch.arange(D) // 2)
    mask = sample(PRIOR, 4, solver="ddim", grid="log-snr:6,sigma_max=30,sigma_min=0.01", steers=[made]).info["mask"]
    assert torch.equal(mask[:, ::2], mask[:, 1::2])
    assert int(mask.sum()) == 2
    both = steer(particles=4, groups=torch.arange(D) // 2, entropy="mixture").chosen(
        PRIOR.draw(4, torch.Generator())[None], torch.zeros(1, D, dtype=torch.bool)
    )
    assert int(both.sum()) == 2


@pytest.mark.parametrize("options", [{"noise": 0.0}, {"particles": 1}, {"budget": 0}, {"entropy": "range"}])
def test_active_subsampling_refuses_what_cannot_be(options):
    with pytest.raises(UserError, match="active subsampling needs"):
        ActiveSubsampling(acquire, (1,), **options)
