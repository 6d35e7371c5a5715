"""Oracles: golden numbers of GM4 and LG3, and the identities that tie denoiser, score, density and flow together."""

import numpy as np
import pytest
import torch

from unstir.certify import GaussianOracle, JointOracle, MixtureOracle, gm4, gm4_points, lg3
from unstir.errors import UserError
from unstir.process import EDM, OUVE, SBVE, VE, VP, Joint, MeanReverting, RectifiedFlow, SubVP, VPCosine, VPTable

PROCESSES = [
    EDM(),
    VE(),
    VP(),
    SubVP(),
    VPCosine(),
    VPTable(),
    VPTable(zero_terminal=True),
    RectifiedFlow(3.0),
    OUVE(),
    MeanReverting(),
    SBVE(),
]
every_process = pytest.mark.parametrize("process", PROCESSES, ids=repr)
POINTS = torch.tensor([[0.3, -0.4], [1.5, 1.0], [-2.0, 0.7]], dtype=torch.float64)
ANCHOR = {"anchor": torch.tensor([[0.4, -0.6]], dtype=torch.float64)}


def laws(process=None):
    # A full, a diagonal and a degenerate covariance, and a mixture of matrices.
    cov = torch.tensor([[1.0, 0.6], [0.6, 0.5]], dtype=torch.float64)
    return [gm4(process), GaussianOracle([0.5, -0.3], cov, process), GaussianOracle([0.5, -0.3], [0.2, 1.5], process)]


def middle(process):
    return float(process.t_min + 0.4 * (process.t_max - process.t_min)) if not isinstance(process, EDM) else 0.7


# GM4


def test_gm4_denoises_to_its_golden_numbers():
    law = gm4()
    expected = {
        0.05: [[0.25731594, -0.43452699], [1.48076922, 0.90000001], [-1.88, 0.70540541]],
        0.5: [[0.45627127, -0.31938566], [1.09882044, 0.51552007], [-0.89878498, 0.84467769]],
        3.0: [[0.17575487, 0.17041586], [0.27328706, 0.25732739], [-0.01301561, 0.25039846]],
    }
    for sigma, estimate in expected.items():
        np.testing.assert_allclose(law(POINTS, sigma), estimate, rtol=0, atol=6e-9)


def test_gm4_has_its_golden_densities_and_moments():
    law = gm4()
    np.testing.assert_allclose(law.log_density(POINTS, 0.0), [-12.72682310, -13.56528830, -32.16297930], rtol=0, atol=6e-9)
    np.testing.assert_allclose(law.log_density(POINTS, 0.5), [-2.73106638, -2.37402481, -4.55192572], rtol=0, atol=6e-9)
    np.testing.assert_allclose(law.log_density(POINTS, 0.002), [-12.725664, -13.560394, -32.157393], rtol=0, atol=6e-7)
    torch.testing.assert_close(law.mean, torch.tensor([0.15, 0.20], dtype=torch.float64))
    torch.testing.assert_close(law.cov, torch.tensor([[0.74125, -0.009], [-0.009, 0.60325]], dtype=torch.float64))


def test_the_flow_of_gm4_ends_at_its_golden_points():
    start = torch.tensor([[80.0, 0], [0, 80], [-60, 40], [30, -90]], dtype=torch.float64)
    expected = [[1.12160147, 0.46214095], [0.37842767, 0.64475081], [-0.79713938, 0.88144656], [0.79797074, -0.84671004]]
    np.testing.assert_allclose(gm4().transport(start, 80.0, 0.002, steps=2000), expected, rtol=0, atol=6e-9)


def test_the_flow_conserves_probability():
    """log p_t(x_t) = log p_s(x_s) + log |det dx_s/dx_t|, with the Jacobian by automatic differentiation."""
    law, t, s = gm4(), 2.0, 0.3
    for point in POINTS:
        jacobian = torch.autograd.functional.jacobian(lambda x: law.transport(x[None], t, s, steps=200)[0], point)
        end = law.transport(point[None], t, s, steps=200)
        change = torch.linalg.slogdet(jacobian).logabsdet
        torch.testing.assert_close(law.log_density(point[None], t), law.log_density(end, s) + change, rtol=1e-7, atol=1e-7)


def test_the_benchmark_points_are_the_published_ones():
    """g = Generator(Philox(0)): first all normals, then the components."""
    points = gm4_points(80.0)
    assert points.shape == (512, 2)
    g = np.random.Generator(np.random.Philox(0))
    z, k = g.standard_normal((512, 2)), g.choice(4, size=512, p=[0.4, 0.3, 0.2, 0.1])
    std = np.array([[0.25, 0.10], [0.15, 0.30], [0.20, 0.20], [0.10, 0.35]])[k]
    mean = np.array([[1, 0.5], [-0.8, 0.9], [-0.5, -1], [0.9, -0.7]])[k]
    np.testing.assert_allclose(points, mean + np.sqrt(std**2 + 80.0**2) * z, rtol=1e-14)


# LG3


def test_lg3_has_its_golden_posterior():
    problem = lg3()
    np.testing.assert_allclose(problem.posterior_mean, [1.115469, 0.069115, 0.445183], rtol=0, atol=6e-7)
    cov = [[0.090774, -0.048464, -0.036778], [-0.048464, 0.1679, 0.137324], [-0.036778, 0.137324, 0.18767]]
    np.testing.assert_allclose(problem.posterior_cov, cov, rtol=0, atol=6e-7)
    assert problem.log_evidence == pytest.approx(-2.3219235384, abs=1e-10)


def test_lg3_denoises_to_its_golden_numbers():
    """At x_t = (1, -1, .5), sigma = .7: the prior's estimate, its Jacobian, and the exact posterior's estimate E[x0 | x_t, y]."""
    problem, x = lg3(), torch.tensor([[1.0, -1.0, 0.5]], dtype=torch.float64)
    np.testing.assert_allclose(problem.prior()(x, 0.7)[0], [0.682033, -0.576369, 0.372960], rtol=0, atol=6e-7)
    np.testing.assert_allclose(problem.posterior()(x, 0.7)[0], [1.155483, -0.149802, 0.296517], rtol=0, atol=6e-7)
    jacobian = torch.autograd.functional.jacobian(lambda state: problem.prior()(state, 0.7)[0], x)[:, 0]
    expected = [[0.587176, 0.187011, 0.064509], [0.187011, 0.532441, 0.009448], [0.064509, 0.009448, 0.491064]]
    np.testing.assert_allclose(jacobian, expected, rtol=0, atol=6e-7)


def test_the_posterior_of_lg3_is_bayes_rule():
    """log p(x0) + log p(y | x0) - log p(y) = log p(x0 | y) at any x0."""
    problem, x0 = lg3(), torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    likelihood = torch.distributions.MultivariateNormal(x0 @ problem.matrix.mT, problem.noise_cov).log_prob(problem.y)
    left = problem.prior().log_density(x0, 0.0) + likelihood - problem.log_evidence
    torch.testing.assert_close(left, problem.posterior().log_density(x0, 0.0))


# Identities, on every process


@every_process
def test_score_is_the_gradient_of_the_density(process):
    """And by Tweedie's formula the denoiser is (z + sigma^2 score)/alpha."""
    t = middle(process)
    for law in laws(process):
        x = POINTS.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(law.log_density(x, t, ANCHOR).sum(), x)
        torch.testing.assert_close(law.score(POINTS, t, ANCHOR), gradient, rtol=1e-9, atol=1e-9)


@every_process
def test_the_law_on_one_process_is_the_law_on_another(process):
    """The density of x/alpha on any process is that on EDM at equal sigma/alpha, but for the change of units."""
    t = middle(process)
    rho, alpha = float(process.rho(t)), float(process.alpha(t))
    for law in laws(process):
        x = alpha * POINTS + process.beta(t) * ANCHOR["anchor"]
        torch.testing.assert_close(law(x, t, ANCHOR), law.with_process(EDM())(POINTS, rho), rtol=1e-9, atol=1e-9)
        density = law.with_process(EDM()).log_density(POINTS, rho) - 2 * np.log(alpha)
        torch.testing.assert_close(law.log_density(x, t, ANCHOR), density, rtol=1e-9, atol=1e-9)


@every_process
def test_both_ends_are_exact(process):
    """At sigma = 0 the state is clean; where alpha = 0 only the mean of the data is known."""
    for law in laws(process):
        torch.testing.assert_close(law(POINTS, process.t_zero, ANCHOR), POINTS)
        if float(process.alpha(process.t_max)) == 0:
            x = POINTS if process.sigma(process.t_max) > 0 else ANCHOR["anchor"].expand(3, 2)
            torch.testing.assert_close(law(x, process.t_max, ANCHOR), law.mean.expand(3, 2))


@every_process
def test_one_time_a_sample_is_the_same_as_one_time_for_all(process):
    t = torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64) * process.t_max
    for law in laws(process):
        for verb in (law, law.score, law.log_density):
            each = torch.cat([verb(POINTS[i : i + 1], float(t[i]), ANCHOR) for i in range(3)])
            torch.testing.assert_close(verb(POINTS, t, ANCHOR), each, rtol=1e-10, atol=1e-10)


@every_process
def test_exact_draws_have_the_exact_moments(process):
    """40000 draws: the mean within 5 standard errors, the covariance within 5 % of its scale."""
    t, count = middle(process), 40000
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    for law in laws(process):
        x = law.marginal(count, t, seed=1, anchor=ANCHOR["anchor"])
        cov = law.cov if law.cov.ndim == 2 else torch.diag(law.cov)
        expected = alpha**2 * cov + sigma**2 * torch.eye(2, dtype=torch.float64)
        mean = alpha * law.mean + process.beta(t) * ANCHOR["anchor"][0]
        assert ((x.mean(0) - mean).abs() < 5 * torch.sqrt(expected.diag() / count)).all()
        assert ((x.T.cov() - expected).abs() < 0.05 * expected.diag().max()).all()


@every_process
def test_the_flow_of_normal_data_is_a_straight_scaling(process):
    """The closed form against Runge-Kutta 4 of the general law, and back."""
    t, s = middle(process), float(process.time_at_rho(0.05))
    law = laws(process)[1]
    end = law.transport(POINTS, t, s, ANCHOR)
    torch.testing.assert_close(end, super(GaussianOracle, law).transport(POINTS, t, s, ANCHOR, steps=400), rtol=1e-7, atol=1e-7)
    torch.testing.assert_close(law.transport(end, s, t, ANCHOR), POINTS)


def test_the_prior_of_ouve_misses_the_exact_start_by_its_last_alpha():
    """E[x_1] - y = alpha(1) (E[x_0] - y) with alpha(1) = .223: a bias of the start that no solver mends."""
    law, y = gm4(OUVE()), ANCHOR["anchor"]
    start, count = law.marginal(40000, 1.0, seed=1, anchor=y), 40000
    gap = start.mean(0) - OUVE().prior(y)[0][0]
    error = torch.sqrt(start.var(0) / count)
    assert ((gap - 0.2231301601 * (law.mean - y[0])).abs() < 5 * error).all()
    assert gap.abs().max() > 10 * error.max()


def test_a_mixture_of_one_is_a_gaussian():
    mixture, normal = MixtureOracle([1.0], [[0.5, -0.3]], [[0.4, 1.2]]), GaussianOracle([0.5, -0.3], [0.16, 1.44])
    for sigma in (0.1, 1.0, 10.0):
        torch.testing.assert_close(mixture(POINTS, sigma), normal(POINTS, sigma))
        torch.testing.assert_close(mixture.log_density(POINTS, sigma), normal.log_density(POINTS, sigma))


def test_laws_of_any_shape_and_dtype():
    mean = torch.randn(2, 3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(1))
    t = torch.tensor([0.1, 0.2, 0.5, 1, 2])
    for law in (
        GaussianOracle(mean, torch.ones_like(mean)),
        MixtureOracle([0.3, 0.7], torch.stack([mean, -mean]), torch.ones(2, 2, 3, 4)),
    ):
        for time in (0.3, t):
            assert law(x, time).shape == x.shape
            assert law(x, time).dtype == torch.float32
            assert law.log_density(x, time).shape == (5,)
            torch.testing.assert_close(law(x.double(), time).float(), law(x, time))


def test_certain_data_are_known_at_any_noise():
    """A covariance without rank: in its null space the estimate is the mean."""
    law = GaussianOracle([1.0, 2.0], torch.tensor([[1.0, 1.0], [1.0, 1.0]], dtype=torch.float64))
    estimate = law(torch.tensor([[3.0, -1.0]], dtype=torch.float64), 0.5) - law.mean
    torch.testing.assert_close(estimate[:, 0], estimate[:, 1])


def test_a_joint_oracle_is_its_leaves():
    leaves = {"x": gm4(VP()), "y": lg3().prior(OUVE())}
    joint = JointOracle(leaves)
    x = {"x": POINTS, "y": torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))}
    condition = {"anchor": {"y": torch.zeros(1, 3, dtype=torch.float64)}}
    estimate = joint(x, 0.4, condition)
    assert torch.equal(estimate["x"], leaves["x"](x["x"], 0.4))
    assert torch.equal(estimate["y"], leaves["y"](x["y"], 0.4, {"anchor": torch.zeros(1, 3)}))
    parts = leaves["x"].log_density(x["x"], 0.4) + leaves["y"].log_density(x["y"], 0.4, {"anchor": torch.zeros(1, 3)})
    torch.testing.assert_close(joint.log_density(x, 0.4, condition), parts)
    separate = joint.with_process(Joint({"x": EDM(), "y": VE()}, shared_time=False))
    torch.testing.assert_close(separate(x, {"x": 0.5, "y": 0.3})["x"], gm4()(POINTS, 0.5))
    with pytest.raises(UserError, match="leaves"):
        joint.with_process(VP())


@pytest.mark.parametrize(
    "make",
    [
        lambda: GaussianOracle([0.0, 0.0], torch.ones(3)),
        lambda: GaussianOracle([0.0, 0.0], torch.tensor([[1.0, 2.0], [0.0, 1.0]])),
        lambda: GaussianOracle([0.0, 0.0], torch.tensor([[1.0, 2.0], [2.0, 1.0]])),
        lambda: MixtureOracle([0.5], [[0.0], [1.0]], [[1.0], [1.0]]),
        lambda: MixtureOracle([0.5, 0.5], [[0.0], [1.0]], [[1.0], [0.0]]),
        lambda: gm4().transport(POINTS, 80.0, 0.0),
        lambda: lg3().prior(SBVE()).transport(torch.zeros(1, 3), 1.0, 0.5, {"anchor": torch.zeros(1, 3)}),
    ],
)
def test_an_impossible_law_is_refused_in_a_sentence(make):
    with pytest.raises(UserError):
        make()
