"""Processes: golden numbers, closed forms against automatic differentiation, inverses, ends, anchors, joint states."""

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.errors import UserError
from unstir.process import EDM, OUVE, SBVE, VE, VP, Anchored, Joint, MeanReverting, Process, RectifiedFlow, SubVP, VPCosine, VPTable

PROCESSES = [
    VP(),
    VP(beta_min=0.5, beta_max=0.5),
    SubVP(),
    VPCosine(),
    VE(),
    EDM(),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
    VPTable(),
    VPTable("scaled-linear"),
    VPTable("squaredcos"),
    VPTable(zero_terminal=True),
    OUVE(),
    MeanReverting(),
    MeanReverting(schedule="constant"),
    SBVE(),
]
IDS = [repr(process) for process in PROCESSES]
every = pytest.mark.parametrize("process", PROCESSES, ids=IDS)


def inside(process: Process, count: int = 101) -> torch.Tensor:
    """Times strictly inside the sampling interval, none of them an index of a table (where the slope jumps)."""
    part = (torch.arange(count, dtype=torch.float64) + 0.537) / count
    return process.t_min + (process.t_max - process.t_min) * part


def close(value, expected, rtol=1e-9):
    np.testing.assert_allclose(np.asarray(value), expected, rtol=rtol, atol=0)


# Goldens: to the ten digits they are given with, that is 1e-9 relative, or half a unit of the last printed digit.


def test_vp_linear_has_its_golden_numbers():
    process, t = VP(), torch.tensor([0.1, 0.5, 0.9, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(process.alpha(t), [0.9467217988, 0.2811828808, 0.0169964633, 0.0065715865], rtol=1e-9, atol=5e-11)
    np.testing.assert_allclose(process.sigma(t), [0.3220525355, 0.9596542021, 0.9998555497, 0.9999784069], rtol=1e-9, atol=5e-11)
    np.testing.assert_allclose(process.log_snr(t) / 2, [1.0782905929, -1.2275677344, -4.0746055393, -5.0249784067], rtol=1e-9, atol=5e-11)
    np.testing.assert_allclose(process.sigma(1e-5), 0.0010004971, atol=5e-11)


def test_discrete_tables_have_their_golden_numbers():
    index = torch.tensor([0.0, 1.0, 499.0, 999.0], dtype=torch.float64)
    linear = VPTable("linear")
    np.testing.assert_allclose(linear.alpha(index) ** 2, [0.9999, 0.9997800921, 0.0785872429, 4.0358297654e-5], rtol=1e-9, atol=5e-11)
    np.testing.assert_allclose(linear.rho(index[[0, -1]]), [0.0100005, 157.407], rtol=5e-6)
    np.testing.assert_allclose(
        VPTable("scaled-linear").alpha(index) ** 2, [0.99915, 0.9982960278, 0.2776696505, 0.0046600985], rtol=1e-9, atol=5e-11
    )
    cosine = VPTable("squaredcos").alpha(index) ** 2
    np.testing.assert_allclose(cosine, [0.9999587158, 0.9999125759, 0.4938435904, 2.4287669e-9], rtol=2e-8)
    zero = VPTable("linear", zero_terminal=True)
    alpha = zero.alpha(torch.tensor([0.0, 1.0, 499.0, 998.0, 999.0], dtype=torch.float64))
    np.testing.assert_allclose(alpha, [0.9999499988, 0.9998896566, 0.2757331147, 6.4909648e-5, 0], rtol=2e-8)
    assert alpha[-1] == 0


def test_ouve_and_bridge_have_their_golden_numbers():
    t = torch.tensor([0.03, 0.5, 1.0], dtype=torch.float64)
    np.testing.assert_allclose(OUVE().sigma(t), [0.0188300999, 0.1216573339, 0.3889826582], rtol=1e-9, atol=5e-11)
    np.testing.assert_allclose(OUVE().alpha(t), [0.9559974818, 0.4723665527, 0.2231301601], rtol=1e-9, atol=5e-11)
    t = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    np.testing.assert_allclose(SBVE().alpha(t), [0.9634404, 0.7222222, 0.2041519], atol=5e-8)
    np.testing.assert_allclose(SBVE().sigma(t), [0.2060732, 0.4918045, 0.4425885], atol=5e-8)


def test_the_variance_of_ouve_solves_its_equation():
    """d(sigma^2)/dt = g^2 - 2 gamma sigma^2, integrated from 0 by Runge-Kutta 4."""
    process, variance, h = OUVE(), 0.0, 1e-3

    def slope(t, v):
        return process.diffusion(t).item() ** 2 - 2 * process.stiffness * v

    for step in range(1000):
        t = step * h
        k1 = slope(t, variance)
        k2 = slope(t + h / 2, variance + h / 2 * k1)
        k3 = slope(t + h / 2, variance + h / 2 * k2)
        k4 = slope(t + h, variance + h * k3)
        variance += h / 6 * (k1 + 2 * k2 + 2 * k3 + k4)
    np.testing.assert_allclose(math.sqrt(variance), process.sigma(1.0).item(), rtol=1e-10)  # the integrator's error at h = 1e-3


def test_the_cosine_schedule_is_the_ratio_of_cosines():
    t = torch.linspace(0.01, 0.99, 23, dtype=torch.float64)
    quarter = math.pi / 2 / 1.008
    alpha = torch.cos((t + 0.008) * quarter) / math.cos(0.008 * quarter)
    close(VPCosine().alpha(t), alpha, 1e-12)
    close(VPCosine().sigma(t), torch.sqrt(1 - alpha**2), 1e-10)


def test_the_discrete_mean_reverting_schedule_tends_to_the_continuous_one():
    """IR-SDE's own recipe with many steps: theta_i = 1 - cos^2 ratio, summed and scaled so that alpha ends at the floor."""
    steps = 20000
    x = np.arange(steps + 1) / steps
    level = np.cos((x + 0.008) / 1.008 * math.pi / 2) ** 2
    total = np.cumsum(1 - level / level[0])
    expected = np.exp(np.log(0.01) * total / total[-1])
    close(MeanReverting().alpha(torch.from_numpy(x[2000::2000])), expected[2000::2000], 2e-3)  # first-order sum: 1/steps, times log(100)


# Laws


@every
def test_drift_and_diffusion_follow_from_alpha_beta_sigma(process):
    """The closed forms against automatic differentiation of alpha, beta and sigma."""
    t = inside(process)
    close(process.rate(t), Process.rate(process, t), 1e-9)
    # (sigma^2)' - 2 f sigma^2 cancels near pure noise: compare on the scale of the terms.
    terms = (Process.rate(process, t) * process.sigma(t) ** 2).abs() + process.diffusion(t) ** 2
    assert ((process.diffusion(t) ** 2 - Process.diffusion(process, t) ** 2).abs() <= 1e-9 * terms).all()
    if process.anchored:
        close(process.pull(t), Process.pull(process, t), 1e-8)
        close(process.alpha(t) + process.beta(t), torch.ones_like(t), 1e-14)
    else:
        assert not process.beta(t).any()
        assert not process.pull(t).any()


@every
def test_the_inverse_of_rho_is_exact(process):
    t = inside(process)
    scale = max(abs(process.t_max), 1.0)
    # Relative to the condition of the inverse: an error of eps in rho moves t by eps rho/rho'.
    back = process.time_at_rho(process.rho(t))
    slack = process.rho(t) / (process.diffusion(t) ** 2 / (2 * process.sigma(t) ** 2) * process.rho(t))
    assert ((back - t).abs() <= 1e-12 * scale + 4e-15 * slack).all()
    close(process.rho(t), process.sigma(t) / process.alpha(t), 1e-9)
    assert (process.rho(t).diff() > 0).all()


@pytest.mark.parametrize(
    "process",
    [VP(), VP(beta_min=0.5, beta_max=0.5), OUVE(), MeanReverting(schedule="constant"), SBVE(), RectifiedFlow(shift=3.0)],
    ids=repr,
)
def test_the_closed_inverse_is_what_bisection_finds(process):
    rho = process.rho(inside(process))
    close(process.time_at_rho(rho), Process.time_at_rho(process, rho), 1e-10)


@every
def test_both_ends_are_finite_and_in_place(process):
    zero = process.t_zero
    assert process.sigma(zero) == 0
    assert process.alpha(zero) == 1
    assert process.beta(zero) == 0
    assert process.rho(zero) == 0
    assert float(process.time_at_rho(0.0)) == zero
    end = float(process.rho(process.t_max))
    assert abs(float(process.time_at_rho(end)) - process.t_max) <= 1e-12 * process.t_max
    for f in (process.alpha, process.beta, process.sigma):
        assert torch.isfinite(f(process.t_max))
    assert torch.isfinite(process.label(process.t_max))
    assert float(process.rho(process.t_min)) < 0.1
    assert process.sigma(zero - 1) == 0


@pytest.mark.parametrize("process", [VPCosine(), RectifiedFlow(), RectifiedFlow(shift=3.0), VPTable(zero_terminal=True), SBVE()], ids=repr)
def test_a_process_that_ends_in_pure_noise_has_an_infinite_rho_there(process):
    assert process.alpha(process.t_max) == 0
    assert math.isinf(process.rho(process.t_max))
    assert float(process.time_at_rho(math.inf)) == process.t_max


def test_variance_preserving_processes_preserve_variance():
    for process in [p for p in PROCESSES if isinstance(p, VP | VPCosine | VPTable) and not isinstance(p, SubVP)]:
        t = inside(process)
        close(process.alpha(t) ** 2 + process.sigma(t) ** 2, torch.ones_like(t), 1e-14)


@every
def test_functions_of_time_are_float64_and_keep_shape(process):
    for t in (float(inside(process)[3]), inside(process)[:4].float().reshape(2, 2)):
        for f in (
            process.alpha,
            process.beta,
            process.sigma,
            process.rho,
            process.log_snr,
            process.rate,
            process.diffusion,
            process.label,
        ):
            value = f(t)
            assert value.dtype == torch.float64
            assert value.shape == torch.as_tensor(t).shape


@every
def test_a_process_is_frozen_hashable_and_prints_as_code(process):
    assert hash(process) == hash(eval(repr(process)))
    assert process == eval(repr(process))
    with pytest.raises(AttributeError):
        process.t_max = 2.0


@every
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_perturb_is_the_definition_and_keeps_the_dtype(process, dtype):
    generator = torch.Generator().manual_seed(0)
    x0, y, eps = torch.randn(3, 4, 2, 5, generator=generator, dtype=dtype)
    t = inside(process)[[5, 50, 77, 90]]
    x = process.perturb(x0, t, eps, y if process.anchored else None)
    assert x.dtype == dtype
    for i in range(4):
        one = process.perturb(x0[i : i + 1], float(t[i]), eps[i : i + 1], y[i : i + 1] if process.anchored else None)
        expected = process.alpha(t[i]) * x0[i] + process.beta(t[i]) * y[i] + process.sigma(t[i]) * eps[i]
        torch.testing.assert_close(x[i], expected.to(dtype))
        torch.testing.assert_close(one[0], x[i])


@every
def test_the_drift_carries_the_mean(process):
    """d/dt (alpha x0 + beta y) = drift(alpha x0 + beta y): the mean of the forward equation."""
    x0, y, h = torch.full((1, 3), 0.7, dtype=torch.float64), torch.full((1, 3), -0.4, dtype=torch.float64), 1e-6 * process.t_max
    t = float(inside(process)[40])

    def mean(s):
        return process.alpha(s) * x0 + process.beta(s) * y

    numeric = (mean(t + h) - mean(t - h)) / (2 * h)
    anchor = y if process.anchored else None
    torch.testing.assert_close(process.drift(mean(t), t, anchor), numeric, rtol=1e-6, atol=1e-8)  # a central difference of step 1e-6


# Anchors


def test_the_plain_process_of_an_anchored_one_has_the_same_alpha_and_sigma():
    x0, y, eps = torch.randn(3, 2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    for process in (OUVE(), MeanReverting(), SBVE()):
        t = 0.6 * process.t_max
        z = process.perturb(x0, t, eps, y) - process.beta(t) * y
        torch.testing.assert_close(z, process.alpha(t) * x0 + process.sigma(t) * eps)


def test_ouve_never_reaches_its_anchor():
    """The prior is centred on y, the exact mean is alpha(1) x0 + (1 - alpha(1)) y: a mismatch of .223 (x0 - y)."""
    y = torch.ones(1, 2)
    mean, std = OUVE().prior(y)
    assert torch.equal(mean, y)
    close(std, 0.3889826582, 1e-9)
    np.testing.assert_allclose(1 - OUVE().beta(1.0), 0.2231301601, atol=5e-11)


def test_a_bridge_is_pinned_at_both_ends():
    bridge, y = SBVE(), torch.ones(1, 2)
    assert (bridge.alpha(0.0), bridge.beta(0.0), bridge.sigma(0.0)) == (1, 0, 0)
    assert (bridge.alpha(1.0), bridge.beta(1.0), bridge.sigma(1.0)) == (0, 1, 0)
    assert torch.equal(bridge.prior(y)[0], y)
    assert bridge.prior(y)[1] == 0.0


def test_a_missing_anchor_is_said():
    with pytest.raises(UserError, match=r"condition\['anchor'\]"):
        OUVE().perturb(torch.zeros(1, 2), 0.5, torch.zeros(1, 2))


def test_priors_of_plain_processes_are_centred_with_the_noise_of_the_start():
    for process in [p for p in PROCESSES if not p.anchored]:
        assert process.prior() == (0.0, float(process.sigma(process.t_max)))
    assert EDM().prior(t=3.0) == (0.0, 3.0)


# A process by a stranger


@dataclass(frozen=True)
class Trigonometric(Process):
    """alpha = cos t, sigma = sin t, and nothing else given."""

    t_min: float = 1e-3
    t_max: float = math.pi / 2 - 1e-3

    def alpha(self, t):
        return torch.cos(self.time(t))

    def sigma(self, t):
        return torch.sin(self.time(t))


@dataclass(frozen=True)
class Interpolant(Anchored):
    """alpha = (1 - t)^2, beta = t^2, sigma = t (1 - t): alpha + beta is not 1, so only the general forms hold."""

    t_min: float = 1e-3
    t_max: float = 1.0
    anchored: ClassVar[bool] = True

    def alpha(self, t):
        return (1 - self.time(t)) ** 2

    def beta(self, t):
        return self.time(t) ** 2

    def pull(self, t):
        return Process.pull(self, t)

    def sigma(self, t):
        return self.time(t) * (1 - self.time(t))


def test_a_new_process_needs_only_alpha_and_sigma():
    process, t = Trigonometric(), torch.linspace(0.1, 1.4, 14, dtype=torch.float64)
    close(process.rate(t), -torch.tan(t), 1e-12)
    close(process.diffusion(t), torch.sqrt(2 * torch.tan(t)), 1e-12)
    close(process.time_at_rho(torch.tan(t)), t, 1e-14)
    assert process.time_at_rho(0.0) == 0
    assert process.time_at_rho(1e9) == process.t_max


def test_a_new_anchored_process_pulls_as_its_mean_does():
    """beta' - f beta = 2t + 2t^2/(1 - t)."""
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    close(Interpolant().pull(t), 2 * t + 2 * t**2 / (1 - t), 1e-12)


# Joint states


def test_a_joint_process_is_its_leaves():
    parts = {"x": VP(), "a": VE()}
    joint = Joint(parts)
    assert joint.alpha(0.3) == {leaf: process.alpha(0.3) for leaf, process in parts.items()}
    assert joint.time_at_rho(0.5) == VP().time_at_rho(0.5)
    assert (joint.t_min, joint.t_max, joint.t_zero) == (1e-3, 1.0, -math.inf)
    assert joint.sigma(joint.t_zero) == {"x": 0, "a": 0}
    x0 = {leaf: torch.randn(2, 3, dtype=torch.float64) for leaf in parts}
    eps = {leaf: torch.randn(2, 3, dtype=torch.float64) for leaf in parts}
    x = joint.perturb(x0, 0.3, eps)
    for leaf, process in parts.items():
        assert torch.equal(x[leaf], process.perturb(x0[leaf], 0.3, eps[leaf]))
        assert torch.equal(joint.drift(x, 0.3)[leaf], process.drift(x[leaf], 0.3))
    assert joint.prior() == ({"x": 0.0, "a": 0.0}, {"x": float(VP().sigma(1.0)), "a": pytest.approx(50.0)})
    assert hash(joint) == hash(Joint(dict(parts)))


def test_separate_times_are_a_dict():
    joint = Joint({"x": EDM(), "y": OUVE()}, shared_time=False)
    times = {"x": 3.0, "y": 0.5}
    assert joint.sigma(times) == {"x": 3.0, "y": OUVE().sigma(0.5)}
    assert joint.anchored
    x = joint.perturb(
        {"x": torch.zeros(1, 2), "y": torch.zeros(1, 2)}, times, {"x": torch.zeros(1, 2), "y": torch.zeros(1, 2)}, {"y": torch.ones(1, 2)}
    )
    torch.testing.assert_close(x["y"], OUVE().beta(0.5).float().expand(1, 2))
    with pytest.raises(UserError, match="separate times"):
        joint.sigma(0.5)
    with pytest.raises(UserError, match="leaves are"):
        joint.sigma({"x": 1.0})


# Bad input


@pytest.mark.parametrize(
    "make",
    [
        lambda: VPTable("lineer"),
        lambda: VPTable(steps=1),
        lambda: VPTable("squaredcos", beta_min=0.1),
        lambda: RectifiedFlow(shift=0.0),
        lambda: MeanReverting(schedule="linear"),
        lambda: SBVE(k=1.0),
        lambda: Joint({}),
        lambda: Joint({"x": VP(), "y": EDM()}),
    ],
)
def test_an_impossible_process_is_refused_in_a_sentence(make):
    with pytest.raises(UserError):
        make()


@settings(deadline=None, max_examples=60)
@given(st.sampled_from(PROCESSES), st.floats(min_value=-18, max_value=18))
def test_any_noise_level_has_a_time_and_back(process, log_rho):
    rho = math.exp(log_rho)
    t = process.time_at_rho(rho)
    assert not torch.isnan(t)
    if process.t_min < t < process.t_max * (1 - 1e-6):
        # Near a pinned or purely noisy end a last bit of t is a large part of rho.
        slack = 1e-15 * process.t_max * float(process.diffusion(t)) ** 2 / (2 * float(process.sigma(t)) ** 2)
        np.testing.assert_allclose(float(process.rho(t)), rho, rtol=1e-9 + slack)
