"""CFG++ is a weight per step; classifier-free guidance is no power of laws."""

import math

import pytest
import torch

import unstir
from unstir.certify.laws import classes3
from unstir.certify.oracles import GaussianOracle
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import CFG, CFGPlusPlus
from unstir.guide.cfg import row_at
from unstir.process import EDM, VP, VPCosine
from unstir.solver import DDIM, Heun

CLASS = {"class": torch.tensor([0, 1, 2, 0, 1])}


def published(law, rows, x, weight):
    """CFG++ as it is published: the guided estimate with the noise of the unconditional branch."""
    for row in rows:
        free, given = law(x, row.t), law(x, row.t, CLASS)
        noise = (x - row.alpha_t * free) / row.sigma_t
        x = row.alpha_s * (free + weight * (given - free)) + row.sigma_s * noise
    return x


@pytest.mark.parametrize("process", [VP(), EDM(), VPCosine()], ids=["vp", "edm", "cosine-from-pure-noise"])
@pytest.mark.parametrize("weight", [0.0, 0.6, 1.0])
def test_cfg_plus_plus_on_ddim_is_the_published_step_to_rounding(process, weight):
    law = classes3(process)
    grid = "uniform:12" if isinstance(process, VPCosine) else "karras:12"
    samples = unstir.sample(law, 5, solver=DDIM(), grid=grid, guides=[CFGPlusPlus(weight)], condition=CLASS, seed=3, trace=True)
    expected = published(law, DDIM().plan(process, samples.times), samples.path[0], weight)
    # 12 steps of a map whose Lipschitz constant is a few; rounding of float64 is 1e-16
    torch.testing.assert_close(samples.x, expected, rtol=0, atol=1e-12)
    assert samples.nfe == 24


def test_cfg_plus_plus_is_cfg_with_the_weight_over_one_minus_the_ratio_of_levels():
    law = classes3(VP())
    rows = DDIM().plan(VP(), [1.0, 0.7, 0.3, 0.0])
    guided = CFGPlusPlus(0.8).planned(rows).wrap(law)
    x = law.marginal(5, 0.7, seed=1)
    for row in rows:
        kept = row.rho_s / row.rho_t
        torch.testing.assert_close(guided(x, row.t, CLASS), CFG(0.8 / (1 - kept)).wrap(law)(x, row.t, CLASS), rtol=0, atol=1e-13)
    assert rows[-1].rho_s == 0  # to sigma = 0 the two weights are one


def test_a_wrong_weight_would_be_seen():
    law = classes3(EDM())
    samples = unstir.sample(law, 5, solver=DDIM(), grid="karras:12", guides=[CFG(0.6)], condition=CLASS, seed=3, trace=True)
    assert (samples.x - published(law, DDIM().plan(EDM(), samples.times), samples.path[0], 0.6)).abs().max() > 0.1


def test_cfg_plus_plus_takes_the_weight_of_the_step_that_holds_a_time():
    rows = Heun().plan(EDM(), [80.0, 2.0, 0.5, 0.0])
    assert [row_at(rows, t).index for t in (80.0, 79.0, 2.0, 1.0, 0.5, 0.1)] == [0, 0, 1, 1, 2, 2]
    unstir.sample(classes3(EDM()), 5, solver=Heun(), grid="karras:6", guides=[CFGPlusPlus(0.6)], condition=CLASS)


class Pair(Denoiser):
    """N(1, 1/4) with a condition, N(0, 1) without."""

    def __init__(self):
        super().__init__(EDM(), (1,))
        self.given, self.free = (GaussianOracle(torch.tensor([m]), torch.tensor([v])) for m, v in ((1.0, 0.25), (0.0, 1.0)))

    def forward(self, x, t, condition=None):
        return (self.given if condition else self.free)(x, t)


@pytest.mark.parametrize("weight", [0.0, 1.0, 2.0])
def test_cfg_samples_the_tilted_law_only_at_weights_0_and_1(weight):
    # everything is affine, so the image of two points is the exact law of the samples; 400 steps of second order: error below 1e-3
    start = (torch.tensor([[0.0], [80.0]], dtype=torch.float64), 80.0)
    ends = unstir.sample(Pair(), 2, solver="heun", grid="karras:400", guides=[CFG(weight)], condition={"c": 1}, start=start).x
    mean, std = ends[0].item(), (ends[1] - ends[0]).item()
    precision = weight / 0.25 + (1 - weight)
    tilted = (weight / 0.25 / precision, precision**-0.5)
    if weight == 2.0:  # p_c^2/p has mean 1.143 and standard deviation .378; what is sampled is surer and further out
        assert mean - tilted[0] > 0.2
        assert tilted[1] - std > 0.1
    else:
        assert math.isclose(mean, tilted[0], abs_tol=0.02)  # the start at 80 knows N(1, 1/4) but for 1/80
        assert math.isclose(std, tilted[1], abs_tol=1e-3)


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: CFGPlusPlus(1.5), r"must lie in \[0, 1\]"),
        (lambda: CFGPlusPlus(math.nan), r"must lie in \[0, 1\]"),
        (lambda: CFGPlusPlus(0.5).wrap(classes3())(torch.zeros(5, 2), 1.0, CLASS), "runs under unstir.sample"),
        (lambda: row_at(DDIM().plan(EDM(), [2.0, 1.0]), 5.0), "no step at time 5.0"),
        (lambda: row_at(DDIM().plan(EDM(), [2.0, 1.0]), torch.ones(2)), "one time for all"),
        (lambda: CFGPlusPlus(0.5).wrap(classes3())({"a": torch.zeros(5, 2)}, 1.0, CLASS), "dict of leaves"),
        (lambda: CFGPlusPlus(0.5).wrap(classes3())(torch.zeros(5, 2), 1.0), "needs a condition"),
    ],
)
def test_cfg_plus_plus_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
