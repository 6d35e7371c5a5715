"""Anomaly scores: the closed forms of the diffusion time, neighbours that are no neighbours, windows and steps, and networks."""

import json

import numpy as np
import pytest
import torch
import xarray as xr
from scipy.integrate import quad
from scipy.stats import invgamma, spearmanr
from sklearn.datasets import load_breast_cancer, load_wine

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case
from unstir_timeseries import anomaly_networks as networks
from unstir_timeseries.anomaly import DTE, DTENP, Forest, NearestNeighbours, Reconstruction, mode, most_near, nearest, score_panel
from unstir_timeseries.anomaly_task import Anomaly, pairwise
from unstir_timeseries.anomaly_windows import FLAT, Comparison, own_scale, score_points, sliding, to_steps
from unstir_timeseries.panel import panel

SMALL = {"updates": 40, "hidden": (32, 32)}
EVERY = [
    DTENP(),
    DTENP(law="mixture"),
    NearestNeighbours(),
    Forest(trees=20),
    DTE(**SMALL),
    Reconstruction(updates=20, evaluations=3, width=16),
]
NAMES = [repr(method)[:40] for method in EVERY]


def breast_cancer(malignant=None, train=None):
    """Benign rows to train on (z-scored by their own mean and spread), the others and malignant ones to test, labels."""
    x, target = load_breast_cancer(return_X_y=True)
    normal, strange = np.flatnonzero(target == 1), np.flatnonzero(target == 0)
    if malignant:
        strange = np.random.default_rng(0).choice(strange, malignant, replace=False)
        normal = np.random.default_rng(0).permutation(normal)
    train = train or len(normal) // 2
    known, rest = normal[:train], np.r_[normal[train:], strange]
    mean, spread = x[known].mean(0), x[known].std(0)
    return (x[known] - mean) / spread, (x[rest] - mean) / spread, (target[rest] == 0).astype(float)


def auroc(scores, label):
    return pairwise(scores, label)[label == 1].mean()


def series(y, training=0, **attrs):
    y = np.atleast_2d(np.asarray(y, dtype=float))
    time = np.datetime64("2020-01-01", "ns") + np.arange(y.shape[1]) * np.timedelta64(1, "h")
    return panel(y, time, [f"s{i}" for i in range(len(y))], freq="h", season=24, attrs={"training": training, **attrs})


# closed forms and goldens


def test_noise_levels_are_those_of_the_published_table():
    found = networks.noise_levels(300)
    np.testing.assert_allclose(found[[0, 99, 299]], [1e-4, 0.159781692, 0.781306524], rtol=0, atol=5e-10)  # the digits given
    assert 1 - networks.noise_levels(400)[-1] == pytest.approx(0.131760, abs=5e-7)


@pytest.mark.parametrize(
    ("size", "square", "step", "mean"), [(8, 2.0, 128, 163.5427), (8, 4.0, 201, 214.4447), (21, 4.0, 109, 120.7939), (4, 0.05, 24, 42.2897)]
)
def test_likeliest_and_mean_step_are_the_published_ones(size, square, step, mean):
    squares = np.array([[square]])
    assert DTENP(score="step").of(squares, size)[0] == step
    assert DTENP(score="mean").of(squares, size)[0] == pytest.approx(mean, abs=5e-5)  # four digits are given


@pytest.mark.parametrize(("size", "square"), [(3, 0.4), (8, 2.0), (30, 90.0)])
def test_the_mode_is_that_of_an_inverse_gamma(size, square):
    law = invgamma(size / 2 - 1, scale=square / 2)
    found = mode(np.array([[square]]), size)[0]
    assert found == pytest.approx(square / size, rel=1e-15)
    around = law.pdf(found * np.array([0.999, 1.0, 1.001]))
    assert around.argmax() == 1


def test_the_law_of_the_noise_level_has_no_norm_below_three_features():
    """The integral of sigma^-d exp(-r^2/(2 sigma^2)) over sigma^2 grows with its end for d = 2 (as a logarithm), and not for d = 3."""

    def norm(size, end):
        return quad(lambda u: np.exp(u) ** (1 - size / 2) * np.exp(-0.5 * np.exp(-u)), -8, np.log(end))[0]

    assert norm(2, 1e8) - norm(2, 1e4) == pytest.approx(np.log(1e4), rel=1e-3)  # what is left out beyond 1e4 is of order 1e-4
    assert norm(3, 1e8) - norm(3, 1e4) < 0.03  # 2/sqrt(1e4) is left
    with pytest.raises(DataError, match="at least 3 features"):
        DTENP().rank(np.random.default_rng(0).normal(size=(20, 2)), np.zeros((1, 2)))


def test_the_mode_of_a_mixture_is_its_largest_density():
    generator = np.random.default_rng(0)
    squares = np.sort(generator.gamma(2.0, 3.0, size=(40, 12)), axis=1)
    squares[:5, 0] = 1e-3  # a near duplicate: two modes
    for row, found in zip(squares, mode(squares, 6), strict=True):
        grid = np.geomspace(1e-5, 20, 20001)
        best = grid[(np.log(np.exp(-row[:, None] / (2 * grid)).sum(0) + 1e-300) - 3 * np.log(grid)).argmax()]
        assert found == pytest.approx(best, rel=1e-3)  # the grid's own step is 7e-4


def test_a_duplicate_of_a_normal_point_scores_zero():
    x = np.random.default_rng(0).normal(size=(30, 5))
    assert DTENP(law="mixture").rank(x, x[:3]).scores.tolist() == [0.0, 0.0, 0.0]
    assert DTENP(neighbours=1).rank(x, x[:3]).scores.max() < 1e-15


def test_times_fall_into_the_published_bins():
    t = np.array([0, 57, 58, 199, 399])
    assert networks.time_bin(t, 400, 7).tolist() == [0, 0, 1, 3, 6]
    assert networks.time_bin(torch.from_numpy(t), 400, 7).tolist() == [0, 0, 1, 3, 6]


def test_networks_are_shown_data_that_noise_has_not_shrunk():
    x = torch.full((4, 3), 100.0)
    assert torch.equal(networks.ADDED.perturb(x, torch.full((4,), 0.5), torch.ones(4, 3)), x + 0.5)


# scores on real tables


def test_the_breast_cancer_row_is_reproduced():
    """200 benign rows (the first), the exact posterior's mode: AUROC .948, mean 5-NN distance .957, Spearman .989."""
    train, test, label = breast_cancer(train=200)
    found, distance = DTENP(neighbours=0, law="mixture").rank(train, test).scores, nearest(train, test, 5).mean(axis=1)
    assert (auroc(found, label), auroc(distance, label)) == pytest.approx((0.948, 0.957), abs=5e-4)
    assert spearmanr(found, distance)[0] == pytest.approx(0.989, abs=1e-3)


def test_yardsticks_of_ten_rare_anomalies():
    train, test, label = breast_cancer(malignant=10)
    assert auroc(DTENP(score="step").rank(train, test).scores, label) == pytest.approx(0.8891, abs=5e-5)
    assert auroc(NearestNeighbours().rank(train, test).scores, label) == pytest.approx(0.9279, abs=5e-5)
    forest = auroc(Forest().rank(train, test).scores, label)
    assert forest == pytest.approx(0.9441, abs=5e-3)  # trees differ between versions of scikit-learn


def test_continuous_scores_rank_what_the_table_ties():
    train, test, label = breast_cancer(malignant=10)
    step, score = DTENP(score="step").rank(train, test).scores, DTENP().rank(train, test).scores
    assert (step == 299).sum() > 10
    assert len(np.unique(score)) == len(score)
    assert auroc(score, label) - auroc(step, label) > 0.03


@pytest.mark.parametrize("table", [load_breast_cancer, load_wine])
def test_diffusion_time_ranks_as_neighbours_do(table):
    x = table().data
    train, test = x[::2], x[1::2]
    train, test = (train - train.mean(0)) / train.std(0), (test - train.mean(0)) / train.std(0)
    distance = NearestNeighbours().rank(train, test).scores
    assert spearmanr(DTENP().rank(train, test).scores, distance)[0] > 0.95


# who is whose neighbour


def test_a_point_is_not_its_own_neighbour_but_its_duplicate_is():
    x = np.array([[0.0, 0, 0], [0, 0, 0], [3, 0, 0], [7, 0, 0]])
    found = nearest(x, x, 1, np.arange(4))
    assert found[:, 0].tolist() == [0.0, 0.0, 3.0, 4.0]


def test_overlapping_windows_are_no_neighbours():
    generator = np.random.default_rng(0)
    x, places = generator.normal(size=(60, 4)), np.sort(generator.choice(200, 60, replace=False))
    found = nearest(x, x, 3, places, 10)
    for i in range(60):
        allowed = np.abs(places - places[i]) >= 10
        np.testing.assert_allclose(found[i], np.sort(np.linalg.norm(x[allowed] - x[i], axis=1))[:3])
    assert most_near(places, 10) == max((np.abs(places - p) < 10).sum() for p in places)


def test_too_few_vectors_are_said_with_their_numbers():
    x = np.eye(4)
    with pytest.raises(DataError, match="5 neighbours are asked for, and there are 4 vectors"):
        nearest(x, x, 5)
    with pytest.raises(DataError, match="2 neighbours are asked for besides the 3 that overlap, and there are 4 vectors"):
        nearest(x, x, 2, np.arange(4), 2)


# windows and steps


@pytest.mark.parametrize(("stride", "starts"), [(1, [0, 1, 2, 3, 4, 5]), (2, [0, 2, 4, 5]), (3, [0, 3, 5]), (5, [0, 5])])
def test_windows_reach_the_last_step_at_every_stride(stride, starts):
    windows, begin = sliding(np.arange(10.0), 5, stride)
    assert begin.tolist() == starts
    np.testing.assert_array_equal(windows[-1], [5, 6, 7, 8, 9])


def test_a_step_gets_the_mean_or_the_largest_of_its_windows():
    scores, starts = np.array([1.0, 5.0, np.nan, 2.0]), np.array([0, 1, 2, 4])
    np.testing.assert_array_equal(to_steps(scores, starts, 2, 7, "max"), [1, 5, 5, np.nan, 2, 2, np.nan])
    np.testing.assert_array_equal(to_steps(scores, starts, 2, 7, "mean"), [1, 3, 5, np.nan, 2, 2, np.nan])


def test_a_bump_is_found_where_it_is():
    t = np.arange(600)
    y = np.sin(t / 5) + 0.01 * np.random.default_rng(0).normal(size=600)
    y[450:456] += 1.5
    for training in (300, 0):
        found = score_panel(series(y), DTENP(), 20, training=training)
        assert found["score"].dims == ("item", "time")
        peak = int(np.nanargmax(found["score"].values[0]))
        assert 446 <= peak <= 460  # the event and the few steps beside it
        assert np.flatnonzero(np.isnan(found["score"].values[0])).tolist() == list(range(training))


def test_missing_values_leave_their_windows_unscored_and_say_so():
    y = np.sin(np.arange(200) / 3)
    y[150:153] = np.nan
    found = score_panel(series(y), NearestNeighbours(), 10, training=100)
    missing = np.flatnonzero(np.isnan(found["score"].values[0, 100:]))
    assert missing.tolist() == [50, 51, 52]  # windows of the other steps without a hole exist
    assert found.attrs["said"] == ["series s0: 12 of 91 windows hold a missing value and are not scored"]


def test_a_constant_series_scores_alike_and_a_step_out_of_it_stands_out():
    y = np.full(100, 7.0)
    flat = score_panel(series(y), DTENP(), 10, training=50)
    assert (flat["score"].values[0, 50:] == 0).all()
    assert "constant (7)" in flat.attrs["said"][0]
    y[80] = 9.0
    found = score_panel(series(y), DTENP(), 10, training=50, reduce="mean")["score"].values[0, 50:]
    assert found.argmax() == 30
    assert found[30] == pytest.approx(2.0**2 / 10)  # r^2/d in the series' own unit


def test_a_window_of_its_own_scale_forgets_level_and_size():
    windows = np.random.default_rng(0).normal(size=(5, 8))
    np.testing.assert_allclose(own_scale(windows), own_scale(3 * windows + 40), atol=1e-12)
    quiet = own_scale(np.array([[0.0, 1e-9, 0.0]]))
    assert np.abs(quiet).max() < 1e-9 / FLAT


def test_scores_do_not_depend_on_unit_and_level():
    y = np.cumsum(np.random.default_rng(0).normal(size=300))
    one, other = (score_panel(series(v), DTENP(), 8, training=150)["score"].values for v in (y, 1e12 * y - 5e12))
    np.testing.assert_allclose(one, other, rtol=1e-6)  # 1e12 leaves 1e-4 of a double's last digits at this level


@pytest.mark.parametrize(
    ("y", "options", "message"),
    [
        (np.zeros(5), {"window": 10}, "series s0: a series of 5 steps is shorter than a window of 10"),
        (np.full(50, np.nan), {"window": 10}, "series s0: no value is observed"),
        (np.arange(14.0), {"window": 10, "training": 0}, "neighbours are asked for besides the 5 that overlap, and there are 5"),
        (np.arange(30.0), {"window": 10, "training": 12}, "5 neighbours are asked for, and there are 3 vectors"),
    ],
)
def test_series_that_cannot_be_scored(y, options, message):
    with pytest.raises(DataError, match=message):
        score_panel(series(y), NearestNeighbours(), options.pop("window"), **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"window": 1}, "window must be at least 2"),
        ({"window": 4, "stride": 5}, "stride must lie between 1 and the 4 steps"),
        ({"window": 4, "scale": "other"}, "scale must be"),
        ({"window": 4, "reduce": "sum"}, "reduce must be"),
        ({"window": 4, "training": 50}, "training must lie between 0 and the 49"),
    ],
)
def test_options_of_windows_out_of_range(options, message):
    with pytest.raises(UserError, match=message):
        score_panel(series(np.arange(50.0)), NearestNeighbours(), **options)


def test_points_with_missing_values_and_constant_features():
    generator = np.random.default_rng(0)
    train, test = generator.normal(size=(50, 4)), generator.normal(size=(10, 4))
    train[:, 3] = test[:, 3] = 2.0
    train[0, 0] = test[3, 1] = np.nan
    found = score_points(test, train, DTENP())
    assert np.flatnonzero(np.isnan(found.scores)).tolist() == [3]
    assert found.said == [
        "1 of 4 features are constant and stay in their own unit",
        "1 of 10 points have a missing value and are not scored",
        "1 of 50 training points have a missing value and are left out",
    ]
    with pytest.raises(DataError, match="no point without a missing value"):
        score_points(test, np.full((5, 4), np.nan), DTENP())


# methods


@pytest.mark.parametrize("method", EVERY, ids=NAMES)
@pytest.mark.parametrize("protocol", ["semi-supervised", "unsupervised"])
def test_every_method_answers_points_and_series_the_same_twice(method, protocol):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 5))
    x[-6:] += 6
    points = xr.Dataset({"x": (("sample", "feature"), x), "label": ("sample", np.r_[np.zeros(54), np.ones(6)])})
    points = points.assign_coords(sample=np.arange(60), feature=list("abcde")).assign_attrs(key="toy")
    y = np.sin(np.arange(120) / 4)
    y[100:104] += 2
    labelled = series(y, training=60, key="wave").assign(label=(("item", "time"), (np.abs(y) > 1.2)[None].astype(float)))
    for case in Anomaly(protocol=protocol, window=8).cases([points, labelled]):
        blind = Case(case.key, None, case.measurement, case.context)
        first, again = method(blind, None, 3), method(blind, None, 3)
        assert first.data["score"].dims == case.truth["label"].dims
        assert first.data["score"].shape == case.truth["label"].shape
        np.testing.assert_array_equal(first.data["score"], again.data["score"])
        assert np.isfinite(first.data["score"]).all()
        json.dumps(first.info)
        assert first.nfe == {"DTE": 1, "Reconstruction": 3}.get(type(method).__name__, 0)


def test_a_network_says_that_it_was_trained_on_what_it_scores():
    x = np.random.default_rng(0).normal(size=(40, 4))
    found = DTE(**SMALL).rank(x, x, Comparison(own=np.arange(40)))
    assert found.said == ["the network was trained on the very points that it scores"]


@pytest.mark.parametrize("variant", ["categorical", "inverse-gamma", "gaussian"])
def test_a_network_learns_the_noise_level(variant):
    """Normal points on a plane in 12 dimensions, noise of three levels on fresh ones: the score rises with it."""
    generator = np.random.default_rng(0)
    plane = generator.normal(size=(2, 12))
    train, fresh = (generator.normal(size=(n, 2)) @ plane for n in (400, 100))
    noisy = np.concatenate([fresh + sigma * generator.normal(size=fresh.shape) for sigma in (0.05, 0.3, 0.8)])
    found = DTE(variant=variant, updates=300, dropout=0.0, hidden=(64, 64)).rank(train, noisy, Comparison(seed=1)).scores.reshape(3, -1)
    medians = np.median(found, axis=1)
    assert medians[0] < medians[1] < medians[2]


def test_the_inverse_gamma_loss_is_least_at_its_shape_times_the_level():
    level, size = torch.tensor([0.3]), 10
    at = torch.log((size / 2 - 1) * level)
    method = DTE(variant="inverse-gamma")
    losses = [float(method.loss((at + shift)[:, None], torch.zeros(1), level, size)) for shift in (-0.01, 0.0, 0.01)]
    assert losses[1] < min(losses[0], losses[2])


def test_the_expected_bin_applies_the_softmax_once_and_does_not_tie():
    logits = torch.tensor([[0.0, 0, 0, 0, 0, 0, 30.0], [0.0, 0, 0, 0, 0, 0, 31.0]], dtype=torch.float64)
    low, high = DTE().of(logits, 8).tolist()
    assert low < high < 6
    assert 6 - low == pytest.approx(21 * np.exp(-30.0), rel=1e-3)  # 6*6 minus the sum of the first six bins is 21, times e^-30


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DTENP(neighbours=0), "neighbours must be positive"),
        (lambda: DTENP(law="other"), "law must be one of nearest, mixture"),
        (lambda: DTENP(steps=1), "steps must be at least 2"),
        (lambda: DTE(variant="other"), "variant must be one of"),
        (lambda: DTE(bins=500), "bins must lie between 2 and the 400 steps"),
        (lambda: DTE(dropout=1.0), "dropout must be"),
        (lambda: DTE(hidden=()), "hidden must list"),
        (lambda: Forest(trees=0), "trees must be positive"),
        (lambda: Reconstruction(level=0), "level must be positive"),
        (lambda: NearestNeighbours(take="first"), "take must be one of"),
    ],
)
def test_options_out_of_range(make, message):
    with pytest.raises(UserError, match=message):
        make()


@pytest.mark.slow
def test_the_classifier_is_no_worse_than_reconstruction_at_a_fiftieth_of_the_evaluations():
    """Within 2 points of AUROC on the breast cancer table; both networks trained for a few seconds."""
    train, test, label = breast_cancer(train=200)
    quick = DTE(updates=600).rank(train, test)
    slow = Reconstruction(updates=600, batch=64, width=64).rank(train, test)
    assert auroc(quick.scores, label) > auroc(slow.scores, label) - 0.02
    assert slow.nfe == 50 * quick.nfe
