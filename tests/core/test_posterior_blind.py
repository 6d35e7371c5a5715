"""Blind restoration: unknown gain and offset, unknown blur, on images whose prior is known exactly."""

import math

import pytest
import torch
from torch.nn import functional

from unstir import sample
from unstir.certify import GaussianOracle
from unstir.errors import UserError
from unstir.guide import Blind

N, COUNT = 12, 12


def images():
    """A pattern with a smooth random field on it; truth and exact prior."""
    f = torch.fft.fftfreq(N, dtype=torch.float64) * N
    power = (1 + f[:, None] ** 2 + f[None] ** 2) ** -1.5
    power[0, 0] = 0.01
    kernel = torch.fft.ifft2(0.1 * power / power.mean()).real
    cov = torch.stack([torch.roll(kernel, (i, j), (0, 1)).flatten() for i in range(N) for j in range(N)])
    mean = torch.zeros(N, N, dtype=torch.float64)
    mean[3:9, 2:7], mean[4:6, 8:11] = 2.0, -1.5
    prior = GaussianOracle(mean, cov)
    return prior.draw(COUNT, torch.Generator().manual_seed(3)), prior


TRUTH, PRIOR = images()
NOISE = torch.randn(TRUTH.shape, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def gain(x, phi):
    return phi[:, 0].view(-1, 1, 1) * x + phi[:, 1].view(-1, 1, 1)


def blur(x, phi):
    padded = functional.pad(x[None], (1, 1, 1, 1), mode="circular")
    return functional.conv2d(padded, phi.view(-1, 1, 3, 3), groups=x.shape[0])[0]


GAIN = torch.tensor([1.6, -0.5], dtype=torch.float64)
KERNEL = torch.tensor([[0, 0.1, 0.2], [0.05, 0.4, 0.1], [0.1, 0.05, 0]], dtype=torch.float64).flatten()
SHARP = torch.zeros(9, dtype=torch.float64).index_fill(0, torch.tensor([4]), 1.0)


def psnr(x):
    return float(10 * torch.log10((TRUTH.max() - TRUTH.min()) ** 2 / (x - TRUTH).square().mean()))


def restored(degrade, y, start, **options):
    """Image quality in dB, and the parameters of each image."""
    kept = []

    class Kept(Blind):
        def wrap(self, denoiser):
            kept.append(super().wrap(denoiser))
            return kept[-1]

    guide = Kept(degrade, "y", start, weight=0.2, **options)
    found = sample(PRIOR, COUNT, solver="ddim", grid="log-snr:40,sigma_max=20,sigma_min=0.01", guides=[guide], condition={"y": y})
    return psnr(found.x), kept[-1].phi


def test_an_unknown_gain_and_offset_are_found():
    y = gain(TRUTH, GAIN.expand(COUNT, 2)) + 0.2 * NOISE
    quality, phi = restored(gain, y, torch.tensor([1.0, 0.0]))
    known, _ = restored(gain, y, GAIN, rate=0.0)
    fixed, _ = restored(gain, y, torch.tensor([1.0, 0.0]), rate=0.0)
    assert ((phi / GAIN - 1).abs().mean(0) < 0.1).all()  # of one image, on average: 4% of the gain, 9% of the offset
    assert quality > known - 1
    assert quality > fixed + 6


def test_guidance_at_the_estimate_and_through_the_denoiser_end_alike_with_an_exact_prior():
    # "at the estimate is better" is a claim about networks: here the Jacobian is exact and costs only a transpose
    y = gain(TRUTH, GAIN.expand(COUNT, 2)) + 0.2 * NOISE
    at, _ = restored(gain, y, torch.tensor([1.0, 0.0]))
    through, _ = restored(gain, y, torch.tensor([1.0, 0.0]), through=True)
    assert abs(at - through) < 0.5


def test_an_unknown_blur_is_approached_and_the_image_is_nearly_as_good_as_with_the_known_one():
    y = blur(TRUTH, KERNEL.expand(COUNT, 9)) + 0.1 * NOISE
    quality, phi = restored(blur, y, SHARP, rate=0.2, repeats=10)
    known, _ = restored(blur, y, KERNEL, rate=0.0, repeats=10)
    assert (phi.mean(0) - KERNEL).norm() < 0.6 * (SHARP - KERNEL).norm()
    assert quality > known - 2
    assert quality > psnr(y) + 1


def test_each_trajectory_has_parameters_of_its_own():
    factor = torch.linspace(0.5, 2, COUNT, dtype=torch.float64)
    y = gain(TRUTH, torch.stack([factor, torch.zeros_like(factor)], 1)) + 0.05 * NOISE
    _, phi = restored(gain, y, torch.tensor([1.0, 0.0]))
    assert torch.corrcoef(torch.stack([phi[:, 0], factor]))[0, 1] > 0.95
    guide = Blind(gain, "y", torch.tensor([1.0, 0.0]))
    keywords = {"solver": "ddim", "grid": "log-snr:5,sigma_max=20,sigma_min=0.01", "guides": [guide]}
    together = sample(PRIOR, COUNT, condition={"y": y}, **keywords).x
    apart = sample(PRIOR, COUNT, condition={"y": y}, batch=5, **keywords).x
    torch.testing.assert_close(together, apart)  # a chunk starts afresh; the oracle's matrix product rounds by batch size


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda: Blind(gain, "y", GAIN, weight=0.0), "weight above 0"),
        (lambda: Blind(gain, "y", GAIN * math.nan), "must be finite"),
        (lambda: Blind(gain, TRUTH[:1] * math.inf, GAIN), "must be finite"),
        (lambda: Blind(gain, "y", GAIN).wrap(PRIOR)(TRUTH, 0.7), "looks for its measurement"),
        (lambda: Blind(gain, "y", GAIN).wrap(PRIOR)({"a": TRUTH}, 0.7), "dict of leaves"),
    ],
)
def test_a_blind_guide_refuses_what_cannot_be(make, sentence):
    with pytest.raises(UserError, match=sentence):
        make()
