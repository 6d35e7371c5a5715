"""Judging samples: numerators by hand, an order-free uniqueness, honest denominators, and intervals of distances."""

import numpy as np
import pytest
import xarray as xr

from unstir.errors import DataError, UserError
from unstir_molecules.judge import Judgement, are_valid, are_whole, chosen, judge, shares_of_distinct, with_parts
from unstir_molecules.molecules import molecule_set
from unstir_molecules.taxonomy import KINDS, failures

TRAIN = ["CCO", "C"]


def samples():
    """Seven samples: one of the training set, a repeated new one, a mended one, one that came in pieces, two that failed."""
    smiles = ["CCO", "CCN", "CCN", "CC", "CF", "", ""]
    valid = [True, True, True, False, True, False, False]
    problem = ["", "", "", "valence", "disconnected", "valence", "empty"]
    corrected = [one == "CC" for one in smiles]
    return molecule_set(smiles, valid, corrected, problem)


def test_numerators_are_counted_by_hand():
    assert judge(samples(), TRAIN) == Judgement(samples=7, valid=4, whole=4, unique=3, novel=2, made=5, unique_made=4, novel_made=3)


def test_each_share_divides_by_the_one_before_it():
    shares = judge(samples(), TRAIN).shares()
    assert shares["valid"] == 4 / 7
    assert shares["unique"] == 3 / 4
    assert shares["novel"] == 2 / 3
    assert shares["vun"] == pytest.approx(shares["valid"] * shares["unique"] * shares["novel"])
    assert shares["made"] == 5 / 7
    assert shares["vun_made"] == 3 / 7


def test_what_was_mended_is_not_valid_and_what_came_in_pieces_is_not_whole():
    assert are_valid(samples()).tolist() == [True, True, True, False, True, False, False]
    assert are_whole(samples()).tolist() == [True, True, True, True, False, False, False]


def test_the_number_of_fragments_decides_where_it_is_known():
    data = samples().assign(fragments=("sample", [1, 1, 1, 2, 2, 1, 0]))
    assert are_whole(data).tolist() == [True, True, True, False, False, False, False]


def test_a_sample_without_a_molecule_is_never_valid():
    assert not are_valid(molecule_set([""], [True])).any()


def test_shares_of_nothing_are_not_numbers():
    shares = judge(molecule_set(["", ""]), TRAIN).shares()
    assert shares["valid"] == 0
    assert np.isnan(shares["unique"])
    assert np.isnan(shares["novel"])
    assert shares["vun"] == 0


def test_the_order_of_samples_does_not_matter():
    order = np.random.default_rng(0).permutation(7)
    assert judge(samples().isel(sample=order), TRAIN) == judge(samples(), TRAIN)
    parts = shares_of_distinct(["C", "C", "", "N"])
    assert parts.tolist() == [0.5, 0.5, 0.0, 1.0]


def test_a_larger_draw_begins_with_the_smaller_one():
    pool = [str(one) for one in range(50)]
    assert chosen(pool, 30, 1)[:10] == chosen(pool, 10, 1)
    assert sorted(chosen(pool, 99, 1)) == sorted(pool)
    assert chosen(pool, 10, 1) != chosen(pool, 10, 2)


def test_parts_of_a_mean_of_blocks_give_its_standard_error():
    values = np.random.default_rng(0).standard_normal(400)
    whole, parts = with_parts(lambda keep: float(values[keep].mean()), (400,))
    assert whole == pytest.approx(values.mean())
    assert np.mean(parts) == pytest.approx(whole)
    error = np.std(parts, ddof=1) / np.sqrt(len(parts))
    assert error == pytest.approx(1 / np.sqrt(400), rel=0.5)  # 20 blocks: the error is known to 1 / sqrt(2 * 19)


def test_parts_of_a_biased_distance_are_centred_on_it():
    values = np.random.default_rng(1).standard_normal((200, 3))
    whole, parts = with_parts(lambda a, b: float(((values[a].mean(0) - values[b].mean(0)) ** 2).sum() + 50 / a.sum()), (200, 200))
    assert np.mean(parts) == pytest.approx(whole)
    assert len(parts) == 20


def test_small_or_undefined_distances_have_no_parts():
    assert with_parts(lambda a: 1.0, (3,)) == (1.0, ())
    assert with_parts(lambda a: float("nan"), (100,))[1] == ()
    assert len(with_parts(lambda a: float(a.sum()), (8,))[1]) == 4


def test_failures_are_counted_by_kind_and_the_mended_among_them():
    found = {one.kind: one for one in failures(samples())}
    assert set(KINDS) <= set(found)
    assert (found["valence"].count, found["valence"].mended) == (2, 1)
    assert (found["disconnected"].count, found["disconnected"].mended) == (1, 1)
    assert found["empty"].share == 1 / 7
    assert found["unparsable"].count == 0


def test_a_kind_that_is_not_known_is_listed_all_the_same():
    found = failures(molecule_set(["C", ""], problem=["", "burnt"]))
    assert (found[-1].kind, found[-1].count) == ("burnt", 1)
    bare = xr.Dataset({"smiles": ("sample", np.array(["C", ""], dtype=object))})
    assert failures(bare)[-1].kind == "unknown"


def test_what_is_no_set_of_molecules_is_refused():
    with pytest.raises(DataError, match="smiles"):
        judge(xr.Dataset({"x": ("sample", [1.0])}), TRAIN)
    with pytest.raises(DataError, match="empty"):
        judge(molecule_set([]), TRAIN)
    with pytest.raises(UserError, match="at least 1"):
        chosen(["C"], 0, 0)


def test_the_yardstick_samples_have_the_published_shares(yardsticks):
    """DiGress's 10,000 molecules of QM9: valid .9921, unique .9688."""
    import lzma

    from unstir_molecules.ngram import read

    with lzma.open(yardsticks / "digress_qm9_noH_10000.smi.xz", "rt") as file:
        theirs = [read(line.strip())[0] for line in file]
    found = judge(molecule_set(theirs), [])
    assert (found.samples, found.valid, found.unique, found.novel) == (10_000, 9921, 9611, 9611)
