"""A command over files: each by itself, nobody's place taken, the faults told at the end."""

import pytest

from unstir.errors import DataError, UnstirError
from unstir.plugin.files import Job, one_by_one


def copied(job):
    """Writes the file's words in capitals; a file without words cannot be."""
    words = job.file.read_text()
    if not words:
        raise DataError(f"{job.file} is empty")
    if job.progress is not None:
        job.progress(1, 2)
    made = job.out / f"{job.free(job.file.stem, '-big.txt')}-big.txt"
    made.write_text(words.upper())
    return {"source": str(job.file), "files": [str(made)], "said": [words, "done"]}


def written(path, words):
    path.parent.mkdir(exist_ok=True)
    path.write_text(words)
    return path


def test_every_file_is_worked_on_and_what_it_says_stands_behind_its_name(tmp_path):
    files = [written(tmp_path / f"{name}.txt", name) for name in "ab"]
    found = one_by_one(files, tmp_path / "new" / "out", None, copied)
    assert [path.rpartition("/")[2] for path in found["files"]] == ["a-big.txt", "b-big.txt"]
    assert found["said"] == [f"{files[0]}: a", f"{files[0]}: done", f"{files[1]}: b", f"{files[1]}: done"]
    assert [result["source"] for result in found["results"]] == [str(file) for file in files]


def test_a_result_takes_the_place_of_no_file_given_and_of_no_other_result(tmp_path):
    first, second = written(tmp_path / "a.txt", "first"), written(tmp_path / "other" / "a.txt", "second")
    given = written(tmp_path / "a-big.txt", "given")
    found = one_by_one([first, second, given], tmp_path, None, copied)
    assert [path.rpartition("/")[2] for path in found["files"]] == ["a-2-big.txt", "a-3-big.txt", "a-big-big.txt"]
    assert given.read_text() == "given"


def test_one_bad_file_does_not_keep_the_others(tmp_path):
    bad, good = written(tmp_path / "bad.txt", ""), written(tmp_path / "good.txt", "good")
    with pytest.raises(DataError, match=r"1 of 2 files were not copied \(the other 1 in .*bad.txt is empty") as error:
        one_by_one([bad, good], tmp_path, None, copied, "copied")
    assert isinstance(error.value, UnstirError)
    assert (tmp_path / "good-big.txt").read_text() == "GOOD"
    with pytest.raises(DataError, match=r"2 of 2 files were not worked on \(none was\)"):
        one_by_one([bad, bad], tmp_path, None, copied)


def test_the_fault_of_the_only_file_is_told_as_it_is(tmp_path):
    bad = written(tmp_path / "bad.txt", "")
    with pytest.raises(DataError) as error:
        one_by_one([bad], tmp_path, None, copied)
    assert str(error.value) == f"{bad} is empty"


def test_an_error_that_is_none_of_ours_is_not_swallowed(tmp_path):
    with pytest.raises(FileNotFoundError):
        one_by_one([tmp_path / "absent.txt", tmp_path / "absent.txt"], tmp_path, None, copied)


def test_progress_goes_from_file_to_file_up_to_the_end(tmp_path):
    files = [written(tmp_path / "a.txt", "a"), written(tmp_path / "b.txt", "")]
    told = []
    with pytest.raises(DataError):
        one_by_one(files, tmp_path, lambda done, total: told.append(done / total), copied)
    assert told == [0.25, 0.5, 1.0]


def test_a_job_without_results_before_has_its_own_name(tmp_path):
    assert Job(tmp_path / "a.txt", tmp_path).free("a", ".csv") == "a"
