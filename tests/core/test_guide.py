"""Guides: golden gradients, the published placement, skipped evaluations, independent samples."""

import math

import pytest
import torch

from unstir.certify.oracles import lg3
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import CFG, DPS, MMPS, Guided, ProximalData
from unstir.operator import Dense, Mask, Nonlinear
from unstir.process import EDM, OUVE, VP, VPCosine
from unstir.solver import DDIM, Memory

MEAN = torch.tensor([0.5, -0.3, 0.2], dtype=torch.float64)
COVARIANCE = torch.tensor([[1, 0.6, 0.2], [0.6, 0.8, 0.1], [0.2, 0.1, 0.5]], dtype=torch.float64)
A = Dense(torch.tensor([[1, 0.5, 0], [0, 1, -1]], dtype=torch.float64))
Y = torch.tensor([1.2, -0.4], dtype=torch.float64)


class Gaussian(Denoiser):
    """The exact denoiser of a normal law; counts its evaluations."""

    def __init__(self, process, mean=MEAN, covariance=COVARIANCE):
        super().__init__(process, (3,))
        self.mean, self.covariance, self.calls = mean, covariance, 0

    def forward(self, x, t, condition=None):
        self.calls += 1
        alpha, sigma = (torch.as_tensor(v(t)).reshape(-1, 1, 1).to(x.dtype) for v in (self.process.alpha, self.process.sigma))
        total = alpha**2 * self.covariance.to(x.dtype) + sigma**2 * torch.eye(3, dtype=x.dtype)
        gain = alpha * torch.linalg.solve(total, self.covariance.to(x.dtype).expand_as(total))
        return self.mean + ((x - alpha[..., 0] * self.mean).unsqueeze(1) @ gain).squeeze(1)


class Conditional(Denoiser):
    """An elementwise denoiser: shrinks towards the condition's value, or towards 0 without one."""

    def __init__(self, process=None):
        super().__init__(process or EDM(), (2, 3))
        self.seen = []

    def forward(self, x, t, condition=None):
        self.seen.append(condition)
        target = condition["value"].reshape(-1, 1, 1) if condition and "value" in condition else 0.0
        sigma = torch.as_tensor(self.process.sigma(t)).reshape(-1, 1, 1).to(x.dtype)
        return target + (x - target) / (1 + sigma**2)


def states(batch, *shape, dtype=torch.float64, seed=0):
    return torch.randn(batch, *shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# ---- diffusion posterior sampling


def test_the_dps_gradient_is_the_golden_one():
    denoiser = Gaussian(EDM())
    x = torch.tensor([[1, -1, 0.5]], dtype=torch.float64)
    plain = denoiser(x, 0.7)
    torch.testing.assert_close(plain[0], torch.tensor([0.682033, -0.576369, 0.372960], dtype=torch.float64), rtol=0, atol=1e-6)
    moved = DPS(A, Y, weight=1.0).wrap(denoiser)(x, 0.7) - plain
    golden = torch.tensor([0.631483, 0.669045, -0.213991], dtype=torch.float64)
    torch.testing.assert_close(moved[0] / 0.7**2, golden, rtol=0, atol=1e-6)


def test_the_dps_gradient_is_that_of_autograd():
    denoiser, x = Gaussian(VP()), states(4, 3)
    free = x.clone().requires_grad_()
    (expected,) = torch.autograd.grad((Y - A(denoiser(free, 0.4))).norm(dim=1).sum(), free)
    scale = float(VP().sigma(0.4)) ** 2 / float(VP().alpha(0.4))
    guided = DPS(A, Y, weight=0.3).wrap(denoiser)(x, 0.4)
    torch.testing.assert_close(guided, denoiser(x, 0.4) - 0.3 * scale * expected)


def test_dps_evaluates_the_network_once_and_keeps_no_graph():
    denoiser = Gaussian(EDM())
    with torch.inference_mode():
        x = states(2, 3)
        guided = DPS(A, Y).wrap(denoiser)(x, 0.7)
    assert denoiser.calls == 1
    assert not guided.requires_grad
    assert DPS.needs_grad


@pytest.mark.parametrize("solver", [DDIM(), DDIM(eta=1.0), DDIM(eta=0.5, temperature=0.7), DDIM(eta=0.85, kind="dds")])
@pytest.mark.parametrize("process", [VP(), EDM()])
def test_with_a_plan_dps_is_the_published_step_after_the_solver(solver, process):
    times = [process.t_max, process.t_max / 2, process.t_max / 5, 0.0]
    denoiser, plan = Gaussian(process), solver.plan(process, times)
    guided = DPS(A, Y, weight=0.3, plan=plan).wrap(denoiser)
    for row in plan:
        x = row.alpha_t * MEAN + row.sigma_t * states(3, 3)
        z = states(3, 3, seed=1)
        free = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((Y - A(denoiser(free, row.t))).norm(dim=1).sum(), free)
        published = solver.step(x.clone(), row, denoiser, Memory(lambda z=z: z)) - 0.3 * gradient
        torch.testing.assert_close(solver.step(x.clone(), row, guided, Memory(lambda z=z: z)), published)


def test_a_plan_of_another_grid_is_refused():
    guided = DPS(A, Y, plan=DDIM().plan(EDM(), [80.0, 1.0, 0.0])).wrap(Gaussian(EDM()))
    with pytest.raises(UserError, match="no row .* for time 2.0"):
        guided(states(1, 3), 2.0)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_harder_problem_beside_it_does_not_change_a_dps_sample(dtype):
    denoiser = Conditional()
    operator = Mask(torch.tensor([[1, 0, 1], [0, 1, 1]]))
    x = states(3, 2, 3, dtype=dtype) * torch.tensor([1.0, 50.0, 1.0], dtype=dtype).view(3, 1, 1)
    condition = {"value": torch.tensor([1.0, 2.0, 3.0], dtype=dtype), "measurement": states(3, 2, 3, seed=2, dtype=dtype)}
    guided = DPS(operator, "measurement", weight=2.0).wrap(denoiser)
    together = guided(x, 0.7, condition)
    for i in range(3):
        alone = guided(x[i : i + 1], 0.7, {key: value[i : i + 1] for key, value in condition.items()})
        assert torch.equal(together[i : i + 1], alone)
    assert all("measurement" not in seen for seen in denoiser.seen)


def test_dps_takes_a_time_a_sample():
    guided, x = DPS(A, Y).wrap(Gaussian(EDM())), states(2, 3)
    both = guided(x, torch.tensor([0.7, 2.0], dtype=torch.float64))
    for i, t in enumerate((0.7, 2.0)):
        torch.testing.assert_close(both[i : i + 1], guided(x[i : i + 1], t))


def test_dps_at_a_perfect_fit_or_at_pure_noise_changes_nothing():
    denoiser = Conditional()
    x = states(1, 2, 3)
    fit = DPS(Mask(torch.ones(2, 3)), denoiser(x, 0.7), weight=5.0).wrap(denoiser)
    assert torch.equal(fit(x, 0.7), denoiser(x, 0.7))
    noise = Gaussian(VPCosine())
    assert torch.equal(DPS(A, Y).wrap(noise)(x[:, 0], 1.0), noise(x[:, 0], 1.0))


def test_dps_of_an_anchored_process_sees_the_state_with_its_anchor():
    process = OUVE()
    denoiser = Gaussian(process)
    assert torch.isfinite(DPS(A, Y).wrap(denoiser)(states(2, 3), 0.5, {"anchor": states(2, 3)})).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: DPS(A, Y, weight=-1.0), "weight of DPS"),
        (lambda: DPS(A, torch.zeros(3)), "has shape"),
        (lambda: DPS(A, torch.tensor([torch.nan, 0.0])), "not finite"),
        (lambda: DPS(A, torch.zeros(4, 2)), "put one a sample into the condition"),
        (lambda: DPS(A, "measurement").wrap(Gaussian(EDM()))(states(1, 3), 0.7, {"value": 1}), "looks for its measurement"),
        (lambda: DPS(A, Y).wrap(DPS(A, Y).wrap(Gaussian(EDM())))(states(1, 3), 0.7), "one Stack of operators"),
        (lambda: DPS(A, Y).wrap(Gaussian(EDM()))({"a": states(1, 3)}, 0.7), "dict of leaves"),
    ],
)
def test_dps_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


# ---- the proximal point of the data


def test_the_proximal_guide_gives_the_golden_estimate():
    guided = ProximalData(A, Y, noise=0.3).wrap(Gaussian(EDM()))
    found = guided(torch.tensor([[1, -1, 0.5]], dtype=torch.float64), 0.7)[0]
    torch.testing.assert_close(found, torch.tensor([1.197783, -0.185025, 0.239490], dtype=torch.float64), rtol=0, atol=1e-6)


def wasserstein(mean, cov, mean_2, cov_2):
    def root(matrix):
        values, vectors = torch.linalg.eigh(matrix)
        return vectors * values.clamp_min(0).sqrt() @ vectors.T

    half = root(cov_2)
    return float(((mean - mean_2).square().sum() + torch.trace(cov + cov_2 - 2 * root(half @ cov @ half))).sqrt())


@pytest.mark.parametrize(
    ("options", "eta", "golden"),
    [
        ({"noise": 0.3}, 0.0, 0.109),
        ({"noise": 0.3}, 1.0, 0.061),
        ({"gamma": 5.0}, 0.0, 0.361),
        ({"gamma": 5.0}, 1.0, 0.352),
        ({"noise": 0.0}, 0.0, 0.360),
        ({"noise": 0.0}, 1.0, 0.351),
    ],
    ids=["diffpir-ode", "diffpir-ancestral", "gamma-ode", "gamma-ancestral", "ddnm-ode", "ddnm-ancestral"],
)
def test_run_to_the_end_it_lies_as_far_from_the_posterior_as_it_should(options, eta, golden):
    # everything is affine: a mean and three unit vectors carry the exact law, 2000 steps from 80 to .001
    problem, solver = lg3(), DDIM(eta=eta)
    guided = ProximalData(A, Y, iterations=3, tolerance=0.0, **options).wrap(problem.prior(EDM()))
    mean, cov = torch.zeros(3, dtype=torch.float64), 6400 * torch.eye(3, dtype=torch.float64)
    basis = torch.eye(4, 3, dtype=torch.float64).roll(1, 0)
    basis[0] = 0
    for row in solver.plan(EDM(), torch.logspace(math.log10(80), -3, 2001, dtype=torch.float64).tolist()):
        moved = solver.step(mean + basis, row, guided, Memory(lambda: torch.zeros(4, 3, dtype=torch.float64)))
        mean, linear = moved[0], (moved[1:] - moved[0]).T
        cov = linear @ cov @ linear.T + row.c[2] ** 2 * torch.eye(3)
    assert wasserstein(mean, cov, problem.posterior_mean, problem.posterior_cov) == pytest.approx(golden, abs=6e-4)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_problems_of_one_batch_do_not_influence_a_proximal_guide(dtype):
    operator = Mask(torch.tensor([[1, 0, 1], [0, 1, 1]]))
    guided = ProximalData(operator, "measurement", noise=0.2).wrap(Conditional())
    x = states(3, 2, 3, dtype=dtype) * torch.tensor([1.0, 50.0, 1e-3], dtype=dtype).view(3, 1, 1)
    condition = {"measurement": states(3, 2, 3, seed=2, dtype=dtype)}
    together = guided(x, 0.7, condition)
    for i in range(3):
        assert torch.equal(together[i : i + 1], guided(x[i : i + 1], 0.7, {"measurement": condition["measurement"][i : i + 1]}))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: ProximalData(A, Y, gamma=-1.0), "gamma must be above 0"),
        (lambda: ProximalData(A, Y, noise=-1.0), "noise of a measurement"),
        (lambda: ProximalData(A, Y, iterations=0), "iterations >= 1"),
        (lambda: ProximalData(A, torch.zeros(4, 2)), "put one a sample into the condition"),
        (lambda: ProximalData(A, Y).wrap(Gaussian(EDM()))(states(2, 3), torch.tensor([0.1, 0.2])), "one time for all samples"),
    ],
)
def test_a_proximal_guide_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


# ---- classifier-free guidance

CONDITION = {"value": torch.tensor([1.0, -2.0], dtype=torch.float64)}


@pytest.mark.parametrize("weight", [0.0, 0.5, 2.0, 7.5])
def test_cfg_extrapolates_from_the_unconditional_estimate(weight):
    denoiser, x = Conditional(), states(2, 2, 3)
    free, given = denoiser(x, 0.7), denoiser(x, 0.7, CONDITION)
    torch.testing.assert_close(CFG(weight).wrap(denoiser)(x, 0.7, CONDITION), free + weight * (given - free))


def test_cfg_of_weight_one_is_the_plain_denoiser_with_one_evaluation():
    denoiser, x = Conditional(), states(2, 2, 3)
    assert torch.equal(CFG(1.0).wrap(denoiser)(x, 0.7, CONDITION), denoiser(x, 0.7, CONDITION))
    assert len(denoiser.seen) == 2


def test_cfg_skips_the_second_evaluation_outside_its_interval():
    denoiser, x = Conditional(), states(2, 2, 3)
    guided = CFG(3.0, low=0.5, high=5.0).wrap(denoiser)
    for t, evaluations in ((0.1, 1), (0.5, 2), (2.0, 2), (5.0, 2), (20.0, 1)):
        denoiser.seen.clear()
        estimate = guided(x, t, CONDITION)
        assert len(denoiser.seen) == evaluations
        assert torch.equal(estimate, denoiser(x, t, CONDITION)) == (evaluations == 1)


def test_cfg_decides_the_interval_sample_by_sample():
    guided, x = CFG(3.0, low=0.5, high=5.0).wrap(Conditional()), states(2, 2, 3)
    both = guided(x, torch.tensor([0.1, 2.0], dtype=torch.float64), CONDITION)
    for i, t in enumerate((0.1, 2.0)):
        torch.testing.assert_close(both[i : i + 1], guided(x[i : i + 1], t, {"value": CONDITION["value"][i : i + 1]}))


def test_rescaled_cfg_has_the_spread_of_the_conditional_estimate():
    denoiser, x = Conditional(), states(2, 2, 3)
    full = CFG(5.0, rescale=1.0).wrap(denoiser)(x, 0.7, CONDITION)
    torch.testing.assert_close(full.flatten(1).std(1), denoiser(x, 0.7, CONDITION).flatten(1).std(1))
    part, none = CFG(5.0, rescale=0.7).wrap(denoiser)(x, 0.7, CONDITION), CFG(5.0).wrap(denoiser)(x, 0.7, CONDITION)
    torch.testing.assert_close(part, 0.7 * full + 0.3 * none)


@pytest.mark.parametrize("rescale", [0.0, 0.7])
def test_a_cfg_sample_does_not_depend_on_its_batch(rescale):
    guided = CFG(3.0, rescale=rescale).wrap(Conditional())
    x = states(2, 2, 3, dtype=torch.float32) * torch.tensor([1.0, 100.0]).view(2, 1, 1)
    condition = {"value": CONDITION["value"].float()}
    together = guided(x, 0.7, condition)
    for i in range(2):
        assert torch.equal(together[i : i + 1], guided(x[i : i + 1], 0.7, {"value": condition["value"][i : i + 1]}))


def test_cfg_drops_what_it_is_told_and_keeps_where_the_state_lives():
    condition = {"value": 1, "text": 2, "anchor": 3, "mask": 4}
    assert CFG(2.0).unconditional(condition, 2) == {"anchor": 3, "mask": 4}
    assert CFG(2.0, keys=("text",)).unconditional(condition, 2) == {"value": 1, "anchor": 3, "mask": 4}
    replaced = CFG(2.0, null={"value": torch.zeros(1, 3)}).unconditional(condition, 2)
    assert replaced["value"].shape == (2, 3)
    assert replaced["text"] == 2
    assert CFG(2.0).unconditional({"value": 1}, 2) is None


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CFG(math.nan), "finite weight"),
        (lambda: CFG(2.0, low=3.0, high=1.0), "low < high"),
        (lambda: CFG(2.0, rescale=2.0), "rescale in"),
        (lambda: CFG(2.0).wrap(Conditional())(states(1, 2, 3), 0.7), "needs a condition"),
        (lambda: CFG(2.0, keys=("txet",)).wrap(Conditional())(states(2, 2, 3), 0.7, CONDITION), "leaves out .'txet'"),
        (lambda: CFG(2.0).wrap(Conditional())(states(2, 2, 3), 0.7, {"anchor": 1}), "leaves out nothing"),
    ],
)
def test_cfg_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()


# ---- every guide


@pytest.mark.parametrize("guide", [CFG(2.0), DPS(A, Y), ProximalData(A, Y)], ids=["cfg", "dps", "proximal"])
def test_a_guided_denoiser_is_a_denoiser_of_the_same_process_space_and_shape(guide):
    denoiser = Gaussian(VP())
    guided = guide.wrap(denoiser)
    assert isinstance(guided, Guided)
    assert isinstance(guided, Denoiser)
    for name in ("process", "space", "shape", "normaliser", "card"):
        assert getattr(guided, name) == getattr(denoiser, name)
    assert guide.exactness


def test_guides_stack_with_the_first_innermost():
    denoiser, x = Conditional(), states(2, 2, 3)
    operator, y = Mask(torch.ones(2, 3)), torch.zeros(2, 3, dtype=torch.float64)
    stacked = DPS(operator, y).wrap(CFG(3.0).wrap(denoiser))(x, 0.7, CONDITION)
    inner = CFG(3.0).wrap(denoiser)
    free = x.clone().requires_grad_()
    estimate = inner(free, 0.7, CONDITION)
    (gradient,) = torch.autograd.grad(estimate.flatten(1).norm(dim=1).sum(), free)
    torch.testing.assert_close(stacked, estimate.detach() - 0.49 * gradient)


def test_a_guided_denoiser_moves_to_another_process_with_its_guide():
    # the score's placement does not depend on how the state is scaled
    x = states(2, 3)
    guided = DPS(A, Y, weight=0.5).wrap(Gaussian(VP()))
    moved = guided.with_process(EDM())
    t = float(VP().rho(0.4))
    assert moved.process == EDM()
    torch.testing.assert_close(moved(x, t), guided(x * float(VP().alpha(0.4)), 0.4))


def test_guides_take_a_sensor_that_is_not_linear() -> None:
    """DPS's step is the gradient of the residual's norm through sensor and denoiser; MMPS is that of the sensor's tangent."""
    problem, process = lg3(), EDM()
    matrix, prior, y = problem.matrix, problem.prior(process), torch.tensor([[0.7, -0.2]], dtype=torch.float64)
    sensor = Nonlinear(lambda x0: torch.tanh(x0.to(matrix) @ matrix.mT), (3,))
    x, t = torch.tensor([[1.0, -1.0, 0.5], [0.2, 0.4, -0.3]], dtype=torch.float64, requires_grad=True), 0.7
    residual = torch.linalg.vector_norm(y - torch.tanh(prior(x, t) @ matrix.mT), dim=1)
    (slope,) = torch.autograd.grad(residual.sum(), x)
    found = DPS(sensor, y, weight=0.4).wrap(prior)(x.detach(), t)
    torch.testing.assert_close(found, prior(x, t).detach() - 0.4 * t**2 * slope, rtol=1e-10, atol=1e-12)
    clean = prior(x, t).detach()
    for row in range(2):
        tangent = Dense((1 - torch.tanh(clean[row] @ matrix.mT) ** 2)[:, None] * matrix)
        moved = y - torch.tanh(clean[row] @ matrix.mT) + tangent(clean[row : row + 1])
        alone = MMPS(tangent, moved, noise=0.3).wrap(prior)(x.detach()[row : row + 1], t)
        both = MMPS(sensor, y, noise=0.3).wrap(prior)(x.detach(), t)
        torch.testing.assert_close(both[row : row + 1], alone, rtol=1e-8, atol=1e-10)
