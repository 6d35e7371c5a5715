"""Cards: all valid, complete, and true of what is bundled."""

import re

import pytest

from unstir.errors import DataError, UnknownName
from unstir_data import cards, fetch


@pytest.mark.parametrize("name", cards.names())
def test_every_card_is_valid_and_names_itself(name):
    card = cards.load(name)
    assert card.name == name
    assert card.notes
    assert card.what.endswith(".")
    assert all(note.endswith(".") for note in card.notes)
    assert card.licence
    assert "doi" in card.citation or "arXiv" in card.citation


def test_there_are_cards():
    assert {
        "medical/lung1",
        "medical/lung1-full",
        "medical/lung2",
        "medical/aorta",
        "medical/abdomen",
        "medical/siemens",
        "medical/head",
    } <= set(cards.names())
    assert cards.names("bundled")


@pytest.mark.parametrize("name", cards.names("bundled"))
def test_bundled_data_is_whole_small_and_has_its_notice(name):
    card, status = cards.load(name), fetch.verify(name)
    assert status.state == "ok"
    assert status.path.stat().st_size == card.bytes < 5_000_000
    assert card.notice is not None
    assert "Redistribution" in (status.path.parent / card.notice).read_text()


def test_no_card_names_a_registry_host():
    for path in cards.FOLDER.glob("*/*.yaml"):
        text = re.sub(r"doi:\S+", "", path.read_text())
        assert not re.search(r"https?://|\bpypi\.org|pythonhosted|debian\.org", text), path


def test_data_of_one_package_agree_on_it():
    packages = {}
    for name in cards.names():
        source = cards.load(name).source
        if isinstance(source, cards.Package):
            assert packages.setdefault((source.package, source.version), (source.sha256, source.bytes)) == (source.sha256, source.bytes)


def test_an_unknown_card_lists_the_nearest():
    with pytest.raises(UnknownName, match="did you mean 'medical/lung"):
        cards.load("medical/lung3")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (("licence:", "license:"), "licence: Field required"),
        (("split: test", "split: exam"), "split: Input should be 'train', 'validation' or 'test'"),
        (("dims: [z, y, x]", "dims: [z, y]"), "dims, shape and spacing must have one entry an axis"),
        (("form: sdist", "form: deb"), "registry pypi has no packages of form deb"),
        (("title:", "title: ["), "is not YAML"),
        (("kind: bundled", "kind: official"), "an official dataset needs a source with a url"),
    ],
)
def test_a_wrong_card_is_named_with_its_field(tmp_path, change, sentence):
    text = (cards.FOLDER / "medical" / "lung1.yaml").read_text()
    assert change[0] in text
    (tmp_path / "card.yaml").write_text(text.replace(*change))
    with pytest.raises(DataError, match=rf"card.yaml.*{re.escape(sentence)}"):
        cards.parse(tmp_path / "card.yaml")
