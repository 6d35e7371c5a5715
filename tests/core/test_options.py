"""Checks of options: bounds are closed where they say so, and the sentence names the option, the bound and the value."""

from dataclasses import dataclass
from typing import Literal

import pytest

from unstir.errors import UserError
from unstir.plugin.options import at_least, not_negative, one_of, positive, probabilities

Colour = Literal["red", "blue"]


@dataclass
class Options:
    count: int = 1
    width: float = 0.5
    colour: str = "red"


def test_what_is_allowed_passes_in_silence():
    at_least(Options(), count=1, width=0.5)
    positive(Options(), "width")
    not_negative(Options(width=0), "count", "width")
    probabilities(Options(width=0), "count", "width")
    one_of(Options(), colour=Colour)
    one_of(Options(), colour=("red",))


def test_a_value_below_its_bound_is_named_with_both():
    with pytest.raises(UserError, match=r"^count must be at least 1, got 0$"):
        at_least(Options(count=0), width=0, count=1)
    with pytest.raises(UserError, match=r"^width must be at least 0, got nan$"):
        at_least(Options(width=float("nan")), width=0)


@pytest.mark.parametrize("width", [0.0, -1.0, float("inf"), float("nan")])
def test_what_is_not_positive_and_finite_is_refused(width):
    with pytest.raises(UserError, match=rf"^width must be positive, got {width}$"):
        positive(Options(width=width), "width")


@pytest.mark.parametrize("width", [-0.5, float("inf"), float("nan")])
def test_what_is_negative_or_beyond_all_numbers_is_refused(width):
    with pytest.raises(UserError, match=rf"^width must not be negative, got {width}$"):
        not_negative(Options(width=width), "count", "width")


@pytest.mark.parametrize("width", [-0.5, 1.5, float("nan")])
def test_what_is_no_probability_is_refused(width):
    with pytest.raises(UserError, match=rf"^width must lie between 0 and 1, got {width}$"):
        probabilities(Options(width=width), "count", "width")


def test_another_word_is_refused_with_those_there_are():
    with pytest.raises(UserError, match=r"^colour must be one of red, blue, got 'green'$"):
        one_of(Options(colour="green"), colour=Colour)
