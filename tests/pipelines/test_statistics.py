import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir_pipelines.statistics import bootstrap, interval, summarise


def test_the_interval_of_a_mean_is_that_of_the_normal_law_for_many_normal_values():
    values = np.random.default_rng(0).normal(3.0, 2.0, size=2000)
    low, high = bootstrap(values)
    half = 1.96 * values.std() / math.sqrt(len(values))
    # the quantiles of 2000 draws scatter by about 3 % of the half-width each
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_covers_the_truth_about_95_times_in_100():
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        low, high = bootstrap(generator.normal(size=40), draws=500)
        covered += low <= 0 <= high
    # the percentile bootstrap of 40 values covers 93-95 %; three standard errors of 300 trials are 3.9 %
    assert 0.89 <= covered / 300 <= 0.985


def test_the_same_values_give_the_same_interval():
    values = np.random.default_rng(2).random(30)
    assert bootstrap(values) == bootstrap(values.copy())


def test_equal_values_give_an_interval_of_no_width():
    assert bootstrap([2.0] * 7) == (2.0, 2.0)


def test_one_value_has_no_interval():
    assert all(math.isnan(end) for end in bootstrap([2.0]))


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=30))
def test_the_interval_lies_within_the_values(values: list[float]):
    low, high = bootstrap(values, draws=200)
    slack = 1e-9 * max(1.0, *(abs(value) for value in values))
    assert min(values) - slack <= low <= high <= max(values) + slack


def test_psnr_of_parts_is_combined_before_the_logarithm():
    errors = np.array([1e-2, 1e-4] * 20)
    low, high = bootstrap(errors, "psnr")
    assert low < -10 * np.log10(errors.mean()) < high
    assert high < -10 * np.log10(1e-4) - 5  # the mean of the parts' own PSNR would be 30 dB; the volume's is 23 dB


def test_several_cases_are_resampled_over_cases_and_one_over_its_parts():
    parts = (1.0, 2.0, 3.0, 4.0)
    several = interval([("a", 0, 1.0, parts, "mean"), ("b", 0, 5.0, parts, "mean")])
    assert (several.resampled, several.cases, several.mean) == ("cases", 2, 3.0)
    alone = interval([("a", 0, 2.5, parts, "mean")])
    assert (alone.resampled, alone.cases, alone.mean) == ("parts", 1, 2.5)
    assert 1 <= alone.low < 2.5 < alone.high <= 4
    seeds = interval([("a", 0, 1.0, (), "mean"), ("a", 1, 3.0, (), "mean")])
    assert (seeds.resampled, seeds.mean) == ("seeds", 2.0)
    nothing = interval([("a", 0, 2.5, (), "mean")])
    assert nothing.resampled == "none"
    assert math.isnan(nothing.low)


def test_seeds_are_averaged_within_a_case_and_do_not_narrow_the_interval():
    once = interval([(case, 0, float(index), (), "mean") for index, case in enumerate("abcdef")])
    thrice = interval([(case, seed, float(index), (), "mean") for index, case in enumerate("abcdef") for seed in range(3)])
    assert (once.low, once.high) == (thrice.low, thrice.high)


def test_parts_of_several_seeds_are_drawn_together():
    parts = np.random.default_rng(3).random(20)
    one = interval([("a", 0, parts.mean(), tuple(parts), "mean")])
    two = interval([("a", seed, parts.mean(), tuple(parts), "mean") for seed in range(2)])
    assert (two.low, two.high) == pytest.approx((one.low, one.high))


def test_a_value_that_is_not_finite_leaves_no_interval():
    found = interval([("a", 0, math.inf, (), "mean"), ("b", 0, 1.0, (), "mean")])
    assert math.isinf(found.mean)
    assert math.isnan(found.low)


def test_rows_come_in_the_order_of_the_recipe():
    row = {
        "task": "t",
        "setting": "{}",
        "case": "a",
        "seed": 0,
        "value": 1.0,
        "unit": "",
        "better": "up",
        "parts": [],
        "combine": "mean",
        "covers": 0,
    }
    rows = pd.DataFrame([{**row, "method": method, "metric": metric} for method in ("late", "early") for metric in ("x", "y")])
    found = summarise(rows, [{}], ["early", "late"])
    assert [(one["method"], one["metric"]) for one in found] == [("early", "x"), ("early", "y"), ("late", "x"), ("late", "y")]
    assert list(found[0])[:10] == ["task", "setting", "method", "metric", "unit", "mean", "low", "high", "cases", "better"]


@pytest.mark.parametrize(("parts", "resampled"), [([1.0, 2.0, 4.0], "cases"), ([1.0, 2.0], "parts")])
def test_a_part_for_every_case_is_a_case(parts, resampled):
    of_the_set = {"case": "*", "seed": 0, "covers": 3, "parts": parts, "combine": "mean", "value": float(np.mean(parts))}
    row = {"task": "t", "setting": "{}", "method": "m", "metric": "x", "unit": "", "better": "down", **of_the_set}
    assert summarise(pd.DataFrame([row]), [{}], ["m"])[0]["resampled"] == resampled
