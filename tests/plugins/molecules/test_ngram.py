"""Opponents without chemistry: the n-gram's law against counting, its independence, rejection, and the training set itself."""

from collections import Counter

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case
from unstir_molecules.judge import judge
from unstir_molecules.molecules import molecule_set
from unstir_molecules.ngram import NGram, TrainMolecules, fitted, read

pytest.importorskip("rdkit", reason="RDKit is not installed")

TEXTS = ["CCO", "CCN", "CO", "C1CC1", "CC(C)O", "CCOC"]


def case(smiles, count=50, key="toy"):
    return Case(key, None, molecule_set(smiles), {"count": count})


def test_a_context_longer_than_every_text_gives_back_the_texts():
    drawn = fitted(TEXTS, 9).drawn(np.random.default_rng(0), 3000)
    often = Counter(drawn)
    assert set(often) == set(TEXTS)
    assert all(abs(count - 500) < 100 for count in often.values())  # 500 expected, standard deviation 20


def test_transitions_have_the_shares_of_the_training_set():
    """After "C" of one character's context: C, O, N, the end, 1 and ( as often as they follow C in the texts."""
    model = fitted(TEXTS, 1)
    follow = Counter(second for text in TEXTS for first, second in zip(text, text[1:] + "\n", strict=True) if first == "C")
    state = model.after[model.token == model.alphabet.index("C")][0]
    places = slice(model.first[state], model.first[state + 1])
    counts = dict(zip([model.alphabet[one] for one in model.token[places]], np.diff(model.total)[places], strict=True))
    assert counts == dict(follow)


def test_no_context_draws_single_tokens_by_their_counts():
    drawn = fitted(["CO"], 0).drawn(np.random.default_rng(0), 3000)
    empty = np.mean([not text for text in drawn])
    assert empty == pytest.approx(1 / 3 + (2 / 3) ** 5, abs=0.04)  # ended at once, or not within 2 * 2 + 1 tokens; standard deviation .009


def test_symbols_are_not_cut():
    model = fitted(["CCl", "C[nH]Br"], 3, "symbols")
    assert {"Cl", "[nH]", "Br"} <= set(model.alphabet)
    assert set(model.drawn(np.random.default_rng(0), 50)) == {"CCl", "C[nH]Br"}


def test_a_sample_depends_on_the_seed_and_its_index_alone():
    model = fitted(TEXTS, 2)
    assert model.drawn(np.random.default_rng(3), 40)[:10] == model.drawn(np.random.default_rng(3), 10)


def test_what_a_text_says():
    assert read("OCC") == ("CCO", "", 1)
    assert read("C(C)(C)(C)(C)C")[:2] == ("", "valence")
    assert read("c1cccc1")[:2] == ("", "aromaticity")
    assert read("C1CC")[:2] == ("", "unparsable")
    assert read("CCO.C") == ("CCO", "disconnected", 2)
    assert read("") == ("", "unparsable", 0)
    assert read("C[C@H](N)O")[0] == "CC(N)O"


def test_the_method_makes_the_count_it_is_asked_for_and_repeats_itself():
    asked = case(TEXTS, 60)
    first, again, other = (NGram(context=2)(asked, None, seed) for seed in (0, 0, 1))
    assert first.data.sizes["sample"] == 60
    assert first.data.identical(again.data)
    assert not first.data["smiles"].identical(other.data["smiles"])
    assert (first.data["valid"].values == (first.data["smiles"].values != "")).all()


def test_rejection_leaves_only_molecules_and_tells_how_many_texts_it_took():
    asked = case(TEXTS, 60)
    plain, kept = NGram(context=2)(asked, None, 0), NGram(context=2, rejection=True)(asked, None, 0)
    assert judge(plain.data, TEXTS).valid < 60
    assert judge(kept.data, TEXTS).valid == 60
    assert kept.info["drawn"] > 60
    assert plain.info["drawn"] == 60


def test_the_training_set_is_the_floor_and_nothing_new():
    made = TrainMolecules()(case(TEXTS, 6), None, 0).data
    assert sorted(made["smiles"].values) == sorted(TEXTS)
    assert judge(made, TEXTS).novel == 0
    assert TrainMolecules()(case(TEXTS, 20), None, 0).data.sizes["sample"] == 20


def test_bad_options_and_empty_sets_are_told():
    with pytest.raises(UserError, match="context"):
        NGram(context=-1)
    with pytest.raises(UserError, match="tokens"):
        NGram(tokens="words")
    with pytest.raises(UserError, match="count"):
        NGram()(case(TEXTS, 0), None, 0)
    with pytest.raises(DataError, match="no molecule"):
        NGram()(case(["", ""]), None, 0)
    with pytest.raises(DataError, match="at least one SMILES"):
        fitted([], 3)
    with pytest.raises(DataError, match="texts and only"):
        NGram(context=9, rejection=True)(case(["C1CC"], 2), None, 0)
