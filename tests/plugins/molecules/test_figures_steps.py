"""The picture of numbers against evaluations: families by their labels, findings in words."""

from types import SimpleNamespace

import pandas as pd
import pytest

from unstir.errors import UserError
from unstir_molecules.figures_steps import Steps

NUMBERS = {  # nfe, valid, fcd
    "training-set": (0, 100.0, 0.6),
    "s4-100": (100, 90.0, 2.0),
    "s4-50": (50, 80.0, 3.0),
    "dpm++2m-20": (20, 60.0, 5.0),
    "dpm++2m-500": (500, 95.0, 2.5),
}


def run(keys=("nfe", "valid", "fcd")):
    better = {"nfe": "down", "valid": "up", "fcd": "down"}
    rows = [
        {"method": label, "case": "toy", "seed": 0, "setting": {}, "metric": key, "unit": "", "better": better[key], "value": float(value)}
        for label, values in NUMBERS.items()
        for key, value in zip(("nfe", "valid", "fcd"), values, strict=True)
        if key in keys
    ]
    return SimpleNamespace(rows=pd.DataFrame(rows), labels=list(NUMBERS), settings=[{}], recipe=SimpleNamespace(title="A run", resolved={}))


def test_methods_of_one_family_are_one_line_and_those_that_evaluate_nothing_are_left_out():
    (drawn,) = Steps().draw(run())
    assert drawn.data["family"].tolist() == ["s4", "s4", "dpm++2m", "dpm++2m"]
    assert drawn.data["nfe"].tolist() == [50, 100, 20, 500]  # fewest first
    lines = drawn.figure.axes[0].get_lines()
    assert [line.get_label() for line in lines] == ["s4", "dpm++2m"]


def test_the_caption_says_the_best_and_the_best_of_few():
    (drawn,) = Steps().draw(run())
    assert "95 (dpm++2m, 500 evaluations); with at most 100 90 (s4, 100 evaluations)" in drawn.caption
    assert "Best FCD: 2 (s4, 100 evaluations)." in drawn.caption


def test_numbers_that_a_run_lacks_have_no_panel():
    (drawn,) = Steps(metrics=("valid", "reward")).draw(run())
    assert len(drawn.figure.axes) == 1
    assert list(Steps(metrics=("reward",)).draw(run())) == []
    assert list(Steps().draw(run(("valid", "fcd")))) == []
    with pytest.raises(UserError, match="at least one"):
        Steps(metrics=())
