"""Conversions: exact between every pair of predictions, stable at both ends, refused where a prediction says nothing."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.denoiser.convert import PARAMETERISATIONS, convert, weights
from unstir.errors import UnknownName, UserError

PAIRS = list(itertools.product(PARAMETERISATIONS, PARAMETERISATIONS))


def predictions(x0, eps, alpha, sigma, s):
    """Every prediction from its definition."""
    rho = sigma / alpha
    bar = x0 + rho * eps
    f = (x0 - s**2 / (rho**2 + s**2) * bar) * math.sqrt(rho**2 + s**2) / (rho * s)
    return {"eps": eps, "x0": x0, "v": alpha * eps - sigma * x0, "score": -eps / sigma, "flow": eps - x0, "edm": f}


@settings(deadline=None, max_examples=100)
@given(st.sampled_from(PAIRS), st.floats(-4, 4), st.floats(-2, 2), st.floats(0.05, 3))
def test_every_conversion_is_exact(pair, log_rho, log_scale, s):
    """At noise levels e^-4 ... e^4 and any scale: alpha^2 + sigma^2 need not be 1."""
    scale, rho = math.exp(log_scale), math.exp(log_rho)
    alpha, sigma = scale / math.hypot(1, rho), scale * rho / math.hypot(1, rho)
    x0, eps = torch.randn(2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    known = predictions(x0, eps, alpha, sigma, s)
    source, target = pair
    got = convert(known[source], source, target, alpha * x0 + sigma * eps, alpha, sigma, s)
    # x0 from noise multiplies rounding by rho, noise from x0 by 1/rho; edm and score by as much again.
    slack = 1e-13 * max(rho, 1 / rho) ** 2 * max(scale, 1 / scale) ** 2
    torch.testing.assert_close(got, known[target], rtol=slack, atol=slack)
    batch = torch.tensor([[alpha]] * 5, dtype=torch.float64), torch.tensor([[sigma]] * 5, dtype=torch.float64)
    on_value, on_state = weights(source, target, *batch, s)
    torch.testing.assert_close(
        (on_value[:, 0], on_state[:, 0]),
        tuple(torch.tensor([c] * 5, dtype=torch.float64) for c in weights(source, target, alpha, sigma, s)),
    )


@pytest.mark.parametrize("s", [0.5, 1.0])
def test_the_edm_weights_are_those_of_the_paper(s):
    for sigma in (0.002, 0.5, 80.0):
        on_value, on_state = weights("edm", "x0", 1.0, sigma, s)
        assert on_state == pytest.approx(s**2 / (sigma**2 + s**2), rel=1e-14)
        assert on_value == pytest.approx(sigma * s / math.sqrt(sigma**2 + s**2), rel=1e-14)


@pytest.mark.parametrize("source", ["v", "flow", "edm", "x0"])
def test_clean_data_come_out_of_pure_noise(source):
    """alpha = 0, sigma = 1: these predictions still contain x0."""
    s = 0.5
    x0, eps = 0.3, -1.2
    value = {"v": -x0, "flow": eps - x0, "edm": x0 / s, "x0": x0}[source]
    on_value, on_state = weights(source, "x0", 0.0, 1.0, s)
    assert on_value * value + on_state * eps == pytest.approx(x0, rel=1e-14)


@pytest.mark.parametrize("source", ["v", "flow", "edm", "eps"])
def test_noise_comes_out_of_clean_data(source):
    """alpha = 1, sigma = 0: these predictions still contain eps."""
    x0, eps = 0.3, -1.2
    value = {"v": eps, "flow": eps - x0, "edm": -eps, "eps": eps}[source]
    on_value, on_state = weights(source, "eps", 1.0, 0.0)
    assert on_value * value + on_state * x0 == pytest.approx(eps, rel=1e-14)
    assert weights(source, "x0", 1.0, 0.0) == (0, 1)


def test_at_a_pinned_end_only_x0_and_edm_speak():
    assert weights("edm", "x0", 0.0, 0.0, 0.5) == (0.5, 0.0)
    assert weights("x0", "x0", 0.0, 0.0) == (1.0, 0.0)
    for source in ("eps", "v", "flow", "score"):
        with pytest.raises(UserError):
            weights(source, "x0", 0.0, 0.0)


@pytest.mark.parametrize(
    ("source", "target", "alpha", "sigma", "words"),
    [
        ("eps", "x0", 0.0, 1.0, "no data left"),
        ("score", "x0", 0.0, 1.0, "no data left"),
        ("x0", "eps", 1.0, 0.0, "no noise left"),
        ("x0", "edm", 1.0, 0.0, "no noise left"),
        ("eps", "score", 1.0, 0.0, "no noise left"),
    ],
)
def test_what_a_prediction_does_not_know_is_refused(source, target, alpha, sigma, words):
    with pytest.raises(UserError, match=words):
        weights(source, target, alpha, sigma)


def test_an_unknown_prediction_is_refused_with_the_nearest_name():
    with pytest.raises(UnknownName, match="eps"):
        weights("epsilon", "x0", 1.0, 1.0)


def test_there_and_back_is_the_identity_to_rounding_over_fourteen_decades():
    """edm, v and flow lose no digits anywhere: their conversions stay bounded at both ends."""
    z = torch.tensor(0.7, dtype=torch.float64)
    for a, b in itertools.permutations(("v", "flow", "edm"), 2):
        for log in range(-7, 8):
            alpha, sigma = 1 / math.hypot(1, 10.0**log), 10.0**log / math.hypot(1, 10.0**log)
            value = torch.tensor(-0.4, dtype=torch.float64)
            there = convert(value, a, b, z, alpha, sigma)
            torch.testing.assert_close(convert(there, b, a, z, alpha, sigma), value, rtol=1e-13, atol=1e-13)
