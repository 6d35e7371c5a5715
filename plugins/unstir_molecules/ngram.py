"""Two opponents that know no chemistry: an n-gram of SMILES, and molecules of the training set.

    p(s) = prod_t p(s_t | s_{t-k} ... s_{t-1}),       p = counts in the training set, of starts and ends too

A token depends on k = 6 before it, so that this is a 7-gram where one counts the token itself. Every context that sampling can reach was
seen with some continuation, so that no shorter one is ever fallen back on. A sample depends on the seed and its index alone. Most drawn
texts are no molecules; drawing until one is makes an opponent that a distance of molecules cannot tell from a good generator, and that a
count of valid, distinct, new molecules a draw can.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import numpy as np
import xarray as xr
from numpy.typing import NDArray
from rdkit import Chem, rdBase

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate, Progress
from unstir_molecules.each import mapped
from unstir_molecules.judge import every
from unstir_molecules.molecules import molecule_set

Array = NDArray[Any]
Tokens = Literal["characters", "symbols"]
SYMBOLS = re.compile(r"\[[^\]]*\]|Br|Cl|%\d\d|.", re.DOTALL)
END = "\n"
TRIES = 200
"""Draws a sample after which a rejection sampler gives up."""


@dataclass(frozen=True)
class Model:
    """An n-gram as a table of transitions between contexts.

    Args:
        alphabet: tokens by number; the last is the end.
        first: (contexts + 1,) where the continuations of each context begin.
        token: (continuations,) which token.
        after: (continuations,) the context that follows; -1 after the end.
        total: (continuations + 1,) running sum of counts.
        longest: tokens of the longest training text.
    """

    alphabet: tuple[str, ...]
    first: Array
    token: Array
    after: Array
    total: Array
    longest: int

    def drawn(self, rng: np.random.Generator, count: int) -> list[str]:
        """Texts; one that has not ended after twice the longest training text is "".

        Args:
            rng: what draws.
            count: how many.
        """
        steps = 2 * self.longest + 1
        chance = rng.random((count, steps))
        state, alive = np.zeros(count, np.int64), np.arange(count)
        tokens = np.full((count, steps), len(self.alphabet) - 1)
        for step in range(steps):
            low, high = self.total[self.first[state[alive]]], self.total[self.first[state[alive] + 1]]
            aim = low + (chance[alive, step] * (high - low)).astype(np.int64)
            place = np.searchsorted(self.total, aim, side="right") - 1
            tokens[alive, step], state[alive] = self.token[place], self.after[place]
            alive = alive[self.after[place] >= 0]
            if not len(alive):
                break
        tokens[alive] = len(self.alphabet) - 1
        return ["".join(self.alphabet[one] for one in row[: int(np.argmax(row == len(self.alphabet) - 1))]) for row in tokens]


def fitted(texts: Sequence[str], context: int, tokens: Tokens = "characters") -> Model:
    """Count an n-gram.

    Args:
        texts: what it learns, each at least one character long.
        context: k, tokens that the next one depends on; at the start of a text those there are.
        tokens: characters, or symbols of SMILES (``Cl``, ``[nH]``, ``%10``).

    Returns:
        The table.

    Raises:
        DataError: there is nothing to learn from.
        UserError: k is negative.
    """
    if context < 0:
        raise UserError(f"context must be at least 0, got {context}")
    if not texts:
        raise DataError("an n-gram needs a training set with at least one SMILES")
    split = [list(text) if tokens == "characters" else SYMBOLS.findall(text) for text in texts]
    alphabet = (*sorted({one for text in split for one in text}), END)
    number = {one: place for place, one in enumerate(alphabet)}
    flat = np.fromiter((number[one] for text in split for one in (*text, END)), np.int64)
    begins = np.r_[True, flat[:-1] == len(alphabet) - 1]
    state = np.zeros(len(flat), np.int64)
    for _ in range(context):  # the state of j tokens is that of j - 1 tokens one place before, and the token there
        state = np.where(begins, 0, np.unique(np.r_[0, state[:-1] * len(alphabet) + flat[:-1]], return_inverse=True)[1] + 1)
    state = np.unique(state, return_inverse=True)[1]
    pairs, where, often = np.unique(state * len(alphabet) + flat, return_index=True, return_counts=True)
    ends = pairs % len(alphabet) == len(alphabet) - 1
    after = np.where(ends, -1, state[np.minimum(where + 1, len(flat) - 1)])
    first = np.searchsorted(pairs // len(alphabet), np.arange(state.max() + 2))
    return Model(alphabet, first, pairs % len(alphabet), after, np.r_[0, np.cumsum(often)], max(len(text) for text in split))


def read(text: str) -> tuple[str, str, int]:
    """What a text says.

    Args:
        text: perhaps a SMILES.

    Returns:
        Canonical SMILES without isomers of its longest fragment ("" where it is no molecule), what was wrong, and how many fragments.
    """
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(text) if text else None
        if mol is not None:
            parts = str(Chem.MolToSmiles(mol, isomericSmiles=False)).split(".")
            return max(parts, key=len), "" if len(parts) == 1 else "disconnected", len(parts)
        rough = Chem.MolFromSmiles(text, sanitize=False) if text else None
        if rough is None:
            return "", "unparsable", 0
        kinds = [problem.GetType() for problem in Chem.DetectChemistryProblems(rough)]
    return "", "aromaticity" if kinds and all("Kekulize" in one for one in kinds) else "valence", 0


def _read(texts: Sequence[str]) -> list[tuple[str, str, int]]:
    return [read(text) for text in texts]


def _set(found: Sequence[tuple[str, str, int]], key: str, attrs: dict[str, Any]) -> xr.Dataset:
    smiles, problem = [one[0] for one in found], [one[1] for one in found]
    fragments = np.asarray([one[2] for one in found], dtype=np.int64)
    return molecule_set(smiles, problem=problem, key=key, properties={"fragments": fragments}, attrs=attrs)


def _asked(case: Case) -> tuple[list[str], int]:
    train, count = [one for one in every(case.measurement) if one], int(case.context["count"])
    if count < 1:
        raise UserError(f"count must be at least 1, got {count}")
    if not train:
        raise DataError(f"the training set of case {case.key} has no molecule")
    return train, count


def _rng(seed: int, case: Case, turn: int = 0) -> np.random.Generator:
    return np.random.default_rng([seed, turn, *case.key.encode()])


@dataclass(frozen=True)
class NGram:
    """An n-gram of the training set's canonical SMILES.

    Args:
        context: tokens that the next one is drawn given.
        tokens: ``"characters"``, or ``"symbols"`` of SMILES.
        rejection: are texts drawn again until they are molecules?

    Raises:
        UserError: an option out of range.
    """

    context: int = 6
    tokens: Tokens = "characters"
    rejection: bool = False

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.context < 0:
            raise UserError(f"context must be at least 0, got {self.context}")
        if self.tokens not in get_args(Tokens):
            raise UserError(f"tokens must be one of {', '.join(get_args(Tokens))}, got {self.tokens!r}")

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Draw molecules.

        Args:
            case: its measurement is the training set, its context says the count.
            prior: not used.
            seed: of the draws.
            progress: told of samples.

        Returns:
            A set of molecules; ``info`` has the texts drawn for them.

        Raises:
            DataError: there is no training set, or rejection finds no molecules.
            UserError: the count is below 1.
        """
        train, count = _asked(case)
        model = fitted(train, self.context, self.tokens)
        kept: list[tuple[str, str, int]] = []
        drawn, turn = 0, 0
        while len(kept) < count:
            if turn > TRIES:
                raise DataError(f"an n-gram of {self.context} characters drew {drawn} texts and only {len(kept)} of {count} molecules")
            found = [one for part in mapped(_read, model.drawn(_rng(seed, case, turn), count), chunk=1000) for one in part]
            good = [place for place, one in enumerate(found) if one[0] or not self.rejection][: count - len(kept)]
            drawn += good[-1] + 1 if len(kept) + len(good) == count else count
            kept += [found[place] for place in good]
            turn += 1
            if progress is not None:
                progress(len(kept), count)
        info = {"seed": seed, "context": self.context, "contexts": len(model.first) - 1, "drawn": drawn}
        return Estimate(_set(kept, case.key, {"drawn": drawn}), info=info)


@dataclass(frozen=True)
class TrainMolecules:
    """Molecules of the training set, at random: the floor of every distance, and nothing new.

    Without replacement while there are enough.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    uses_prior: ClassVar[bool] = False

    def __call__(self, case: Case, prior: Any, seed: int, *, progress: Progress = None) -> Estimate:
        """Draw molecules.

        Args:
            case: its measurement is the training set, its context says the count.
            prior: not used.
            seed: of the draw.
            progress: not told of anything.

        Raises:
            DataError: there is no training set.
            UserError: the count is below 1.
        """
        train, count = _asked(case)
        taken = _rng(seed, case).choice(len(train), count, replace=count > len(train))
        return Estimate(molecule_set([train[place] for place in taken], key=case.key), info={"seed": seed})
