"""Classical methods: golden numbers on the bundled patient, properties of each iteration, options that are refused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from unstir.errors import UserError
from unstir.operator.tv import Gradient
from unstir.plugin.protocols import Case
from unstir_medical import volume as volumes
from unstir_medical.classical import FBP, SIRT, TUNED, AdmmTV, pixel_problem, tuned
from unstir_medical.metrics import PSNR, DataResidual
from unstir_medical.tasks import LimitedAngleCT, SparseViewCT

METHODS = {"fbp": FBP(), "sirt": SIRT(iterations=15), "admm-tv": AdmmTV(outer=4, cg=3)}


def blocks(size=32, slices=4, pixel=2.0):
    hu = np.full((slices, size, size), -1000.0, dtype=np.float32)
    hu[:, 6:26, 8:24] = 50
    hu[:2, 12:18, 10:14] = -800
    hu[2:, 12:18, 16:22] = 600
    return volumes.dataset(hu, np.diag([pixel, pixel, 5.0, 1.0]), {"key": "blocks", "modality": "CT", "orientation": "LPS"})


def blind(case: Case) -> Case:
    return replace(case, truth=None)


def psnr(method, case, key="psnr"):
    return PSNR()(method(blind(case), None, 0), case)[key].value


@pytest.fixture(scope="module")
def lung1():
    from unstir_medical.datasets import Lung1

    return next(iter(Lung1().load()))


@pytest.fixture(scope="module")
def case():
    return SparseViewCT(views=9, size=32, simulation="same").case(blocks())


@pytest.mark.parametrize(
    ("views", "filter_", "clip", "quality"),
    [
        (20, "ramp", False, 20.83),
        (20, "ramp", True, 21.82),
        (20, "hann", False, 23.61),
        (20, "hann", True, 24.65),
        (20, "hamming", True, 24.56),
        (8, "ramp", False, 13.40),
        (8, "hann", True, 17.55),
        (8, "hamming", True, 17.41),
        (4, "hann", True, 12.18),
        (2, "hann", True, 9.18),
    ],
)
def test_fbp_of_the_patient_has_its_golden_quality(lung1, views, filter_, clip, quality):
    case = SparseViewCT(views=views, simulation="same").case(lung1)
    assert psnr(FBP(filter_, clip), case) == pytest.approx(quality, abs=0.1)


def test_fbp_of_a_limited_arc_has_its_golden_quality(lung1):
    assert psnr(FBP(), LimitedAngleCT(simulation="same").case(lung1)) == pytest.approx(15.22, abs=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("views", "lam", "rho", "quality"), [(20, 0.3, 3.0, 32.76), (8, 0.4, 2.0, 27.16)])
def test_tuned_total_variation_of_the_patient_has_its_golden_quality(lung1, views, lam, rho, quality):
    case = SparseViewCT(views=views, simulation="same").case(lung1)
    assert psnr(AdmmTV(lam, rho, outer=60, cg=6), case) == pytest.approx(quality, abs=0.3)


@pytest.mark.parametrize("name", METHODS)
def test_a_method_needs_no_truth_no_prior_and_no_seed(name, case):
    calls: list[tuple[int, int]] = []
    first = METHODS[name](blind(case), None, 0, progress=lambda done, total: calls.append((done, total)))
    again = METHODS[name](blind(case), None, 7)
    assert np.array_equal(first.data.hu.values, again.data.hu.values)
    assert first.nfe == 0
    assert dict(first.data.sizes) == {"z": 4, "y": 32, "x": 32}
    assert float(first.data.hu.min()) >= -1000
    assert float(first.data.hu.max()) <= 1000
    assert [done for done, _ in calls] == list(range(1, calls[-1][1] + 1))
    assert METHODS[name].needs == ()
    assert not METHODS[name].uses_prior


@pytest.mark.parametrize("name", METHODS)
def test_the_result_depends_on_neither_pixel_size_nor_attenuation(name, case):
    other = SparseViewCT(views=9, size=32, simulation="same", mu_water=0.05).case(blocks(pixel=0.7))
    found = METHODS[name](case, None, 0).data.hu.values
    assert METHODS[name](other, None, 0).data.hu.values == pytest.approx(found, abs=0.5)  # HU; float32 rounding through 20 iterations


@pytest.mark.parametrize("name", METHODS)
def test_one_slice_is_enough(name):
    single = SparseViewCT(views=9, size=32).case(blocks(slices=1))
    assert np.isfinite(METHODS[name](single, None, 0).data.hu.values).all()


def test_the_order_of_quality_is_that_of_the_effort(case):
    assert psnr(FBP(), case) < psnr(SIRT(200), case) < psnr(AdmmTV(0.1, 1.0), case)


def test_sirt_explains_the_data_better_at_every_step(case):
    trace = SIRT(iterations=60, positive=False, clip=False)(case, None, 0).info["trace"]["residual"]
    assert all(b <= a * (1 + 1e-6) for a, b in zip(trace, trace[1:], strict=False))
    assert trace[0] == 1.0
    relaxed = SIRT(iterations=60, relaxation=1.9, positive=False, clip=False)(case, None, 0)
    assert relaxed.info["trace"]["residual"][-1] < trace[-1]
    assert DataResidual()(relaxed, case)["data-residual"].value < relaxed.info["trace"]["residual"][-1]


def test_positivity_keeps_sirt_above_air(case):
    free, kept = (SIRT(iterations=5, positive=p, clip=False)(case, None, 0).data.hu.values.min() for p in (False, True))
    assert free < -1000
    assert kept >= -1000


def objective(case, lam, estimate):
    operator, y = pixel_problem(case)
    u = torch.from_numpy((estimate.data.hu.values + 1000) / 2000)[None]
    variation = Gradient(operator.shape_in)(u).norm(dim=1).sum()
    return float(0.5 * (operator(u) - y).square().sum() + lam * variation)


def test_total_variation_goes_to_one_minimum_from_any_start_with_any_penalty(case):
    values = [
        objective(case, 0.3, AdmmTV(0.3, rho, outer=100, cg=20, start=start, clip=False)(case, None, 0))
        for rho, start in ((1.0, "fbp"), (1.0, "zero"), (4.0, "zero"))
    ]
    assert values == pytest.approx([values[0]] * 3, rel=4e-3)  # what is left of ADMM's slow tail
    assert values[0] <= objective(case, 0.3, FBP()(case, None, 0))


def test_without_z_weight_slices_do_not_see_each_other(case):
    alone = SparseViewCT(views=9, size=32, simulation="same").case(blocks().isel(z=slice(2, 3)))
    apart = AdmmTV(0.2, 1.0, outer=5, cg=120, z_weight=0)  # CG has one step length a volume: alike once it has converged
    assert apart(case, None, 0).data.hu.values[2] == pytest.approx(apart(alone, None, 0).data.hu.values[0], abs=0.5)
    coupled = AdmmTV(0.2, 1.0, outer=5)
    assert np.abs(coupled(case, None, 0).data.hu.values[2] - coupled(alone, None, 0).data.hu.values[0]).max() > 1


def test_photon_weights_are_used_where_the_measurement_has_them(case):
    noisy = SparseViewCT(views=9, size=32, noise="poisson", i0=300).case(blocks())
    plain, weighted = (AdmmTV(0.3, 2.0, weighted=w)(noisy, None, 0) for w in (False, True))
    assert not np.array_equal(plain.data.hu.values, weighted.data.hu.values)
    assert np.isfinite(weighted.data.hu.values).all()
    with pytest.raises(UserError, match="photon counts"):
        AdmmTV(weighted=True)(case, None, 0)


def test_automatic_penalties_are_the_table_between_the_table_and_sane_outside(case):
    for (views, sigma), pair in TUNED.items():
        assert tuned(views, sigma) == pytest.approx(pair)
    low, middle, high = (tuned(20, sigma)[0] for sigma in (0.0, 0.2, 0.4))
    assert low < middle < high
    assert all(math.isfinite(v) and v > 0 for views in (1, 3, 12, 200) for v in tuned(views, 3.0))
    info = AdmmTV(outer=1, cg=1)(case, None, 0).info
    assert (info["lam"], info["rho"]) == pytest.approx(tuned(9, 0.0))
    limited = LimitedAngleCT(views=20, size=32).case(blocks())
    assert AdmmTV(outer=1, cg=1)(limited, None, 0).info["lam"] != pytest.approx(tuned(20, 0.0)[0])
    assert AdmmTV(lam=0.7, outer=1, cg=1)(case, None, 0).info["lam"] == 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FBP("cosine"), "filter must be one of"),
        (lambda: SIRT(iterations=0), "iterations must be at least 1"),
        (lambda: SIRT(relaxation=2.0), "relaxation"),
        (lambda: AdmmTV(lam=0.0), "lam must be above 0"),
        (lambda: AdmmTV(rho=-1.0), "rho must be above 0"),
        (lambda: AdmmTV(lam=float("nan")), "lam must be above 0"),
        (lambda: AdmmTV(lam="best"), "or 'auto'"),
        (lambda: AdmmTV(outer=0), "outer must be at least 1"),
        (lambda: AdmmTV(cg=0), "cg must be at least 1"),
        (lambda: AdmmTV(z_weight=-1), "z_weight"),
        (lambda: AdmmTV(start="sirt"), "start must be fbp or zero"),
        (lambda: AdmmTV(boundary="mirror"), "neumann"),
    ],
)
def test_an_option_outside_its_range_is_refused_in_a_sentence(make, message):
    with pytest.raises(UserError, match=message):
        make()
