"""Posterior methods: independent samples, bad input, projections, DDRM's coordinates, RED-diff's fixed point, truncated starts, GMRES."""

import math
import warnings

import pytest
import torch

from unstir import sample
from unstir.certify import GaussianOracle, gm4, lg3
from unstir.certify.distances import energy_distance
from unstir.certify.posterior import methods
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import DDNM, MMPS, TMPD, Guide, PiGDM
from unstir.operator import Dense, Diagonal, Mask, conjugate_gradients, gmres, singular
from unstir.posterior import DAPS, REDDiff, difface
from unstir.process import EDM, OUVE, VP, VPCosine
from unstir.solver import DDIM
from unstir.steer import DDRM, AdmmTV, EnsembleKalman, Moment, Projection

PROBLEM = lg3()
A, Y = Dense(PROBLEM.matrix), PROBLEM.y


class Shrink(Denoiser):
    """Elementwise, nonlinear and differentiable: a sample's bits cannot depend on its batch here."""

    def __init__(self, process=None):
        super().__init__(process or EDM(), (2, 3))

    def forward(self, x, t, condition=None):
        sigma = torch.as_tensor(self.process.sigma(t)).reshape(-1, 1, 1).to(x.dtype)
        return torch.tanh(x / (1 + sigma**2))


def states(batch, *shape, dtype=torch.float64, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


MASK = Mask(torch.tensor([[1, 0, 1], [0, 1, 1]]))
YS = states(4, 2, 3, seed=2) * torch.tensor([1.0, 50.0, 1e-3, 1.0], dtype=torch.float64).view(4, 1, 1)


class Coupled(Guide):
    """A planted fault: the norm of the residual runs over the whole batch."""

    exactness = "none"

    def __init__(self, operator, y):
        self.operator, self.y = operator, y

    def estimate(self, denoiser, x, t, condition):
        x0 = denoiser(x, t, condition)
        residual = condition["y"] - self.operator(x0)
        return x0 + self.operator.adjoint(residual) / residual.norm()


GUIDES = {
    "mmps": MMPS(MASK, "y", 0.1),
    "mmps-cg": MMPS(MASK, "y", 0.1, method="cg"),
    "tmpd": TMPD(MASK, "y", 0.1),
    "pigdm": PiGDM(MASK, "y", 0.1),
    "ddnm": DDNM(MASK, "y"),
}
STEERS = {
    "projection": Projection(MASK, YS),
    "ddrm": DDRM(MASK, YS, 0.1),
    "red-diff": REDDiff(MASK, YS, 0.1),
    "daps": DAPS(MASK, YS, 0.1),
    "daps-langevin": DAPS(MASK, YS, 0.1, langevin=3),
    "ensemble-kalman": EnsembleKalman(MASK, YS, 0.1, particles=2),
}


def run(denoiser, batch, *, guide=None, steer=None):
    solver = "decoupled" if isinstance(steer, DAPS) else "ancestral"
    return sample(
        denoiser, 4, batch=batch, solver=solver, grid="karras:4", guides=[guide] if guide else [], steers=[steer] if steer else [],
        condition={"y": YS} if guide else None,
    ).x  # fmt: skip


@pytest.mark.parametrize("name", [*GUIDES, *STEERS])
def test_a_harder_problem_beside_it_changes_no_bit_of_a_sample(name):
    options = {"guide": GUIDES[name]} if name in GUIDES else {"steer": STEERS[name]}
    least = 2 if name == "ensemble-kalman" else 1  # particles of one problem belong together
    together, alone = run(Shrink(), 4, **options), run(Shrink(), least, **options)
    if name == "ensemble-kalman":  # a batched decomposition of matrices may round differently
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    else:
        assert torch.equal(together, alone)


def test_a_guide_that_couples_its_batch_is_caught():
    coupled = Coupled(MASK, "y")
    assert not torch.equal(run(Shrink(), 4, guide=coupled), run(Shrink(), 1, guide=coupled))


@pytest.mark.parametrize("name", sorted(methods()))
def test_every_posterior_method_says_how_exact_it_is_and_refuses_bad_measurements(name):
    (made,) = next(iter(value for key, value in methods()[name]().items() if key != "solver"))
    assert made.exactness.startswith(("exact", "biased", "that of MMPS"))
    bad = torch.tensor([[math.nan, 0.0]], dtype=torch.float64)
    noise = {"noise": 0.3} if name in ("mcgdiff", "fps") else {}
    with pytest.raises(UserError, match="not finite"):
        type(made)(A, bad, **noise)
    if name != "ensemble-kalman":  # whose operator may be any function, and is asked at the first step
        with pytest.raises(UserError, match="has shape"):
            type(made)(A, torch.zeros(1, 3), **noise)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: MMPS(A, Y, -0.1), "noise of a measurement"),
        (lambda: MMPS(A, Y, torch.tensor([0.1, -0.1])), "noise of a measurement"),
        (lambda: PiGDM(A, Y, math.inf), "noise of a measurement"),
        (lambda: MMPS(A, Y, 0.1, method="lu"), "'gmres' or 'cg'"),
        (lambda: MMPS(A, Y, 0.1, iterations=0), "iterations >= 1"),
        (lambda: PiGDM(A, Y, 0.1, std=0.0), "std above 0"),
        (lambda: TMPD(A, Y, 0.1).wrap(PROBLEM.prior())({"a": states(1, 3)}, 0.7), "dict of leaves"),
        (lambda: DDNM(A, "y").wrap(PROBLEM.prior())(states(1, 3), 0.7), "condition"),
        (lambda: Projection(A, Y, mode="once"), "mode of a Projection"),
        (lambda: DDRM(A, Y, -1.0), "DDRM needs"),
        (lambda: DDRM(A, Y, 0.1, eta=1.5), "DDRM needs"),
        (lambda: REDDiff(A, Y, 0.0), "RED-diff needs"),
        (lambda: DAPS(A, Y, 0.0), "DAPS needs"),
        (lambda: EnsembleKalman(A, Y[None], 0.1, particles=1), "at least 2 particles"),
        (lambda: sample(PROBLEM.prior(), 3, steers=[EnsembleKalman(A, Y[None], 0.1, particles=2)]), "multiple of the 2 particles"),
        (lambda: sample(PROBLEM.prior(), 2, steers=[EnsembleKalman(A, states(1, 3), 0.1, particles=2)]), "must have shape"),
        (lambda: singular(Dense(torch.eye(2, dtype=torch.complex64))), "complex"),
        (lambda: gmres(lambda v: v, Y[None], iterations=-1), "iterations >= 0"),
    ],
)
def test_a_posterior_method_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


@pytest.mark.parametrize("guide", [MMPS, TMPD, PiGDM])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_an_operator_that_sees_nothing_returns_the_prior_and_warns(guide, noise):
    with pytest.warns(UserWarning, match="samples follow the prior"):
        blind = guide(Dense(torch.zeros(2, 3, dtype=torch.float64)), Y, noise)
    x = states(2, 3)
    assert torch.equal(blind.wrap(PROBLEM.prior())(x, 0.7), PROBLEM.prior()(x, 0.7))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        guide(A, Y, noise)


def test_noise_may_differ_from_value_to_value():
    y = torch.tensor([1.2, -0.4], dtype=torch.float64)
    levels = torch.tensor([0.1, 2.0], dtype=torch.float64)
    exact = type(PROBLEM)(PROBLEM.prior_mean, PROBLEM.prior_cov, PROBLEM.matrix, torch.diag(levels**2), y)
    x = states(3, 3)
    torch.testing.assert_close(MMPS(A, y, levels).wrap(exact.prior())(x, 0.7), exact.posterior()(x, 0.7), rtol=1e-6, atol=1e-6)


def test_guides_of_a_likelihood_evaluate_the_network_once():
    class Counting(Shrink):
        calls = 0

        def forward(self, x, t, condition=None):
            self.calls += 1
            return super().forward(x, t, condition)

    for guide in GUIDES.values():
        denoiser = Counting()
        guide.wrap(denoiser)(states(4, 2, 3), 0.7, {"y": YS})
        assert denoiser.calls == 1


def test_at_pure_noise_a_likelihood_guide_changes_nothing():
    oracle = PROBLEM.prior(VPCosine())
    assert torch.equal(MMPS(A, Y, 0.3).wrap(oracle)(states(2, 3), 1.0), oracle(states(2, 3), 1.0))


# ---- GMRES and singular coordinates


def test_gmres_solves_what_is_not_symmetric_where_conjugate_gradients_cannot():
    turn = torch.tensor([[0.1, 1.0, 0], [-1.0, 0.1, 0], [0, 0.5, 2.0]], dtype=torch.float64)
    rhs = states(4, 3)
    found, report = gmres(lambda v: v @ turn.T, rhs, iterations=3)
    torch.testing.assert_close(found @ turn.T, rhs)
    assert report.residual.max() < 1e-12
    wrong, _ = conjugate_gradients(lambda v: v @ turn.T, rhs, iterations=3)
    assert (wrong @ turn.T - rhs).norm() > 0.1


def test_gmres_stops_each_sample_by_itself_and_survives_what_is_singular():
    scale = torch.tensor([1.0, 2.0, 3.0, 0.0], dtype=torch.float64)
    rhs = torch.eye(4, dtype=torch.float64)
    rhs[1, 2] = 1.0
    found, report = gmres(lambda v: v * scale, rhs, iterations=10, tolerance=1e-9)
    assert report.iterations.tolist() == [1, 2, 1, 0]
    torch.testing.assert_close(found[:3] * scale, rhs[:3])
    assert torch.isfinite(found).all()
    assert not gmres(lambda v: v * scale, torch.zeros(2, 4), iterations=3)[0].any()
    for i in range(4):
        assert torch.equal(gmres(lambda v: v * scale, rhs[i : i + 1], iterations=10, tolerance=1e-9)[0], found[i : i + 1])


@pytest.mark.parametrize("operator", [A, MASK, Diagonal(torch.tensor([2.0, -1.0, 0.0])), Dense(torch.ones(2, 3))], ids=repr)
def test_singular_coordinates_decouple_the_measurement(operator):
    svd, x = singular(operator), states(3, *operator.shape_in)
    torch.testing.assert_close(svd.state(svd.coordinates(x)), x)
    torch.testing.assert_close(svd.measured(operator(x)), svd.coordinates(x) * (svd.values > 0))
    assert float(svd.values.max() ** 2) == pytest.approx(operator.norm_sq(), rel=1e-5)


# ---- steers


def test_a_projection_meets_a_measurement_without_noise_and_keeps_the_rest():
    drawn = sample(PROBLEM.prior(), 50, solver="ancestral", grid="karras:30", steers=[Projection(A, Y)])
    torch.testing.assert_close(A(drawn.x), Y.expand(50, 2))
    assert drawn.x.std(0).min() > 0.05


def test_a_projection_by_a_mask_writes_only_what_is_measured():
    y = states(1, 2, 3, seed=4)
    keywords = {"solver": "ddim", "grid": [5.0, 0.5], "start": (states(3, 2, 3), 5.0)}
    free = sample(Shrink(), 3, **keywords).x
    projected = sample(Shrink(), 3, steers=[Projection(MASK, y)], **keywords).x
    assert torch.equal(projected[:, ~MASK.mask], free[:, ~MASK.mask])
    noise = (projected - y)[:, MASK.mask] / 0.5
    assert 0.3 < float(noise.std()) < 2.0  # 12 unit normals
    assert not torch.equal(noise[0], noise[1])


@pytest.mark.parametrize("process", [EDM(), VP(), OUVE()])
def test_ddrm_and_projections_run_on_any_process(process):
    condition = {"anchor": torch.zeros(1, 3, dtype=torch.float64)} if process.anchored else None
    for steer in (DDRM(A, Y, 0.05), Projection(A, Y), REDDiff(A, Y, 0.1)):
        found = sample(PROBLEM.prior(process), 200, solver="ddim", grid="karras:40", steers=[steer], condition=condition).x
        assert (A(found).mean(0) - Y).abs().max() < 0.1


def test_ddrm_without_noise_in_the_measurement_meets_it():
    found = sample(PROBLEM.prior(), 10, solver="ddim", grid="karras:20", steers=[DDRM(A, Y)]).x
    torch.testing.assert_close(A(found), Y.expand(10, 2))


@pytest.mark.parametrize("lam", [0.0, 0.25, 2.0])
@pytest.mark.parametrize("power", [1.0, 0.5])
def test_red_diff_ends_at_its_closed_form_fixed_point(lam, power):
    # all steps at nearly one noise level, so that one weight counts; the gradient's noise is symmetric, and 400 means average it
    sigma, steps, noise = 0.7, 600, 0.5
    times = [sigma * (1 - 1e-6 * i) for i in range(steps + 1)]
    steer = REDDiff(A, Y, noise, lam=lam, power=power, rate=0.01)
    start = (torch.zeros(400, 3, dtype=torch.float64), times[0])
    found = sample(PROBLEM.prior(), 400, solver="ddim", grid=times, steers=[steer], start=start).x
    m, c, a = PROBLEM.prior_mean, PROBLEM.prior_cov, PROBLEM.matrix
    prior = lam * sigma**power * sigma * torch.linalg.inv(c + sigma**2 * torch.eye(3, dtype=torch.float64))
    if lam:
        exact = m + torch.linalg.solve(a.T @ a / noise**2 + prior, a.T @ (Y - a @ m) / noise**2)
        torch.testing.assert_close(found.mean(0), exact, rtol=0, atol=0.02)  # 600 steps of .01, noise of Adam's steps over sqrt(400)
        assert (exact - PROBLEM.posterior_mean).norm() > 0.02  # and that is not the posterior mean
    else:
        torch.testing.assert_close(A(found), Y.expand(400, 2), rtol=0, atol=1e-3)


def test_red_diff_seeks_a_point_of_high_density_with_the_residual_at_the_noise():
    steer = REDDiff(A, Y, 0.3, lam=0.25, rate=0.05)
    found = sample(PROBLEM.prior(), 64, solver="ddim", grid="log-snr:400,sigma_max=20,sigma_min=0.01", steers=[steer]).x
    assert float((A(found) - Y).norm(dim=1).mean()) < 2 * 0.3
    assert float(torch.cov(found.T).trace()) < 0.1 * float(torch.trace(PROBLEM.posterior_cov))  # no posterior spread


# ---- truncated starts


def test_an_error_of_the_restorer_is_contracted_by_the_law_of_its_start():
    cov = torch.diag(torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64))
    process, mean = VP(), torch.zeros(3, dtype=torch.float64)
    oracle = GaussianOracle(mean, cov, process)
    found = []
    for t in (0.2, 0.5, 0.8):
        restored = states(1, 3).expand(2, 3) + torch.tensor([[0.0], [1.0]], dtype=torch.float64) * torch.ones(3, dtype=torch.float64)
        state, time = difface(oracle, restored, t, seed=0)
        noise = state - float(process.alpha(t)) * restored
        state = float(process.alpha(t)) * restored + noise[:1]  # one noise for both, so that only the error differs
        ends = sample(oracle, 2, solver="f3", grid="log-snr:400,sigma_min=0.0001", start=(state, time)).x
        alpha, sigma, v = float(process.alpha(t)), float(process.sigma(t)), cov.diagonal()
        torch.testing.assert_close(ends[1] - ends[0], alpha * torch.sqrt(v / (alpha**2 * v + sigma**2)), rtol=2e-3, atol=1e-4)
        found.append(float((ends[1] - ends[0]).norm()))
    assert found == sorted(found, reverse=True)


def test_a_start_chosen_on_held_out_pairs_beats_the_restorer_alone():
    prior, noise = gm4(VP()), 0.6
    truth = gm4().marginal(2000, 0.0, seed=1)
    y = truth + noise * states(2000, 2, seed=2)
    restored = gm4()(y, noise)  # least squares: too little spread
    reference = gm4().marginal(2000, 0.0, seed=3)

    def distance(t, part):
        state, time = difface(prior, restored[part], t, seed=4)
        made = sample(prior, state.shape[0], solver="dpm++2m", grid="log-snr:20", start=(state, time)).x
        return energy_distance(made, reference[part])

    held_out, rest = slice(0, 1000), slice(1000, 2000)
    times = (0.15, 0.25, 0.4)
    best = min(times, key=lambda t: distance(t, held_out))
    assert distance(best, rest) < energy_distance(restored[rest], reference[rest]) / 3


def test_a_truncated_start_is_keyed_by_sample_and_refuses_bad_input():
    oracle, restored = gm4(VP()), states(3, 2)
    both, _ = difface(oracle, restored, 0.5, seed=1)
    one, _ = difface(oracle, restored[:1], 0.5, seed=1)
    assert torch.equal(both[:1], one)
    with pytest.raises(UserError, match="not finite"):
        difface(oracle, restored * math.nan, 0.5)
    with pytest.raises(UserError, match="must lie between"):
        difface(oracle, restored, 5.0)


# ---- DiffusionMBIR's limit


def test_without_total_variation_the_slices_of_a_volume_are_solved_apart():
    volume, weights = states(1, 4, 3), torch.linspace(0.5, 2, 12, dtype=torch.float64).reshape(4, 3)
    operator = Diagonal(weights)
    y = operator(volume)
    moment = Moment(DDIM().plan(EDM(), [0.7, 0.0])[0], torch.zeros_like(volume), EDM())
    free = AdmmTV(operator, y, lam=1e-9, rho=0.1, outer=300, cg=12).after(torch.zeros_like(volume), moment)
    torch.testing.assert_close(free, volume, rtol=1e-5, atol=1e-6)  # each voxel its own least squares, as lam tends to 0
    tied = AdmmTV(operator, y, lam=5.0, rho=0.1, outer=300, cg=12).after(torch.zeros_like(volume), moment)
    assert tied.diff(dim=1).abs().mean() < 0.2 * volume.diff(dim=1).abs().mean()
