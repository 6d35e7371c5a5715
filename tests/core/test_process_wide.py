"""Processes, the wide set: what every registered one promises; bridges, interpolants, residuals, schedules, published forms."""

import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch

from unstir import names, sample
from unstir.certify.distances import energy_distance, sliced_wasserstein
from unstir.certify.oracles import GaussianOracle, MixtureOracle, gm4
from unstir.certify.solvers import continuous
from unstir.denoiser import Denoiser, Rescheduled, Transport
from unstir.denoiser.base import anchor_of
from unstir.errors import UserError
from unstir.process import (
    DDBMVE,
    DDBMVP,
    EDM,
    RDDM,
    SBVE,
    VE,
    VP,
    Brownian,
    Interpolant,
    MeanReverting,
    Process,
    RectifiedFlow,
    Resfusion,
    VPCosine,
    VPLogistic,
    VPTable,
)
from unstir.process.base import slope
from unstir.solver.base import Levels

OTHERS = [DDBMVP(beta_max=20.0), DDBMVE(t_max=20.0), Interpolant(path="trigonometric"), VPLogistic(10.0, 0.5)]
OTHERS += [RDDM(schedule="vp-table"), RDDM(schedule="vp-cosine"), VPTable("scaled-linear"), VPTable(zero_terminal=True)]


PROCESSES = continuous() | {repr(process): process for process in OTHERS}
"""Every registered process of one noise level for all coordinates, with default options, and variants of the core's own."""
every = pytest.mark.parametrize("process", PROCESSES.values(), ids=PROCESSES.keys())


def inside(process: Process, count: int = 41) -> torch.Tensor:
    """Times strictly inside the sampling interval, none of them an index of a table (where the slope jumps)."""
    part = (torch.arange(count, dtype=torch.float64) + 0.537) / count
    return process.t_min + (process.t_max - process.t_min) * part


def close(value, expected, rtol=1e-9, atol=0.0):
    np.testing.assert_allclose(np.asarray(value), np.asarray(expected), rtol=rtol, atol=atol)


def anchored(process: Process, anchor: torch.Tensor) -> dict[str, torch.Tensor] | None:
    return {"anchor": anchor} if process.anchored else None


# What every process promises


def test_the_registry_offers_the_whole_list():
    names_ = {"vp", "vp-cosine", "vp-table", "vp-logistic", "sub-vp", "ve", "edm", "rectified-flow", "alpha-blending", "brownian"}
    assert names_ | {"ouve", "mean-reverting", "sb-ve", "ddbm-ve", "ddbm-vp", "interpolant", "rddm", "resfusion"} <= set(PROCESSES)


@every
def test_every_process_gives_its_coefficients_in_closed_form(process):
    """f, g and the pull against automatic differentiation of alpha, beta and sigma; log-SNR against their ratio."""
    t = inside(process)
    close(process.rate(t), Process.rate(process, t))
    close(process.log_snr(t), 2 * torch.log(process.alpha(t) / process.sigma(t)), 1e-9, 1e-9)
    # (sigma^2)' - 2 f sigma^2 cancels near pure noise: compare on the scale of the terms.
    terms = (Process.rate(process, t) * process.sigma(t) ** 2).abs() + process.diffusion(t) ** 2
    assert ((process.diffusion(t) ** 2 - Process.diffusion(process, t) ** 2).abs() <= 1e-9 * terms).all()
    pull = Process.pull(process, t)
    assert ((process.pull(t) - pull).abs() <= 1e-8 * (pull.abs() + (process.rate(t) * process.beta(t)).abs())).all()
    assert process.anchored == bool(process.beta(t).any())


@every
def test_every_process_knows_the_inverse_of_its_log_snr(process):
    t = inside(process)
    rho, back = process.rho(t), process.time_at_rho(process.rho(t))
    assert (rho.diff() > 0).all()
    # An error of eps in rho moves t by eps rho/rho'; alpha near a pinned end is itself a difference.
    slack = rho / slope(process.rho, t)
    assert ((back - t).abs() <= 1e-12 * max(abs(process.t_max), 1.0) + 1e-13 * slack).all()
    assert float(process.time_at_rho(0.0)) == process.t_zero
    end = float(process.rho(process.t_max))
    assert abs(float(process.time_at_rho(end)) - process.t_max) <= 1e-12 * abs(process.t_max)


@every
def test_every_process_has_ends_that_a_solver_can_step_from(process):
    zero, end = process.t_zero, process.t_max
    assert (float(process.sigma(zero)), float(process.rho(zero))) == (0, 0)
    assert (float(process.alpha(zero)), float(process.beta(zero))) == (1, 0)
    for f in (process.alpha, process.beta, process.sigma, process.label):
        assert torch.isfinite(f(end))
    assert not torch.isnan(process.rho(end))
    levels = Levels.of(process, [end, float(process.time_at_rho(0.1)), zero])
    assert levels.steps == 2
    assert float(process.rho(process.t_min)) < 0.1


@every
def test_every_process_starts_from_its_prior_and_perturbs_by_its_definition(process):
    generator = torch.Generator().manual_seed(0)
    x0, y, eps = torch.randn(3, 4, 5, generator=generator, dtype=torch.float64)
    t = inside(process)[[2, 15, 26, 38]]
    x = process.perturb(x0, t, eps, y if process.anchored else None)
    a, b, s = (f(t)[:, None] for f in (process.alpha, process.beta, process.sigma))
    torch.testing.assert_close(x, a * x0 + b * y + s * eps)
    mean, std = process.prior(y if process.anchored else None)
    assert std == float(process.sigma(process.t_max))
    assert torch.is_tensor(mean) if process.anchored else mean == 0
    if process.anchored and float(process.alpha(process.t_max)) == 0:  # else the prior is not the law of x_t, and says so
        torch.testing.assert_close(mean, float(process.beta(process.t_max)) * y)
    with pytest.raises(UserError, match="anchor") if process.anchored else nothing():
        process.perturb(x0, t, eps)


@every
def test_every_process_takes_over_a_model_trained_on_another(process):
    """An oracle on EDM moved to the process is the oracle of the process, and back; the anchor goes out and in."""
    generator = torch.Generator().manual_seed(1)
    anchor = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    there, here = gm4(EDM(t_max=1e4)), gm4(process)
    for t in [*inside(process, 7).tolist(), process.t_max]:
        z = float(process.alpha(t)) * 0.8 + float(process.sigma(t)) * torch.randn(6, 2, generator=generator, dtype=torch.float64)
        x = z + float(process.beta(t)) * anchor
        condition = anchored(process, anchor)
        expected = here(x, t, condition)
        # x/alpha and the inverse of rho lose a few digits near pure noise, where D hardly depends on either.
        torch.testing.assert_close(
            Rescheduled(there, process)(x, t, condition), expected, rtol=0, atol=2e-4 if here_is_noise(process, t) else 1e-9
        )
        own = Rescheduled(here, EDM())
        if 0 < float(process.rho(t)) < 50 and float(process.rho(t)) < float(process.rho(process.t_max)):
            torch.testing.assert_close(own(z / float(process.alpha(t)), float(process.rho(t)), condition), expected, rtol=0, atol=1e-9)


def here_is_noise(process: Process, t: float) -> bool:
    return float(process.rho(t)) > 1e4  # beyond what the model on EDM knows: it is asked at its t_max


@every
def test_every_process_is_frozen_hashable_and_prints_as_code(process):
    made = eval(repr(process), {type(process).__name__: type(process)})
    assert made == process
    assert hash(made) == hash(process)
    with pytest.raises(AttributeError):
        process.t_max = 2.0


@every
def test_every_process_samples_the_mixture(process):
    """40 steps of the default solver from the exact law at t_max (a pinned one draws its own): GM4's mean and covariance."""
    oracle, end = gm4(process), process.t_max
    anchor = torch.tensor([[0.7, -1.1]], dtype=torch.float64)
    start = (oracle.marginal(512, end, anchor=anchor), end) if float(process.sigma(end)) else None
    x = sample(oracle, 512, grid="log-snr:40", condition=anchored(process, anchor), start=start).x
    error = (x.mean(0) - oracle.mean).abs().max() / math.sqrt(0.74 / 512)
    assert error < 4  # standard errors
    assert (torch.cov(x.T) - oracle.cov).abs().max() < 0.15  # 4 standard errors of a variance of 0.74, and 40 steps


@dataclass(frozen=True)
class WrongRate(VP):
    """One part in a million off."""

    def rate(self, t):
        return super().rate(t) * (1 + 1e-6)


@dataclass(frozen=True)
class WrongInverse(VP):
    """The inverse of another schedule."""

    def time_at_rho(self, rho):
        return VP(self.beta_min, self.beta_max * (1 + 1e-6)).time_at_rho(rho)


@dataclass(frozen=True)
class WrongLevel(VP):
    """A noise level that is not sigma/alpha."""

    def rho(self, t):
        return super().rho(t) * (1 + 1e-6)


@pytest.mark.parametrize(
    ("process", "check"),
    [
        (WrongRate(), test_every_process_gives_its_coefficients_in_closed_form),
        (WrongInverse(), test_every_process_knows_the_inverse_of_its_log_snr),
        (WrongLevel(), test_every_process_takes_over_a_model_trained_on_another),
    ],
    ids=["rate", "inverse", "moved"],
)
def test_a_wrong_closed_form_is_caught(process, check):
    with pytest.raises(AssertionError):
        check(process)


class nothing:
    """A context in which nothing is expected."""

    def __enter__(self):
        return None

    def __exit__(self, *_):
        return False


# Goldens


def test_ddbm_ve_has_its_golden_numbers():
    t = torch.tensor([1.0, 20.0, 60.0], dtype=torch.float64)
    close(DDBMVE().alpha(t), [0.99984375, 0.9375, 0.4375])
    close(DDBMVE().sigma(t), [0.99992187, 19.3649167, 39.6862697], 0, 5e-8)  # half a unit of the last printed digit, and one for the first
    close(DDBMVE().alpha(t) + DDBMVE().beta(t), torch.ones(3), 1e-15)


def test_ouve_and_the_anchored_mean_have_their_golden_mismatch():
    process = names.process("ouve")
    close(process.sigma(torch.tensor([0.03, 0.5, 1.0])), [0.0188300999, 0.1216573339, 0.3889826582], 1e-9, 1e-8)  # 0.03 in float32
    close(process.alpha(1.0), 0.2231301601, 0, 5e-11)


def test_the_inverse_of_the_linear_schedule_is_exact_to_rounding():
    """t = 2 q/(b0 + sqrt(b0^2 + 2 (b1 - b0) q)), q = log(1 + e^(-2 lambda)): error 2e-16."""
    t = torch.linspace(0.001, 1, 500, dtype=torch.float64)
    assert (VP().time_at_rho(VP().rho(t)) - t).abs().max() < 4.5e-16  # two units in the last place at 1


# The logistic schedule


def test_the_logistic_schedule_is_the_published_table_and_flat_at_the_data():
    """alpha^2 = 1/(1 + exp(0.015 (i - 600))): log-SNR is a straight line, d rho/dt = k rho/2 finite where the others' is infinite."""
    index = torch.arange(0, 1000, 37, dtype=torch.float64)
    close(VPLogistic().alpha(index / 1000) ** 2, 1 / (1 + np.exp(0.015 * (index.numpy() - 600))), 1e-12)
    close(VPLogistic(10.0, 0.5).alpha(0.0) ** 2, 0.993307149, 1e-9)
    t = torch.tensor([1e-9], dtype=torch.float64)
    assert slope(VPLogistic().rho, t) < 0.1
    assert slope(VP().rho, t) > 1e3
    assert slope(VPCosine().rho, t) > 1e2


def round_trip(process: Process, levels: np.ndarray, x: torch.Tensor, oracle: MixtureOracle) -> float:
    """RMS of DDIM's inversion (the same steps upwards, explicit) and back, in x/alpha."""
    bar = x

    def eps(bar: torch.Tensor, rho: float) -> torch.Tensor:
        return (bar - oracle.estimate(bar, 1.0, rho)) / rho

    for low, high in zip(levels[:-1], levels[1:], strict=True):
        bar = bar + (high - low) * eps(bar, max(low, 1e-3))
    for low, high in zip(levels[-2::-1], levels[:0:-1], strict=True):
        bar = bar + (low - high) * eps(bar, high)
    return (bar - x).square().mean().sqrt().item()


def test_the_logistic_schedule_reports_its_ddim_round_trip_beside_linear_and_cosine():
    """50 steps each, RMS: .049, .043, .067, .042 were measured elsewhere. An exact score gives k = 0.015 no advantage, so none is gated."""
    angle = torch.arange(8, dtype=torch.float64) * (math.pi / 4)
    means = 4 * torch.stack([torch.cos(angle), torch.sin(angle)], 1)
    oracle = MixtureOracle([1.0] * 8, means, torch.full((8, 2), 0.3))
    x = oracle.marginal(500, 0.0, seed=3)
    found = []
    for process in (VPTable(), VPCosine(), VPLogistic(), VPLogistic(10.0, 0.5)):
        times = torch.linspace(0, process.t_max if process.t_max > 1 else 0.999, 51, dtype=torch.float64)
        found.append(round_trip(process, process.rho(times).numpy(), x, oracle))
    close(found, [0.049, 0.043, 0.067, 0.042], 0.1)  # other draws of the data


# Rectified flow and alpha-blending


def test_iadb_is_the_rectified_flow_to_rounding():
    """x += d_alpha E[x1 - x0|x_alpha] against DDIM on RectifiedFlow, 20 steps."""
    oracle = gm4(RectifiedFlow())
    x = torch.randn(32, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ours = sample(oracle, 32, solver="ddim", grid=[float(t) for t in np.linspace(1, 0, 21)], start=(x, 1.0)).x
    blended = x.clone()
    for k in range(20):
        share = 1 - k / 20  # of the source
        data = oracle(blended, share)
        noise = (blended - (1 - share) * data) / share
        blended = blended + (data - noise) / 20
    torch.testing.assert_close(ours, blended, rtol=0, atol=1e-10)


class Blend:
    """The exact E[x_0|x] and E[x_1|x] of x = a x_0 + b x_1 + c z, both ends mixtures of normal laws with one standard deviation each."""

    def __init__(self, data, source):
        self.ends = [(torch.as_tensor(m, dtype=torch.float64), s) for m, s in (data, source)]

    def ends_of(self, x, a, b, c):
        (m0, s0), (m1, s1) = self.ends
        total = a**2 * s0**2 + b**2 * s1**2 + c**2
        offset = x[:, None, None] - a * m0[:, None] - b * m1  # (batch, data, source, 2)
        share = torch.softmax(-offset.square().sum(-1).flatten(1) / (2 * total), 1).reshape(offset.shape[:3])[..., None]
        first = (share * (m0[:, None] + a * s0**2 / total * offset)).sum((1, 2))
        second = (share * (m1 + b * s1**2 / total * offset)).sum((1, 2))
        score = -(share * offset).sum((1, 2)) / total
        return first, second, score

    def draw(self, end, count, seed):
        generator = torch.Generator().manual_seed(seed)
        means, std = self.ends[end]
        which = torch.randint(len(means), (count,), generator=generator)
        return means[which] + std * torch.randn(count, 2, generator=generator, dtype=torch.float64)


BLEND = Blend(([[2.0, 0.0], [-1.0, 1.7], [-1.0, -1.7]], 0.3), ([[0.0, 3.0], [0.0, -3.0]], 0.5))


def floor(count: int) -> float:
    """The largest of 20 distances between two independent draws of the data."""
    return max(energy_distance(BLEND.draw(0, count, 100 + i), BLEND.draw(0, count, 200 + i)) for i in range(20))


def test_alpha_blending_carries_one_mixture_to_another():
    """No end is normal: 100 Euler steps of E[x_1 - x_0|x] on RectifiedFlow reach the other mixture to sampling error."""

    def velocity(x, t, condition=None):
        first, second, _ = BLEND.ends_of(x, 1 - t, t, 0.0)
        return second - first

    source = BLEND.draw(1, 600, 1)
    flow = Transport(velocity, (2,))
    x = sample(flow, 600, solver="ddim", grid=[float(t) for t in np.linspace(1, 0, 101)], start=(source, 1.0)).x
    assert energy_distance(x, BLEND.draw(0, 600, 2)) < floor(600)
    assert energy_distance(source, BLEND.draw(0, 600, 2)) > 0.5


def test_alpha_blending_takes_a_uniform_square_as_its_source():
    """x_1 uniform on [-1, 1]^2: E[x_1|x] is a mean of truncated normals, one axis at a time."""
    from scipy import stats

    means, std = BLEND.ends[0]

    def velocity(x, t, condition=None):
        if t == 1:
            return x - means.mean(0)
        a, points = 1 - t, x.numpy()[:, None]
        low, high = (points - t - a * means.numpy()) / (a * std), (points + t - a * means.numpy()) / (a * std)
        mass = np.maximum(stats.norm.cdf(high) - stats.norm.cdf(low), 1e-300)
        inner = means.numpy() + std * (stats.norm.pdf(low) - stats.norm.pdf(high)) / mass
        share = mass.prod(-1, keepdims=True)
        data = torch.from_numpy((share * inner).sum(1) / share.sum(1))
        return (x - a * data) / t - data

    generator = torch.Generator().manual_seed(0)
    source = 2 * torch.rand(500, 2, generator=generator, dtype=torch.float64) - 1
    x = sample(Transport(velocity, (2,)), 500, solver="ddim", grid=[float(t) for t in np.linspace(1, 0.002, 101)], start=(source, 1.0)).x
    assert energy_distance(x, BLEND.draw(0, 500, 5)) < floor(500)


# Stochastic interpolants


def interpolated(process: Interpolant, epsilon: float, fault: float = 0.0) -> Transport:
    def at(x, t):
        return BLEND.ends_of(x, float(process.alpha(t)), float(process.beta(t)), float(process.sigma(t)))

    def velocity(x, t, condition=None):
        first, second, _ = at(x, t)
        return process.velocity(x, t, first, second) + fault * torch.tensor([1.0, 0.0], dtype=torch.float64)

    return Transport(velocity, (2,), score=lambda x, t, condition=None: at(x, t)[2], epsilon=epsilon)


@pytest.mark.parametrize("path", ["linear", "trigonometric"])
def test_velocity_and_score_of_an_interpolant_follow_from_its_two_ends(path):
    """Against the exact score, and the continuity equation d/dt log p + b . score + div b = 0 by differences."""
    process, t, h = Interpolant(path=path), 0.37, 1e-5
    x = BLEND.draw(0, 20, 9) * 0.7

    def ends(x, t):
        return BLEND.ends_of(x, float(process.alpha(t)), float(process.beta(t)), float(process.sigma(t)))

    def log_p(x, t):
        (m0, s0), (m1, s1) = BLEND.ends
        a, b, c = (float(f(t)) for f in (process.alpha, process.beta, process.sigma))
        total = a**2 * s0**2 + b**2 * s1**2 + c**2
        offset = x[:, None, None] - a * m0[:, None] - b * m1
        return torch.logsumexp((-offset.square().sum(-1) / (2 * total)).flatten(1), 1) - math.log(total)

    first, second, score = ends(x, t)
    torch.testing.assert_close(process.score(x, t, first, second), score, rtol=1e-9, atol=1e-9)

    def velocity(x):
        first, second, _ = ends(x, t)
        return process.velocity(x, t, first, second)

    divergence = sum(
        (velocity(x + h * unit)[:, i] - velocity(x - h * unit)[:, i]) / (2 * h) for i, unit in enumerate(torch.eye(2, dtype=torch.float64))
    )
    change = (log_p(x, t + h) - log_p(x, t - h)) / (2 * h)
    residual = change + (velocity(x) * score).sum(1) + divergence
    assert residual.abs().max() < 1e-6 * (1 + divergence.abs().max())  # central differences of step 1e-5


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_law_of_an_interpolant_does_not_depend_on_epsilon(epsilon):
    """ODE and SDEs of three strengths, exact velocity and score, from one mixture to another."""
    process, source = Interpolant(), BLEND.draw(1, 600, 1)
    flow = interpolated(process, epsilon)
    solver = "ancestral" if epsilon else "ddim"
    u = np.linspace(1, 0, 151)
    grid = [float(t) for t in u * u * (3 - 2 * u)]  # denser at both ends, where gamma' is infinite
    x = sample(flow, 600, solver=solver, grid=grid, start=(source, 1.0)).x
    assert energy_distance(x, BLEND.draw(0, 600, 2)) < floor(600)


def test_noise_contracts_the_error_of_a_wrong_velocity():
    """A velocity that is off by 0.3 in one direction: the terminal error falls with epsilon (theory bounds KL for the SDE only)."""
    process, source, truth = Interpolant(), BLEND.draw(1, 600, 1), BLEND.draw(0, 600, 2)
    grid = [float(t) for t in np.linspace(1, 0, 201)]
    found = []
    for epsilon in (0.0, 4.0):
        flow = interpolated(process, epsilon, fault=0.3)
        found.append(energy_distance(sample(flow, 600, solver="ancestral" if epsilon else "ddim", grid=grid, start=(source, 1.0)).x, truth))
    assert found[1] < 0.5 * found[0]


def test_a_transport_needs_a_score_for_its_noise():
    with pytest.raises(UserError, match="needs a score"):
        Transport(lambda x, t, condition: x, (2,), epsilon=0.5)
    with pytest.raises(UserError, match="rectified flow"):
        Interpolant(a=0.0)
    with pytest.raises(UserError, match="'linear' or 'trigonometric'"):
        Interpolant(path="straight")


# Bridges


@pytest.mark.parametrize("bridge", [DDBMVE(), DDBMVP(), DDBMVP(beta_max=20.0)], ids=repr)
def test_a_bridge_has_the_drift_of_the_h_transform(bridge):
    """f x + g^2 grad log p(x_T = y|x_t), p(x_T|x_t) = N(a x_t, s_T^2 - a^2 s_t^2), a = a_T/a_t: linear in x and y."""
    t = inside(bridge)
    base, end = bridge.base, bridge.t_max
    a = base.alpha(end) / base.alpha(t)
    spread = base.sigma(end) ** 2 - a**2 * base.sigma(t) ** 2
    g2 = base.diffusion(t) ** 2
    close(bridge.rate(t), base.rate(t) - g2 * a**2 / spread, 1e-8)  # the plain difference cancels near the end
    close(bridge.pull(t), g2 * a / spread, 1e-8)
    r = base.log_snr(end).exp() / base.log_snr(t).exp()
    close(bridge.beta(t), r * base.alpha(t) / base.alpha(end), 1e-9, 1e-12)
    close(bridge.sigma(t), base.sigma(t) * torch.sqrt(1 - r), 1e-9)


@pytest.mark.parametrize("bridge", [DDBMVE(t_max=5.0), DDBMVP()], ids=repr)
def test_paths_of_the_h_transform_have_the_closed_marginals_and_hit_their_anchor(bridge):
    """Euler-Maruyama of 4000 paths from x_0 = 0.7 to y = -0.4, 2000 steps: mean and standard deviation at three times."""
    x0, y, steps, count = 0.7, -0.4, 2000, 4000
    generator = torch.Generator().manual_seed(0)
    times = torch.linspace(0, 1, steps + 1, dtype=torch.float64) ** 1.5 * bridge.t_max
    x, rate, pull, noise = torch.full((count,), x0, dtype=torch.float64), bridge.rate(times), bridge.pull(times), bridge.diffusion(times)
    for i in range(steps):
        h = times[i + 1] - times[i]
        x = x + h * (rate[i] * x + pull[i] * y) + torch.sqrt(h) * noise[i] * torch.randn(count, generator=generator, dtype=torch.float64)
        if i + 1 in (500, 1000, 1600):
            t = times[i + 1]
            mean = bridge.alpha(t) * x0 + bridge.beta(t) * y
            assert abs(x.mean() - mean) < 4 * bridge.sigma(t) / math.sqrt(count)
            assert abs(x.std() / bridge.sigma(t) - 1) < 0.05  # 4 standard errors of 4000 paths
    last = float(noise[-2] * torch.sqrt(times[-1] - times[-2]))
    assert (x - y).abs().max() < 5 * last  # all arrive: what is left is the noise of the last step, by at most 5 of its deviations


def regression(process: Process, y: torch.Tensor, joint: tuple[torch.Tensor, torch.Tensor]) -> tuple[Denoiser, torch.Tensor, torch.Tensor]:
    """The exact denoiser of x_0 given the anchor for a normal pair (x_0, y), with the mean and covariance of x_0 given y."""
    mean, cov = joint
    gain = cov[:2, 2:] @ torch.linalg.inv(cov[2:, 2:])
    left = cov[:2, :2] - gain @ cov[2:, :2]
    shift = mean[:2] + gain @ (y - mean[2:])

    class Conditional(GaussianOracle):
        def plain(self, x, t, condition):
            z, alpha, sigma = super().plain(x, t, condition)
            return z - alpha * shift, alpha, sigma

        def forward(self, x, t, condition=None):
            return super().forward(x, t, condition) + shift

    return Conditional(torch.zeros(2), left, process), shift, left


PAIRS = [
    (DDBMVE(t_max=20.0), "ddim"),
    (DDBMVE(t_max=20.0), "dpm++2m"),
    (DDBMVP(), "dpm++2m-sde"),
    (DDBMVP(), "dpm++2m"),
    (SBVE(), "dpm++2m"),
]
PAIRS += [(Interpolant(), "dpm++2m"), (Interpolant(path="trigonometric"), "dpm++2m-sde"), (RDDM(1.0), "dpm++2m"), (Resfusion(), "dpm++2m")]


@pytest.mark.parametrize(("process", "solver"), PAIRS, ids=lambda part: part if isinstance(part, str) else type(part).__name__)
def test_paired_normal_data_are_regressed_to_their_exact_posterior(process, solver):
    """x_0 given y of a normal pair: mean and covariance, from one y; a pinned start must draw, or the covariance is 0."""
    generator = torch.Generator().manual_seed(5)
    root = torch.randn(4, 4, generator=generator, dtype=torch.float64) * 0.6
    joint = torch.tensor([0.3, -0.5, 0.1, 0.2], dtype=torch.float64), root @ root.T + 0.1 * torch.eye(4, dtype=torch.float64)
    y = torch.tensor([0.9, -0.7], dtype=torch.float64)
    denoiser, mean, cov = regression(process, y, joint)
    count = 2500
    x = sample(denoiser, count, solver=solver, grid="log-snr:60", condition={"anchor": y[None]}, seed=2).x
    scale = torch.sqrt(torch.diagonal(cov))
    assert ((x.mean(0) - mean).abs() < 4 * scale / math.sqrt(count) + 0.01 * scale).all()
    # 4 standard errors of a variance of 2500 draws are 11 %; the bias of 60 steps is below 2 %.
    assert ((torch.cov(x.T) - cov).abs() < 0.13 * scale[:, None] * scale).all()


def test_without_a_draw_a_pinned_start_gives_one_sample_per_anchor():
    """The planted fault of the test above: the state at t_max is the anchor, for every seed."""
    process, y = DDBMVP(), torch.tensor([[0.9, -0.7]])
    x = sample(gm4(process), 5, grid=[1.0, 0.5], solver="ddim", condition={"anchor": y}, trace=True)
    assert torch.equal(x.path[0], y.to(x.path[0]).expand(5, 2))
    assert x.x.std(0).min() > 0.1  # the first step has drawn


# Residual processes


def test_rddm_without_a_degraded_image_is_ddim():
    """I_s = I_t - (A_t - A_s)(0 - I_0) - (B_t - B_s) eps, A = 1 - alpha, B = sigma of DDPM, against DDIM with the same eps-network."""
    table = VPTable()
    process = RDDM(schedule="vp-table")
    x = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    grid = [999.0, 750.0, 500.0, 250.0, 100.0, 20.0, 0.0]
    ddim = sample(gm4(table), 8, solver="ddim", grid=grid, start=(x, 999.0), trace=True)
    rddm, path = x.clone(), [x]
    for t, s in zip(grid[:-1], grid[1:], strict=True):
        eps = (rddm - table.alpha(t) * gm4(table)(rddm, t)) / table.sigma(t)  # what an eps-network says
        residual = -(rddm - process.sigma(t) * eps) / process.alpha(t)
        a_t, a_s = process.beta(t), process.beta(s)
        rddm = rddm - (a_t - a_s) * residual - (process.sigma(t) - process.sigma(s)) * eps
        path.append(rddm)
    for ours, theirs in zip(ddim.path, path, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-9)  # rho is 157 at the start, and its square is in eps
    anchored_run = sample(gm4(process), 8, solver="ddim", grid=grid, start=(x, 999.0), condition={"anchor": torch.zeros(1, 2)})
    torch.testing.assert_close(anchored_run.x, ddim.x, rtol=0, atol=1e-9)


def test_rddm_has_the_running_sums_of_its_schedules():
    """A = sum of 2 (1 - t), B^2 = sum of 2 scale^2 t, by a Riemann sum of 20000 steps."""
    t = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000
    process = RDDM(0.3)
    close(process.beta(0.4), (2 * (1 - t))[:8000].sum() / 20000, 1e-8)
    close(process.sigma(0.4) ** 2, (2 * 0.09 * t)[:8000].sum() / 20000, 1e-8)
    assert (process.alpha(1.0), process.beta(1.0), float(process.sigma(1.0))) == (0, 1, 0.3)


def test_options_of_residual_processes_are_checked():
    with pytest.raises(UserError, match="plain process"):
        RDDM(schedule="ouve")
    with pytest.raises(UserError, match="belongs to the schedule 'power'"):
        RDDM(0.5, schedule="vp")
    with pytest.raises(UserError, match="positive"):
        RDDM(0.0)


def test_resfusion_starts_where_no_data_is_left():
    """x = y/2 + sqrt(3)/2 eps at a = 1/2."""
    process, y = Resfusion(), torch.tensor([[1.0, -2.0]], dtype=torch.float64)
    assert float(process.alpha(process.t_max)) == 0
    close(process.base.alpha(process.t_max), 0.5, 1e-15)
    mean, std = process.prior(y)
    torch.testing.assert_close(mean, y / 2)
    close(std, math.sqrt(3) / 2, 1e-14)
    t = inside(process)
    a = process.base.alpha(t)
    close(process.alpha(t), 2 * a - 1, 1e-9, 1e-15)
    close(process.alpha(t) + 2 * process.beta(t), torch.ones_like(t), 1e-14)


def test_resfusion_with_the_true_residual_noise_returns_the_data():
    """The prediction c (y - x0) + eps at every step of five, DDPM's mean taken with it: the last is x0, and so is ``clean`` at all."""
    process, generator = Resfusion(), torch.Generator().manual_seed(0)
    x0, y, eps = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    times = [*torch.linspace(process.t_max, process.t_min, 5, dtype=torch.float64).tolist(), 0.0]
    x = process.perturb(x0, times[0], eps, y)
    for t, s in zip(times[:-1], times[1:], strict=True):
        a_t, a_s = float(process.base.alpha(t)), float(process.base.alpha(s))
        step, sigma = a_t / a_s, float(process.sigma(t))
        noise = (x - (2 * a_t - 1) * x0 - (1 - a_t) * y) / sigma
        resnoise = noise + (1 - step) * sigma / (1 - step**2) * (y - x0)
        torch.testing.assert_close(process.clean(x, resnoise, y, t, s), x0, rtol=0, atol=1e-10)
        x = (x - (1 - step**2) / sigma * resnoise) / step  # the mean of DDPM's posterior
    torch.testing.assert_close(x, x0, rtol=0, atol=1e-10)


class Restoration(Denoiser):
    """An exact model of pairs: x_0 is one of a few patterns, y = that pattern blurred, with noise; the denoiser knows y."""

    def __init__(self, process: Process, patterns: torch.Tensor, blur: torch.Tensor, noise: float) -> None:
        super().__init__(process, tuple(patterns.shape[1:]))
        self.patterns, self.blurred, self.noise = patterns, patterns @ blur, noise

    def forward(self, x, t, condition=None):
        y, process = anchor_of(condition), self.process
        z = x.double() - float(process.beta(t)) * y if process.anchored else x.double()
        alpha, sigma = float(process.alpha(t)), max(float(process.sigma(t)), 1e-9)
        log = -torch.cdist(z, alpha * self.patterns).square() / (2 * sigma**2)
        log = log - torch.cdist(y, self.blurred).square() / (2 * self.noise**2)
        return (torch.softmax(log, 1) @ self.patterns).to(x.dtype)


def test_five_steps_from_the_degraded_pictures_restore_them():
    """Smooth 8x8 pictures blurred and noisy, exact conditional model: five residual steps beside five and fifty of DDPM, squared error."""
    generator = gen(0)
    wave = torch.cos(math.pi * torch.arange(4, dtype=torch.float64)[:, None] * (torch.arange(8, dtype=torch.float64) + 0.5) / 8)
    weight = torch.randn(400, 4, 4, generator=generator, dtype=torch.float64) / (1 + torch.arange(4)[:, None] + torch.arange(4))
    pictures = torch.einsum("nij,ik,jl->nkl", weight, wave, wave).flatten(1)
    blur = 0.5 * torch.eye(64, dtype=torch.float64) + 0.05 * torch.randn(64, 64, generator=generator, dtype=torch.float64)
    y = pictures[:100] @ blur + 0.6 * torch.randn(100, 64, generator=generator, dtype=torch.float64)

    def error(process: Process, steps: int) -> float:
        denoiser = Restoration(process, pictures, blur, 0.6)
        x = sample(denoiser, 100, solver="ancestral", grid=f"uniform:{steps}", condition={"anchor": y}).x
        return float((x - pictures[:100]).square().mean())

    long, short = error(VPCosine(), 50), error(VPCosine(), 5)
    for process in (RDDM(0.1), Resfusion()):
        assert error(process, 5) < min(short, 1.15 * long), process  # an exact model samples one posterior: fifty steps cannot be beaten
    assert long < 0.2 * float((y - pictures[:100]).square().mean())


# Mean-reverting sampler parity


def mean_reverting_sampler(process, denoise, x, times, mu, order):
    """MR Sampler, data prediction: x_s = s_s/s_t x + a_s (1 - e^-h) D + mu [1 - s_s/s_t - a_s + (s_s/s_t) a_t]   (D of order 1 or 2)

    [Li et al. 2025, arXiv:2502.07856, with its extra mean term written for a + b = 1]
    """
    previous = None
    for t, s in zip(times[:-1], times[1:], strict=True):
        (a_t, s_t), (a_s, s_s) = ((float(process.alpha(u)), float(process.sigma(u))) for u in (t, s))
        h = math.log(a_s / s_s) - math.log(a_t / s_t)
        x0 = denoise(x, t)
        estimate = x0
        if order == 2 and previous is not None:
            ratio = previous[1] / h
            estimate = (1 + 1 / (2 * ratio)) * x0 - 1 / (2 * ratio) * previous[0]
        previous = x0, h
        x = s_s / s_t * x - a_s * math.expm1(-h) * estimate + mu * (1 - s_s / s_t - a_s + s_s / s_t * a_t)
    return x


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize(("solver", "order"), [("ddim", 1), ("dpm++2m", 2)])
def test_the_plain_engine_on_the_anchored_state_is_the_mean_reverting_sampler(schedule, solver, order):
    """The published extra mean term comes out of z = x - beta y; with mu = 0 it is DPM-Solver++."""
    process = MeanReverting(scale=0.5, schedule=schedule)
    oracle, times = gm4(process), [1.0, 0.7, 0.45, 0.25, 0.12, 0.05]
    for mu in (torch.tensor([[0.8, -0.6]], dtype=torch.float64), torch.zeros(1, 2, dtype=torch.float64)):
        condition = {"anchor": mu}
        x = mu + 0.5 * torch.randn(16, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        ours = sample(oracle, 16, solver=solver, grid=times, start=(x, 1.0), condition=condition).x
        theirs = mean_reverting_sampler(process, lambda z, t, c=condition: oracle(z, t, c), x, times, mu, order)
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def test_one_step_of_the_mean_reverting_sampler_is_exact_when_the_data_are_known():
    process, generator = MeanReverting(scale=0.5), torch.Generator().manual_seed(0)
    x0, mu, eps = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64)
    x = process.perturb(x0, 0.9, eps, mu)
    stepped = mean_reverting_sampler(process, lambda z, t: x0, x, [0.9, 0.1], mu, 1)
    torch.testing.assert_close(stepped, process.perturb(x0, 0.1, eps, mu), rtol=0, atol=1e-12)


def test_ten_second_order_steps_match_a_hundred_of_euler_maruyama_on_ouve():
    """Sliced Wasserstein-2 to exact draws, the speech plugin's process, exact denoiser."""
    process = names.process("ouve")
    oracle, count = gm4(process), 1500
    mu = torch.tensor([[0.2, 0.1]], dtype=torch.float64)
    truth = oracle.draw(count, torch.Generator().manual_seed(11))
    start = oracle.marginal(count, process.t_max, seed=4, anchor=mu)
    ours = sample(oracle, count, solver="dpm++2m", grid="log-snr:10", start=(start, process.t_max), condition={"anchor": mu}).x
    x, generator = start.clone(), torch.Generator().manual_seed(0)
    times = torch.linspace(process.t_max, process.t_min, 101, dtype=torch.float64)
    for t, s in zip(times[:-1].tolist(), times[1:].tolist(), strict=True):
        h, g = t - s, float(process.diffusion(t))
        drift = process.drift(x, t, mu) - g**2 * oracle.score(x, t, {"anchor": mu})
        x = x - h * drift + math.sqrt(h) * g * torch.randn(x.shape, generator=generator, dtype=torch.float64)
    assert sliced_wasserstein(ours, truth) < sliced_wasserstein(x, truth) + 0.02  # the floor between two sets of 1500 draws


# Score SDE: one law, three samplers


def test_reverse_sde_flow_and_predictor_corrector_sample_one_law():
    """GM4 from VE's exact prior, 120 steps each: energy distances to the law as between 600 exact draws and it.

    Corrections in units of the norms' ratio fail here, and so the test can: the norm of two normals scatters too much.
    """
    process = VE(sigma_min=0.02, sigma_max=20.0)
    oracle, count = gm4(process), 600
    truth, start = oracle.draw(1200, gen(7)), oracle.marginal(count, 1.0, seed=1)
    limit = max(energy_distance(oracle.draw(count, gen(20 + i)), truth) for i in range(12))

    def distance(solver: str) -> float:
        return energy_distance(sample(oracle, count, solver=solver, grid="karras:120", start=(start, 1.0), seed=4).x, truth)

    assert max(distance(solver) for solver in ("ancestral", "heun", "pc:snr=0.16,kind=annealed")) < limit
    assert distance("pc:snr=0.16") > limit


def gen(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_noise_added_by_brownian_motion_is_its_diffusion():
    process = Brownian(0.7)
    close(process.sigma(torch.tensor([0.0, 0.5, 1.0])), [0, math.sqrt(0.7), math.sqrt(1.4)], 1e-12)
    close(process.diffusion(0.3), math.sqrt(1.4), 1e-15)
