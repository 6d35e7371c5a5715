"""What is kept of work done: once worked out, the same from process and disk, and never in the way of a run."""

import json

import numpy as np
import pytest

from unstir.plugin.kept import Memory, Shelf, fingerprint
from unstir.plugin.results import write_whole


@pytest.fixture
def asked():
    return []


@pytest.fixture
def made(asked):
    """Makes the arrays, and says that it was asked."""
    return lambda: asked.append(1) or {"rows": np.arange(6.0).reshape(2, 3), "names": np.array([3], np.int64)}


def test_the_least_recently_used_is_forgotten_first():
    made = []
    memory = Memory(2)
    for key in ("a", "a", "b", "a", "c", "a", "b"):
        memory.of(key, lambda key=key: made.append(key) or key)
    assert made == ["a", "b", "c", "b"]
    memory.forget()
    memory.of("a", lambda: made.append("a"))
    assert made[-2:] == ["b", "a"]


def test_room_is_counted_in_sizes_and_the_last_thing_always_stays():
    memory, made = Memory(10, size=len), []
    for key in ("aaaa", "bbbb", "aaaa", "cccc", "bbbb", "x" * 20, "x" * 20):
        memory.of(key, lambda key=key: made.append(key[0]) or key)
    assert "".join(made) == "abcbx"


def test_arrays_are_made_once_and_come_back_the_same_from_the_disk(tmp_path, asked, made):
    first, again = (Shelf(lambda: tmp_path / "kept", "fit").of("one", made) for _ in range(2))
    assert len(asked) == 1
    for name in first:
        assert first[name].dtype == again[name].dtype
        np.testing.assert_array_equal(first[name], again[name])
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["one.safetensors"]


def test_what_is_not_worth_a_file_stays_in_the_process(tmp_path, asked, made):
    shelf = Shelf(lambda: tmp_path, "fit")
    for _ in range(2):
        shelf.of("one", made, on_disk=False)
    assert (len(asked), list(tmp_path.iterdir())) == (1, [])
    shelf.forget()
    shelf.of("one", made, on_disk=False)
    assert len(asked) == 2


def test_a_torn_file_and_a_disk_that_takes_nothing_are_said_and_cost_time_alone(tmp_path, made):
    (tmp_path / "one.safetensors").write_bytes(b"torn")
    with pytest.warns(UserWarning, match=r"the fit .*one.safetensors cannot be read .*made again"):
        assert Shelf(lambda: tmp_path, "fit").of("one", made)["rows"].shape == (2, 3)
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="the fit could not be kept in"):
        assert Shelf(lambda: tmp_path / "file" / "folder", "fit").of("two", made)["rows"].shape == (2, 3)


def test_names_tell_facts_and_numbers_apart_and_no_order_of_facts():
    numbers = np.arange(4.0)
    name = fingerprint({"a": 1, "b": (2, 3)}, numbers)
    assert name == fingerprint(json.loads('{"b": [2, 3], "a": 1}'), numbers[::1])
    assert len({name, fingerprint({"a": 1, "b": (2, 4)}, numbers), fingerprint({"a": 1, "b": (2, 3)}, numbers + 1)}) == 3
    assert fingerprint({}, np.arange(4.0)[::2]) == fingerprint({}, np.array([0.0, 2.0]))


def test_a_file_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    write_whole(path, b"first")

    def full(*_):
        raise OSError("no space left")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_whole(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]
