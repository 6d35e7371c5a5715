"""States: combinations leaf by leaf, in place, in as few passes as there are terms."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from unstir.state import batch_size, cat, combine, is_finite, map_state, nonzero, shifted, take

numbers = st.floats(-3, 3).map(lambda v: round(v, 3)) | st.sampled_from([0.0, 1.0])


def pair() -> dict[str, torch.Tensor]:
    return {"atoms": torch.arange(6.0).reshape(2, 3), "bonds": torch.ones(2, 2, 2)}


@settings(max_examples=60, deadline=None)
@given(a=numbers, b=numbers, c=numbers)
def test_combine_is_the_linear_combination(a: float, b: float, c: float) -> None:
    x, y, z = (torch.linspace(k, k + 1, 6, dtype=torch.float64).reshape(2, 3) for k in (1, 2, 3))
    expected = a * x + b * y + c * z
    out = x.clone()
    assert combine(out, a, (b, y), (c, z)) is out
    torch.testing.assert_close(out, expected, rtol=0, atol=1e-13)  # a few roundings of numbers below 10


def test_combine_takes_one_coefficient_a_leaf() -> None:
    out = combine(pair(), {"atoms": 2.0, "bonds": 0.0}, ({"atoms": 0.0, "bonds": 3.0}, pair()))
    assert torch.equal(out["atoms"], 2 * pair()["atoms"])
    assert torch.equal(out["bonds"], 3 * pair()["bonds"])


def test_old_content_is_not_read_where_its_coefficient_is_0() -> None:
    out = torch.full((2, 3), float("nan"))
    assert torch.equal(combine(out, 0.0, (2.0, torch.ones(2, 3))), torch.full((2, 3), 2.0))
    assert torch.equal(combine(out.fill_(float("nan")), 0.0), torch.zeros(2, 3))


def test_a_term_with_coefficient_0_is_not_read() -> None:
    assert torch.equal(combine(torch.ones(2), 1.0, (0.0, torch.full((2,), float("nan")))), torch.ones(2))


@pytest.mark.parametrize("p", [0.0, -2.5])
def test_shifted_adds_a_multiple(p: float) -> None:
    x, y = torch.randn(2, 3, dtype=torch.float64), torch.randn(2, 3, dtype=torch.float64)
    torch.testing.assert_close(shifted(torch.empty_like(x), y, p, x), y + p * x, rtol=0, atol=1e-14)


def test_is_finite_names_the_samples_of_any_leaf() -> None:
    state = pair()
    state["bonds"][1, 0, 1] = float("inf")
    assert is_finite(state).tolist() == [True, False]
    assert is_finite(torch.zeros(0, 3)).tolist() == []


def test_take_and_cat_are_inverse() -> None:
    state = pair()
    back = cat([take(state, slice(0, 1)), take(state, slice(1, 2))])
    assert all(torch.equal(back[leaf], state[leaf]) for leaf in state)
    assert batch_size(state) == 2


def test_states_of_different_structure_are_refused() -> None:
    with pytest.raises(ValueError, match="structure"):
        map_state(torch.add, pair(), {"atoms": torch.zeros(2, 3)})
    with pytest.raises(ValueError, match="structure"):
        map_state(torch.add, torch.zeros(2), pair())
    with pytest.raises(ValueError, match="batch size"):
        batch_size({"a": torch.zeros(2, 3), "b": torch.zeros(3, 3)})


def test_nonzero_looks_at_every_leaf() -> None:
    assert nonzero({"a": 0.0, "b": 1e-300})
    assert not nonzero({"a": 0.0, "b": 0.0})
    assert not nonzero(0.0)
