"""Riffle shuffles in exact arithmetic, the generalised Plackett-Luce law, and lists that are sorted by a walk back."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
import torch

from unstir.errors import UserError
from unstir_molecules.permutations import (
    GeneralisedPlackettLuce,
    OrderNetwork,
    Shuffling,
    distance_to_uniform,
    eulerian,
    riffle_probability,
    riffled,
    rising_sequences,
    transition_matrix,
)

GOLDENS = {
    4: (0.5, 0.2812, 0.1445, 0.0728, 0.0364, 0.0182, 0.0091, 0.0046),
    10: (0.9997, 0.8611, 0.4268, 0.2396, 0.1243, 0.0627, 0.0314, 0.0157),
    52: (1.0, 1.0, 1.0, 1.0, 0.9237, 0.6135, 0.3341, 0.1672),
}


@pytest.mark.parametrize("cards", GOLDENS)
def test_the_distance_to_uniform_is_bayers_and_diaconis(cards):
    """Goldens have four digits, the last of a half truncated or rounded."""
    for shuffles, golden in enumerate(GOLDENS[cards], start=1):
        assert float(distance_to_uniform(cards, shuffles)) == pytest.approx(golden, abs=6e-5)


def test_an_unshuffled_deck_is_as_far_from_uniform_as_can_be():
    assert distance_to_uniform(5, 0) == 1 - Fraction(1, 120)
    assert distance_to_uniform(1, 3) == 0


def test_eulerian_numbers_count_all_arrangements():
    assert eulerian(4) == [1, 11, 11, 1]
    assert sum(eulerian(9)) == math.factorial(9)
    counted = np.bincount([rising_sequences(deck) for deck in itertools.permutations(range(5))])[1:]
    assert counted.tolist() == eulerian(5)


@pytest.mark.parametrize("cards", [2, 4, 5])
def test_rows_and_columns_of_the_transition_matrix_sum_to_one(cards):
    """So that the uniform law is stationary, and the only one: a power of the matrix has no zeros."""
    matrix = transition_matrix(cards)
    np.testing.assert_allclose(matrix.sum(1), 1, atol=1e-12)
    np.testing.assert_allclose(matrix.sum(0), 1, atol=1e-12)
    assert (np.linalg.matrix_power(matrix, 4) > 0).all()


def test_powers_of_the_matrix_are_the_law_of_many_shuffles():
    law = np.linalg.matrix_power(transition_matrix(4), 3)[0]
    said = [float(riffle_probability(rising_sequences(deck), 4, 3)) for deck in itertools.permutations(range(4))]
    np.testing.assert_allclose(law, said, atol=1e-12)
    assert 0.5 * np.abs(law - 1 / 24).sum() == pytest.approx(float(distance_to_uniform(4, 3)), abs=1e-12)


def test_drawn_riffles_have_the_law_of_the_matrix():
    count, generator = 40_000, torch.Generator().manual_seed(0)
    decks = riffled(torch.arange(4).expand(count, -1), generator)
    keys = (decks * torch.tensor([64, 16, 4, 1])).sum(1)
    for deck in itertools.permutations(range(4)):
        key = sum(card * 4 ** (3 - place) for place, card in enumerate(deck))
        p = float(riffle_probability(rising_sequences(deck), 4, 1))
        assert float((keys == key).double().mean()) == pytest.approx(p, abs=5 * math.sqrt(p / count) + 1e-12)


def test_the_generalised_law_is_normalised_and_drawn_as_said():
    scores = torch.randn(1, 4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    every = torch.tensor(list(itertools.permutations(range(4))))
    p = GeneralisedPlackettLuce(scores.expand(24, -1, -1)).log_prob(every).exp()
    assert float(p.sum()) == pytest.approx(1, abs=1e-12)
    drawn = GeneralisedPlackettLuce(scores.expand(40_000, -1, -1)).sample(torch.Generator().manual_seed(2))
    for order, chance in zip(every, p.tolist(), strict=True):
        assert float((drawn == order).all(1).double().mean()) == pytest.approx(chance, abs=5 * math.sqrt(chance / 40_000) + 1e-4)


def test_an_order_or_its_reverse_is_a_generalised_law_and_no_plackett_luce():
    """Half (0 1 2), half (2 1 0). Weights w0 = w2 = (1 - w1)/2 are the best of Plackett-Luce: each has chance w1 (1 - w1)/(1 + w1), largest
    (sqrt(2) - 1)^2 = .17 at w1 = sqrt(2) - 1; the product is .029, against 1/4."""
    big = 40.0
    scores = torch.tensor([[[0.0, -big, 0.0], [-big, big, -big], [0.0, 0.0, 0.0]]])
    law = GeneralisedPlackettLuce(scores.expand(2, -1, -1))
    np.testing.assert_allclose(law.log_prob(torch.tensor([[0, 1, 2], [2, 1, 0]])).exp(), 0.5, atol=1e-6)
    grid = torch.linspace(-8, 8, 65)
    rows = torch.cartesian_prod(grid, grid)
    plain = torch.cat([rows[:, :1], torch.zeros(len(rows), 1), rows[:, 1:]], 1)[:, None, :].expand(-1, 3, -1)
    law = GeneralisedPlackettLuce(plain)
    chances = [law.log_prob(torch.tensor([order]).expand(len(rows), -1)).exp() for order in ([0, 1, 2], [2, 1, 0])]
    assert float((chances[0] * chances[1]).max()) == pytest.approx((math.sqrt(2) - 1) ** 4, rel=0.01)  # the grid of weights


def trained(seed=0, n=6, steps=900):
    chain = Shuffling(n, (4, 2, 0))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = OrderNetwork(n, steps=4, width=32, layers=1)
    optimiser = torch.optim.Adam(network.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 6e-3, steps)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        items = torch.rand(128, n, 1, generator=generator).sort(1).values
        optimiser.zero_grad()
        chain.loss(network, items, generator).backward()
        optimiser.step()
        schedule.step()
    return chain, network.eval()


@pytest.mark.slow
def test_shuffled_numbers_are_sorted():
    chain, network = trained()
    generator = torch.Generator().manual_seed(99)
    items = torch.rand(1000, 6, 1, generator=generator)
    found = chain.restored(network, items, generator)
    assert float((found == items.sort(1).values).all(1).all(1).double().mean()) > 0.95


def test_bad_decks_and_schedules_are_refused():
    with pytest.raises(UserError, match="each of the cards 0 to n - 1 once"):
        rising_sequences([0, 0, 1])
    with pytest.raises(UserError, match="for 1 to 7 cards"):
        transition_matrix(8)
    with pytest.raises(UserError, match="at least 1 card"):
        distance_to_uniform(0, 1)
    with pytest.raises(UserError, match="falls to 0"):
        Shuffling(4, (2, 3, 0))
