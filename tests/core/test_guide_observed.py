"""Guides by a likelihood where only some values were measured, other ones in every sample."""

import pytest
import torch

import unstir
from unstir.certify.oracles import GaussianOracle
from unstir.errors import UserError
from unstir.guide import MMPS, TMPD, PiGDM
from unstir.operator import Dense, Identity, Mask
from unstir.process import EDM, VP

STEP = torch.arange(6)
COV = 0.8 ** (STEP[:, None] - STEP[None]).abs().double()
MEAN = torch.linspace(-1, 1, 6, dtype=torch.float64)
SEEN = torch.tensor([[1, 1, 0, 0, 1, 0], [0, 0, 0, 1, 1, 1], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.float64)


def problem(process):
    draw = torch.Generator().manual_seed(0)
    x, y = (torch.randn(4, 6, generator=draw, dtype=torch.float64) for _ in range(2))
    return GaussianOracle(MEAN, COV, process), x, y


@pytest.mark.parametrize(("process", "t"), [(EDM(), 0.7), (VP(), 0.4)])
@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_each_sample_is_guided_by_its_own_observed_values_exactly(process, t, noise):
    law, x, y = problem(process)
    guide = MMPS(Identity((6,)), "y", noise=noise, observed="seen", iterations=8, tolerance=1e-12)
    found = guide.estimate(law, x, t, {"y": y, "seen": SEEN})
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))
    left = torch.linalg.inv(torch.linalg.inv(COV) + (alpha / sigma) ** 2 * torch.eye(6))  # Cov[x0 | x_t]
    x0 = law(x, t)
    for row in range(4):
        at = SEEN[row].bool()
        gain = left[:, at] @ torch.linalg.inv(left[at][:, at] + noise**2 * torch.eye(int(at.sum())))
        wanted = x0[row] + gain @ (y[row] - x0[row])[at]
        torch.testing.assert_close(found[row], wanted, rtol=1e-6, atol=1e-6)  # 0.3 is kept in single precision


@pytest.mark.parametrize("make", [PiGDM, MMPS, TMPD])
def test_a_mask_given_as_observed_is_the_mask_as_an_operator(make):
    law, x, y = problem(EDM())
    seen = SEEN[0]
    mine = make(Identity((6,)), "y", 0.1, observed=seen).estimate(law, x, 0.7, {"y": y})
    named = make(Identity((6,)), "y", 0.1, observed="seen").estimate(law, x, 0.7, {"y": y, "seen": seen[None]})
    other = make(Mask(seen), "y", 0.1).estimate(law, x, 0.7, {"y": y * seen})
    torch.testing.assert_close(mine, other, rtol=1e-9, atol=1e-9)
    assert torch.equal(mine, named)


def test_what_a_measurement_holds_where_nothing_was_observed_does_not_matter():
    law, x, y = problem(EDM())
    guide = PiGDM(Dense(torch.randn(6, 6, generator=torch.Generator().manual_seed(1))), "y", 0.1, observed="seen")
    found = guide.estimate(law, x, 0.7, {"y": y, "seen": SEEN})
    other = guide.estimate(law, x, 0.7, {"y": torch.where(SEEN > 0, y, 1e3), "seen": SEEN})
    torch.testing.assert_close(other, found, rtol=1e-12, atol=1e-12)
    assert torch.equal(found[3], law(x, 0.7)[3])  # nothing observed: the denoiser's own


def test_a_sample_does_not_depend_on_what_was_observed_of_its_neighbours():
    law, _, y = problem(EDM())
    guide = MMPS(Identity((6,)), "y", 0.1, observed="seen")
    whole = unstir.sample(law, 4, guides=[guide], condition={"y": y, "seen": SEEN}, grid="logistic:6", seed=3).x
    chunks = unstir.sample(law, 4, guides=[guide], condition={"y": y, "seen": SEEN}, grid="logistic:6", seed=3, batch=1).x
    torch.testing.assert_close(whole, chunks, rtol=1e-6, atol=1e-6)  # float32 states; the oracle's products round by batch size


def test_weights_are_refused_as_observed():
    law, x, y = problem(EDM())
    with pytest.raises(UserError, match="1 or 0"):
        PiGDM(Identity((6,)), "y", observed=torch.full((6,), 0.5))
    with pytest.raises(UserError, match="1 or 0"):
        PiGDM(Identity((6,)), "y", observed="seen").estimate(law, x, 0.7, {"y": y, "seen": SEEN / 2})
    with pytest.raises(UserError, match="seen"):
        PiGDM(Identity((6,)), "y", observed="seen").estimate(law, x, 0.7, {"y": y})
