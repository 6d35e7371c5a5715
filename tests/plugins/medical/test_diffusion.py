"""Diffusion reconstructions with a Gaussian prior in the network's place: posterior means, invariances, what is refused."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import unstir
from unstir import names
from unstir.denoiser import Denoiser, Sliced
from unstir.errors import CheckpointError, UserError
from unstir.plugin.protocols import Estimate
from unstir.process import EDM
from unstir_medical import volume as volumes
from unstir_medical.classical import FBP, pixel_problem
from unstir_medical.diffusion import DDS, DPS, DiffusionMBIR, Mirrored, SliceBySlice
from unstir_medical.tasks import SparseViewCT, reconstruction

SIZE, SLICES, SPREAD = 8, 3, 0.1
SHORT = "karras:4,sigma_max=2,sigma_min=0.02"


class GaussianPrior(Denoiser):
    """Pixels ~ N(mean, spread^2), independent: D = (alpha s^2 x + sigma^2 m) / (alpha^2 s^2 + sigma^2), on the middle channel."""

    def __init__(self, mean, spread=SPREAD, context=0, seen=None):
        super().__init__(EDM(), (1 + 2 * context, -1, -1))
        self.mean, self.spread, self.context, self.seen = mean, spread, context, seen

    def forward(self, x, t, condition=None):
        if self.seen is not None:
            self.seen.append(x.clone())
        alpha, sigma = (torch.as_tensor(v, dtype=x.dtype).reshape(-1, 1, 1, 1) for v in (self.process.alpha(t), self.process.sigma(t)))
        middle = x[:, self.context : self.context + 1]
        return (alpha * self.spread**2 * middle + sigma**2 * self.mean) / (alpha**2 * self.spread**2 + sigma**2)


def made_case(views=3, slices=SLICES, noise_sigma=0.0, seed=0):
    generator = np.random.default_rng(seed)
    hu = (1000 * (0.3 + 0.1 * generator.standard_normal((slices, SIZE, SIZE)))).clip(-1000, 1000).astype(np.float32)
    item = volumes.dataset(hu, np.diag([2.0, 2.0, 5.0, 1.0]), {"key": "noise", "modality": "CT", "orientation": "LPS"})
    case = SparseViewCT(views=views, size=SIZE, simulation="same").case(item)
    if noise_sigma:
        case.context["noise_sigma"] = noise_sigma * case.context["operator"].pixel_unit
    return case


def posterior_mean(case, mean, spread, noise):
    """m + s^2 A^T (s^2 A A^T + n^2 I)^+ (y - A m) in pixel units, float64."""
    operator, y = pixel_problem(case)
    one = operator.over(1)
    A = one(torch.eye(SIZE * SIZE).reshape(-1, 1, SIZE, SIZE)).reshape(SIZE * SIZE, -1).double().T
    y = y[0].reshape(operator.slices, -1).double().T
    middle = spread**2 * A @ A.T + noise**2 * torch.eye(len(A), dtype=torch.float64)
    solved = torch.linalg.pinv(middle, rcond=1e-6, hermitian=True) @ (y - mean * A.sum(1, keepdim=True))
    return (mean + spread**2 * A.T @ solved).T.reshape(operator.slices, SIZE, SIZE)


def unit(estimate):
    return torch.from_numpy(volumes.to_unit(estimate.data["hu"].values.astype(np.float64)))


def started(case, value=0.9):
    """The case with a far-off reconstruction to start from."""
    far = Estimate(reconstruction(torch.full(case.context["shape"], value), case))
    case.context["estimates"] = {"other": far}
    return case


MEAN = 0.65


@pytest.mark.parametrize("noise", [0.05, 0.3])
def test_the_warm_start_goes_to_the_posterior_mean_as_its_steps_shrink(noise):
    case = started(made_case(noise_sigma=noise))
    wanted = posterior_mean(case, MEAN, SPREAD, noise)
    errors = []
    for steps, last in ((20, 0.05), (160, 0.012)):  # one step is off by the order of (sigma / spread)^2
        grid = f"log-snr:{steps},sigma_max=0.2,sigma_min={last}"
        method = DDS(start="other", solver="ddim:temperature=0", grid=grid, iterations=60)
        errors.append(float((unit(method(case, GaussianPrior(MEAN), 0)) - wanted).abs().max()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[1] < 0.05 * float((wanted - 0.9).abs().max())


def test_without_noise_the_warm_start_is_the_consistent_volume_nearest_the_prior_mean():
    case = started(made_case())
    method = DDS(start="other", solver="ddim:temperature=0", grid="log-snr:12,sigma_max=0.2,sigma_min=0.05", iterations=80)
    found = unit(method(case, GaussianPrior(MEAN, 0.001), 0))  # a narrow prior forgets the start at once
    assert float((found - posterior_mean(case, MEAN, 1.0, 0.0)).abs().max()) < 2e-3  # float32 and 80 iterations


def test_cold_dds_samples_agree_with_the_data_and_on_average_with_the_posterior_mean():
    case = made_case()
    method = DDS(iterations=40, grid="karras:12,sigma_max=5,sigma_min=0.01", samples=24, clip=False)
    estimate = method(case, GaussianPrior(MEAN, 0.02), 3)
    assert estimate.info["trace"]["residual"][-1] < 1e-3
    error = unit(estimate) - posterior_mean(case, MEAN, 1.0, 0.0)
    assert float(error.square().mean().sqrt()) < 4 * 0.02 / math.sqrt(24)  # a sample strays by about the prior's spread


def test_the_misfit_is_scaled_to_the_views_and_added_to_the_noise_in_squares():
    for views, noise in ((8, 0.0), (2, 0.0), (2, 0.04)):
        case = made_case(views=views, noise_sigma=noise)
        operator, y = pixel_problem(case)
        _, (steer,) = DDS(misfit=0.03).guidance(operator, y, case, None)
        assert steer.noise == pytest.approx(math.hypot(0.03 * math.sqrt(views / 8), noise))


def test_dps_of_weight_zero_is_a_sample_of_the_prior():
    case, prior = made_case(), GaussianPrior(MEAN)
    method = DPS(weight=0.0, grid=SHORT, clip=False)
    free = unstir.sample(Sliced(prior, case.context["shape"]), 1, solver=method.solver, grid=SHORT, seed=5)
    assert method(case, prior, 5).data["hu"].values == pytest.approx(free.x[0].numpy() * 2000 - 1000, abs=0.05)  # float32 HU


def test_dps_fits_the_data_better_than_a_sample_of_the_prior():
    case, prior = made_case(), GaussianPrior(MEAN)
    ends = [DPS(weight=w, grid="karras:12,sigma_max=2,sigma_min=0.02")(case, prior, 1).info["trace"]["residual"][-1] for w in (0.0, 30.0)]
    assert ends[1] < 0.7 * ends[0]


def test_the_residual_falls_along_the_steps():
    case = started(made_case(), 0.2)
    warm = DDS(start="other", start_level=0.2, grid="karras:6,sigma_max=0.2,sigma_min=0.02", iterations=2)
    for method in (warm, DDS(grid=SHORT, iterations=2)):
        trace = method(case, GaussianPrior(MEAN), 0).info["trace"]["residual"]
        assert len(trace) in (4, 6)
        assert trace[-1] < 0.2
        assert trace[-1] <= min(trace) + 1e-6


def test_a_prior_told_of_no_neighbours_sees_none():
    case, grid = made_case(), "karras:2,sigma_max=1,sigma_min=0.1"
    for neighbours in (True, False):
        seen = []
        DDS(neighbours=neighbours, grid=grid)(case, GaussianPrior(MEAN, context=1, seen=seen), 0)
        around = [float(x[:, channel].abs().sum()) for x in seen for channel in (0, 2)]
        assert seen[0].shape[1] == 3
        assert all(around) if neighbours else not any(around)


def test_slice_by_slice_moves_to_another_process_with_its_prior():
    prior = SliceBySlice(GaussianPrior(MEAN, context=1), 1)
    moved = prior.with_process(names.process("vp"))
    x, rho = torch.rand(2, 1, SIZE, SIZE), 0.3
    t = float(moved.process.time_at_rho(rho))
    assert torch.allclose(moved(float(moved.process.alpha(t)) * x, t), prior(x, rho), atol=1e-6)


def test_the_average_over_mirror_images_is_the_same_for_a_mirrored_volume():
    uneven = GaussianPrior(torch.linspace(0, 1, SIZE))
    volume = Sliced(uneven, (SLICES, SIZE, SIZE))
    x = torch.rand(2, SLICES, SIZE, SIZE)
    assert not torch.allclose(volume(x.flip(-1), 0.3), volume(x, 0.3).flip(-1))
    mirrored = Mirrored(volume)
    assert torch.allclose(mirrored(x.flip(-1), 0.3), mirrored(x, 0.3).flip(-1), atol=1e-6)
    even = Sliced(GaussianPrior(MEAN), (SLICES, SIZE, SIZE))
    assert torch.equal(Mirrored(even)(x, 0.3), even(x, 0.3))


@pytest.mark.parametrize("process", [p for p in names.known("process") if names.process(p).scalar and not names.process(p).anchored])
def test_every_process_of_the_core_reconstructs(process):
    case = started(made_case(slices=2))
    cold = DDS(process=process, grid=SHORT)(case, GaussianPrior(MEAN), 0)
    warm = DDS(process=process, grid="log-snr:3,sigma_max=0.2,sigma_min=0.05", start="other")(case, GaussianPrior(MEAN), 0)
    for estimate in (cold, warm):
        assert np.isfinite(estimate.data["hu"].values).all()
        assert estimate.info["trace"]["residual"][-1] < 0.1


@pytest.mark.parametrize("process", [p for p in names.known("process") if not names.process(p).scalar])
def test_a_process_of_several_noise_levels_is_refused_in_a_sentence(process):
    with pytest.raises(UserError, match="has several"):
        DDS(process=process, grid=SHORT)(made_case(slices=2), GaussianPrior(MEAN), 0)


@pytest.mark.parametrize("process", [p for p in names.known("process") if names.process(p).anchored])
def test_a_process_that_ends_at_an_anchor_is_refused_in_a_sentence(process):
    with pytest.raises(UserError, match="give the anchor"):
        DDS(process=process, grid=SHORT)(made_case(slices=2), GaussianPrior(MEAN), 0)


def test_a_warm_start_is_the_same_reconstruction_on_every_process():
    case = started(made_case(slices=2))
    method = {"solver": "ddim:temperature=0", "grid": "log-snr:5,sigma_max=0.2,sigma_min=0.05", "start": "other"}
    found = [unit(DDS(process=process, **method)(case, GaussianPrior(MEAN), 0)) for process in ("", "vp", "rectified-flow")]
    assert torch.allclose(found[0], found[1], atol=1e-4)  # the noise levels are the same, times are rounded
    assert torch.allclose(found[0], found[2], atol=1e-4)


@pytest.mark.parametrize("solver", [s for s in names.known("solver") if names.solver(s).refuses(EDM()) is None])
def test_every_solver_of_the_core_reconstructs(solver):
    estimate = DDS(solver=solver, grid=SHORT)(made_case(slices=2), GaussianPrior(MEAN), 0)
    assert np.isfinite(estimate.data["hu"].values).all()
    assert estimate.info["trace"]["residual"][-1] < 0.1
    assert estimate.nfe > 0


def test_several_samples_give_mean_standard_deviation_and_the_whole_count():
    case, prior = made_case(slices=2), GaussianPrior(MEAN)
    method = {"grid": SHORT, "clip": False}
    single, three = DDS(**method)(case, prior, 7), DDS(samples=3, **method)(case, prior, 7)
    assert "hu_std" not in single.data
    assert three.data["hu_std"].attrs["units"] == "HU"
    assert float(three.data["hu_std"].mean()) > 0
    assert three.nfe == 3 * single.nfe
    assert DDS(samples=3, **method)(case, prior, 7).data.equals(three.data)
    assert not DDS(**method)(case, prior, 8).data.equals(single.data)


def test_a_start_is_a_method_that_has_to_run_before():
    assert DDS().needs == ()
    assert DDS(start="admm-tv").needs == ("admm-tv",)
    case = made_case()
    case.context["estimates"] = {}
    with pytest.raises(KeyError, match="other"):
        DDS(start="other", grid="karras:2,sigma_max=0.2,sigma_min=0.05")(case, GaussianPrior(MEAN), 0)


def test_the_noise_of_a_start_is_that_of_the_seed_and_the_level():
    case = started(made_case(), 0.5)
    operator, _ = pixel_problem(case)
    method = DDS(start="other", start_noise=True, start_level=0.1, samples=2)
    state, t = method.begin(case, EDM(), operator, 0, torch.device("cpu"))
    assert t == pytest.approx(0.1)
    assert state.shape == (2, SLICES, SIZE, SIZE)
    assert float((state - 0.5).std()) == pytest.approx(0.1, rel=0.15)  # 384 draws
    assert torch.equal(state, method.begin(case, EDM(), operator, 0, torch.device("cpu"))[0])


def test_a_prior_of_another_window_or_shape_is_refused():
    prior = GaussianPrior(MEAN)
    prior.facts = {"window_hu": [-160, 240]}
    with pytest.raises(CheckpointError, match=r"window \[-160, 240\] HU"):
        DDS()(made_case(), prior, 0)
    whole = GaussianPrior(MEAN)
    whole.shape = (3, -1, -1)  # says three channels, and has no neighbours
    with pytest.raises(CheckpointError, match="trained for states of shape"):
        DDS()(made_case(), whole, 0)


@pytest.mark.parametrize(
    ("options", "says"),
    [({"samples": 0}, "samples must be at least 1"), ({"chunk": 0}, "chunk must be at least 1"), ({"start_level": 0.0}, "start_level must"),
     ({"solver": "ddmi"}, "'ddim'"), ({"grid": "karas:5"}, "karras"), ({"process": "vpp"}, "'vp'")],
)  # fmt: skip
def test_options_that_no_reconstruction_has_are_refused(options, says):
    with pytest.raises(UserError, match=says):
        DDS(**options)


def changes_of_the_first_slice(boundary):
    """How the first slice moves in one data step, for two volumes that differ in their last slice alone."""
    case = made_case(slices=6)
    operator, y = pixel_problem(case)
    _, (steer,) = DiffusionMBIR(boundary=boundary, rho=10.0, cg=1).guidance(operator, y, case, None)
    found = []
    for last in (0.5, 1.0):
        x = torch.full((1, 6, SIZE, SIZE), 0.5)
        x[:, 1, :4], x[:, -1] = 0.7, last
        x[:, -1, :, :2] = 0.2
        moved = steer.solve(x.clone(), y, SimpleNamespace(rho=1.0, memory={}))
        found.append((moved - x)[0, 0].flatten().double())
    return float(torch.nn.functional.cosine_similarity(*found, dim=0))


def test_the_last_slice_does_not_pull_at_the_first():
    # one conjugate-gradient step goes along the gradient, whose first slice knows its neighbour; only the step's length is common to all
    assert changes_of_the_first_slice("neumann") == pytest.approx(1.0, abs=1e-5)
    assert changes_of_the_first_slice("periodic") < 0.9999


def test_paper_units_are_those_of_the_scaled_back_projection():
    case = made_case(views=4)
    operator, y = pixel_problem(case)
    for method in (DiffusionMBIR(rho=10.0), DDS(tv=True)):
        _, (steer,) = method.guidance(operator, y, case, None)
        assert (steer.lam, steer.rho) == pytest.approx((0.04 * 8 / math.pi, 10 * 8 / math.pi))
    _, (steer,) = DiffusionMBIR(paper_units=False, lam=0.3, rho=2.0).guidance(operator, y, case, None)
    assert (steer.lam, steer.rho) == (0.3, 2.0)


def test_diffusion_mbir_ends_closer_to_the_data_for_its_last_step():
    case, prior = made_case(), GaussianPrior(MEAN)
    operator, y = pixel_problem(case)
    residuals = []
    for last_step in (False, True):
        found = unit(DiffusionMBIR(grid=SHORT, last_step=last_step, clip=False)(case, prior, 0)).float()
        residuals.append(float((operator(found[None]) - y).norm()))
    assert residuals[1] < residuals[0]


def test_a_case_without_a_truth_is_enough():
    case = made_case()
    blind = unstir.plugin.protocols.Case(case.key, None, case.measurement, case.context)
    told = []
    estimate = DDS(grid=SHORT)(blind, GaussianPrior(MEAN), 0, progress=lambda done, total: told.append((done, total)))
    assert told[-1] == (4, 4)
    assert estimate.data.attrs["key"] == "noise"
    assert volumes.spacing_of(estimate.data) == (5.0, 2.0, 2.0)
    assert FBP()(blind, None, 0).data.sizes == estimate.data.sizes
