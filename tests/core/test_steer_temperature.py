"""Low temperature: exact on normal data to rounding, biased weights of modes, and the particles that set them right."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import weights_distance
from unstir.certify.laws import gaussian, ring8
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.process import OUVE, RectifiedFlow
from unstir.steer import Annealed, ScaledNoise

LAW = gaussian(4)
RING = ring8(weights=[0.3, *[0.1] * 7])


@pytest.mark.parametrize("temperature", [0.25, 1.7])
@pytest.mark.parametrize("solver", ["heun", "dpm++2m", "ancestral", "ddim:eta=0.5"])
def test_on_normal_data_every_sample_is_scaled_by_the_root_of_the_temperature_for_any_number_of_steps(solver, temperature):
    for steps in (1, 4, 10):
        options = {"solver": solver, "grid": f"karras:{steps}"}
        plain, cooled = (unstir.sample(LAW, 6, steers=steers, **options).x for steers in ([], [ScaledNoise(temperature)]))
        torch.testing.assert_close(cooled, math.sqrt(temperature) * plain, rtol=1e-12, atol=1e-12)  # all is linear: rounding


@pytest.mark.parametrize("process", [RectifiedFlow(), OUVE()], ids=["flow", "ouve"])
def test_around_a_mean_and_an_anchor_deviations_are_scaled(process):
    mean = torch.tensor([0.5, -1.0], dtype=torch.float64)
    law = GaussianOracle(mean, torch.tensor([0.4, 1.5], dtype=torch.float64), process)
    condition = {"anchor": torch.full((1, 2), 0.3, dtype=torch.float64)} if process.anchored else None
    options = {"solver": "ancestral", "grid": "uniform:12", "condition": condition}
    plain, cooled, cold = (
        unstir.sample(law, 6, steers=steers, **options).x.double() for steers in ([], [ScaledNoise(0.25, mean)], [ScaledNoise(1e-20, mean)])
    )
    torch.testing.assert_close(cooled - cold, 0.5 * (plain - cold), rtol=1e-6, atol=1e-6)  # the root of 1e-20 is left
    if not process.anchored:
        torch.testing.assert_close(cold, mean.expand_as(cold), rtol=0, atol=1e-6)


def test_modes_are_narrowed_and_their_weights_left_biased():
    weights = RING.log_weights.exp().square() / RING.log_weights.exp().square().sum()
    x = unstir.sample(RING, 1500, solver="ancestral", grid="log-snr:60,sigma_max=50,sigma_min=0.02", steers=[ScaledNoise(0.5)]).x.double()
    nearest = torch.cdist(x, RING.means).argmin(1)
    assert abs((x - RING.means[nearest]).std().item() / (0.3 * math.sqrt(0.5)) - 1) < 0.06
    assert weights_distance(x, RING, weights) > 0.12  # documented: it does not weigh modes anew


def test_annealed_particles_weigh_modes_as_the_power_of_the_law_does():
    weights = RING.log_weights.exp().square() / RING.log_weights.exp().square().sum()
    options = {"solver": "ancestral", "grid": "log-snr:150,sigma_max=50,sigma_min=0.02"}
    run = unstir.sample(RING, 2048, steers=[Annealed(2.0, particles=128)], **options)
    x = run.x.double()
    nearest = torch.cdist(x, RING.means).argmin(1)
    # 2048 particles of 16 problems, resampled: weights to .05 or so, against .16 without weights
    assert weights_distance(x, RING, weights) < 0.09
    assert abs((x - RING.means[nearest]).std().item() / (0.3 * math.sqrt(0.5)) - 1) < 0.12


def test_annealing_a_normal_law_divides_its_covariance():
    law = GaussianOracle(torch.zeros(2, dtype=torch.float64), torch.tensor([1.0, 0.5], dtype=torch.float64))
    options = {"solver": "ancestral", "grid": "log-snr:150,sigma_max=60,sigma_min=0.02"}
    shares = []
    for weight in (1.5, 3.0):
        x = unstir.sample(law, 2000, steers=[Annealed(weight, particles=100)], **options).x.double()
        shares.append((weight * x.var(0) / torch.tensor([1.0, 0.5])).mean().item())
    # 1 but for the steps, which make a law too narrow to first order (power 3: .24 at 75, .12 at 300), and .05 of resampled draws
    assert abs(shares[0] - 1) < 0.13
    assert abs(shares[1] - 1) < 0.25


def test_temperature_and_power_1_are_the_plain_sampler():
    options = {"solver": "ancestral", "grid": "karras:6"}
    plain = unstir.sample(RING, 8, **options).x
    torch.testing.assert_close(unstir.sample(RING, 8, steers=[ScaledNoise(1.0)], **options).x, plain, rtol=0, atol=1e-6)
    torch.testing.assert_close(unstir.sample(RING, 8, steers=[Annealed(1.0, particles=4)], **options).x, plain, rtol=0, atol=1e-6)


def test_it_costs_no_evaluation():
    options = {"solver": "ancestral", "grid": "karras:6"}
    for steers in ([], [ScaledNoise(0.5)], [Annealed(2.0, particles=4)]):
        assert unstir.sample(RING, 8, steers=steers, **options).nfe == 6


def test_samples_do_not_see_each_other():
    assert invariance(RING, grid="karras:5", solver="ancestral", steers=[ScaledNoise(0.5)]).same


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ScaledNoise(0.0), "positive"),
        (lambda: Annealed(-1.0), "positive"),
        (lambda: Annealed(2.0, keys=("class",)), "no unconditional branch"),
        (lambda: unstir.sample(RING, 2, solver="dpm++2m-sde", steers=[ScaledNoise(0.5)]), "DDIM family"),
    ],
)
def test_what_it_cannot_do_is_refused(make, says):
    with pytest.raises(UserError, match=says):
        make()
