"""Metrics of molecule sets: perfect and hopeless samples, parts that make the value, and every number described."""

import numpy as np
import pytest

from unstir.errors import DataError, UserError
from unstir.plugin.protocols import Case, Estimate
from unstir_molecules import fcd, fragments, molecule_metrics, nspdk, properties, remembered, similarity
from unstir_molecules.molecule_distances import FCD, NSPDK, Fragments, Properties, Similarity
from unstir_molecules.molecule_metrics import Novelty, Numerators, Reward, Validity
from unstir_molecules.molecules import molecule_set

Chem = pytest.importorskip("rdkit.Chem", reason="RDKit is not installed")

RAW = [
    f"{'C' * left}{middle}{tail}"
    for left in range(1, 6)
    for middle in ("O", "N", "C(=O)", "C#C", "C=C")
    for tail in ("C", "CC", "c1ccccc1", "C1CC1")
]
POOL = sorted({Chem.CanonSmiles(one) for one in RAW})
PARTS = [Validity(), Novelty(), Numerators(), FCD(), NSPDK(), Similarity(), Fragments(rings=1), Properties(), Reward()]


def case():
    return Case("toy", molecule_set(POOL[1::2]), molecule_set(POOL[::2]), {"count": 30})


def answer(smiles, **more):
    return Estimate(molecule_set(smiles, **more))


@pytest.fixture(params=PARTS, ids=lambda part: type(part).__name__)
def part(request):
    """Every metric of this module."""
    if isinstance(request.param, FCD):
        pytest.importorskip("fcd", reason="fcd is not installed")
    return request.param


def test_keys_are_those_described_and_parts_make_the_value(part):
    scores = part(answer([*POOL[::3], "", POOL[0]]), case())
    assert [info.key for info in part.describe()] == list(scores)
    for score in scores.values():
        assert np.isfinite(score.value)
        if score.parts:
            assert np.mean(score.parts) == pytest.approx(score.value)


def test_the_same_estimate_scores_the_same(part):
    made = answer(POOL[::3])
    assert part(made, case()) == part(made, case())


def test_samples_without_a_single_molecule_break_nothing(part):
    scores = part(answer(["", "", ""]), case())
    assert set(scores) == {info.key for info in part.describe()}
    for info in part.describe():
        if info.better == "up" and info.unit == "%" and not np.isnan(scores[info.key].value):
            assert scores[info.key].value == 0.0


def test_titles_are_told_apart(part):
    titles = [info.title for info in part.describe()]
    assert len(set(titles)) == len(titles)
    assert all(info.definition and "\n" not in info.definition for info in part.describe())


def test_the_test_set_itself_is_at_no_distance():
    truth = answer(POOL[1::2])
    for part in (FCD(), NSPDK(), Properties()):
        if isinstance(part, FCD):
            pytest.importorskip("fcd", reason="fcd is not installed")
        for key, score in part(truth, case()).items():
            if not key.endswith(("-n", "-floor")):
                assert score.value == pytest.approx(0.0, abs=1e-6)
    assert Similarity()(truth, case())["snn"].value == pytest.approx(1.0)
    assert Fragments(rings=1)(truth, case())["frag"].value == pytest.approx(1.0)


def test_shares_are_percentages_of_the_right_samples():
    made = answer(["CCO", "CCO", "CN", ""], valid=[True, True, False, False], corrected=[False, False, True, False])
    asked = Case("toy", None, molecule_set(["CN"]), {})
    assert {key: score.value for key, score in Validity()(made, asked).items()} == {"valid": 50, "one-fragment": 75, "valid-corrected": 75}
    new = {key: score.value for key, score in Novelty()(made, asked).items()}
    assert new["unique"] == 50
    assert new["novel"] == 100
    assert new["vun"] == 25
    assert new["unique-corrected"] == pytest.approx(200 / 3)
    assert new["novel-corrected"] == 50
    assert new["vun-corrected"] == 25
    counted = {key: score.value for key, score in Numerators()(made, asked).items()}
    assert counted == {"samples": 4, "valid-count": 2, "unique-count": 1, "novel-count": 1, "made-count": 3, "novel-made-count": 1}


def test_a_reward_counts_failures_as_nothing():
    found = Reward("sa")(answer(["CCO", ""]), case())
    assert found["reward"].value == pytest.approx((10 - 1.980257) / 18, abs=1e-6)
    assert found["distinct"].value == 50


def test_n_is_that_of_the_smaller_side_and_no_more_than_asked():
    pytest.importorskip("fcd", reason="fcd is not installed")
    assert FCD(count=10)(answer(POOL[::3]), case())["fcd-n"].value == 10
    assert FCD()(answer(POOL[:7]), case())["fcd-n"].value == 7


def test_what_is_seen_in_the_test_and_the_training_set_is_worked_out_once(monkeypatch):
    monkeypatch.setattr(remembered, "WORTH", 1)
    remembered.forget()
    pytest.importorskip("fcd", reason="fcd is not installed")
    parts = [FCD(), NSPDK(), Similarity(), Fragments(rings=1), Properties()]
    first = [part(answer(POOL[::3]), case()) for part in parts]
    remembered.forget()
    asked = []
    for module, name in ((fcd, "_seen"), (nspdk, "_embedded"), (similarity, "_packed"), (fragments, "_text"), (properties, "_described")):
        made = getattr(module, name)
        monkeypatch.setattr(module, name, lambda names, made=made: asked.append(len(names)) or made(names))
    assert [part(answer(POOL[::3]), case()) for part in parts] == first
    assert asked == [len(POOL[::3])] * 6  # the made molecules; brics and scaffolds are two
    assert [part(answer(POOL[::3]), case()) for part in parts] == first
    assert len(asked) == 6


def test_bad_input_is_told():
    with pytest.raises(UserError, match="at least 2"):
        FCD(count=1)
    with pytest.raises(UserError, match="no reward"):
        Reward("beauty")
    blind = Case("toy", None, molecule_set(POOL), {})
    with pytest.raises(DataError, match="no test set"):
        NSPDK()(answer(POOL), blind)
    with pytest.raises(DataError, match="smiles"):
        Validity()(Estimate(molecule_set(["C"]).drop_vars("smiles")), blind)
    assert molecule_metrics.train_of(blind) == POOL


@pytest.mark.slow
def test_the_yardstick_distances_are_the_published_ones(yardsticks):
    """DiGress's QM9, 3000 v 3000: SNN .408, Frag .960, Scaf (one ring) .933; NSPDK, 1000 v 1000: .00246, train .00165."""
    import csv
    import lzma

    from unstir_molecules.ngram import read

    with lzma.open(yardsticks / "qm9_gdb_smiles.csv.xz", "rt") as file:
        rows = list(csv.DictReader(file))
    rng = np.random.default_rng(0)
    with lzma.open(yardsticks / "digress_qm9_noH_10000.smi.xz", "rt") as file:
        lines = [line.strip() for line in file]
    pools = [[row["smiles"] for row in rows if row["gdss_test"] == one] for one in "01"]
    train, test, digress = ([read(str(one))[0] for one in rng.choice(pool, 3000, replace=False)] for pool in (*pools, lines))
    asked = Case("qm9", molecule_set(test), molecule_set(train), {})
    cut = Fragments(rings=1)(answer(digress), asked)
    distance = NSPDK()(answer(digress), asked)
    assert Similarity()(answer(digress), asked)["snn"].value == pytest.approx(0.405, abs=0.01)
    assert cut["frag"].value == pytest.approx(0.960, abs=0.015)  # draws of 3000 lie between .953 and .969
    assert cut["scaf"].value == pytest.approx(0.933, abs=0.02)  # draws of 3000 lie between .924 and .944
    assert 0.0016 < distance["nspdk"].value < 0.0034  # draws of 1000 lie between .0020 and .0025
    assert 0.0012 < distance["nspdk-floor"].value < 0.0024  # and between .0016 and .0019
