"""GeoTDM: symmetries of the network, the law of its noise, what it forecasts after a short training, and what judges it."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr

import unstir
from unstir import hookimpl, registry
from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir.process import Anchored, VPCosine
from unstir_molecules.trajectories.baselines import ConstantVelocity, LastFrame, Linear
from unstir_molecules.trajectories.datasets import Charges, Springs
from unstir_molecules.trajectories.generation import GeoTDM
from unstir_molecules.trajectories.metrics import Displacement, Energy
from unstir_molecules.trajectories.network import GeoTDMNetwork
from unstir_molecules.trajectories.tasks import Trajectories, futures
from unstir_molecules.trajectories.training import GeoTDMTraining, TrainingTrajectories, fitted

SMALL = {"width": 24, "layers": 1, "heads": 2, "channels": 4, "warmup": 10, "decay": 100, "ema": 0.95, "batch": 24}


@pytest.fixture(scope="module", autouse=True)
def registered():
    """The network's name, until a hook gives it."""
    if "molecules/geotdm" not in registry.names("networks"):
        probe = ModuleType("probe_geotdm")
        probe.UNSTIR_API = 1
        probe.unstir_networks = hookimpl(lambda: {"molecules/geotdm": "unstir_molecules.trajectories.network:GeoTDMNetwork"})
        registry.host().add("probe-geotdm", probe, distribution="tests")


def network(given=4, frames=5, seed=0, **options):
    torch.manual_seed(seed)
    made = GeoTDMNetwork(3, given, frames, width=16, layers=2, heads=2, channels=4, scale=0.3, **options).double()
    if given:
        weights = torch.randn(frames, given, dtype=torch.float64)
        made.weights.copy_(weights - weights.sum(1, keepdim=True) / given + 1 / given)
    return made


def told(count=2, given=4, seed=1):
    generator = torch.Generator().manual_seed(seed)
    made = {"given": torch.randn(count, given, 3, 3, generator=generator, dtype=torch.float64)} if given else {}
    charge = torch.randn(count, 3, generator=generator, dtype=torch.float64)
    return made | {"charge": charge, "coupling": charge[:, :, None] * charge[:, None]}


@pytest.mark.parametrize("given", [4, 0])
@pytest.mark.parametrize("mirror", [1, -1])
def test_the_network_turns_with_the_world_and_does_not_see_a_shift(given, mirror):
    """Within 1e-10 in float64; turning includes mirrors, for masses and charges have no hands."""
    net, condition = network(given), told(given=given)
    r = torch.randn(2, 15, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    turn = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64))[0]
    turn = turn * torch.linalg.det(turn) * mirror
    label, shift = torch.tensor([0.3, 0.9]), torch.tensor([5.0, -2.0, 1.0], dtype=torch.float64)
    moved = {**condition, "given": condition["given"] @ turn.T + shift} if given else condition
    with torch.no_grad():
        found, again = net(r, label, condition), net(r @ turn.T, label, moved)
    assert float((found @ turn.T - again).abs().max()) < 1e-10
    if given:
        places = net.reference(condition["given"]) @ turn.T + shift
        torch.testing.assert_close(net.reference(moved["given"]), places, atol=1e-10, rtol=0)
    else:
        assert float((net(r + shift, label, condition) - found).detach().abs().max()) < 1e-10
    with torch.no_grad():
        single = net.float()(r.float(), label, {key: value.float() for key, value in condition.items()})
    assert float((single - found).abs().max()) < 1e-4


def test_renaming_bodies_renames_the_answer():
    net, condition, order = network(), told(), [2, 0, 1]
    r = torch.randn(2, 15, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    swapped = {"given": condition["given"][:, :, order], "charge": condition["charge"][:, order]}
    swapped["coupling"] = condition["coupling"][:, order][:, :, order]
    label = torch.tensor([0.3, 0.9])
    found = net(r, label, condition).reshape(2, 5, 3, 3)[:, :, order]
    again = net(r.reshape(2, 5, 3, 3)[:, :, order].reshape(2, 15, 3), label, swapped).reshape(2, 5, 3, 3)
    torch.testing.assert_close(again, found, atol=1e-10, rtol=0)


def test_the_residual_process_is_the_conditional_form_around_the_reference():
    """x_ref + s r_t = alpha (x_0 - x_ref) + x_ref + s sigma eps, the core's anchored form with alpha of the same schedule."""

    class Around(VPCosine, Anchored):
        """The same schedule, run to the anchor."""

        anchored = True
        beta, prior = Anchored.beta, Anchored.prior

    x0, ref, eps = (torch.randn(4, 15, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) for seed in (0, 1, 2))
    s = 0.3
    for t in (0.1, 0.6, 1.0):
        ours = ref + s * VPCosine().perturb((x0 - ref) / s, t, eps)
        torch.testing.assert_close(ours, Around().perturb(x0, t, s * eps, ref), atol=1e-12, rtol=0)


def item(**options):
    return next(Springs(**{"count": 120, "bodies": 3, "frames": 14, "interval": 0.25, **options}).load())


def test_noise_out_of_nothing_lives_in_the_space_without_a_mean_over_time_and_bodies():
    """Covariance I - 1 1^T/n an axis, n = T N; the network's answer and what is drawn stay there."""
    training = GeoTDMTraining(**SMALL, given=0)
    batches = TrainingTrajectories.of(item(frames=4), 0, batch=4, told=True, reference="last", ridge=0)
    denoiser = training.denoiser(batches).eval()
    unit = torch.randn(20_000, 12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = denoiser.space.draw(unit)
    covariance = torch.einsum("bia,bja->ij", noise, noise) / (3 * len(noise))
    wanted = torch.eye(12, dtype=torch.float64) - 1 / 12
    assert float((covariance - wanted).abs().max()) < 5 / np.sqrt(3 * 20_000)
    state = batches.state(np.arange(4))
    assert float(state["x0"].mean(1).abs().max()) < 1e-6
    drawn = unstir.sample(denoiser, 3, solver="ancestral", grid="uniform:3", condition={k: v[:3] for k, v in state["condition"].items()})
    assert float(drawn.x.mean(1).abs().max()) < 1e-5


def test_the_fitted_reference_is_the_best_whose_weights_add_up_to_one():
    rng = np.random.default_rng(0)
    given = rng.standard_normal((50, 3, 2, 3))
    future = np.stack([2 * given[:, 2] - given[:, 1], 0.5 * given[:, 0] + 0.5 * given[:, 1]], 1)
    np.testing.assert_allclose(fitted(given, future, 0), [[0, -1, 2], [0.5, 0.5, 0]], atol=1e-10)
    np.testing.assert_allclose(fitted(given, future, 0.3).sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(fitted(given, future, 1e9), [[0, 0, 1], [0, 0, 1]], atol=1e-6)
    assert fitted(given[:, :1], future, 0).tolist() == [[1.0], [1.0]]


def cases(data=None, given=6):
    return list(Trajectories(given=given).cases([item() if data is None else data]))


def test_a_case_hides_the_future_and_baselines_are_their_formulas():
    (case,) = cases()
    assert case.measurement.sizes["time"] == 6
    assert case.truth.sizes == {"trajectory": 24, "time": 8, "body": 3, "axis": 3, "other": 3}
    assert "velocity" not in case.measurement
    hidden = Case(case.key, None, case.measurement, case.context)
    x = case.measurement["position"].values
    still, even, linear = (method(hidden, None, 0).data["position"].values for method in (LastFrame(), ConstantVelocity(), Linear()))
    np.testing.assert_allclose(still, np.repeat(x[:, -1:], 8, 1))
    np.testing.assert_allclose(even[:, 2], x[:, -1] + 3 * (x[:, -1] - x[:, -2]), atol=1e-12)
    errors = [np.linalg.norm(found - case.truth["position"].values, axis=-1).mean() for found in (still, even, linear)]
    assert errors[0] > errors[1] > errors[2]


def test_displacement_errors_are_their_definitions():
    (case,) = cases()
    y = case.truth["position"].values
    off = np.zeros((2, 24, 8, 3, 3))
    off[0, ..., 0], off[1, :, :, :, 1] = 3, np.linspace(0, 7, 8)[:, None]
    scores = Displacement()(Estimate(futures(y + off, case)), case)
    values = {key: score.value for key, score in scores.items()}
    middle = np.sqrt(1.5**2 + (np.arange(8) / 2) ** 2)  # both futures are 3 off, or 0 to 7
    single = {"ade": 3.25, "ade-best": 3.0, "fde": 5.0, "fde-best": 3.0}
    assert values == pytest.approx(single | {"ade-mean": middle.mean(), "fde-mean": middle[-1]})
    assert set(values) == {info.key for info in Displacement().describe()}
    assert len(scores["ade"].parts) == 24


@pytest.mark.parametrize("cls", [Springs, Charges])
def test_true_futures_keep_their_energy_and_noise_does_not(cls):
    data = next(cls(count=60).load())
    (case,) = cases(data, given=10)
    y = case.truth["position"].values
    true = Energy()(Estimate(futures(y, case)), case)
    noisy = Energy()(Estimate(futures(y + 0.05 * np.random.default_rng(0).standard_normal(y.shape), case)), case)
    assert true["energy-bias"].value == true["energy-spread"].value == 0
    assert set(true) == {info.key for info in Energy().describe()}
    assert true["energy-drift"].value < 0.1 < noisy["energy-drift"].value
    assert noisy["energy-bias"].value > 0.05


def test_free_bodies_a_tenth_faster_have_a_fifth_more_energy_in_units_of_the_kinetic_one():
    """E goes with v^2, 1.1^2 - 1 = .21, and so does its spread over trajectories; a straight line's central differences are exact."""
    (case,) = cases(next(Springs(count=20).load()), given=10)
    speed = np.random.default_rng(0).standard_normal((case.truth.sizes["trajectory"], 1, 5, 3))
    line = speed * case.truth["time"].values[:, None, None]
    free = case.truth.assign(position=(case.truth["position"].dims, line), coupling=0 * case.truth["coupling"])
    alone = Case(case.key, free, case.measurement, case.context)
    found = Energy()(Estimate(futures(1.1 * line, alone)), alone)
    assert found["energy-bias"].value == pytest.approx(0.21)
    assert found["energy-spread"].value == pytest.approx(0.21)
    assert found["energy-drift"].value == pytest.approx(0, abs=1e-12)


@pytest.fixture(scope="module")
def prior(tmp_path_factory):
    training = GeoTDMTraining(**SMALL, given=6, reference="last", steps=250, rate=4e-3)
    return unstir.load(training.fit(item(), tmp_path_factory.mktemp("geotdm")))


def ade(estimate, case):
    return Displacement()(estimate, case)["ade"].value


@pytest.mark.slow
def test_a_short_training_beats_the_last_frame_on_springs_twice(prior):
    (case,) = cases()
    hidden = Case(case.key, None, case.measurement, case.context)
    found = GeoTDM(samples=2, grid="logistic:8")(hidden, prior, 0)
    assert found.data.sizes["sample"] == 2
    assert found.nfe >= 16
    assert ade(found, case) < 0.5 * ade(LastFrame()(hidden, None, 0), case)
    assert "test trajectories were never seen" in prior.card


@pytest.mark.slow
def test_around_a_learned_reference_it_beats_constant_velocity_and_the_reference_alone(tmp_path):
    (case,) = cases()
    hidden = Case(case.key, None, case.measurement, case.context)
    prior = unstir.load(GeoTDMTraining(**SMALL, given=6, steps=150, rate=4e-3).fit(item(), tmp_path))
    found = GeoTDM(samples=2, grid="logistic:8")(hidden, prior, 0)
    rules = {type(rule).__name__: ade(rule(hidden, None, 0), case) for rule in (ConstantVelocity(), Linear())}
    assert ade(found, case) < min(rules.values())


@pytest.mark.slow
def test_forecasts_do_not_depend_on_their_batch_and_shift_with_the_past(prior):
    (case,) = cases()
    hidden = Case(case.key, None, case.measurement, case.context)
    whole = GeoTDM(samples=1, grid="logistic:5")(hidden, prior, 3).data["position"].values
    few = GeoTDM(samples=1, grid="logistic:5", batch=7)(hidden, prior, 3).data["position"].values
    np.testing.assert_allclose(whole, few, atol=1e-4)
    shift = np.array([10.0, -3.0, 2.0])
    moved = case.measurement.assign(position=case.measurement["position"] + xr.DataArray(shift, dims="axis"))
    again = GeoTDM(samples=1, grid="logistic:5")(Case(case.key, None, moved, case.context), prior, 3).data["position"].values
    np.testing.assert_allclose(again, whole + shift, atol=1e-3)  # float32 at places of size 10


@pytest.mark.slow
def test_a_case_that_does_not_fit_the_model_is_refused(prior):
    (case,) = cases(given=5)
    with pytest.raises(CheckpointError, match=r"knows .* = \(6, 8, 3, 3\), and the case has \(5, 9, 3, 3\)"):
        GeoTDM()(case, prior, 0)
    (case,) = cases()
    with pytest.raises(DataError, match="lacks coupling"):
        GeoTDM()(Case("x", None, case.measurement.drop_vars("coupling"), case.context), prior, 0)
    with pytest.raises(CheckpointError, match="forecasts from 6 given frames"):
        GeoTDM().generated(prior, 2, 0)


def test_files_come_back_as_they_went_out(tmp_path):
    (case,) = cases()
    (path,) = Trajectories().export(Estimate(case.truth), case, tmp_path / "truth")
    back = Trajectories(given=2).read(path)
    np.testing.assert_allclose(back["position"].values, case.truth["position"].values)
    assert (back["split"].values == "test").sum() == 5


def test_bad_options_and_files_are_refused(tmp_path):
    with pytest.raises(UserError, match="'learned' or 'last'"):
        GeoTDMTraining(reference="first")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="multiples of heads"):
        GeoTDMNetwork(width=10, heads=4)
    with pytest.raises(UserError, match="given and batch must be at least 1"):
        Trajectories(given=0)
    with pytest.raises(DataError, match="holds no trajectories"):
        list(Trajectories().cases([xr.Dataset(attrs={"key": "empty"})]))
    (tmp_path / "a.nc").write_text("no")
    with pytest.raises(DataError, match="cannot be read"):
        Trajectories().read(tmp_path / "a.nc")
    with pytest.raises(DataError, match="has 14 frames"):
        cases(given=14)
