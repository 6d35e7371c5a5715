"""Diffusion of permutations: a deck is riffled until nothing of its order is left, and a network learns to put it back, choice by choice.

    riffle (Gilbert-Shannon-Reeds)   q(X_t | X_0) = C(2^t + n - r, n) / 2^(nt),     r the rising sequences of the deck X_t
    distance to uniform              TV(t) = 1/2 sum_r A(n, r) |C(2^t + n - r, n) / 2^(nt) - 1/n!|,    A Eulerian numbers
    reverse                          p(sigma | X_t) = prod_i exp S[i, sigma_i] / sum over j not yet chosen of exp S[i, j]

The reverse law is the generalised Plackett-Luce: choice i has scores of its own. With the same scores for every choice it is Plackett-Luce,
which cannot say "either this order or its reverse"; the generalised law can.

The sampler here stands beside `unstir.sample`, for a core process draws each entry of a state from a law of its own, and the places of a
permutation are not independent given anything less than all of it. It is a demonstration on sorting, not a method of a task.

Reference: Zhang et al. 2024 (SymmetricDiffusers), arXiv:2410.02942; Bayer and Diaconis 1992, doi:10.1214/aoap/1177005705.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from unstir.errors import UserError


def rising_sequences(deck: Sequence[int]) -> int:
    """Runs of cards i, i + 1, ... that lie in order from top to bottom: 1 for a sorted deck, n for a reversed one.

    Args:
        deck: cards 0 to n - 1 from top to bottom.

    Raises:
        UserError: it is no deck.
    """
    place = {card: position for position, card in enumerate(deck)}
    if sorted(place) != list(range(len(deck))) or not deck:
        raise UserError(f"a deck holds each of the cards 0 to n - 1 once, got {list(deck)}")
    return 1 + sum(place[card + 1] < place[card] for card in range(len(deck) - 1))


def riffle_probability(rising: int, cards: int, shuffles: int) -> Fraction:
    """Probability of one arrangement after riffles of a sorted deck, exact.

    Args:
        rising: its rising sequences.
        cards: n.
        shuffles: t, at least 0.
    """
    packets = 2**shuffles
    return Fraction(math.comb(packets + cards - rising, cards) if packets >= rising else 0, packets**cards)


def eulerian(cards: int) -> list[int]:
    """How many arrangements of n cards have 1, 2, ... n rising sequences.

    Args:
        cards: n, at least 1.
    """
    row = [1]
    for n in range(2, cards + 1):
        before = [0, *row, 0]
        row = [(k + 1) * before[k + 1] + (n - k) * before[k] for k in range(n)]
    return row


def distance_to_uniform(cards: int, shuffles: int) -> Fraction:
    """Total variation between a riffled deck and a uniform one, exact.

    Args:
        cards: n, at least 1.
        shuffles: t, at least 0.

    Returns:
        Between 0 and 1.

    Raises:
        UserError: no cards, or fewer than no shuffles.

    Reference: Bayer and Diaconis 1992, theorem 2.
    """
    if cards < 1 or shuffles < 0:
        raise UserError(f"there must be at least 1 card and 0 shuffles, got {cards} and {shuffles}")
    uniform = Fraction(1, math.factorial(cards))
    rows = enumerate(eulerian(cards), start=1)
    return sum((count * abs(riffle_probability(r, cards, shuffles) - uniform) for r, count in rows), Fraction(0)) / 2


def transition_matrix(cards: int) -> NDArray[np.float64]:
    """Probability of each arrangement after one riffle of each arrangement.

    Args:
        cards: n, at most 7 (5040 arrangements).

    Returns:
        (n!, n!), arrangements in lexicographic order; rows sum to 1, and so do columns, for riffling is a walk on a group.

    Raises:
        UserError: more cards than that.
    """
    if not 1 <= cards <= 7:
        raise UserError(f"the matrix of all arrangements is made for 1 to 7 cards, got {cards}")
    every = list(itertools.permutations(range(cards)))
    chance = np.array([float(riffle_probability(r, cards, 1)) for r in range(1, cards + 1)])
    decks = np.array(every)
    number = {deck: i for i, deck in enumerate(every)}
    made = np.zeros((len(every), len(every)))
    law = np.array([chance[rising_sequences(deck) - 1] for deck in every])
    for i, start in enumerate(decks):
        ends = [number[tuple(deck)] for deck in start[decks].tolist()]  # the shuffle "decks" of the arrangement "start"
        made[i, ends] = law
    return made


def riffled(decks: Int[Tensor, "batch n"], generator: torch.Generator) -> Int[Tensor, "batch n"]:
    """One riffle of each deck: cut at a binomial place, then drop cards from both packets in proportion to what is left of them.

    A fair coin a place of the result gives just that: zeros are cards of the upper packet, ones of the lower.

    Args:
        decks: cards from top to bottom.
        generator: the only source of randomness.
    """
    coins = torch.randint(0, 2, decks.shape, generator=generator)
    places = torch.sort(coins, dim=1, stable=True).indices
    return torch.empty_like(decks).scatter_(1, places, decks)


@dataclass(frozen=True)
class GeneralisedPlackettLuce:
    """A law of orders: choice after choice, each with scores of its own.

    Args:
        scores: S (batch, n, n), row i for the choice of what comes at place i; Plackett-Luce where all rows are equal.
    """

    scores: Float[Tensor, "batch n n"]

    def log_prob(self, order: Int[Tensor, "batch n"]) -> Float[Tensor, " batch"]:
        """log p(sigma), in nats.

        Args:
            order: sigma, the item at each place.
        """
        n = order.shape[1]
        ranked = self.scores.gather(2, order[:, None, :].expand(-1, n, -1))
        left = torch.ones(n, n, dtype=torch.bool, device=order.device).triu()  # at choice i the items of places i, i + 1 ... are left
        total = torch.where(left, ranked, -torch.inf).logsumexp(2)
        return (ranked.diagonal(dim1=1, dim2=2) - total).sum(1)

    def sample(self, generator: torch.Generator) -> Int[Tensor, "batch n"]:
        """One order each.

        Args:
            generator: the only source of randomness.
        """
        noise = torch.rand(self.scores.shape, generator=generator, dtype=torch.float64).clamp(min=1e-300)
        return self._chosen(self.scores - torch.log(-torch.log(noise)).to(self.scores))

    def greedy(self) -> Int[Tensor, "batch n"]:
        """The order whose every choice is the likeliest of those left."""
        return self._chosen(self.scores)

    def _chosen(self, scores: Tensor) -> Tensor:
        scores, order = scores.clone(), []
        for place in range(scores.shape[1]):
            order.append(scores[:, place].argmax(1))
            scores.scatter_(2, order[-1][:, None, None].expand(-1, scores.shape[1], 1), -torch.inf)
        return torch.stack(order, 1)


class OrderNetwork(nn.Module):
    """Scores of a generalised Plackett-Luce law from the items in their present order: a small transformer.

    Args:
        n: items.
        features: of an item.
        steps: T, noise levels.
        width: of the network.
        layers: of the transformer.
        heads: of its attention.
    """

    def __init__(self, n: int, features: int = 1, steps: int = 8, width: int = 48, layers: int = 2, heads: int = 4) -> None:
        super().__init__()
        self.item = nn.Sequential(nn.Linear(features, width), nn.SiLU(), nn.Linear(width, width))
        self.place, self.level = nn.Embedding(n, width), nn.Embedding(steps + 1, width)
        block = nn.TransformerEncoderLayer(width, heads, 2 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.chooser, self.chosen = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, items: Float[Tensor, "batch n features"], level: Int[Tensor, " batch"]) -> GeneralisedPlackettLuce:
        """The law of the order in which the items lay before.

        Args:
            items: in their present order.
            level: t of each list.
        """
        h = self.blocks(self.item(items) + self.place.weight[: items.shape[1]] + self.level(level)[:, None])
        return GeneralisedPlackettLuce(self.chooser(h) @ self.chosen(h).mT / math.sqrt(h.shape[-1]))


@dataclass(frozen=True)
class Shuffling:
    """A chain of riffles and the way back: learn it from sorted lists, walk it from shuffled ones.

    Args:
        n: items of a list.
        schedule: levels t of the way back, falling to 0; steps may be merged (4, 2, 0), as the first riffles of many change little.

    Raises:
        UserError: the schedule does not fall to 0, or there are fewer than 2 items.

    Reference: Zhang et al. 2024, sections 3.1 to 3.4.
    """

    n: int
    schedule: tuple[int, ...] = (4, 2, 0)

    def __post_init__(self) -> None:
        falls = all(a > b for a, b in itertools.pairwise(self.schedule))
        if self.n < 2 or len(self.schedule) < 2 or not falls or self.schedule[-1] != 0:
            raise UserError(f"a chain of riffles needs 2 items and a schedule that falls to 0, got {self.n} and {self.schedule}")

    def loss(self, network: OrderNetwork, items: Float[Tensor, "batch n features"], generator: torch.Generator) -> Tensor:
        """-log p(X_s | X_t) of a random step of the schedule, in nats: a term of the variational bound.

        Args:
            network: of the reverse law.
            items: X_0, in their right order.
            generator: the only source of randomness.
        """
        count = len(items)
        path = [torch.arange(self.n).expand(count, -1)]
        for _ in range(self.schedule[0]):
            path.append(riffled(path[-1], generator))
        decks = torch.stack(path)
        step, each = torch.randint(0, len(self.schedule) - 1, (count,), generator=generator), torch.arange(count)
        levels = torch.tensor(self.schedule)
        later, earlier = decks[levels[step], each], decks[levels[step + 1], each]
        order = later.argsort(1).gather(1, earlier)  # where the cards of X_s lie in X_t
        return -network(taken(items, later), levels[step]).log_prob(order).mean()

    @torch.no_grad()
    def restored(self, network: OrderNetwork, items: Float[Tensor, "batch n features"], generator: torch.Generator) -> Tensor:
        """Items put in order by a walk back along the schedule: draws, and the likeliest choices at the last step.

        Args:
            network: of the reverse law.
            items: in any order; far from sorted, as the chain's end is.
            generator: the only source of randomness.

        Returns:
            (batch, n, features).
        """
        for level, following in itertools.pairwise(self.schedule):
            law = network(items, torch.full((len(items),), level))
            items = taken(items, law.greedy() if following == 0 else law.sample(generator))
        return items


def taken(items: Float[Tensor, "batch n features"], order: Int[Tensor, "batch n"]) -> Float[Tensor, "batch n features"]:
    """The items in an order.

    Args:
        items: a list each.
        order: which item comes at each place.
    """
    return items.gather(1, order[..., None].expand(-1, -1, items.shape[2]))
