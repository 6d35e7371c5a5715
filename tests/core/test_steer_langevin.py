"""Annealed MCMC: what each kind leaves invariant, and the repair of products of laws."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import energy_distance, weights_distance
from unstir.certify.oracles import GaussianOracle, MixtureOracle
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import Product
from unstir.process import EDM, OUVE, VP
from unstir.solver import DDIM
from unstir.steer import AnnealedMCMC


def product(a, b):
    """The product of two mixtures, a mixture again."""
    weights, means, stds = [], [], []
    for i in range(len(a.means)):
        for j in range(len(b.means)):
            u, v, apart = a.variances[i], b.variances[j], a.means[i] - b.means[j]
            weights.append(math.exp(float(a.log_weights[i] + b.log_weights[j] - 0.5 * (apart**2 / (u + v) + torch.log(u + v)).sum())))
            means.append((a.means[i] / u + b.means[j] / v) / (1 / u + 1 / v))
            stds.append((1 / (1 / u + 1 / v)).sqrt())
    return MixtureOracle(weights, torch.stack(means), torch.stack(stds))


FIRST = MixtureOracle([0.3, 0.7], [[-2.0, 0.0], [2.0, 0.0]], [[0.6, 1.0], [0.6, 1.0]])
SECOND = MixtureOracle([0.8, 0.2], [[-1.5, 1.5], [1.5, -1.5]], [[1.0, 0.5], [0.6, 0.5]])
BOTH = product(FIRST, SECOND)
COUNT = 800


def drawn(steps, **options):
    steer = AnnealedMCMC(steps, **options)
    return unstir.sample(FIRST, COUNT, solver=DDIM(eta=1.0), grid="logsnr:24", guides=[Product([SECOND], [1.0])], steers=[steer], seed=4)


@pytest.fixture(scope="module")
def plain():
    return energy_distance(drawn(0).x, BOTH.marginal(3000, 0.0, seed=3))


def test_a_solver_alone_does_not_sample_a_product_and_two_moves_a_level_nearly_do(plain):
    # as in the table of reference numbers, where two moves lower the distance tenfold and ten a hundredfold
    two = energy_distance(drawn(2, data_std=0.5).x, BOTH.marginal(3000, 0.0, seed=3))
    assert plain > 0.1
    assert two < plain / 5


def test_ten_metropolis_moves_a_level_give_the_law_and_the_weights_of_the_intersections(plain):
    samples = drawn(10, kind="mala", size=0.2, data_std=0.5)
    distance = energy_distance(samples.x, BOTH.marginal(3000, 0.0, seed=3))
    assert distance < 0.005  # between two exact draws of these sizes it scatters by about .002
    assert distance < plain / 30
    assert weights_distance(samples.x, BOTH) < 0.05  # 800 draws of the weights (.57, .00, .02, .42) scatter by .02
    assert samples.info["acceptance"].shape == (COUNT,)
    assert 0.8 < samples.info["acceptance"].mean() < 1.0


def test_hamiltonian_moves_do_it_in_fewer(plain):
    assert energy_distance(drawn(2, kind="hmc", size=0.1, data_std=0.5).x, BOTH.marginal(3000, 0.0, seed=3)) < plain / 20


# ---- one level, one normal law: what every kind leaves as it is


def walked(kind, count=3000, steps=12, size=0.7, law=None, process=None, **options):
    """Exact draws at rho = 1, walked there; x/alpha is given back."""
    law = law or GaussianOracle(torch.zeros(1), torch.full((1,), 0.5), process or EDM())
    process = law.process
    t = float(process.time_at_rho(1.0))
    start = (law.marginal(count, float(process.time_at_rho(1.001)), seed=2), float(process.time_at_rho(1.001)))
    steer = AnnealedMCMC(steps, kind=kind, size=size, data_std=0.7, low=0.999, high=1.0005, **options)
    grid = [start[1], t, 0.0]
    samples = unstir.sample(law, count, solver="ddim", grid=grid, start=start, steers=[steer], trace=True)
    return samples, samples.path[1] / float(process.alpha(t))


@pytest.mark.parametrize("kind", ["mala", "hmc"])
@pytest.mark.parametrize("differences", ["density", "path"])
@pytest.mark.parametrize("process", [EDM(), VP()], ids=["edm", "vp"])
def test_metropolis_moves_leave_a_normal_law_as_it_is_however_long_they_are(kind, differences, process):
    samples, x = walked(kind, differences=differences, process=process)
    assert samples.info["acceptance"].mean() < 0.97  # moves long enough to be refused at times
    assert abs(x.var().item() / 1.5 - 1) < 0.08  # three standard errors of a variance from 3000 draws


def test_unadjusted_moves_inflate_a_normal_law_by_what_theory_says():
    # x' = (1 - d/v) x + sqrt(2 d) z settles at v/(1 - d/(2 v)); d = .7 (1 + .49), v = 1.5
    _, x = walked("ula", steps=25)
    length = 0.7 * 1.49
    assert abs(x.var().item() / (1.5 / (1 - length / 3)) - 1) < 0.08
    assert x.var().item() / 1.5 > 1.3


def test_path_differences_are_exact_for_normal_laws():
    exact, path = (walked("mala", count=50, differences=d) for d in ("density", "path"))
    torch.testing.assert_close(path[1], exact[1], rtol=0, atol=1e-12)


def test_a_mixture_keeps_its_weights_under_metropolis_moves():
    law = MixtureOracle([0.3, 0.7], [[-3.0], [3.0]], [[0.3], [0.3]])
    _, x = walked("mala", law=law, steps=10, size=0.4)
    assert abs((x < 0).double().mean().item() - 0.3) < 0.03  # three standard errors


def test_hmc_keeps_energy_better_with_shorter_leaps():
    rates = [walked("hmc", size=size, count=400)[0].info["acceptance"].mean().item() for size in (0.05, 0.4, 1.6)]
    assert rates == sorted(rates, reverse=True)
    assert rates[0] > 0.98
    assert rates[2] < 0.9


@pytest.mark.parametrize("kind", ["ula", "mala", "hmc"])
def test_evaluations_are_counted_and_no_move_is_made_at_the_end(kind):
    solver = DDIM()
    plain = unstir.sample(FIRST, 2, solver=solver, grid="karras:4").nfe
    walked_ = unstir.sample(FIRST, 2, solver=solver, grid="karras:4", steers=[AnnealedMCMC(2, kind=kind, leaps=3)]).nfe
    a_level = {"ula": 2, "mala": 3, "hmc": 7}[kind]
    assert walked_ == plain + 4 * a_level  # at the start and after three of the four steps


def test_no_moves_are_the_solver_bit_for_bit():
    plain, none = (unstir.sample(FIRST, 3, grid="karras:6", steers=steers).x for steers in ([], [AnnealedMCMC(0)]))
    assert torch.equal(plain, none)


@pytest.mark.parametrize("kind", ["ula", "mala", "hmc"])
def test_a_sample_accepts_or_not_whoever_is_beside_it(kind):
    steer = AnnealedMCMC(3, kind=kind, size=0.5, differences="path" if kind == "hmc" else "density")
    assert invariance(FIRST, guides=[Product([SECOND], [1.0])], steers=[steer], grid="karras:6", solver="ddim").passed


def test_an_anchored_process_walks_around_its_anchor():
    law = GaussianOracle(torch.zeros(2), torch.ones(2), OUVE())
    condition = {"anchor": torch.full((400, 2), 3.0, dtype=torch.float64)}
    steers = [AnnealedMCMC(3, kind="mala", size=0.3)]
    x = unstir.sample(law, 400, solver="ddim:eta=1", grid="uniform:20", condition=condition, steers=steers).x
    plain = unstir.sample(law, 400, solver="ddim:eta=1", grid="uniform:20", condition=condition).x
    # the prior of OUVE leaves a little of the anchor; moves forget it
    assert x.mean().abs() < plain.mean().abs() + 0.1
    assert x.mean().abs() < 0.15
    assert abs(x.var().item() - 1) < 0.2


class ScoreOnly(Denoiser):
    """An exact denoiser that keeps its density to itself."""

    def __init__(self):
        super().__init__(EDM(), (2,))

    def forward(self, x, t, condition=None):
        return FIRST(x, t)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: AnnealedMCMC(kind="gibbs"), "'ula', 'mala' or 'hmc'"),
        (lambda: AnnealedMCMC(differences="none"), "'density' or 'path'"),
        (lambda: AnnealedMCMC(size=0.0), "positive size"),
        (lambda: AnnealedMCMC(-1), "steps >= 0"),
        (lambda: AnnealedMCMC(low=2.0, high=1.0), "low < high"),
        (lambda: unstir.sample(ScoreOnly(), 2, grid="karras:4", steers=[AnnealedMCMC(1, kind="mala")]), "no log-density"),
    ],
)
def test_annealed_mcmc_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


def test_without_a_density_the_path_decides():
    x = unstir.sample(ScoreOnly(), 50, grid="karras:8", steers=[AnnealedMCMC(2, kind="mala", differences="path", data_std=0.6)]).x
    assert torch.isfinite(x).all()
