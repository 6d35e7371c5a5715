"""The ECG corner: identities of the leads, the heart rate that is found, the split by record, records drawn at a rate."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import xarray as xr

from unstir import checkpoint
from unstir.errors import CheckpointError, DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir.process import VPTable
from unstir_data import cards
from unstir_timeseries.ecg import leads, methods, metrics, network, records, task

CHECKPOINT = cards.FOLDER.parent / "checkpoints" / "timeseries" / "ecg"


def pulses(gap: float, samples: int = 400, rate: int = 100) -> np.ndarray:
    """Beats of 20 ms width every ``gap`` samples, over a slow wave."""
    t = np.arange(samples)
    beats = sum(np.exp(-0.5 * ((t - centre) / 2.0) ** 2) for centre in np.arange(25, samples + gap, gap))
    return beats + 0.05 * np.sin(2 * np.pi * t / rate)


def built(gaps, roles=None, samples: int = 500) -> xr.Dataset:
    """Records of pulses, every lead another multiple."""
    first = np.stack([pulses(gap, samples) for gap in gaps])
    eight = first[:, None] * np.linspace(0.5, 1.5, 8)[:, None]
    return records.dataset(leads.complete(eight), 6000 / np.asarray(gaps, dtype=float), 100, key="built", roles=roles)


@pytest.fixture(scope="module")
def neurokit():
    return pytest.importorskip("neurokit2", reason="neurokit2 is not installed (pip install 'unstir[ecg]')")


@pytest.fixture(scope="module")
def simulated(neurokit, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNSTIR_CACHE", str(tmp_path_factory.mktemp("cache")))
        dataset = records.SimulatedECG(training=6, each=1, seconds=3.0)
        yield dataset.part("train")


@pytest.fixture(scope="module")
def prior():
    if not (CHECKPOINT / "model.json").exists():
        pytest.skip("the checkpoint timeseries/ecg is not there (unstir train timeseries/ecg)")
    return checkpoint.load(CHECKPOINT)


@pytest.fixture
def case() -> Case:
    gaps = [60, 75, 90, 100, 110, 100]
    return next(iter(task.ConditionedECG(rates=(60.0,)).cases([built(gaps, ["train"] * 5 + ["test"])])))


def unseen(case: Case) -> Case:
    return replace(case, truth=None)


# closed forms


def test_the_derived_leads_satisfy_einthoven_and_goldberger_exactly():
    eight = np.random.default_rng(0).standard_normal((3, 8, 50))
    twelve = leads.complete(eight)
    named = dict(zip(leads.LEADS, np.moveaxis(twelve, -2, 0), strict=True))
    assert np.array_equal(leads.residual(twelve), np.zeros((3, 4, 50)))
    np.testing.assert_array_equal(named["III"], named["II"] - named["I"])
    # aVR + aVL + aVF = 0, aVF = (II + III)/2 and aVL = (I - III)/2; sums of three doubles of order 1
    np.testing.assert_allclose(named["aVR"] + named["aVL"] + named["aVF"], 0, atol=2e-15)
    np.testing.assert_allclose(named["aVF"], (named["II"] + named["III"]) / 2, atol=2e-15)
    np.testing.assert_allclose(named["aVL"], (named["I"] - named["III"]) / 2, atol=2e-15)
    np.testing.assert_array_equal(leads.independent_of(twelve), eight)


def test_twelve_leads_follow_from_eight_and_no_other_number():
    with pytest.raises(DataError, match="follow from the 8 leads I, II, V1"):
        leads.complete(np.zeros((7, 50)))


def test_einthoven_of_noise_on_one_lead_is_its_share(case):
    """Noise of standard deviation s on lead III alone: residual s/2 over the four identities, as rms."""
    twelve = np.random.default_rng(1).standard_normal((4, 12, 20000))
    whole = leads.complete(leads.independent_of(twelve))
    whole[:, leads.LEADS.index("III")] += 0.3 * np.random.default_rng(2).standard_normal((4, 20000))
    score = metrics.Einthoven()(Estimate(records.dataset(whole, np.full(4, 60.0), 100, key="x")), case)["einthoven"]
    expected = 100 * 0.15 / np.sqrt(np.square(whole).mean((1, 2)))
    np.testing.assert_allclose(score.parts, expected, rtol=0.02)  # 20,000 draws: 0.5 % is one standard error
    assert score.value == pytest.approx(np.mean(score.parts))


def test_einthoven_of_built_records_is_zero(case):
    assert metrics.Einthoven()(Estimate(case.truth), case)["einthoven"].value < 1e-4  # percent; float32 rounds at 6e-8


@pytest.mark.parametrize("gap", [40, 50, 60, 75, 100, 120])
def test_the_heart_rate_of_an_impulse_train_is_exact(neurokit, gap):
    assert metrics.heart_rate(pulses(gap), 100) == 6000 / gap


@pytest.mark.parametrize("signal", [np.zeros(400), np.full(400, 2.0), np.linspace(0, 1, 400)], ids=["silence", "constant", "ramp"])
def test_a_signal_without_beats_has_no_heart_rate(neurokit, signal):
    assert math.isnan(metrics.heart_rate(signal, 100))


def test_the_heart_rate_of_simulated_records_is_within_one_bpm_on_average(simulated):
    found = [metrics.heart_rate(record, 100) for record in simulated["ecg"].sel(lead="V3").values]
    assert np.mean(np.abs(found - simulated["heart_rate"].values)) < 1.0  # a rate varies by 1 within a record


def test_a_record_without_beats_counts_as_rate_zero_and_is_reported(neurokit, case):
    data = case.truth.isel(record=[0, 0]).copy(deep=True)
    data["ecg"][1] = 0.0
    scores = metrics.HeartRate()(Estimate(data), case)
    assert scores["heart-rate-error"].parts == (0.0, 60.0)
    assert scores["heart-rate-absent"].value == 50.0
    assert scores["heart-rate-held-out"].value == 0.0
    assert set(scores) == {info.key for info in metrics.HeartRate().describe()}


def test_the_process_of_diffusets_is_the_cores_linear_table():
    """T = 1000, beta linear from 0.00085 to 0.012: abar_T = 0.00157, a third of the scaled-linear schedule of the same two numbers."""
    process = VPTable("linear", 1000, 0.00085, 0.012)
    expected = np.prod(1 - np.linspace(0.00085, 0.012, 1000))
    assert float(process.alpha(process.t_max)) ** 2 == pytest.approx(expected, rel=1e-9)
    assert expected == pytest.approx(0.00157, abs=1e-5)
    scaled = VPTable("scaled-linear", 1000, 0.00085, 0.012)
    assert float(scaled.alpha(scaled.t_max)) ** 2 == pytest.approx(0.00466, abs=1e-5)


def test_what_the_network_is_told_spans_minus_one_to_one():
    told = network.told(np.asarray(records.RANGE), np.asarray([0.0, np.pi / 2]))
    np.testing.assert_allclose(told, [[1, -1, 1, 1, 0], [1, 1, -1, 0, 1]], atol=1e-6)  # float32


def test_the_clock_stands_at_zero_where_the_beats_are():
    """Beats every 0.8 s from 0.3 s on: cos of the clock is 1 there; and no clock where nothing is told."""
    peaks = np.arange(30, 400, 80)
    phase = network.phase_of(peaks, 75.0, 100)
    assert phase == pytest.approx(-2 * np.pi * 75 / 60 * 0.3, abs=1e-12)
    features = network.told(np.asarray([75.0]), np.asarray([phase]))
    net, x = network.BeatNetwork(widths=(8, 8), attention=()), torch.zeros(1, 12, 400)
    cosine, sine = net.clock(features, x)[0].numpy()
    np.testing.assert_allclose(cosine[peaks], 1, atol=1e-5)  # float32 angles up to 31
    np.testing.assert_allclose(sine[peaks], 0, atol=1e-5)
    assert not net.clock(torch.zeros(1, 5), x).any()
    with pytest.raises(UserError, match="needs condition"):
        net(x, torch.zeros(1))


# records and the task


def test_simulated_records_are_whole_and_satisfy_the_identities(simulated):
    assert dict(simulated.sizes) == {"record": 6, "lead": 12, "time": 300}
    assert simulated["ecg"].attrs["units"] == "mV"
    assert "no patients" in simulated.attrs["simulated"]
    assert np.abs(leads.residual(simulated["ecg"].values.astype(float))).max() < 1e-6  # float32 of values below 4 mV
    span = np.ptp(leads.independent_of(simulated["ecg"].values), axis=-1)
    assert span.max() < 1.7, "ECGSYN's 1.6 mV and noise of 1 %"
    assert span.min() > 0.4
    correlation = np.corrcoef(simulated["ecg"].values[:, 7])
    assert np.abs(correlation - np.eye(6)).max() < 0.95, "two records are one person"


def test_a_record_depends_on_its_key_alone(neurokit, simulated):
    again = records.record(45.0, 3.0, 100, 0.1, 0.01, (0, 0, 0))
    np.testing.assert_array_equal(again.astype(np.float32), simulated["ecg"].values[0])
    assert not np.allclose(again, records.record(45.0, 3.0, 100, 0.1, 0.01, (0, 1, 0)))


def test_neurokits_own_twelve_leads_break_einthoven(neurokit):
    """Why the derived leads are computed here: its lead III is scaled by itself."""
    own = neurokit.ecg_simulate(duration=3, sampling_rate=100, heart_rate=60, noise=0, method="multileads", random_state=0)
    four = np.stack([own[name] for name in leads.LEADS])
    assert np.sqrt(np.square(leads.residual(four)[0]).mean()) > 0.5 * four.std()


def test_training_and_held_out_records_never_meet(case):
    training = case.context["training"]
    assert "role" not in training.coords
    assert training.sizes["record"] == 5
    assert case.truth.sizes["record"] == 1
    assert case.truth.sizes["time"] == 400
    assert case.key == "built-60-bpm"
    assert float(case.measurement["heart_rate"]) == 60.0


def test_records_without_roles_are_split_by_record_and_it_is_said():
    (case,) = task.ConditionedECG(rates=(70.0,), within=20.0).cases([built([60, 70, 80, 90, 100, 110])])
    assert case.context["training"].sizes["record"] == 4
    assert "every third" in case.context["facts"]["split"]
    assert not {*case.context["training"]["heart_rate"].values} & {*case.truth["heart_rate"].values}


def test_exported_records_are_read_back(tmp_path, case):
    (path,) = task.ConditionedECG().export(Estimate(case.truth), case, tmp_path / "made")
    found = task.ConditionedECG().read(path)
    np.testing.assert_allclose(found["ecg"], case.truth["ecg"], atol=5e-5)  # five digits
    assert found.attrs["sampling_rate"] == 100
    assert found.attrs["key"] == "made"
    case.truth.to_netcdf(tmp_path / "made.nc", engine="h5netcdf")
    np.testing.assert_array_equal(task.ConditionedECG().read(tmp_path / "made.nc")["ecg"], case.truth["ecg"])


# methods


def test_stretched_records_have_the_rate_that_was_asked_for(neurokit, case):
    made = methods.Resampled(samples=6)(unseen(case), None, 0)
    scores = metrics.HeartRate()(made, case)
    assert scores["heart-rate-error"].value < 1.0  # a peak is found to a sample of 10 ms: 0.6 bpm at a gap of 1 s
    assert metrics.Einthoven()(made, case)["einthoven"].value < 1e-4
    assert made.data["ecg"].dims == case.truth["ecg"].dims
    np.testing.assert_array_equal(made.data["ecg"], methods.Resampled(samples=6)(unseen(case), None, 0).data["ecg"])
    assert not np.array_equal(made.data["ecg"], methods.Resampled(samples=6)(unseen(case), None, 1).data["ecg"])


def test_a_stretched_record_of_the_same_rate_is_a_cut(case):
    made = methods.Resampled(samples=1, neighbours=1)(unseen(case), None, 3)
    source = case.context["training"]["ecg"].values[3, 0]  # the record of 60 beats per minute
    errors = [
        np.abs(np.interp(at + np.arange(400), np.arange(500), source) - made.data["ecg"].values[0, 0]).max()
        for at in np.linspace(0, 99, 9901)
    ]
    assert min(errors) < 2e-3  # the search is 0.01 samples fine and a beat rises by 0.3 mV a sample at most


def test_training_writes_a_checkpoint_that_draws_and_resumes(neurokit, simulated, tmp_path):
    training = methods.ECGTraining(records=4, record_seconds=3.0, seconds=2.0, widths=(8, 8), attention=(), steps=4, decay=0, batch=2)
    out = training.run(tmp_path / "whole")
    prior = checkpoint.load(out)
    assert "simulated" in prior.card
    assert prior.facts["heart_rate"] == [45.0, 150.0]
    replace(training, steps=2).run(tmp_path / "cut")
    checkpoint_again = checkpoint.load(training.run(tmp_path / "cut", resume=True))
    assert checkpoint_again.sha256 == prior.sha256
    held = built([100, 75, 60, 100], ["train", "train", "train", "test"], samples=400)
    (case,) = task.ConditionedECG(rates=(60.0,), seconds=2.0).cases([held])
    made = methods.DiffusionECG(samples=3, grid="karras:4")(unseen(case), prior, 0)
    assert made.data["ecg"].shape == (3, 12, 200)
    assert np.isfinite(made.data["ecg"]).all()
    exact = methods.DiffusionECG(samples=3, grid="karras:4", leads="independent")(unseen(case), prior, 0)
    np.testing.assert_array_equal(leads.independent_of(exact.data["ecg"].values), leads.independent_of(made.data["ecg"].values))
    assert metrics.Einthoven()(exact, case)["einthoven"].value < 1e-4


def test_the_shipped_checkpoint_draws_the_rate_that_is_asked_for(neurokit, prior):
    """Below 5 beats per minute at five rates, the target; without the condition far above it."""
    asked = np.repeat([50.0, 60.0, 80.0, 100.0, 120.0], 4)

    def error(drawn: np.ndarray) -> float:
        found = [metrics.heart_rate(record[leads.LEADS.index("V3")], 100) for record in drawn]
        return float(np.mean(np.abs(asked - np.nan_to_num(found))))

    assert error(network.generated(prior, asked, seed=0)[0]) < 5.0
    assert error(network.generated(prior, asked, seed=0, conditioned=False)[0]) > 10.0


def test_the_shipped_checkpoint_nearly_satisfies_the_identities_and_says_what_it_is(case, prior):
    made = methods.DiffusionECG(samples=4)(unseen(case), prior, 0)
    assert metrics.Einthoven()(made, case)["einthoven"].value < 10.0  # percent of the leads' rms: nothing tells it the identities
    assert "no patients" in made.info["simulated"]
    assert made.nfe > 0
    assert "must not be used" in prior.card
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 400_000


def test_guidance_of_weight_one_is_no_guidance(case, prior):
    plain = methods.DiffusionECG(samples=2, grid="karras:6")(unseen(case), prior, 0)
    guided = methods.DiffusionECG(samples=2, grid="karras:6", weight=1.5)(unseen(case), prior, 0)
    assert guided.nfe == 2 * plain.nfe
    assert not np.allclose(plain.data["ecg"], guided.data["ecg"])


# bad input


@pytest.mark.parametrize(("rate", "low", "high"), [(40.0, 54.5455, 100.0), (101.0, 54.5455, 100.0)])
def test_a_rate_outside_the_training_records_is_refused(rate, low, high):
    item = built([60, 75, 90, 100, 110, 100], ["train"] * 5 + ["test"])
    with pytest.raises(DataError, match=f"rate {rate:g} lies outside those of the training records of built, {low:g} to {high:g}"):
        list(task.ConditionedECG(rates=(rate,)).cases([item]))


def test_a_rate_outside_those_of_the_checkpoint_is_refused(prior):
    item = built([30, 30, 30], ["train", "train", "test"])
    (case,) = task.ConditionedECG(rates=(200.0,)).cases([item])
    with pytest.raises(DataError, match="asks for 200 beats per minute and this checkpoint was trained for 45 to 150"):
        methods.DiffusionECG()(unseen(case), prior, 0)


def test_a_checkpoint_of_another_length_is_refused(prior):
    item = built([60, 75, 100, 100], ["train"] * 3 + ["test"])
    (case,) = task.ConditionedECG(rates=(60.0,), seconds=3.0).cases([item])
    with pytest.raises(DataError, match="asks for 300 samples at 100 Hz and this checkpoint draws 400 at 100 Hz"):
        methods.DiffusionECG()(unseen(case), prior, 0)


def test_a_checkpoint_of_something_else_is_refused(case):
    with pytest.raises(CheckpointError, match="ecg-diffusion needs a checkpoint"):
        methods.DiffusionECG()(unseen(case), None, 0)
    with pytest.raises(CheckpointError, match="does not generate ECG"):
        methods.DiffusionECG().check_prior(object())


def test_records_that_are_too_short_are_refused(case):
    with pytest.raises(DataError, match=r"records of 5 s and seconds is 6: ask for less"):
        list(task.ConditionedECG(rates=(60.0,), seconds=6.0).cases([built([60, 100], ["train", "test"])]))
    short = replace(unseen(case), context={"training": case.context["training"].isel(time=slice(0, 100))})
    with pytest.raises(DataError, match="no training record of 100 samples is long enough to give 400 at 60"):
        methods.Resampled()(short, None, 0)


def test_a_rate_without_held_out_records_is_refused():
    item = built([60, 75, 110, 100], ["train"] * 3 + ["test"])
    with pytest.raises(DataError, match="no held-out record within 5 of rate 80; the nearest has 60"):
        list(task.ConditionedECG(rates=(80.0,)).cases([item]))


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda item: item.rename(ecg="signal"), "is not a set of ECG records"),
        (lambda item: item.isel(lead=slice(0, 3)), "has the leads I, II, III; needed are"),
        (lambda item: item.where(item.record > 0), "values that are not finite"),
        (lambda item: item.drop_attrs(), "does not say its sampling rate"),
        (lambda item: item.isel(record=[0]), "needs training records and held-out ones; it has 1 records"),
    ],
)
def test_what_is_not_a_set_of_records_is_refused(change, match):
    item = built([60, 80, 100]).assign_coords(record=range(3))
    with pytest.raises(DataError, match=match):
        list(task.ConditionedECG(rates=(70.0,)).cases([change(item)]))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("record,time_s,heart_rate,I\n0,0,60,1\n", "lacks the columns II, III"),
        ("record,time_s,heart_rate," + ",".join(leads.LEADS) + "\n", "holds no records"),
        (
            "record,time_s,heart_rate," + ",".join(leads.LEADS) + "\n" + "".join(f"{n},0,60" + ",1" * 12 + "\n" for n in (0, 1, 1)),
            "different lengths \\(1 to 2 samples\\)",
        ),
        ("record,time_s,heart_rate," + ",".join(leads.LEADS) + "\n" + ("0,0,60" + ",1" * 12 + "\n") * 3, "not regular"),
        ("", "is not CSV that can be read"),
    ],
)
def test_a_file_that_holds_no_records_is_refused(tmp_path, text, match):
    path = tmp_path / "mine.csv"
    path.write_text(text)
    with pytest.raises(DataError, match=match):
        task.ConditionedECG().read(path)


def test_a_file_that_is_missing_or_not_netcdf_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        task.ConditionedECG().read(tmp_path / "no.nc")
    (tmp_path / "bad.nc").write_text("nothing")
    with pytest.raises(DataError, match="neither CSV nor netCDF"):
        task.ConditionedECG().read(tmp_path / "bad.nc")


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: task.ConditionedECG(rates=()), "rates must be positive"),
        (lambda: task.ConditionedECG(rates=(60.0, 60.0)), "differ from each other"),
        (lambda: task.ConditionedECG(seconds=1.0), "between 2 and 60"),
        (lambda: task.ConditionedECG(within=0.0), "within must be positive"),
        (lambda: records.SimulatedECG(training=0), "training must be at least 1"),
        (lambda: records.SimulatedECG(sampling_rate=20), "between 50 and 1000 Hz"),
        (lambda: records.SimulatedECG(seconds=1.0), "between 3"),
        (lambda: records.SimulatedECG(noise=2.0), "noise must lie between 0 and 0.5"),
        (lambda: methods.DiffusionECG(samples=0), "samples must be at least 1"),
        (lambda: methods.DiffusionECG(weight=float("nan")), "weight must not be negative"),
        (lambda: methods.DiffusionECG(leads="some"), "'all' or 'independent'"),
        (lambda: methods.Resampled(neighbours=0), "neighbours must be at least 1"),
        (lambda: methods.ECGTraining(seconds=6.0), "record_seconds"),
        (lambda: methods.ECGTraining(drop=1.0), "drop must lie"),
        (lambda: methods.ECGTraining(steps=0), "steps must be at least 1"),
        (lambda: metrics.HeartRate(lead="VII"), "lead must be one of"),
    ],
)
def test_an_option_outside_its_range_is_refused(make, match):
    with pytest.raises(UserError, match=match):
        make()
