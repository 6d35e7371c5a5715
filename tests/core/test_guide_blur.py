"""Blur and self-attention guidance: the two published forms agree, masks, and what strength does to precision and recall."""

import math

import pytest
import torch

import unstir
from unstir.certify.checks import invariance
from unstir.certify.distances import total_variation
from unstir.certify.oracles import GaussianOracle, MixtureOracle
from unstir.denoiser import Denoiser
from unstir.errors import UserError
from unstir.guide import AttentionMask, BlurGuidance
from unstir.guide.blur import blurred
from unstir.process import EDM, VP, VPCosine


def glyphs():
    """Eight images of 8 x 8 cells: a bar at one of four places, upright or lying."""
    images = torch.full((8, 1, 8, 8), -1.0, dtype=torch.float64)
    for place in range(4):
        at = (1, 3, 5, 6)[place]
        images[place, 0, 1:7, at] = 1.0
        images[place + 4, 0, at, 1:7] = 1.0
    return images


def law(std, process=None):
    images = glyphs()
    return MixtureOracle([1.0] * 8, images, torch.full_like(images, std), process)


class Attentive(Denoiser):
    """A denoiser that keeps maps of attention, as a network would: 16 tokens of 2 x 2 cells, all attending to the given ones."""

    def __init__(self, tokens):
        super().__init__(EDM(), (1, 8, 8))
        self.inner = torch.nn.Module()
        maps = torch.zeros(1, 2, 16, 16)
        maps[..., tokens] = 1 / len(tokens)
        self.inner.attention = maps
        self.oracle = law(0.5)

    def forward(self, x, t, condition=None):
        self.inner.attention = self.inner.attention[:1].expand(len(x), -1, -1, -1)
        return self.oracle(x, t)


@pytest.mark.parametrize(("process", "t"), [(VP(), 0.4), (EDM(), 1.5)])
def test_the_guided_estimate_is_that_of_the_published_noise(process, t):
    denoiser, s = law(0.5, process), 1.7
    x = denoiser.marginal(3, t)
    alpha, sigma = float(process.alpha(t)), float(process.sigma(t))

    def noise(state):
        return (state - alpha * denoiser(state, t)) / sigma

    x0, eps = denoiser(x, t), noise(x)
    again = alpha * blurred(x0, 1.0) + sigma * eps
    published = noise(again) + (1 + s) * (eps - noise(again))
    torch.testing.assert_close(BlurGuidance(s, sigma=1.0).wrap(denoiser)(x, t), (x - sigma * published) / alpha)


def test_strength_0_is_the_model_bit_for_bit_and_costs_nothing():
    denoiser = law(0.5)
    plain, guided = (unstir.sample(denoiser, 3, grid="karras:6", guides=guides) for guides in ([], [BlurGuidance(0.0)]))
    assert torch.equal(plain.x, guided.x)
    assert guided.nfe == plain.nfe


def test_a_mask_of_all_is_blur_guidance_and_a_mask_of_nothing_the_model():
    denoiser = law(0.5)
    x = denoiser.marginal(3, 1.0)
    whole = BlurGuidance(1.0).wrap(denoiser)(x, 1.0)
    masked = BlurGuidance(1.0, mask=lambda _denoiser, x0: torch.ones_like(x0[:, :1])).wrap(denoiser)(x, 1.0)
    nothing = BlurGuidance(1.0, mask=lambda _denoiser, x0: torch.zeros_like(x0)).wrap(denoiser)(x, 1.0)
    assert torch.equal(whole, masked)
    assert torch.equal(nothing, denoiser(x, 1.0))


def test_attention_says_where_to_blur():
    denoiser = Attentive([0, 5])
    x0 = denoiser(denoiser.oracle.marginal(2, 1.0), 1.0)
    mask = AttentionMask()(denoiser, x0)
    expected = torch.zeros(4, 4)
    expected[0, 0] = expected[1, 1] = 1
    assert torch.equal(mask[1, 0], expected.repeat_interleave(2, 0).repeat_interleave(2, 1).to(mask))
    named = AttentionMask(maps=lambda d: d.inner.attention)(denoiser, x0)
    assert torch.equal(named, mask)
    guided = BlurGuidance(1.0, mask=AttentionMask()).wrap(denoiser)
    assert torch.isfinite(guided(denoiser.oracle.marginal(2, 1.0), 1.0)).all()


def test_precision_rises_with_strength_until_recall_falls():
    # the model is a smoothed version of the truth, as a network that has learned too little
    truth, count = glyphs().flatten(1), 300
    precision, recall, spread = [], [], []
    for weight in (0.0, 1.0, 2.0, 8.0):
        x = unstir.sample(law(0.8), count, solver="dpm++2m", grid="karras:16", guides=[BlurGuidance(weight)]).x
        nearest = torch.cdist(x.flatten(1), truth).min(1)
        precision.append(nearest.values.mean().item() / 8)  # root mean square distance to a glyph, a cell
        recall.append(total_variation(torch.bincount(nearest.indices, minlength=8) / count, torch.full((8,), 1 / 8)))
        spread.append(x.std(0).mean().item())
    assert precision[0] > 0.8
    assert precision[1] < 0.75 * precision[0]
    assert precision[2] < 0.6 * precision[0]
    assert max(recall[:3]) < 0.1  # sampling error of 300 draws over 8 glyphs is about .06
    assert recall[3] > 0.12
    assert spread == sorted(spread[:3], reverse=True) + spread[3:]


def test_a_blur_keeps_sums_and_constants_and_spreads_a_point_by_its_width():
    x = torch.zeros(1, 1, 33, dtype=torch.float64)
    x[..., 16] = 1.0
    found = blurred(x, 2.0)
    place = torch.arange(33, dtype=torch.float64) - 16
    assert math.isclose(found.sum().item(), 1.0, abs_tol=1e-12)
    assert math.isclose((found * place**2).sum().item(), 4.0, rel_tol=0.04)  # cut at three widths
    edge = torch.rand(2, 3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(blurred(edge, 3.0).sum((2, 3)), edge.sum((2, 3)))
    torch.testing.assert_close(blurred(torch.ones(2, 7), 1.0), torch.ones(2, 7))


def test_a_sample_does_not_depend_on_its_batch():
    assert invariance(law(0.5), grid="karras:6", guides=[BlurGuidance(1.0)]).passed


def test_it_is_finite_from_pure_noise_on():
    denoiser = GaussianOracle(torch.zeros(1, 4, 4), torch.ones(1, 4, 4), VPCosine())
    assert torch.isfinite(unstir.sample(denoiser, 2, grid="uniform:6", guides=[BlurGuidance(2.0)]).x).all()


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: BlurGuidance(math.nan), "finite weight"),
        (lambda: BlurGuidance(1.0, sigma=0.0), "positive width"),
        (lambda: AttentionMask(threshold=-1.0), "not negative"),
        (lambda: AttentionMask()(law(0.5), torch.zeros(1, 1, 8, 8)), "keeps no attention maps"),
        (lambda: AttentionMask(maps=lambda d: torch.ones(1, 1, 5, 5))(law(0.5), torch.zeros(1, 1, 8, 8)), "do not tile"),
        (lambda: BlurGuidance(1.0).wrap(law(0.5))({"a": torch.zeros(1, 1)}, 1.0), "dict of leaves"),
    ],
)
def test_blur_guidance_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
